//! `carebell queues`: policy, backlog and pauses of queues.

mod pause;
mod waiting;

use std::{fmt::Write as _, time::Duration};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{connect, failed::Failed, output::Format, print::print};
use crate::{
    clock::Clock,
    config::Source,
    jobs,
    kind::{CANCEL, DELAYED, Kind, Queue},
    pauses::Pause,
    streams::{DeclaredConsumer, Load, Streams},
    text::instant,
};

/// Other streams to show, with a label.
const OTHERS: [(&str, &str); 2] = [("HOLD", "parked or delayed"), ("DEAD_LETTERS", "dead letters")];

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the queues with their retry policies, backlog and age of the oldest job
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Pause a queue, a channel or a provider: its jobs wait, and burn no attempt. Those that run are finished
    Pause(pause::Args),
    /// Resume what was paused
    Resume(pause::ResumeArgs),
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    match command {
        Command::List { format } => list(source, format.is_json()).await,
        Command::Pause(args) => pause::pause(source, args).await,
        Command::Resume(args) => pause::resume(source, args).await,
    }
}

async fn list(source: &Source, json: bool) -> Result<(), Failed> {
    let streams = Streams::embedded(&source.adjustments()?)?;
    let context = connect::jetstream(source).await?;
    let mut queues: Vec<QueueRow<'_>> = Vec::new();
    for consumer in streams.consumers().iter().filter(|consumer| consumer.is_queue()) {
        let load = consumer.load(&context).await?;
        match queues.iter_mut().find(|row| row.consumer.durable() == consumer.durable()) {
            Some(row) => {
                row.load = row.load.zip(load).map(|(one, other)| one.and(other));
                row.streams.push(&consumer.stream);
            }
            None => queues.push(QueueRow { consumer, streams: vec![&consumer.stream], load }),
        }
    }
    queues.sort_by_key(|row| row.consumer.durable());
    let mut others = Vec::new();
    for (stream, label) in OTHERS {
        others.push(StreamRow { stream, label, depth: streams.depth(&context, stream).await? });
    }
    let now = Clock::system().now();
    let pauses = pauses(source, now).await;
    let text = if json {
        format!("{}\n", to_json(&queues, &others, pauses.as_deref().ok(), now))
    } else {
        table(&queues, &others, pauses.as_deref(), now)
    };
    print(&text)?;
    Ok(())
}

/// NATS tells the rest without it, so a database that is away is no failure.
async fn pauses(source: &Source, now: DateTime<Utc>) -> Result<Vec<Pause>, String> {
    let store = connect::store(source, 1).await.map_err(|failed| failed.0)?;
    let pauses = store.pauses(now).await;
    store.close().await;
    pauses.map_err(|error| error.to_string())
}

/// A queue, with its load in all its streams.
struct QueueRow<'a> {
    consumer: &'a DeclaredConsumer,
    streams: Vec<&'a str>,
    /// `None` if a consumer is not on the server.
    load: Option<Load>,
}

struct StreamRow {
    stream: &'static str,
    /// Name of its messages.
    label: &'static str,
    depth: Option<u64>,
}

/// `pauses` is null if they are not known.
fn to_json(queues: &[QueueRow<'_>], others: &[StreamRow], pauses: Option<&[Pause]>, now: DateTime<Utc>) -> Value {
    let kinds = jobs::registry();
    let of_kinds = kinds.kinds().iter().flat_map(Kind::queues).chain([DELAYED, CANCEL]);
    let known: Vec<Queue> = of_kinds.collect();
    let is_paused = |durable: &str| {
        let queue = known.iter().find(|queue| queue.durable() == durable)?;
        Some(pauses?.iter().any(|pause| pause.holds(*queue)))
    };
    let pause = |Pause { scope, name, reason, actor, since, until }: &Pause| json!({ "scope": scope.name(), "name": name, "reason": reason, "by": actor, "since": since, "until": until });
    let queue = |QueueRow { consumer, streams, load }: &QueueRow<'_>| {
        let policy = &consumer.policy;
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
            "paused": is_paused(consumer.durable()),
            "rate": policy.rate.map(|rate| rate.to_string()),
            "ack_wait_s": consumer.config.ack_wait.as_secs_f64(),
            "max_deliver": consumer.config.max_deliver,
        })
    };
    let depth = |StreamRow { stream, depth, .. }: &StreamRow| json!({ "stream": stream, "messages": depth });
    json!({
        "queues": queues.iter().map(queue).collect::<Value>(),
        "streams": others.iter().map(depth).collect::<Value>(),
        "pauses": pauses.map(|pauses| pauses.iter().map(pause).collect::<Value>()),
    })
}

fn table(
    queues: &[QueueRow<'_>],
    others: &[StreamRow],
    pauses: Result<&[Pause], &String>,
    now: DateTime<Utc>,
) -> String {
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
    let counted = |StreamRow { label, depth, .. }: &StreamRow| {
        format!("{} {label}", depth.map_or_else(|| "?".into(), |n| n.to_string()))
    };
    let _ = writeln!(text, "{}", others.iter().map(counted).collect::<Vec<_>>().join(", "));
    match pauses {
        Ok(pauses) => {
            for Pause { scope, name, reason, actor, since, until } in pauses {
                let until =
                    until.map_or_else(|| "until it is resumed".to_owned(), |at| format!("until {}", instant(at)));
                let (scope, since) = (scope.name(), instant(*since));
                let _ = writeln!(text, "paused: {scope} {name} since {since} {until}, by {actor}: {reason}");
            }
        }
        Err(why) => {
            let _ = writeln!(text, "whether anything is paused is not known: {why}");
        }
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
