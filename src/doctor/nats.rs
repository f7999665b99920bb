use chrono::TimeDelta;

use super::{
    check::{Check, Item, some},
    clocks::{Asked, compare_clocks},
};
use crate::{
    clock::Clock,
    config::{NatsConfig, Source},
    health::Health,
    jobs,
    kind::{Lane, Stage},
    nats::{ConnectError, Connection, PermissionProbe, ProbeReply},
    streams::{Adjustments, Difference, LookError, Streams, written_at},
};

/// Checks that need a connection.
const AFTER_THE_CONNECTION: [Item; 5] =
    [Item::NatsVersion, Item::JetStream, Item::Streams, Item::NatsPermissions, Item::NatsClock];

/// Every server refuses this pull: a heartbeat must be shorter than half the wait.
const IMPOSSIBLE_PULL: &str = r#"{"batch":1,"no_wait":true,"expires":1000000000,"idle_heartbeat":1000000000}"#;

/// "In progress" for a missing message: no effect, no reply.
const IDLE_ACK: &str = "+WPI";

/// Makes every stream refuse a message: it expects another stream.
pub(super) const FOR_NO_STREAM: (&str, &str) = ("Nats-Expected-Stream", "CAREBELL_NO_SUCH_STREAM");

/// API calls of `dead_letter` and metrics, beside pulls, and whether they are about work queues only.
const LOOKED_AT: [(&str, bool); 4] =
    [("STREAM.INFO", false), ("CONSUMER.LIST", true), ("STREAM.MSG.GET", false), ("STREAM.MSG.DELETE", false)];

/// Other streams that these calls are about.
const KEPT: [&str; 2] = ["HOLD", "DEAD_LETTERS"];

const APPLY: &str = "run `carebell streams apply`";

/// Which questions to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Those that a worker's permissions allow.
    Worker,
    /// Also about streams, if the user may see them.
    Full,
}

enum About<'a> {
    Stream(&'a str),
    Consumer(&'a crate::streams::DeclaredConsumer),
    Pull,
    Ack,
    /// Calls of sweep and metrics. Without a body, those that change something are rejected.
    Look,
    /// Publishing to this stream.
    Publish(&'static str),
}

#[derive(Default)]
struct Findings {
    not_enabled: bool,
    nobody: usize,
    answered: usize,
    refused_subjects: Vec<String>,
    hidden: Vec<String>,
    silent: Vec<String>,
    problems: Vec<String>,
    missing: Vec<String>,
    drift: Vec<String>,
    clock: Option<Check>,
}

pub(super) async fn examine(source: &Source, clock: &Clock) -> Vec<Check> {
    let rest = |why: &str| AFTER_THE_CONNECTION.map(|item| Check::not_checked(item, why));
    let config = match source.nats() {
        Ok(config) => config,
        Err(problem) => {
            let why = format!("{} is not valid", problem.variable);
            return [vec![Check::not_checked(Item::Nats, &*why)], rest(&why).into()].concat();
        }
    };
    let connection = match crate::nats::open(&config, &Health::new()).await {
        Ok(connection) => connection,
        Err(error) => return [vec![unreachable(&error)], rest("NATS is not reachable").into()].concat(),
    };
    let adjusted = source.adjustments().ok().and_then(|adjustments| Streams::embedded(&adjustments).ok());
    let known = match &adjusted {
        Some(streams) => Ok(streams.clone()),
        // Permissions do not depend on adjustments.
        None => Streams::embedded(&Adjustments::default()),
    };
    let mut checks = vec![connected(&config)];
    match known {
        Ok(streams) => checks.extend(nats(&connection, &streams, clock, Depth::Full).await),
        Err(error) => checks.extend(rest(&error.to_string())),
    }
    if adjusted.is_none() {
        checks.retain(|check| check.item != Item::Streams);
        checks.push(Check::fail(
            Item::Streams,
            "STREAMS_REPLICAS or QUEUE_OVERRIDES is wrong, so the wanted streams are unknown",
            "`carebell streams check` shows the problem",
        ));
    }
    checks
}

/// The check for a connection.
#[must_use]
pub fn connected(config: &NatsConfig) -> Check {
    let servers = config.servers.join(", ");
    if config.is_exposed {
        let advice = "let the server offer TLS, and take ?tls=none out of NATS_URL";
        return Check::warn(Item::Nats, format!("connected to {servers}, not encrypted"), advice);
    }
    Check::ok(Item::Nats, format!("connected to {servers}"))
}

/// The check for a failed connection.
#[must_use]
pub fn unreachable(error: &ConnectError) -> Check {
    let advice = match error {
        ConnectError::Creds(_) => "check that this process may read the file",
        ConnectError::NoTls => "let the server offer TLS; on a network that you trust, `?tls=none` does without",
        ConnectError::User => "check that the server knows the user and password of NATS_URL, or NATS_CREDS",
        ConnectError::Unreachable(_) => "check that nats-server is up, and that NATS_URL points to it",
        ConnectError::Old(_) => "install nats-server 2.12 or later",
    };
    Check::fail(Item::Nats, error.to_string(), advice)
}

/// Checks a server without changing it.
pub async fn nats(connection: &Connection, streams: &Streams, clock: &Clock, depth: Depth) -> Vec<Check> {
    let version = match connection.check_version() {
        Ok(()) => Check::ok(Item::NatsVersion, connection.version()),
        Err(error) => Check::fail(Item::NatsVersion, error.to_string(), "install nats-server 2.12 or later"),
    };
    let (about, probes): (Vec<About>, Vec<PermissionProbe>) = questions(streams, depth).into_iter().unzip();
    let at = clock.now();
    let replies = match connection.probe(&probes).await {
        Ok(replies) => replies,
        Err(why) => {
            let advice = "let the user subscribe to NATS_INBOX_PREFIX.> (default _INBOX_carebell.>), and check that \
                 the connection is stable";
            let rest = [Item::JetStream, Item::Streams, Item::NatsClock];
            let rest = rest.map(|item| Check::not_checked(item, "no reply can be received"));
            return [vec![version, Check::fail(Item::NatsPermissions, why, advice)], rest.into()].concat();
        }
    };
    let mut findings = Findings::default();
    for ((about, probe), reply) in about.iter().zip(&probes).zip(&replies) {
        findings.note(about, probe, reply, streams);
        if let (None, ProbeReply::Said { body, after }) = (&findings.clock, reply)
            && let Some(theirs) = written_at(body)
        {
            let took = TimeDelta::from_std(*after).unwrap_or_default();
            findings.clock = Some(compare_clocks(Item::NatsClock, Asked { at, took }, theirs));
        }
    }
    findings.into_checks(version, streams)
}

fn questions(streams: &Streams, depth: Depth) -> Vec<(About<'_>, PermissionProbe)> {
    let probe = |subject: String, body| PermissionProbe { subject, header: None, body, is_answered: true };
    let mut list = Vec::new();
    for consumer in streams.consumers() {
        let place = consumer.place();
        // First: once later questions are answered, refused acks are known.
        let ack = probe(format!("$JS.ACK.{place}.1.0.0.0.0"), IDLE_ACK);
        list.push((About::Ack, PermissionProbe { is_answered: false, ..ack }));
        list.push((About::Consumer(consumer), probe(format!("$JS.API.CONSUMER.INFO.{place}"), "")));
        list.push((About::Pull, probe(format!("$JS.API.CONSUMER.MSG.NEXT.{place}"), IMPOSSIBLE_PULL)));
    }
    let mut queues = streams.work_queues();
    queues.remove("ADVISORIES");
    for (call, is_about_queues) in LOOKED_AT {
        let others = KEPT.iter().copied().filter(|_| !is_about_queues);
        let subjects = queues.iter().map(String::as_str).chain(others).map(|stream| format!("$JS.API.{call}.{stream}"));
        list.extend(subjects.map(|subject| (About::Look, probe(subject, ""))));
    }
    if depth == Depth::Full {
        list.extend(
            streams.names().map(|name| (About::Stream(name), probe(format!("$JS.API.STREAM.INFO.{name}"), ""))),
        );
    }
    let publish = |stream, subject| {
        (About::Publish(stream), PermissionProbe { header: Some(FOR_NO_STREAM), ..probe(subject, "") })
    };
    for kind in jobs::registry().kinds() {
        let home = if kind.stage == Stage::Delivery { "DELIVERIES" } else { "WORK" };
        // Earlier stages or the scheduler may publish any kind.
        let lanes = kind.queues().into_iter().map(|queue| queue.lane.unwrap_or(Lane::Normal));
        list.extend(lanes.map(|lane| publish(home, kind.subject(lane))));
        list.push(publish("DEAD_LETTERS", format!("dead.{kind}.{home}.0")));
    }
    list.extend(queues.iter().map(|home| publish("HOLD", format!("hold.{home}.0"))));
    list
}

impl Findings {
    fn note(&mut self, about: &About, probe: &PermissionProbe, reply: &ProbeReply, streams: &Streams) {
        match (about, reply) {
            // Not needed by workers.
            (About::Stream(name), ProbeReply::Refused) => self.hidden.push((*name).to_owned()),
            (_, ProbeReply::Refused) => self.refused_subjects.push(probe.subject.clone()),
            (About::Stream(_) | About::Consumer(_), ProbeReply::Nobody) => self.nobody += 1,
            (About::Publish(stream), ProbeReply::Nobody) => self.missing.push(format!("{stream}: not on the server")),
            // As expected: acks get no reply; permitted pulls and publishes fail for another reason.
            (About::Ack, _)
            | (About::Pull | About::Look, ProbeReply::Nobody)
            | (About::Pull | About::Look | About::Publish(_), ProbeReply::Said { .. }) => {}
            (_, ProbeReply::Silent) => self.silent.push(probe.subject.clone()),
            (About::Stream(name), ProbeReply::Said { body, .. }) => self.look(streams.look_at_stream(name, body)),
            (About::Consumer(consumer), ProbeReply::Said { body, .. }) => self.look(consumer.look(body)),
        }
    }

    fn look(&mut self, looked: Result<Vec<Difference>, LookError>) {
        match looked {
            Ok(differences) => {
                self.answered += 1;
                for difference in differences {
                    let list = if difference.field.is_empty() { &mut self.missing } else { &mut self.drift };
                    list.push(difference.to_string());
                }
            }
            Err(LookError::NotEnabled) => self.not_enabled = true,
            Err(LookError::Other(why)) => self.problems.push(why),
        }
    }

    fn into_checks(mut self, version: Check, streams: &Streams) -> Vec<Check> {
        let jetstream = self.jetstream();
        // Without JetStream only permissions show.
        let off = jetstream.is_failure();
        let streams =
            if off { Check::not_checked(Item::Streams, "JetStream does not answer") } else { self.streams(streams) };
        let permissions = self.permissions();
        let clock = self.clock.take();
        let clock =
            clock.unwrap_or_else(|| Check::not_checked(Item::NatsClock, "no stream or consumer shows its time"));
        vec![version, jetstream, streams, permissions, clock]
    }

    fn jetstream(&self) -> Check {
        let item = Item::JetStream;
        if self.not_enabled {
            let advice =
                "enable JetStream for the account of this user, in the server's configuration or the account's JWT";
            return Check::fail(item, "JetStream is not enabled for the account", advice);
        }
        if self.answered > 0 {
            return Check::ok(item, "on");
        }
        if self.nobody > 0 {
            let advice = "start nats-server with -js, or with `jetstream` in its configuration";
            return Check::fail(item, "JetStream is off on this server", advice);
        }
        let mut problems = self.problems.clone();
        problems.dedup();
        let advice = "see the server's log: a cluster may have no leader";
        match (problems.is_empty(), self.silent.is_empty()) {
            (false, _) => Check::fail(item, some(&problems), advice),
            (true, false) => Check::fail(item, "JetStream does not answer", advice),
            (true, true) => Check::not_checked(item, "the user may not ask"),
        }
    }

    fn streams(&mut self, streams: &Streams) -> Check {
        let item = Item::Streams;
        // Each publish reports a missing stream too.
        self.missing.sort();
        self.missing.dedup();
        if !self.missing.is_empty() {
            return Check::fail(item, some(&self.missing), APPLY);
        }
        if !self.problems.is_empty() {
            return Check::fail(item, some(&self.problems), "see the server's log: a cluster may have no leader");
        }
        if !self.drift.is_empty() {
            let advice = "`carebell streams check` shows all, `carebell streams apply` fixes them";
            return Check::warn(item, some(&self.drift), advice);
        }
        let consumers = streams.consumers().len();
        if self.hidden.is_empty() {
            let detail = format!("{} streams and {consumers} consumers match streams/", streams.names().count());
            return Check::ok(item, detail);
        }
        let hidden = self.hidden.join(", ");
        Check::ok(item, format!("{consumers} consumers match streams/ (the user may not look at {hidden})"))
    }

    fn permissions(&self) -> Check {
        let item = Item::NatsPermissions;
        if !self.refused_subjects.is_empty() {
            let what = format!("the user may not publish to {}", some(&self.refused_subjects));
            return Check::fail(item, what, "allow it; docs/ARCHITECTURE.md lists the minimum permissions of a worker");
        }
        if !self.silent.is_empty() {
            let what = format!("no answer about {}", some(&self.silent));
            return Check::warn(item, what, "see the server's log, and try again");
        }
        Check::ok(item, "the user has the permissions of a worker")
    }
}
