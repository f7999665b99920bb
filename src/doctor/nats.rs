use std::collections::BTreeSet;

use chrono::TimeDelta;

use super::{
    check::{Check, Item},
    clocks::{Asked, compare_clocks},
    findings::{About, Depth, Findings},
};
use crate::{
    clock::Clock,
    config::{NatsConfig, Source},
    events::{self, End},
    health::Health,
    jobs,
    kind::{Lane, Stage},
    nats::{ConnectError, Connection, PermissionProbe, ProbeReply},
    streams::{Adjustments, Streams, written_at},
};

/// Checks that need a connection.
const AFTER_THE_CONNECTION: [Item; 5] =
    [Item::NatsVersion, Item::JetStream, Item::Streams, Item::NatsPermissions, Item::NatsClock];

/// Every server refuses this pull: a heartbeat must be shorter than half the wait.
const IMPOSSIBLE_PULL: &str = r#"{"batch":1,"no_wait":true,"expires":1000000000,"idle_heartbeat":1000000000}"#;

/// "In progress" for a missing message: no effect, no reply.
const IDLE_ACK: &str = "+WPI";

/// No queue has this name.
const NO_CONSUMER: &str = "carebell_no_such_consumer";

/// Makes every stream refuse a message: it expects another stream.
pub(super) const FOR_NO_STREAM: (&str, &str) = ("Nats-Expected-Stream", "CAREBELL_NO_SUCH_STREAM");

/// API calls of `dead_letter` and metrics, beside pulls, and whether they are about work queues only.
const LOOKED_AT: [(&str, bool); 3] = [("CONSUMER.LIST", true), ("STREAM.MSG.GET", false), ("STREAM.MSG.DELETE", false)];

/// API calls about the journal.
const JOURNAL: [&str; 2] = ["$JS.API.STREAM.INFO.JOURNAL", "$JS.API.STREAM.MSG.GET.JOURNAL"];

/// Other streams that these calls are about.
const KEPT: [&str; 2] = ["HOLD", "DEAD_LETTERS"];

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
    let mut findings = Findings::new(streams, depth, connection.node());
    let mut times = None;
    for ((about, probe), reply) in about.iter().zip(&probes).zip(&replies) {
        findings.note(about, probe, reply);
        if let (None, ProbeReply::Said { body, after }) = (&times, reply)
            && let Some(theirs) = written_at(body)
        {
            let took = TimeDelta::from_std(*after).unwrap_or_default();
            times = Some(compare_clocks(Item::NatsClock, Asked { at, took }, theirs));
        }
    }
    let times = times.unwrap_or_else(|| Check::not_checked(Item::NatsClock, "no stream or consumer shows its time"));
    let [jetstream, of_streams, permissions] = findings.checks();
    vec![version, jetstream, of_streams, permissions, times]
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
    let needed: BTreeSet<&str> = queues.iter().map(String::as_str).chain(KEPT).collect();
    for name in streams.names() {
        let is_needed = needed.contains(name);
        if is_needed || depth == Depth::Full {
            list.push((About::Stream { name, is_needed }, probe(format!("$JS.API.STREAM.INFO.{name}"), "")));
        }
    }
    if let Some(consumer) = streams.consumers().first() {
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{NO_CONSUMER}", consumer.stream);
        list.push((About::Leader(consumer), probe(subject, "")));
    }
    for (call, is_about_queues) in LOOKED_AT {
        let others = KEPT.iter().copied().filter(|_| !is_about_queues);
        let subjects = queues.iter().map(String::as_str).chain(others).map(|stream| format!("$JS.API.{call}.{stream}"));
        list.extend(subjects.map(|subject| (About::Look, probe(subject, ""))));
    }
    list.extend(JOURNAL.map(|subject| (About::Look, probe(subject.to_owned(), ""))));
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
    list.push(publish("JOURNAL", "journal.page".to_owned()));
    list.push(publish(events::STREAM, events::subject("", End::Dead)));
    list.extend(queues.iter().map(|home| publish("HOLD", format!("hold.{home}.0"))));
    list
}
