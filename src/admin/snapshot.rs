//! What all pages of the console show at the moment: looked at once for all who watch, and only while somebody does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::try_join_all;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    clock::Clock,
    nats::JetStream,
    pauses::{ALL, Pause, Scope},
    plan::JobOutcome,
    policy::Policy,
    store::{
        Store, StoreError,
        lists::{Due, OldWord, OutcomeCount, Throughput, WorkerLine},
    },
    streams::{DeclaredConsumer, Load, Streams},
};

/// A snapshot serves all questions for this long.
pub const GOOD_FOR: TimeDelta = TimeDelta::seconds(4);

/// Counts of a day are good for this long: they are many rows.
const DAY_GOOD_FOR: TimeDelta = TimeDelta::seconds(15);

/// Consumers looked at together.
const TOGETHER: usize = 8;

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A job waits for long.
const LONG: TimeDelta = TimeDelta::minutes(1);

/// One queue.
#[derive(Clone, Debug)]
pub struct QueueState {
    /// Its durable.
    pub name: String,
    /// Its streams.
    pub streams: Vec<String>,
    /// How it tries again.
    pub policy: Policy,
    /// In all its streams. `None` if one of its consumers is not on the server.
    pub load: Option<Load>,
}

/// NATS at one instant.
#[derive(Clone, Debug, Default)]
pub struct Streaming {
    /// By name.
    pub queues: Vec<QueueState>,
    /// Messages in HOLD: parked and delayed jobs.
    pub parked: Option<u64>,
    /// Messages in `DEAD_LETTERS`.
    pub dead_letters: Option<u64>,
}

/// All of it. A part that cannot be seen says why.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was true.
    pub at: DateTime<Utc>,
    /// NATS.
    pub streaming: Result<Streaming, String>,
    /// Delayed jobs that wait, from Postgres.
    pub delayed: Result<u64, String>,
    /// What people have paused, from Postgres.
    pub pauses: Vec<Pause>,
    /// What workers do, from Postgres.
    pub activity: Result<Activity, String>,
}

/// What workers do, and what is to come.
#[derive(Clone, Debug)]
pub struct Activity {
    /// Those that live, and those lost within the last day.
    pub workers: Vec<WorkerLine>,
    /// How runs ended in the last day, by queue.
    pub last_day: Arc<Vec<OutcomeCount>>,
    /// When that was read.
    pub last_day_at: DateTime<Utc>,
    /// Each minute of the last hour.
    pub throughput: Throughput,
    /// In the next hour.
    pub due: Due,
}

impl Activity {
    /// Jobs that completed and failed in the last day, of one queue or of all.
    #[must_use]
    pub fn ended(&self, queue: Option<&str>) -> (u64, u64) {
        let of = self.last_day.iter().filter(|count| queue.is_none_or(|queue| count.queue == queue));
        let sum = |word| {
            let is_meant = |count: &&OutcomeCount| {
                let outcome = JobOutcome::ALL.into_iter().find(|outcome| outcome.name() == count.outcome);
                outcome.and_then(OldWord::of_end) == Some(word)
            };
            of.clone().filter(is_meant).map(|count| count.count).sum()
        };
        (sum(OldWord::Completed), sum(OldWord::Failed))
    }
}

/// How things are, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is to be done.
    Well,
    /// Somebody should look.
    Look,
    /// Somebody must act.
    Act,
}

impl Snapshot {
    /// The pause that holds up a queue.
    #[must_use]
    pub fn pause_of(&self, queue: &str) -> Option<&Pause> {
        self.pauses.iter().find(|pause| holds(pause, queue))
    }

    /// One sentence that says how things are.
    #[must_use]
    pub fn verdict(&self) -> (Level, String) {
        let streaming = match (&self.streaming, &self.delayed) {
            (Err(nats), Err(_)) => {
                return (Level::Act, format!("Neither NATS nor Postgres can be seen from here: {nats}"));
            }
            (Err(why), _) => return (Level::Act, format!("NATS cannot be seen from here: {why}")),
            (_, Err(why)) => return (Level::Act, format!("Postgres cannot be seen from here: {why}")),
            (Ok(streaming), Ok(_)) => streaming,
        };
        if let Some(queue) = streaming.queues.iter().find(|queue| queue.load.is_none()) {
            let text = format!("The queue {} is not on the server: run carebell streams apply", queue.name);
            return (Level::Act, text);
        }
        if let Some((queue, load, age)) = self.oldest(streaming) {
            let jobs = if load.waiting == 1 { "1 job waits".to_owned() } else { format!("{} jobs wait", load.waiting) };
            let text = format!("{jobs} in {}, the oldest for {}", queue.name, in_words(age));
            if load.pulls == 0 && load.in_flight == 0 {
                return (Level::Act, format!("{text}, and no worker takes them."));
            }
            if age > LONG {
                return (Level::Look, format!("{text}."));
            }
        }
        if let Some(pause) = self.pauses.first() {
            let others = match self.pauses.len() {
                1 => String::new(),
                2 => ", and one more pause holds".to_owned(),
                all => format!(", and {} more pauses hold", all - 1),
            };
            let (scope, name, actor, reason) = (pause.scope.name(), &pause.name, &pause.actor, &pause.reason);
            return (Level::Look, format!("{actor} has paused the {scope} {name} ({reason}){others}."));
        }
        match streaming.dead_letters {
            Some(0) | None => (Level::Well, "All is well: no job waits for long, and none failed for good.".to_owned()),
            Some(1) => {
                (Level::Look, "No job waits for long; 1 failed for good and needs somebody's decision.".to_owned())
            }
            Some(count) => {
                (Level::Look, format!("No job waits for long; {count} failed for good and need somebody's decision."))
            }
        }
    }

    /// The queue whose oldest job has waited longest.
    fn oldest<'a>(&self, streaming: &'a Streaming) -> Option<(&'a QueueState, Load, TimeDelta)> {
        let waiting = streaming.queues.iter().filter_map(|queue| {
            let load = queue.load.filter(|load| load.waiting > 0 && self.pause_of(&queue.name).is_none())?;
            Some((queue, load, load.oldest.map_or(TimeDelta::zero(), |oldest| self.at - oldest)))
        });
        waiting.max_by_key(|(_, _, age)| *age)
    }
}

/// Whether a pause holds up a queue, by its durable.
fn holds(pause: &Pause, durable: &str) -> bool {
    let begins = |kind: &str| durable == kind || durable.strip_prefix(kind).is_some_and(|rest| rest.starts_with('_'));
    match pause.scope {
        Scope::Queue if pause.name == ALL => !["later", "cancel"].contains(&durable),
        Scope::Queue => begins(&pause.name.replace('.', "_")),
        Scope::Channel => begins(&format!("deliver_{}", pause.name)),
        Scope::Provider => false,
    }
}

/// A span in its two largest units.
#[must_use]
pub fn in_words(age: TimeDelta) -> String {
    let seconds = u64::try_from(age.num_seconds()).unwrap_or(0);
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The last snapshot. Whoever asks for a newer one waits for that, and others with them.
#[derive(Debug, Default)]
pub struct Snapshots(Mutex<Option<Arc<Snapshot>>>);

impl Snapshots {
    /// One that is good still, or a new one.
    pub async fn get(&self, look: &Look<'_>) -> Arc<Snapshot> {
        let mut last = self.0.lock().await;
        let now = look.clock.now();
        if let Some(snapshot) = last.as_ref().filter(|snapshot| now - snapshot.at < GOOD_FOR) {
            return Arc::clone(snapshot);
        }
        let snapshot = Arc::new(look.take(now, last.as_deref()).await);
        *last = Some(Arc::clone(&snapshot));
        snapshot
    }
}

/// The servers that a snapshot is taken of.
pub struct Look<'a> {
    /// Postgres.
    pub store: &'a Store,
    /// NATS, if it was reached.
    pub nats: Option<&'a JetStream>,
    /// Queues as declared.
    pub streams: &'a Streams,
    /// The time.
    pub clock: &'a Clock,
}

impl Look<'_> {
    async fn take(&self, at: DateTime<Utc>, last: Option<&Snapshot>) -> Snapshot {
        let silent = || format!("no answer within {PATIENCE:?}");
        let (streaming, delayed, activity, pauses) = tokio::join!(
            async { timeout(PATIENCE, self.streaming()).await.unwrap_or_else(|_| Err(silent())) },
            async {
                let counts = timeout(PATIENCE, self.store.count_delayed()).await.map_err(|_| silent())?;
                let counts = counts.map_err(|error| error.to_string())?;
                Ok(counts.values().map(|count| count.jobs).sum())
            },
            async {
                let activity = timeout(PATIENCE, self.activity(at, last)).await.map_err(|_| silent())?;
                activity.map_err(|error| error.to_string())
            },
            // Whether Postgres answers, the counts tell.
            async { timeout(PATIENCE, self.store.pauses(at)).await.ok()?.ok() }
        );
        Snapshot { at, streaming, delayed, pauses: pauses.unwrap_or_default(), activity }
    }

    async fn activity(&self, at: DateTime<Utc>, last: Option<&Snapshot>) -> Result<Activity, StoreError> {
        let last = last.and_then(|last| last.activity.as_ref().ok());
        let (last_day, last_day_at) = match last.filter(|last| at - last.last_day_at < DAY_GOOD_FOR) {
            Some(last) => (Arc::clone(&last.last_day), last.last_day_at),
            None => (Arc::new(self.store.outcome_counts(None, at - TimeDelta::days(1)).await?), at),
        };
        Ok(Activity {
            workers: self.store.workers(at).await?,
            last_day,
            last_day_at,
            throughput: self.store.throughput(None, at).await?,
            due: self.store.due_before(at + TimeDelta::hours(1)).await?,
        })
    }

    async fn streaming(&self) -> Result<Streaming, String> {
        let nats = self.nats.ok_or("it was not reached yet")?;
        let mut consumers: Vec<&DeclaredConsumer> = self.streams.consumers().iter().collect();
        consumers.retain(|consumer| consumer.is_queue());
        let mut loads = Vec::with_capacity(consumers.len());
        for some in consumers.chunks(TOGETHER) {
            loads.extend(
                try_join_all(some.iter().map(|consumer| consumer.load(nats)))
                    .await
                    .map_err(|error| error.to_string())?,
            );
        }
        let mut queues: BTreeMap<&str, QueueState> = BTreeMap::new();
        for (consumer, load) in consumers.into_iter().zip(loads) {
            let state = queues.entry(consumer.durable()).or_insert_with(|| QueueState {
                name: consumer.durable().to_owned(),
                streams: Vec::new(),
                policy: consumer.policy.clone(),
                load: load.map(|load| Load { waiting: 0, in_flight: 0, pulls: 0, ..load }),
            });
            state.streams.push(consumer.stream.clone());
            state.load = state.load.zip(load).map(|(one, other)| one.and(other));
        }
        let depth = async |stream: &str| self.streams.depth(nats, stream).await.map_err(|error| error.to_string());
        Ok(Streaming {
            queues: queues.into_values().collect(),
            parked: depth("HOLD").await?,
            dead_letters: depth("DEAD_LETTERS").await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(waiting: u64, pulls: u64, age: i64) -> QueueState {
        let streams = Streams::embedded(&crate::streams::Adjustments::default()).unwrap();
        let consumer = streams.consumers().iter().find(|consumer| consumer.is_queue()).unwrap();
        let oldest = (waiting > 0).then(|| DateTime::UNIX_EPOCH - TimeDelta::seconds(age));
        QueueState {
            name: "reminder_medication".into(),
            streams: vec!["JOBS".into()],
            policy: consumer.policy.clone(),
            load: Some(Load { waiting, in_flight: 0, pulls, oldest }),
        }
    }

    fn seen(streaming: Result<Streaming, String>) -> Snapshot {
        let activity = Err("not looked at".into());
        Snapshot { at: DateTime::UNIX_EPOCH, streaming, delayed: Ok(0), pauses: Vec::new(), activity }
    }

    fn of(queue: QueueState, dead_letters: u64) -> (Level, String) {
        let streaming = Streaming { queues: vec![queue], parked: Some(0), dead_letters: Some(dead_letters) };
        seen(Ok(streaming)).verdict()
    }

    #[test]
    fn the_verdict_names_the_worst_first() {
        assert_eq!(
            of(queue(0, 2, 0), 0),
            (Level::Well, "All is well: no job waits for long, and none failed for good.".into())
        );
        assert_eq!(of(queue(3, 2, 10), 1).0, Level::Look);
        assert_eq!(
            of(queue(3, 2, 90), 0),
            (Level::Look, "3 jobs wait in reminder_medication, the oldest for 1m 30s.".into())
        );
        let nobody = of(queue(1, 0, 5), 7);
        assert_eq!(
            nobody,
            (Level::Act, "1 job waits in reminder_medication, the oldest for 5s, and no worker takes them.".into())
        );
        assert_eq!(seen(Err("x".into())).verdict().0, Level::Act);
    }

    #[test]
    fn a_paused_queue_is_not_one_that_nobody_works_on() {
        let pause = |scope, name: &str| Pause {
            scope,
            name: name.into(),
            reason: "wrong text".into(),
            actor: "olga".into(),
            since: DateTime::UNIX_EPOCH,
            until: None,
        };
        let streaming = Streaming { queues: vec![queue(9, 0, 300)], parked: Some(0), dead_letters: Some(0) };
        let mut snapshot = seen(Ok(streaming));
        assert_eq!(snapshot.verdict().0, Level::Act);
        snapshot.pauses.push(pause(Scope::Queue, "reminder_medication"));
        let expected = "olga has paused the queue reminder_medication (wrong text).";
        assert_eq!(snapshot.verdict(), (Level::Look, expected.into()));
        for (scope, name, durable, held) in [
            (Scope::Queue, ALL, "deliver_sms_normal", true),
            (Scope::Queue, ALL, "later", false),
            (Scope::Queue, "notification", "notification_bulk", true),
            (Scope::Queue, "deliver.sms", "deliver_sms_normal", true),
            (Scope::Channel, "sms", "deliver_sms_critical", true),
            (Scope::Channel, "web_push", "deliver_webhook_normal", false),
            (Scope::Provider, "sms", "deliver_sms_normal", false),
        ] {
            assert_eq!(holds(&pause(scope, name), durable), held, "{name} {durable}");
        }
    }
}
