//! Faults as they are planned and as they were, and misbehaviour of the push service.

use std::time::Duration;

use carebell::dev::push_service::{Behaviour, PushService};
use chrono::{DateTime, Utc};
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use tokio::time::{Instant, sleep_until};

use super::Settings;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// By number.
    Worker(usize),
    /// The server, or nodes of a cluster.
    Nats,
    Postgres,
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub target: Target,
    /// Just before the signal.
    pub from: DateTime<Utc>,
    /// When the worker was gone, or the restarted server answered.
    pub until: DateTime<Utc>,
    /// Whether nobody could work meanwhile, however well made.
    pub outage: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub after: Duration,
    pub target: Sort,
    /// Whether Postgres is killed, not shut down.
    pub hard: bool,
    /// Draws a worker, node or stream.
    pub which: usize,
    /// Downtime of a server.
    pub away: Duration,
}

#[derive(Clone, Copy, Debug)]
pub enum Sort {
    Worker,
    Nats,
    Postgres,
    Node(Blow),
    /// The standby becomes the primary.
    Failover,
}

/// To a cluster of three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    Kill,
    /// The leader of the cluster.
    KillMetaLeader,
    KillStreamLeader,
    /// No majority is left.
    KillTwo,
    KillAll,
    /// It keeps its connections and answers nothing.
    Pause,
    /// Each is stopped in good order and started again, when the others are whole.
    Roll,
}

/// In turn, before they are shuffled.
const BLOWS: [Blow; 10] = [
    Blow::Kill,
    Blow::KillMetaLeader,
    Blow::KillStreamLeader,
    Blow::Pause,
    Blow::KillTwo,
    Blow::Kill,
    Blow::KillStreamLeader,
    Blow::KillMetaLeader,
    Blow::KillAll,
    Blow::Roll,
];

fn sort(settings: &Settings, number: usize) -> Sort {
    let clustered = settings.nodes > 1;
    match (settings.victims, number % 10) {
        (Victims::Nats, _) if clustered => Sort::Node(BLOWS[number % BLOWS.len()]),
        // Three of five: all of the blows take turns.
        (Victims::All, 0..=2 | 5..=7) if clustered => Sort::Node(BLOWS[(number / 5 * 3 + number % 5) % BLOWS.len()]),
        (Victims::All, _) if clustered => Sort::Worker,
        (Victims::Nats, _) | (Victims::All, 1 | 6) => Sort::Nats,
        (Victims::Postgres, _) | (Victims::All, 3) => Sort::Postgres,
        (Victims::Workers | Victims::All, _) => Sort::Worker,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Victims {
    /// Seven of ten are workers, two NATS, one Postgres; in a cluster four of ten are workers, and six nodes.
    All,
    Workers,
    Nats,
    Postgres,
}

pub fn draw(settings: &Settings, rng: &mut StdRng) -> Vec<Planned> {
    let Settings { kills, failovers, span, outage, .. } = *settings;
    let mut sorts: Vec<Sort> = (0..kills).map(|number| sort(settings, number)).collect();
    sorts.extend((0..failovers).map(|_| Sort::Failover));
    sorts.shuffle(rng);
    let mut instants: Vec<Duration> =
        sorts.iter().map(|_| rng.random_range(span.mul_f64(0.05)..span.mul_f64(0.95))).collect();
    instants.sort();
    let planned = sorts.into_iter().zip(instants);
    planned
        .map(|(target, after)| Planned {
            after,
            target,
            hard: rng.random_bool(0.5),
            which: rng.random_range(0..1000),
            away: rng.random_range(Duration::ZERO..=outage),
        })
        .collect()
}

impl Fault {
    pub fn millis(&self) -> i64 {
        (self.until - self.from).num_milliseconds()
    }
}

/// Fails some pushes until the span is over.
pub async fn blow(push: &PushService, browsers: &[String], start: Instant, span: Duration, rng: &mut StdRng) {
    let mut after = Duration::ZERO;
    while after < span {
        sleep_until(start + after).await;
        let name = browsers.choose(rng).unwrap();
        match rng.random_range(0..10) {
            0..5 => push.behave_times(name, rng.random_range(1..=2), Behaviour::status(503)),
            5..8 => push.behave(name, Behaviour::retry_after(429, "1")),
            _ => push.behave(name, Behaviour::Hang),
        }
        after += rng.random_range(Duration::from_millis(50)..Duration::from_millis(400));
    }
}

/// Half before the storm, the others during it.
pub async fn unsubscribe(push: &PushService, ended: &[String], start: Instant, span: Duration) {
    let (before, during) = ended.split_at(ended.len() / 2);
    for name in before {
        push.unsubscribe(name);
    }
    for (name, number) in during.iter().zip(1_u32..) {
        sleep_until(start + span * number / u32::try_from(ended.len()).unwrap()).await;
        push.unsubscribe(name);
    }
}
