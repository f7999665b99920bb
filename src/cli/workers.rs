//! `carebell workers`

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{connect, failed::Failed, output::Format};
use crate::{clock::Clock, config::Source, show, store::lists::WorkerLine, text::instant};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the workers that live, and those lost within the last day, with the jobs that each runs
    List {
        #[command(flatten)]
        format: Format,
    },
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    let Command::List { format } = command;
    let store = connect::store(source, 1).await?;
    let now = Clock::system().now();
    let workers = store.workers(now).await;
    store.close().await;
    let workers = workers?;
    let rows: Value = workers.iter().map(show::worker).collect();
    Ok(format.print(&json!({ "workers": rows, "as_of": now }), in_words(&workers, now).trim_end())?)
}

/// Lines for people, each worker followed by its jobs.
pub(super) fn in_words(workers: &[WorkerLine], now: DateTime<Utc>) -> String {
    if workers.is_empty() {
        return "no worker has been seen within the last day\n".to_owned();
    }
    let mut text = String::new();
    for worker in workers {
        let _ = writeln!(
            text,
            "{}  {} on {} ({}, {}): {} since {}, busy with {}, processed {}, failed {}",
            worker.id,
            worker.status(),
            worker.host,
            worker.version,
            worker.duties.join(", "),
            if worker.is_lost { "last seen" } else { "up" },
            instant(if worker.is_lost { worker.seen_at } else { worker.started_at }),
            worker.busy,
            worker.processed,
            worker.failed,
        );
        for job in &worker.running {
            let age = (now - job.since).num_seconds().max(0);
            let _ = writeln!(text, "    {} {} for {age} s", job.queue, job.job_id);
        }
    }
    text
}
