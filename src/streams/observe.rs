//! Measures the load of each queue every few seconds, for metrics only. Unreadable values are omitted.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream::{self, consumer};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use tokio::time::{sleep, timeout};

use super::Streams;
use crate::{
    clock::Clock,
    health::Health,
    kind::Queue,
    nats,
    telemetry::{
        metrics::{Metrics, QueueState},
        names::Metric,
    },
};

const EVERY: Duration = Duration::from_secs(5);

/// A busy server must not hold up a pass.
const PATIENCE: Duration = Duration::from_secs(2);

/// Streams with a depth metric.
const DEPTHS: [(&str, Metric); 2] = [("DEAD_LETTERS", Metric::DeadLetters), ("HOLD", Metric::Parked)];

/// Never returns.
pub async fn run(client: async_nats::Client, streams: Streams, queues: Vec<Queue>, health: Arc<Health>, clock: Clock) {
    let metrics = health.metrics();
    let context = nats::jetstream(&client);
    loop {
        let sees_all = look_at_queues(&streams, &context, &queues, metrics, &clock).await;
        if sees_all {
            metrics.queues_looked_at(clock.now());
        }
        for (stream, metric) in DEPTHS {
            let depth = match timeout(PATIENCE, streams.depth(&context, stream)).await {
                Ok(Ok(depth)) => depth,
                _ => None,
            };
            metrics.set_depth(metric, depth);
        }
        sleep(clock.paced(EVERY)).await;
    }
}

/// Returns whether all queues were seen. Costs one request per stream, and one per backlogged queue.
async fn look_at_queues(
    streams: &Streams,
    context: &jetstream::Context,
    queues: &[Queue],
    metrics: &Metrics,
    clock: &Clock,
) -> bool {
    let mut found: HashMap<(String, String), consumer::Info> = HashMap::new();
    let places: BTreeSet<&String> =
        queues.iter().flat_map(|queue| streams.consumers_of(queue)).map(|consumer| &consumer.stream).collect();
    for stream in places {
        if let Ok(Some(infos)) = timeout(PATIENCE, consumers(context, stream)).await {
            found.extend(infos.into_iter().map(|info| ((stream.clone(), info.name.clone()), info)));
        }
    }
    let mut sees_all = true;
    for queue in queues {
        let mut sum = Some(QueueState { oldest: Some(Duration::ZERO), ..QueueState::default() });
        for declared in streams.consumers_of(queue) {
            let info = found.get(&(declared.stream.clone(), declared.durable().to_owned()));
            let (Some(known), Some(info)) = (sum, info) else {
                sum = None;
                break;
            };
            let state = state(context, &declared.stream, &declared.config.filter_subject, info, clock).await;
            sum = Some(QueueState {
                waiting: known.waiting + state.waiting,
                in_flight: known.in_flight + state.in_flight,
                pulls: known.pulls + state.pulls,
                oldest: known.oldest.zip(state.oldest).map(|(one, other)| one.max(other)),
            });
        }
        sees_all &= sum.is_some();
        metrics.set_queue(*queue, sum);
    }
    sees_all
}

async fn consumers(context: &jetstream::Context, stream: &str) -> Option<Vec<consumer::Info>> {
    let stream = context.get_stream_no_info(stream).await.ok()?;
    stream.consumers().try_collect().await.ok()
}

async fn state(
    context: &jetstream::Context,
    stream: &str,
    subject: &str,
    info: &consumer::Info,
    clock: &Clock,
) -> QueueState {
    let mut state = QueueState {
        waiting: info.num_pending,
        in_flight: info.num_ack_pending as u64,
        pulls: info.num_waiting as u64,
        oldest: Some(Duration::ZERO),
    };
    if state.waiting > 0 {
        let next = info.delivered.stream_sequence + 1;
        let published = timeout(PATIENCE, first(context, stream, subject, next)).await.ok().flatten();
        state.oldest = published.map(|published| (clock.now() - published).to_std().unwrap_or_default());
    }
    state
}

/// Publish time of a subject's first message at or after `sequence`, unless it has just gone.
async fn first(context: &jetstream::Context, stream: &str, subject: &str, sequence: u64) -> Option<DateTime<Utc>> {
    let stream = context.get_stream_no_info(stream).await.ok()?;
    let message = stream.get_first_raw_message_by_subject(subject, sequence).await.ok()?;
    let nanoseconds = i64::try_from(message.time.unix_timestamp_nanos()).ok()?;
    Some(DateTime::from_timestamp_nanos(nanoseconds))
}
