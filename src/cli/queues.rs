//! `carebell queues`: policy, backlog, counts and pauses of queues.

mod empty;
mod pause;
mod rows;
mod show;

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::{Value, json};

use self::rows::{QueueRow, queue_to_json, rows, table};
use super::{connect, failed::Failed, output::Format, print::print};
use crate::{clock::Clock, config::Source, pauses::Pause, streams::Streams, text::instant};

/// Other streams to show, with a label.
const OTHERS: [(&str, &str); 2] = [("HOLD", "parked or delayed"), ("DEAD_LETTERS", "dead letters")];

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the queues with their retry policies, backlog and age of the oldest job
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Show one queue with its counts, its throughput and the workers
    Show {
        /// Its name in `list`
        queue: String,
        #[command(flatten)]
        format: Format,
    },
    /// Pause a queue, a channel or a provider: its jobs wait, and burn no attempt. Those that run are finished
    Pause(pause::Args),
    /// Resume what was paused
    Resume(pause::ResumeArgs),
    /// Empty a queue: jobs that wait in it are cancelled, and their messages taken out. What is published meanwhile stays
    Empty(empty::Args),
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    match command {
        Command::List { format } => list(source, *format).await,
        Command::Show { queue, format } => show::run(source, queue, *format).await,
        Command::Pause(args) => pause::pause(source, args).await,
        Command::Resume(args) => pause::resume(source, args).await,
        Command::Empty(args) => Box::pin(empty::run(source, args)).await,
    }
}

async fn list(source: &Source, format: Format) -> Result<(), Failed> {
    let streams = Streams::embedded(&source.adjustments()?)?;
    let context = connect::jetstream(source).await?;
    let queues = rows(&streams, &context).await?;
    let mut others = Vec::new();
    for (stream, label) in OTHERS {
        others.push(StreamRow { stream, label, depth: streams.depth(&context, stream).await? });
    }
    let now = Clock::system().now();
    let pauses = pauses(source, now).await;
    let text = if format.is_json() {
        format!("{}\n", to_json(&queues, &others, pauses.as_deref().ok(), now))
    } else {
        let pauses = match &pauses {
            Ok(pauses) => paused(pauses),
            Err(why) => format!("whether anything is paused is not known: {why}\n"),
        };
        table(&queues, now) + &in_words(&others) + &pauses
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

struct StreamRow {
    stream: &'static str,
    /// Name of its messages.
    label: &'static str,
    depth: Option<u64>,
}

/// `pauses` is null if they are not known.
fn to_json(queues: &[QueueRow<'_>], others: &[StreamRow], pauses: Option<&[Pause]>, now: DateTime<Utc>) -> Value {
    let depth = |StreamRow { stream, depth, .. }: &StreamRow| json!({ "stream": stream, "messages": depth });
    json!({
        "queues": queues.iter().map(|queue| queue_to_json(queue, pauses, now)).collect::<Value>(),
        "streams": others.iter().map(depth).collect::<Value>(),
        "pauses": pauses.map(|pauses| pauses.iter().map(pause_to_json).collect::<Value>()),
    })
}

fn pause_to_json(Pause { scope, name, reason, actor, since, until }: &Pause) -> Value {
    json!({ "scope": scope.name(), "name": name, "reason": reason, "by": actor, "since": since, "until": until })
}

fn in_words(others: &[StreamRow]) -> String {
    let counted = |StreamRow { label, depth, .. }: &StreamRow| {
        format!("{} {label}", depth.map_or_else(|| "?".into(), |n| n.to_string()))
    };
    format!("{}\n", others.iter().map(counted).collect::<Vec<_>>().join(", "))
}

/// A line for each.
fn paused(pauses: &[Pause]) -> String {
    let mut text = String::new();
    for Pause { scope, name, reason, actor, since, until } in pauses {
        let until = until.map_or_else(|| "until it is resumed".to_owned(), |at| format!("until {}", instant(at)));
        let (scope, since) = (scope.name(), instant(*since));
        let _ = writeln!(text, "paused: {scope} {name} since {since} {until}, by {actor}: {reason}");
    }
    text
}
