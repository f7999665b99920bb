//! Checks of NATS and its streams.

use chrono::TimeDelta;

use super::{Asked, Check, Item, compare_clocks, some};
use crate::{
    clock::Clock,
    jobs,
    kind::{Lane, Stage},
    nats::{Ask, ConnectError, Connection, Reply},
    streams::{Difference, LookError, Streams, written_at},
};

/// Checks that need a connection.
pub(super) const AFTER_THE_CONNECTION: [Item; 5] =
    [Item::NatsVersion, Item::JetStream, Item::Streams, Item::NatsPermissions, Item::NatsClock];

/// Every server refuses this pull: a heartbeat must be shorter than half the wait.
const IMPOSSIBLE_PULL: &str = r#"{"batch":1,"no_wait":true,"expires":1000000000,"idle_heartbeat":1000000000}"#;

/// "In progress" for a missing message: no effect, no reply.
const IDLE_ACK: &str = "+WPI";

/// Makes every stream refuse a message: it expects another stream.
const FOR_NO_STREAM: (&str, &str) = ("Nats-Expected-Stream", "CAREBELL_NO_SUCH_STREAM");

/// API calls of `dead_letter` and metrics, beside pulls.
const LOOKED_AT: [(&str, &[&str]); 4] = [
    ("STREAM.INFO", &["JOBS", "DELIVERIES", "SCHEDULED", "HOLD", "DEAD_LETTERS"]),
    ("CONSUMER.LIST", &["JOBS", "DELIVERIES"]),
    ("STREAM.MSG.GET", &["JOBS", "DELIVERIES", "SCHEDULED"]),
    ("STREAM.MSG.DELETE", &["JOBS", "DELIVERIES", "SCHEDULED"]),
];

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
    Consumer(&'a crate::streams::Consumer),
    Pull,
    Ack,
    /// Calls of the sweep and of the metrics. Without a body, those that change something are rejected.
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

/// The check for a failed connection.
#[must_use]
pub fn unreachable(error: &ConnectError) -> Check {
    let advice = match error {
        ConnectError::Creds(_) => "check that this process may read the file",
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
    let (about, asks): (Vec<About>, Vec<Ask>) = questions(streams, depth).into_iter().unzip();
    let at = clock.now();
    let replies = match connection.ask(&asks).await {
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
    for ((about, ask), reply) in about.iter().zip(&asks).zip(&replies) {
        findings.note(about, ask, reply, streams);
        if let (None, Reply::Said { body, after }) = (&findings.clock, reply)
            && let Some(theirs) = written_at(body)
        {
            let took = TimeDelta::from_std(*after).unwrap_or_default();
            findings.clock = Some(compare_clocks(Item::NatsClock, Asked { at, took }, theirs));
        }
    }
    findings.into_checks(version, streams)
}

fn questions(streams: &Streams, depth: Depth) -> Vec<(About<'_>, Ask)> {
    let ask = |subject: String, body| Ask { subject, header: None, body, is_answered: true };
    let mut list = Vec::new();
    for consumer in streams.consumers() {
        let place = consumer.place();
        // First: once later questions are answered, refused acks are known.
        let ack = ask(format!("$JS.ACK.{place}.1.0.0.0.0"), IDLE_ACK);
        list.push((About::Ack, Ask { is_answered: false, ..ack }));
        list.push((About::Consumer(consumer), ask(format!("$JS.API.CONSUMER.INFO.{place}"), "")));
        list.push((About::Pull, ask(format!("$JS.API.CONSUMER.MSG.NEXT.{place}"), IMPOSSIBLE_PULL)));
    }
    for (call, streams) in LOOKED_AT {
        let subjects = streams.iter().map(|stream| format!("$JS.API.{call}.{stream}"));
        list.extend(subjects.map(|subject| (About::Look, ask(subject, ""))));
    }
    if depth == Depth::Full {
        list.extend(streams.names().map(|name| (About::Stream(name), ask(format!("$JS.API.STREAM.INFO.{name}"), ""))));
    }
    let publish = |stream, subject| (About::Publish(stream), Ask { header: Some(FOR_NO_STREAM), ..ask(subject, "") });
    for kind in jobs::registry().kinds() {
        let home = if kind.stage == Stage::Delivery { "DELIVERIES" } else { "JOBS" };
        // Earlier stages or the scheduler may publish any kind.
        let lanes = kind.queues().into_iter().map(|queue| queue.lane.unwrap_or(Lane::Normal));
        list.extend(lanes.map(|lane| publish(home, kind.subject(lane))));
        list.push(publish("DEAD_LETTERS", format!("dead.{kind}.{home}.0")));
    }
    list.extend(["JOBS", "DELIVERIES"].map(|home| publish("HOLD", format!("hold.{home}.0"))));
    list
}

impl Findings {
    fn note(&mut self, about: &About, ask: &Ask, reply: &Reply, streams: &Streams) {
        match (about, reply) {
            // Not needed by workers.
            (About::Stream(name), Reply::Refused) => self.hidden.push((*name).to_owned()),
            (_, Reply::Refused) => self.refused_subjects.push(ask.subject.clone()),
            (About::Stream(_) | About::Consumer(_), Reply::Nobody) => self.nobody += 1,
            (About::Publish(stream), Reply::Nobody) => self.missing.push(format!("{stream}: not on the server")),
            // As expected: acks get no reply; permitted pulls and publishes fail for another reason. Missing consumers
            // show in their info.
            (About::Ack, _)
            | (About::Pull | About::Look, Reply::Nobody)
            | (About::Pull | About::Look | About::Publish(_), Reply::Said { .. }) => {}
            (_, Reply::Silent) => self.silent.push(ask.subject.clone()),
            (About::Stream(name), Reply::Said { body, .. }) => self.look(streams.look_at_stream(name, body)),
            (About::Consumer(consumer), Reply::Said { body, .. }) => self.look(consumer.look(body)),
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
