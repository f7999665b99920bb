//! `carebell operations`

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    actor::actor, connect, dead_letters::filters::parse_reason, failed::Failed, jobs::list::Filters, output::Format,
    print::note, signals::stop_signal,
};
use crate::{
    acts::{Act, Acting, Preview, Spec, operation_to_json},
    clock::{Clock, Random},
    config::Source,
    nats::JetStream,
    plan::DeadReason,
    store::{OperationRow, Progress, Store},
    streams::Streams,
    text::instant,
};

/// Between looks at an operation that another process carries out.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say how many jobs an operation would act on, and show the first of them with what would follow
    Preview {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        format: Format,
    },
    /// Begin an operation on the jobs that `preview` has shown, and carry it out. Interrupted, it goes on in a console, or
    /// by `run`
    Start(Start),
    /// Carry on an operation that was interrupted
    Run {
        /// Its number
        operation: i64,
        #[command(flatten)]
        format: Format,
    },
    /// List operations, newest first
    List {
        /// The most to list
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        #[command(flatten)]
        format: Format,
    },
    /// Show one with its progress
    Show {
        /// Its number
        operation: i64,
        #[command(flatten)]
        format: Format,
    },
    /// Stop one. What it has done stays
    Cancel {
        /// Its number
        operation: i64,
        /// Your name, for the audit log
        #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

/// What is done, and on which jobs.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// retry: dead, held or open jobs; cancel: waiting, pending, delayed, held or open ones; discard: dead ones
    #[arg(value_parser = parse_act)]
    act: Act,
    #[command(flatten)]
    filters: Filters,
    #[arg(
        long,
        value_name = "REASON",
        value_parser = parse_reason,
        help = "Only dead ones with this reason: permanent, exhausted, crashed, undecodable, unknown_kind or unscheduled"
    )]
    died_of: Option<DeadReason>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    #[command(flatten)]
    which: Which,
    /// The number that `preview` has shown. If there are more by now, nothing begins
    #[arg(long, value_name = "NUMBER")]
    count: u64,
    /// Why, for the colleagues: kept with it and in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Leave it to a console to carry it out
    #[arg(long)]
    detach: bool,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Servers of a command that acts.
pub(super) struct Desk {
    pub store: Store,
    context: Result<JetStream, String>,
    streams: Streams,
    clock: Clock,
    actor: String,
}

impl Desk {
    pub async fn open(source: &Source, by: Option<String>) -> Result<Self, Failed> {
        Ok(Self {
            context: connect::jetstream(source).await.map_err(|Failed(why)| why),
            store: connect::store(source, 4).await?,
            streams: Streams::embedded(&source.adjustments()?)?,
            clock: Clock::system(),
            actor: actor(by),
        })
    }

    pub fn acting(&self) -> Acting<'_> {
        self.acting_as(&self.actor)
    }

    fn acting_as<'a>(&'a self, actor: &'a str) -> Acting<'a> {
        let Self { store, context, streams, clock, .. } = self;
        Acting { store, context: context.as_ref().map_err(String::as_str), streams, clock, actor }
    }

    /// Carries an operation out, or follows whoever does, until it ends or `stop`.
    pub async fn follow(&self, id: i64, stop: &CancellationToken) -> Result<OperationRow, Failed> {
        let holder = Random::system().uuid(self.clock.now()).to_string();
        let tell = |progress: &Progress| note!("{}", progress_in_words(progress));
        loop {
            if let Some(row) = self.store.lease_operation(Some(id), &holder).await? {
                let actor = row.actor.clone();
                self.acting_as(&actor).carry_out(row, stop, tell).await?;
            }
            let row = self.acting().operation(id).await?;
            if !row.is_running() {
                return Ok(row);
            }
            if stop.is_cancelled() {
                return Err(Failed(format!(
                    "operation {id} is interrupted: a console carries it on, or `carebell operations run {id}`"
                )));
            }
            sleep(LOOK).await;
        }
    }
}

pub(super) async fn run(source: &Source, command: Command) -> Result<(), Failed> {
    match command {
        Command::Preview { which, format } => {
            let desk = Desk::open(source, None).await?;
            let preview = desk.acting().preview(which.spec(desk.clock.now())?).await;
            desk.store.close().await;
            let preview = preview?;
            Ok(format.print(&preview.to_json(), &preview_in_words(&preview))?)
        }
        Command::Start(args) => start(source, args).await,
        Command::Run { operation, format } => {
            let desk = Desk::open(source, None).await?;
            let followed = desk.follow(operation, &stop_signal()?).await;
            desk.store.close().await;
            finish(&followed?, format)
        }
        Command::List { limit, format } => {
            let store = connect::store(source, 1).await?;
            let rows = store.operations(i64::MAX, limit).await;
            store.close().await;
            let rows = rows?;
            let json = json!({ "operations": rows.iter().map(operation_to_json).collect::<Value>() });
            let lines: Vec<String> = rows.iter().map(line).collect();
            let text = if lines.is_empty() { "there were no operations yet".to_owned() } else { lines.join("\n") };
            Ok(format.print(&json, &text)?)
        }
        Command::Show { operation, format } => {
            let store = connect::store(source, 1).await?;
            let row = store.operation(operation).await;
            store.close().await;
            let row = row?.ok_or_else(|| Failed(format!("there is no operation {operation}")))?;
            Ok(format.print(&operation_to_json(&row), &in_words(&row))?)
        }
        Command::Cancel { operation, by, format } => {
            let desk = Desk::open(source, by).await?;
            let stopped = desk.acting().stop_operation(operation).await;
            desk.store.close().await;
            let row = stopped?;
            Ok(format.print(&operation_to_json(&row), &in_words(&row))?)
        }
    }
}

async fn start(source: &Source, args: Start) -> Result<(), Failed> {
    let Start { which, count, reason, detach, by, format } = args;
    let stop = stop_signal()?;
    let desk = Desk::open(source, by).await?;
    let begun = desk.acting().begin(which.spec(desk.clock.now())?, count, &reason).await;
    let followed = carry(&desk, begun.map_err(Failed::from), detach, &stop).await;
    desk.store.close().await;
    finish(&followed?, format)
}

/// Carries out what has begun, unless that is left to a console.
pub(super) async fn carry(
    desk: &Desk,
    begun: Result<OperationRow, Failed>,
    detach: bool,
    stop: &CancellationToken,
) -> Result<OperationRow, Failed> {
    let row = begun?;
    note!("operation {} has begun", row.id);
    if detach { Ok(row) } else { desk.follow(row.id, stop).await }
}

/// Prints what became of it. What failed makes the command fail.
pub(super) fn finish(row: &OperationRow, format: Format) -> Result<(), Failed> {
    format.print(&operation_to_json(row), &in_words(row))?;
    let failed: i64 = row.progress.failed.values().sum();
    match row.state.as_str() {
        "failed" => Err(Failed(format!("operation {} failed", row.id))),
        _ if failed > 0 => Err(Failed(format!("operation {} failed of {failed} jobs", row.id))),
        _ => Ok(()),
    }
}

impl Which {
    fn spec(&self, now: DateTime<Utc>) -> Result<Spec, Failed> {
        Ok(Spec::of(self.act, self.filters.filter(now)?, self.died_of)?)
    }
}

fn parse_act(text: &str) -> Result<Act, String> {
    let act = Act::parse(text).filter(|act| *act != Act::Empty);
    act.ok_or_else(|| "expected retry, cancel or discard (`carebell queues empty` empties a queue)".to_owned())
}

/// A preview, with the number to confirm.
pub(super) fn preview_in_words(preview: &Preview) -> String {
    let mut text = format!("{} jobs to {}", preview.count, preview.spec.act().name());
    for job in &preview.sample {
        let because = job.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let follows = job.prediction.map(|prediction| format!("; {}", prediction.sentence())).unwrap_or_default();
        let (at, kind, id, state) = (instant(job.at), &job.kind, &job.job_id, &job.state);
        let _ = write!(text, "\n{at}  {kind} {id}: {state}{because}{follows}");
    }
    if preview.count > preview.sample.len() as u64 {
        let _ = write!(text, "\n… and {} more", preview.count - preview.sample.len() as u64);
    }
    text
}

fn line(row: &OperationRow) -> String {
    let progress = progress_in_words(&row.progress);
    format!("{}  {} {} {}: {progress}, by {}", instant(row.started_at), row.id, row.act, row.state, row.actor)
}

fn in_words(row: &OperationRow) -> String {
    let mut text = format!(
        "operation {}: {} of {} jobs, {}: {}\nby {} ({})",
        row.id,
        row.act,
        row.counted,
        row.state,
        progress_in_words(&row.progress),
        row.actor,
        row.reason
    );
    for (word, counts) in [("passed over", &row.progress.skipped), ("failed", &row.progress.failed)] {
        for (why, count) in counts {
            let _ = write!(text, "\n{count} {word}: {why}");
        }
    }
    if let Some(note) = &row.progress.note {
        let _ = write!(text, "\n{note}");
    }
    text
}

fn progress_in_words(Progress { done, skipped, failed, .. }: &Progress) -> String {
    let sum = |counts: &BTreeMap<String, i64>| counts.values().sum::<i64>();
    format!("{done} done, {} passed over, {} failed", sum(skipped), sum(failed))
}
