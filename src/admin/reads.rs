//! What people look at that is in no snapshot: lists of jobs, a queue's hour, and what waits in a stream.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    access::{Role, Viewer},
    problem::Problem,
    query::JobQuery,
    snapshot::Snapshot,
    state::Admin,
};
use crate::{
    jobs,
    kind::{Kind, Queue, Stage},
    near::nearest,
    show,
    store::{
        AuditEntry,
        lists::{JobFilter, JobLine, JobState, ListError, OutcomeCount, Page, Throughput},
    },
    streams::{DeclaredConsumer, Queued},
};

/// The most messages that are read of streams at once: each is a request.
const MOST_QUEUED: usize = 100;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A page of jobs, and what waits beside it.
pub struct Listed {
    /// As it was asked for.
    pub filter: JobFilter,
    /// The jobs that have a row.
    pub page: Page<JobLine>,
    /// Those of each queue that only wait in its streams, if waiting ones were asked for.
    pub in_streams: Vec<InStream>,
}

/// Messages of a queue, the first by their sequence.
pub struct InStream {
    /// Its durable.
    pub queue: String,
    /// All of them, those that run included.
    pub messages: u64,
    /// The first.
    pub first: Vec<Queued>,
    /// When they were read.
    pub as_of: DateTime<Utc>,
}

/// A queue's counts.
pub struct QueueStats {
    /// How its runs ended in the last hour.
    pub last_hour: Vec<OutcomeCount>,
    /// In the last day.
    pub last_day: Vec<OutcomeCount>,
    /// Each minute of the last hour.
    pub throughput: Throughput,
}

impl From<ListError> for Problem {
    fn from(error: ListError) -> Self {
        match error {
            ListError::MalformedCursor | ListError::ForeignCursor => Self::field("cursor", error.to_string()),
            ListError::Limit(_) => Self::field("limit", error.to_string()),
            ListError::Store(error) => error.into(),
        }
    }
}

impl InStream {
    /// As the API shows it. Bodies may hold texts of people, and stay in the stream.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let message = |message: &Queued| {
            json!({
                "job_id": message.job_id,
                "root_id": message.root_id,
                "stream": message.stream,
                "stream_seq": message.sequence,
                "published_at": message.published,
                "not_after": message.not_after,
            })
        };
        json!({
            "queue": self.queue,
            "messages": self.messages,
            "first": self.first.iter().map(message).collect::<Value>(),
            "as_of": self.as_of,
        })
    }
}

impl QueueStats {
    /// As the API shows it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "counts": { "last_hour": show::by_outcome(&self.last_hour), "last_day": show::by_outcome(&self.last_day) },
            "throughput": show::throughput(&self.throughput),
        })
    }
}

impl Admin {
    /// A page of jobs. Whoever asks for those of a person needs the right to see people, and is on record.
    ///
    /// # Errors
    /// If the query is malformed, the right is missing, or a server is away.
    pub async fn jobs(&self, viewer: &Viewer, query: &JobQuery, limit: i64) -> Result<Listed, Problem> {
        let now = self.clock.now();
        let filter = query.filter(now)?;
        if let Some(user) = &filter.user {
            self.look_at(viewer, user, "jobs").await?;
        }
        let cursor = query.cursor.as_deref().filter(|cursor| !cursor.is_empty());
        let page = self.store.jobs(&filter, u32::try_from(limit).unwrap_or(0), cursor, now).await?;
        let asks_for_waiting = filter.states.as_ref().is_some_and(|states| states.contains(&JobState::Pending));
        // Messages name no user, and have no place in the order of rows.
        let has_streams = asks_for_waiting && filter.user.is_none() && filter.application.is_none() && cursor.is_none();
        let in_streams = if has_streams { self.in_streams(&filter).await? } else { Vec::new() };
        Ok(Listed { filter, page, in_streams })
    }

    /// Notes that somebody looks at a person, before they do.
    ///
    /// # Errors
    /// If the right is missing, or the database is away.
    pub async fn look_at(&self, viewer: &Viewer, user: &str, page: &str) -> Result<(), Problem> {
        if viewer.role < Role::Coordinator {
            return Err(Problem::forbidden(viewer.role, Role::Coordinator));
        }
        let act = AuditEntry {
            at: self.clock.now(),
            actor: viewer.name.clone(),
            action: "person.viewed".into(),
            job_id: None,
            root_id: None,
            detail: json!({ "user": user, "page": page }),
        };
        Ok(self.store.record_audit(&[act]).await?)
    }

    /// What the queues of a filter hold that has no row before it runs: messages of all stages but the last.
    async fn in_streams(&self, filter: &JobFilter) -> Result<Vec<InStream>, Problem> {
        let snapshot = self.snapshot().await;
        let Ok(streaming) = &snapshot.streaming else { return Ok(Vec::new()) };
        let is_meant = |queue: &Queue| {
            queue.kind.stage != Stage::Delivery
                && filter.kind.is_none_or(|kind| kind == queue.kind)
                && filter.lane.is_none_or(|lane| queue.lane == Some(lane))
        };
        let (mut found, mut room) = (Vec::new(), MOST_QUEUED);
        for queue in jobs::registry().kinds().iter().flat_map(Kind::queues).filter(is_meant) {
            let durable = queue.durable();
            let load = streaming.queues.iter().find(|state| state.name == durable).and_then(|state| state.load);
            if load.is_none_or(|load| load.waiting + load.in_flight == 0) && filter.kind.is_none() {
                continue;
            }
            let in_stream = timeout(PATIENCE, self.in_stream(queue, room)).await;
            let in_stream = in_stream
                .unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
                .map_err(|why| Problem::unavailable("NATS", &why))?;
            room -= in_stream.first.len();
            if in_stream.messages > 0 {
                found.push(in_stream);
            }
        }
        Ok(found)
    }

    async fn in_stream(&self, queue: Queue, most: usize) -> Result<InStream, String> {
        let nats = self.nats.get().ok_or("it was not reached yet")?;
        let (mut messages, mut first) = (0, Vec::new());
        for consumer in self.streams.consumers_of(&queue) {
            let standing = consumer.standing(nats).await.map_err(|error| error.to_string())?;
            messages += standing.messages;
            first.extend(standing.page(nats, 1, most.saturating_sub(first.len())).await?.messages);
        }
        Ok(InStream { queue: queue.durable(), messages, first, as_of: self.clock.now() })
    }

    /// How runs of a queue ended lately.
    ///
    /// # Errors
    /// If there is no such queue, or the database is away.
    pub async fn queue_stats(&self, name: &str) -> Result<QueueStats, Problem> {
        self.check_queue(name)?;
        let now = self.clock.now();
        Ok(QueueStats {
            last_hour: self.store.outcome_counts(Some(name), now - TimeDelta::hours(1)).await?,
            last_day: self.store.outcome_counts(Some(name), now - TimeDelta::days(1)).await?,
            throughput: self.store.throughput(Some(name), now).await?,
        })
    }

    /// Refuses the name of no queue.
    ///
    /// # Errors
    /// With the name that was probably meant.
    pub fn check_queue(&self, name: &str) -> Result<(), Problem> {
        let mut names = self.streams.consumers().iter().filter(|queue| queue.is_queue()).map(DeclaredConsumer::durable);
        if names.clone().any(|known| known == name) {
            return Ok(());
        }
        let meant = nearest(name, names.by_ref()).map(|near| format!(": did you mean {near}?")).unwrap_or_default();
        Err(Problem::not_found(format!("there is no queue {name:?}{meant}")))
    }
}

/// Jobs by the words of older systems. Those that ended are those of the last day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// For a worker. `None` while NATS cannot be seen.
    pub waiting: Option<u64>,
    /// Workers have them, or they run again within seconds.
    pub active: Option<u64>,
    /// `None` while Postgres cannot be seen.
    pub completed: Option<u64>,
    /// As `completed`.
    pub failed: Option<u64>,
    /// Parked until an instant: delayed by their applications, or before their next attempt.
    pub delayed: Option<u64>,
}

impl Counts {
    /// Of all queues, as of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let loads = snapshot
            .streaming
            .as_ref()
            .ok()
            .and_then(|streaming| streaming.queues.iter().map(|queue| queue.load).collect::<Option<Vec<_>>>());
        let loads = loads.as_deref();
        let ended = snapshot.activity.as_ref().ok().map(|activity| activity.ended(None));
        Self {
            waiting: loads.map(|loads| loads.iter().map(|load| load.waiting).sum()),
            active: loads.map(|loads| loads.iter().map(|load| load.in_flight).sum()),
            completed: ended.map(|(completed, _)| completed),
            failed: ended.map(|(_, failed)| failed),
            delayed: snapshot.streaming.as_ref().ok().and_then(|streaming| streaming.parked),
        }
    }

    /// All of them with their words, in the order of a job's life.
    #[must_use]
    pub const fn words(self) -> [(&'static str, Option<u64>); 5] {
        let Self { waiting, active, completed, failed, delayed } = self;
        [("waiting", waiting), ("active", active), ("delayed", delayed), ("completed", completed), ("failed", failed)]
    }

    /// As the API shows them.
    #[must_use]
    pub fn to_json(self, as_of: DateTime<Utc>) -> Value {
        let Self { waiting, active, completed, failed, delayed } = self;
        let known = self.words().into_iter().map(|(_, count)| count);
        json!({
            "waiting": waiting, "active": active, "completed": completed, "failed": failed, "delayed": delayed,
            "total": known.clone().flatten().sum::<u64>(),
            "exact": known.clone().all(|count| count.is_some()),
            "ended_since": as_of - TimeDelta::days(1),
            "as_of": as_of,
        })
    }
}
