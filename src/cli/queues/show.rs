//! `carebell queues show`: a queue's policy, backlog, counts and workers.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::rows::{QueueRow, queue_to_json, rows, table};
use crate::{
    cli::{connect, failed::Failed, kinds::queue_named, output::Format, workers},
    clock::Clock,
    config::{Duty, Source},
    pauses::Pause,
    show,
    store::lists::{OutcomeCount, Throughput, WorkerLine},
    streams::Streams,
};

/// Since when counts are shown.
const PERIODS: [(&str, TimeDelta); 2] = [("last_hour", TimeDelta::hours(1)), ("last_day", TimeDelta::days(1))];

struct Shown {
    counts: Vec<(&'static str, Vec<OutcomeCount>)>,
    throughput: Throughput,
    workers: Vec<WorkerLine>,
    pauses: Vec<Pause>,
}

pub(super) async fn run(source: &Source, name: &str, format: Format) -> Result<(), Failed> {
    let durable = queue_named(name)?.durable();
    let now = Clock::system().now();
    let store = connect::store(source, 1).await?;
    let shown = async {
        let mut counts = Vec::new();
        for (period, ago) in PERIODS {
            counts.push((period, store.outcome_counts(Some(&durable), now - ago).await?));
        }
        let throughput = store.throughput(Some(&durable), now).await?;
        let mut workers = store.workers(now).await?;
        workers.retain(|worker| worker.duties.iter().any(|duty| duty == Duty::Pipeline.name()));
        let pauses = store.pauses(now).await?;
        Ok::<_, crate::store::StoreError>(Shown { counts, throughput, workers, pauses })
    };
    let shown = shown.await;
    store.close().await;
    let shown = shown?;
    let streams = Streams::embedded(&source.adjustments()?)?;
    let context = connect::jetstream(source).await?;
    let found = rows(&streams, &context).await?;
    let row = found.into_iter().find(|row| row.consumer.durable() == durable);
    let row = row.ok_or_else(|| Failed(format!("no consumer of streams/ is called {durable:?}")))?;
    let mut whole = queue_to_json(&row, Some(&shown.pauses), now);
    if let Value::Object(fields) = &mut whole {
        fields.extend(shown.to_json(now));
    }
    Ok(format.print(&whole, shown.in_words(&row, now).trim_end())?)
}

impl Shown {
    fn to_json(&self, now: DateTime<Utc>) -> Map<String, Value> {
        let counts: Map<String, Value> =
            self.counts.iter().map(|(period, counts)| ((*period).to_owned(), show::by_outcome(counts))).collect();
        let throughput = show::throughput(&self.throughput);
        let workers: Value = self.workers.iter().map(show::worker).collect();
        let fields =
            [("counts", counts.into()), ("throughput", throughput), ("workers", workers), ("as_of", json!(now))];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn in_words(&self, row: &QueueRow<'_>, now: DateTime<Utc>) -> String {
        let mut text = table(std::slice::from_ref(row), now);
        for (period, counts) in &self.counts {
            let counts: Vec<String> =
                counts.iter().map(|OutcomeCount { outcome, count, .. }| format!("{count} {outcome}")).collect();
            let counts = if counts.is_empty() { "nothing ended".to_owned() } else { counts.join(", ") };
            let _ = writeln!(text, "{}: {counts}", period.replace('_', " "));
        }
        let Throughput { per_minute, per_hour, .. } = self.throughput;
        let _ = writeln!(text, "throughput: {per_minute} in the last full minute, {per_hour} in the last sixty");
        text + &workers::in_words(&self.workers, now)
    }
}
