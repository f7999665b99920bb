//! `carebell queues`: policy, backlog and counts of queues.

mod rows;
mod show;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::{Value, json};

use self::rows::{QueueRow, queue_to_json, rows, table};
use super::{connect, failed::Failed, output::Format, print::print};
use crate::{clock::Clock, config::Source, streams::Streams};

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
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    match command {
        Command::List { format } => list(source, *format).await,
        Command::Show { queue, format } => show::run(source, queue, *format).await,
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
    let text = if format.is_json() {
        format!("{}\n", to_json(&queues, &others, now))
    } else {
        table(&queues, now) + &in_words(&others)
    };
    print(&text)?;
    Ok(())
}

struct StreamRow {
    stream: &'static str,
    /// Name of its messages.
    label: &'static str,
    depth: Option<u64>,
}

fn to_json(queues: &[QueueRow<'_>], others: &[StreamRow], now: DateTime<Utc>) -> Value {
    let depth = |StreamRow { stream, depth, .. }: &StreamRow| json!({ "stream": stream, "messages": depth });
    json!({
        "queues": queues.iter().map(|queue| queue_to_json(queue, now)).collect::<Value>(),
        "streams": others.iter().map(depth).collect::<Value>(),
    })
}

fn in_words(others: &[StreamRow]) -> String {
    let counted = |StreamRow { label, depth, .. }: &StreamRow| {
        format!("{} {label}", depth.map_or_else(|| "?".into(), |n| n.to_string()))
    };
    format!("{}\n", others.iter().map(counted).collect::<Vec<_>>().join(", "))
}
