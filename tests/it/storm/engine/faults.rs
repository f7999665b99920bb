//! Faults: kills of workers and servers, and misbehaviour of the push service.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use carebell::dev::{
    nats::NatsServer,
    postgres::Postgres,
    push_service::{Behaviour, PushService},
};
use chrono::{DateTime, Utc};
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use tokio::time::{Instant, sleep, sleep_until};

use super::Settings;
use crate::support::{Process, utc_now};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// By number.
    Worker(usize),
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
}

#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub after: Duration,
    target: Sort,
    /// Whether Postgres is killed, not shut down.
    hard: bool,
    /// Index of the worker.
    which: usize,
    /// Downtime of a server.
    away: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Sort {
    Worker,
    Nats,
    Postgres,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Victims {
    /// Seven of ten are workers, two NATS, one Postgres.
    All,
    Workers,
    Nats,
    Postgres,
}

pub fn draw(settings: &Settings, rng: &mut StdRng) -> Vec<Planned> {
    let Settings { kills: count, workers, span, outage, .. } = *settings;
    let mut sorts: Vec<Sort> = (0..count)
        .map(|number| match (settings.victims, number % 10) {
            (Victims::Nats, _) | (Victims::All, 1 | 6) => Sort::Nats,
            (Victims::Postgres, _) | (Victims::All, 3) => Sort::Postgres,
            (Victims::Workers | Victims::All, _) => Sort::Worker,
        })
        .collect();
    sorts.shuffle(rng);
    let mut instants: Vec<Duration> =
        (0..count).map(|_| rng.random_range(span.mul_f64(0.05)..span.mul_f64(0.95))).collect();
    instants.sort();
    let planned = sorts.into_iter().zip(instants);
    planned
        .map(|(target, after)| Planned {
            after,
            target,
            hard: rng.random_bool(0.5),
            which: rng.random_range(0..workers),
            away: rng.random_range(Duration::ZERO..=outage),
        })
        .collect()
}

/// The worker processes, told apart by their VAPID subjects.
pub struct Fleet {
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    running: Vec<(usize, Process)>,
    /// By worker number.
    pub logs: Vec<PathBuf>,
}

impl Fleet {
    pub async fn start(environment: BTreeMap<String, String>, directory: PathBuf, count: usize) -> Self {
        let mut fleet = Self { environment, directory, running: Vec::new(), logs: Vec::new() };
        for _ in 0..count {
            let worker = fleet.launch();
            fleet.running.push(worker);
        }
        for (_, worker) in &mut fleet.running {
            worker.ready().await;
        }
        fleet
    }

    fn launch(&mut self) -> (usize, Process) {
        let number = self.logs.len();
        self.environment.insert("VAPID_SUBJECT".into(), subject(number));
        let worker = Process::start(&["run"], &self.environment, &self.directory);
        self.logs.push(worker.log_file().to_owned());
        (number, worker)
    }

    /// Replaces it at once.
    async fn kill(&mut self, which: usize) -> usize {
        let (number, ref mut worker) = self.running[which];
        worker.kill().await;
        self.running[which] = self.launch();
        number
    }

    /// Answers the numbers of workers that failed or had already ended.
    pub async fn stop(&mut self) -> Vec<usize> {
        let mut bad = Vec::new();
        for (number, worker) in &mut self.running {
            if worker.has_ended() || worker.terminate().await.code() != Some(0) {
                bad.push(*number);
            }
        }
        bad
    }
}

pub fn subject(worker: usize) -> String {
    format!("mailto:worker-{worker}@example.org")
}

pub fn worker_of(subject: &str) -> Option<usize> {
    subject.strip_prefix("mailto:worker-")?.strip_suffix("@example.org")?.parse().ok()
}

pub async fn strike(
    planned: &[Planned],
    start: Instant,
    (nats, postgres, fleet): (&mut NatsServer, &mut Postgres, &mut Fleet),
    say: fn(&str),
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for kill in planned {
        sleep_until(start + kill.after).await;
        let from = utc_now();
        let target = match kill.target {
            Sort::Worker => Target::Worker(fleet.kill(kill.which).await),
            Sort::Nats => {
                nats.kill().await;
                sleep(kill.away).await;
                nats.start_again().await.unwrap();
                Target::Nats
            }
            Sort::Postgres => {
                if kill.hard {
                    postgres.kill().await;
                } else {
                    postgres.stop().await;
                }
                sleep(kill.away).await;
                postgres.start_again().await.unwrap();
                Target::Postgres
            }
        };
        let fault = Fault { target, from, until: utc_now() };
        say(&format!("{:6.2} s: killed {target:?}, {} ms", start.elapsed().as_secs_f64(), fault.millis()));
        faults.push(fault);
    }
    faults
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
