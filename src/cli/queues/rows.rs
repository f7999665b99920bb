//! Queues with their policies and loads.

use std::{fmt::Write as _, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    cli::failed::Failed,
    jobs,
    kind::{CANCEL, DELAYED, Kind, Queue},
    nats::JetStream,
    pauses::Pause,
    streams::{DeclaredConsumer, Load, Streams},
};

/// All queues, in the order of their names.
pub(super) async fn rows<'a>(streams: &'a Streams, context: &JetStream) -> Result<Vec<QueueRow<'a>>, Failed> {
    let mut queues: Vec<QueueRow<'_>> = Vec::new();
    for consumer in streams.consumers().iter().filter(|consumer| consumer.is_queue()) {
        let load = consumer.load(context).await?;
        match queues.iter_mut().find(|row| row.consumer.durable() == consumer.durable()) {
            Some(row) => {
                row.load = row.load.zip(load).map(|(one, other)| one.and(other));
                row.streams.push(&consumer.stream);
            }
            None => queues.push(QueueRow { consumer, streams: vec![&consumer.stream], load }),
        }
    }
    queues.sort_by_key(|row| row.consumer.durable());
    Ok(queues)
}

/// A queue, with its load in all its streams.
pub(super) struct QueueRow<'a> {
    pub consumer: &'a DeclaredConsumer,
    streams: Vec<&'a str>,
    /// `None` if a consumer is not on the server.
    load: Option<Load>,
}

/// One queue. Whether it is paused is null if `pauses` are not known.
pub(super) fn queue_to_json(
    QueueRow { consumer, streams, load }: &QueueRow<'_>,
    pauses: Option<&[Pause]>,
    now: DateTime<Utc>,
) -> Value {
    let policy = &consumer.policy;
    let is_paused = |pauses: &[Pause]| {
        let queue = queue_called(consumer.durable())?;
        Some(pauses.iter().any(|pause| pause.holds(queue)))
    };
    json!({
            "queue": consumer.durable(),
            "stream": consumer.stream,
            "streams": streams,
            "subject": consumer.config.filter_subject,
            "on_server": load.is_some(),
            "waiting": load.map(|load| load.waiting),
            "in_flight": load.map(|load| load.in_flight),
            "oldest_waiting_s": load.and_then(|load| age(load, now)).map(|age| age.as_secs()),
            "pulls": load.map(|load| load.pulls),
            "attempts": policy.attempts,
            "backoff": policy.backoff.to_string(),
            "jitter_percent": (policy.jitter * 100.0).round(),
            "timeout_s": policy.timeout.as_secs_f64(),
            "concurrency": policy.concurrency,
            "max_attempts": policy.max_attempts,
            "max_backoff_s": policy.max_backoff.as_secs_f64(),
            "pause_above": policy.pause_above,
            "paused": pauses.and_then(is_paused),
            "rate": policy.rate.map(|rate| rate.to_string()),
            "ack_wait_s": consumer.config.ack_wait.as_secs_f64(),
            "max_deliver": consumer.config.max_deliver,
    })
}

/// The queue of that durable name.
fn queue_called(durable: &str) -> Option<Queue> {
    let kinds = jobs::registry();
    let mut queues = kinds.kinds().iter().flat_map(Kind::queues).chain([DELAYED, CANCEL]);
    queues.find(|queue| queue.durable() == durable)
}

/// A line for each queue, below headings.
pub(super) fn table(queues: &[QueueRow<'_>], now: DateTime<Utc>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<27} {:>8} {:>9} {:>8} {:>6}  {:>8}  {:<22} {:>6} {:>8} {:>12}  rate",
        "queue", "waiting", "in flight", "oldest", "pulls", "attempts", "backoff", "jitter", "timeout", "concurrency"
    );
    for QueueRow { consumer, load, .. } in queues {
        let policy = &consumer.policy;
        let number =
            |read: fn(&Load) -> u64| load.as_ref().map_or_else(|| "?".to_owned(), |load| read(load).to_string());
        let oldest = load.and_then(|load| age(load, now)).map_or_else(|| "-".to_owned(), in_words);
        let _ = writeln!(
            text,
            "{:<27} {:>8} {:>9} {:>8} {:>6}  {:>8}  {:<22} {:>5.0}% {:>8} {:>12}  {}",
            consumer.durable(),
            number(|load| load.waiting),
            number(|load| load.in_flight),
            oldest,
            number(|load| load.pulls),
            policy.attempts,
            policy.backoff.to_string(),
            policy.jitter * 100.0,
            humantime::format_duration(policy.timeout).to_string(),
            policy.concurrency,
            policy.rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
        );
    }
    if queues.iter().any(|row| row.load.is_none()) {
        let _ = writeln!(text, "a queue with ? is not on the server: `carebell streams apply` creates it");
    }
    text
}

fn age(load: Load, now: DateTime<Utc>) -> Option<Duration> {
    load.oldest.map(|oldest| (now - oldest).to_std().unwrap_or_default())
}

fn in_words(age: Duration) -> String {
    // Two units suffice.
    let whole = humantime::format_duration(Duration::from_secs(age.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
