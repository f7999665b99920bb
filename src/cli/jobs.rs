//! `carebell jobs`: a job's history, and cancellation. Prints ids only; texts and addresses stay in the database.

mod cancel;
mod elsewhere;
pub(super) mod list;
mod result;
mod retry;

use std::fmt::{Display, Write as _};

use clap::Subcommand;
use serde_json::{Map, Value, json};

use self::{cancel::check_id, elsewhere::Elsewhere};
use super::{connect, failed::Failed, output::Format, print::print};
use crate::{
    channels::NOBODY,
    clock::Clock,
    config::Source,
    jobs,
    kind::Stage,
    show,
    store::{AttemptLine, DelayedLine, InboxLine, LedgerLine, RunLine, Trail},
    text::instant,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the history of a job: runs, inbox rows, deliveries, manual actions
    Show {
        /// The job's id, or the id of a job that followed from it
        id: String,
        #[command(flatten)]
        format: Format,
    },
    /// List jobs that are on record, newest first
    List(Box<list::Args>),
    /// List the delayed jobs that wait, the next one due first
    Delayed {
        /// Only those of this application
        #[arg(long, value_name = "NAME")]
        application: Option<String>,
        /// The most to list
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
        #[command(flatten)]
        format: Format,
    },
    /// Cancel a job that waits or is delayed, and what followed from it and has not begun. To change a delayed one, publish
    /// it again under its id with another --at or --delay
    Cancel(cancel::Args),
    /// Try a job again: a dead one is redriven, a parked one goes on now, and so does what followed from it
    Retry(retry::Args),
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    match command {
        Command::Show { id, format } => look_up(source, id, format.is_json()).await,
        Command::List(args) => list::run(source, args).await,
        Command::Delayed { application, limit, format } => {
            delayed(source, application.as_deref(), *limit, format.is_json()).await
        }
        Command::Cancel(args) => cancel::cancel(source, args).await,
        Command::Retry(args) => Box::pin(retry::retry(source, args)).await,
    }
}

async fn look_up(source: &Source, id: &str, json: bool) -> Result<(), Failed> {
    check_id(id)?;
    let store = connect::store(source, 1).await?;
    let (way, delayed) = (store.trail_of(id).await, store.delayed_job(id).await);
    store.close().await;
    let (way, delayed) = match (way?, delayed?) {
        (Some(way), delayed) => (way, delayed),
        (None, Some(delayed)) => (Trail::of(id), Some(delayed)),
        (None, None) => {
            let found = Elsewhere::look(source, id).await;
            if let Ok((Some(found), _)) = &found {
                let text = if json { format!("{}\n", found.to_json()) } else { found.in_words() };
                return Ok(print(&text)?);
            }
            let looked = match found {
                Ok((_, longer)) if longer.is_empty() => {
                    "and NATS has neither a message nor a dead letter of it".to_owned()
                }
                Ok((_, longer)) => format!(
                    "and NATS has no dead letter of it, nor a message among the first and the last 2,000 of {}",
                    longer.join(", ")
                ),
                Err(Failed(why)) => format!("and NATS could not be asked ({why})"),
            };
            return Err(Failed(format!(
                "there is no record of a job {id:?}, {looked}. Either the id is wrong, or a worker holds the job and \
                 its log says why, or its records are pruned"
            )));
        }
    };
    let text =
        if json { format!("{}\n", show::trail(&way, delayed.as_ref())) } else { in_words(&way, delayed.as_ref()) };
    print(&text)?;
    Ok(())
}

async fn delayed(source: &Source, application: Option<&str>, limit: u32, json: bool) -> Result<(), Failed> {
    let store = connect::store(source, 1).await?;
    // One more shows that there are more.
    let (found, counts) = (store.delayed_jobs(application, i64::from(limit) + 1).await, store.count_delayed().await);
    store.close().await;
    let (mut found, counts) = (found?, counts?);
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let text = if json {
        let rows: Vec<Value> = found.iter().map(show::delayed).collect();
        let waiting: Map<String, Value> = counts.iter().map(|(of, count)| (of.clone(), count.jobs.into())).collect();
        format!("{}\n", json!({ "delayed": rows, "more": more, "waiting": waiting }))
    } else {
        let mut text = String::new();
        for row in &found {
            let of = if row.application.is_empty() { String::new() } else { format!(" of {}", row.application) };
            let _ = writeln!(text, "{}  {} {}{of}", due(row), row.kind, row.job_id);
        }
        let all: u64 = counts.values().map(|count| count.jobs).sum();
        let shown = if more { format!(", the first {limit} are listed: see --limit") } else { String::new() };
        let _ = writeln!(text, "{} in all{shown}", counted(all, "delayed job"));
        text
    };
    print(&text)?;
    Ok(())
}

fn due(row: &DelayedLine) -> String {
    row.due.map_or_else(|| "-".to_owned(), instant)
}

fn in_words(way: &Trail, delayed: Option<&DelayedLine>) -> String {
    let mut text = format!("job {}\n", way.root_id);
    if let Some(delayed) = delayed {
        let _ = writeln!(text, "  {}", delayed_in_words(delayed));
    }
    for run in &way.runs {
        let _ = writeln!(text, "  {}", run_in_words(run, way));
    }
    for planned in &way.planned {
        let _ = writeln!(text, "  {}: planned, not known to be published", planned.job_id);
    }
    if !way.inbox.is_empty() {
        let _ = writeln!(text, "inbox");
    }
    for row in &way.inbox {
        let _ = writeln!(text, "  {}: {}, written at {}", row.user_id, reading(row), instant(row.created_at));
    }
    if !way.deliveries.is_empty() {
        let _ = writeln!(text, "deliveries");
    }
    for delivery in &way.deliveries {
        let _ = writeln!(text, "  {}", delivery_in_words(delivery));
        for AttemptLine { at, answer } in &delivery.failures {
            let _ = writeln!(text, "    failed at {}: {answer}", instant(*at));
        }
    }
    if !way.audit.is_empty() {
        let _ = writeln!(text, "by hand");
    }
    for act in &way.audit {
        let job = act.job_id.as_deref().unwrap_or_default();
        let letter = act.detail["letter"].as_str().map(|number| format!(" (letter {number})")).unwrap_or_default();
        let why = act.detail["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        let _ = writeln!(text, "  {} {job} by {}, at {}{letter}{why}", act.action, act.actor, instant(act.at));
    }
    text
}

fn delayed_in_words(delayed: &DelayedLine) -> String {
    let DelayedLine { state, updated_at, .. } = delayed;
    let (due, at) = (due(delayed), instant(*updated_at));
    match (state.as_str(), delayed.due) {
        ("waiting", _) => format!("delayed until {due}"),
        ("fired", _) => format!("was delayed until {due}"),
        (_, Some(_)) => format!("was delayed until {due}, cancelled at {at}"),
        (_, None) => format!("cancelled at {at}"),
    }
}

/// `reminder.medication dose-1: done at 2026-10-25T09:00:00.120Z after 0 failures; planned 1 notification`
fn run_in_words(run: &RunLine, way: &Trail) -> String {
    let because = run.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let failures = counted(run.attempts, "failure");
    let at = instant(run.updated_at);
    let became = match run.state.as_str() {
        "open" => format!("open{because} since {}, {failures} so far, last written at {at}", instant(run.created_at)),
        state => format!("{state}{because} at {at} after {failures}"),
    };
    let mut text = format!("{} {}: {became}", run.kind, run.job_id);
    if run.state == "done" {
        let _ = write!(text, "; {}", what_followed(run, way));
    }
    text.push_str(&task_in_words(run));
    if let Some(error) = &run.last_error {
        let _ = write!(text, "; last failure: {error}");
    }
    if run.state == "open" || run.state == "dead" {
        let _ = write!(text, "; {} #{}", run.stream, run.stream_seq);
    }
    text
}

/// `; its task is accepted, deadline …, 60 %: 3 of 5; cancellation asked for at …`
fn task_in_words(run: &RunLine) -> String {
    let mut text = String::new();
    if let Some(task) = run.task.as_ref().filter(|_| run.state == "open") {
        let _ = write!(text, "; its task is {}, deadline {}", task.state, instant(task.deadline));
        let percent = task.percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
        let note = task.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
        let _ = write!(text, "{percent}{note}");
    }
    if let Some(at) = run.cancel_at.filter(|_| run.state == "open") {
        let _ = write!(text, "; cancellation asked for at {}", instant(at));
    }
    text
}

fn what_followed(run: &RunLine, way: &Trail) -> String {
    let stage_of_run = stage(&run.kind);
    if stage_of_run.is_some_and(Stage::works_before_its_commit) {
        return result::words(run.result.as_ref());
    }
    if stage_of_run == Some(Stage::Reminder) {
        let begun = way.runs.iter().filter(|other| stage(&other.kind) == Some(Stage::Notification)).count();
        let unpublished = way.planned.iter().filter(|planned| planned.run_id == run.job_id).count();
        return match (begun, unpublished) {
            (0, 0) => "its notification is published, but not started".to_owned(),
            (begun, unpublished) => format!("planned {}", counted(begun + unpublished, "notification")),
        };
    }
    if stage_of_run.is_none() {
        // A declared kind.
        return run.result.as_ref().map_or_else(|| "without a result".to_owned(), |result| format!("result {result}"));
    }
    let deliveries = way.deliveries.iter().filter(|delivery| delivery.run_id == run.job_id).count();
    let rows = counted(way.inbox.len(), "inbox row");
    match deliveries {
        1 => format!("wrote {rows}, planned 1 delivery"),
        more => format!("wrote {rows}, planned {more} deliveries"),
    }
}

fn reading(row: &InboxLine) -> String {
    let steps = [("archived", row.archived_at), ("read", row.read_at), ("seen", row.seen_at)];
    let last = steps.into_iter().find_map(|(word, at)| at.map(|at| format!("{word} at {}", instant(at))));
    last.unwrap_or_else(|| "unread".to_owned())
}

/// `ana: sms delivered by sms.example.org as SM12, answered 201, sent at …, delivered at …; 1 claim, 0 failures
/// (01a2…)`
fn delivery_in_words(delivery: &LedgerLine) -> String {
    let LedgerLine { id, channel, state, .. } = delivery;
    let whom = if delivery.user_id.is_empty() { "an address" } else { &delivery.user_id };
    let because = delivery.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    let is_said = delivery.reason.as_deref() == Some("quiet_hours_overridden");
    let quiet = if delivery.overrode_quiet_hours && !is_said { " in quiet hours" } else { "" };
    let name = delivery.provider.as_deref().filter(|name| *name != NOBODY);
    let name = name.map(|name| format!(" by {name}")).unwrap_or_default();
    let its_id = delivery.provider_id.as_deref().map(|id| format!(" as {id}")).unwrap_or_default();
    let answer = delivery.answer.as_deref().filter(|answer| *answer != NOBODY);
    let answer = answer.map(|answer| format!(", answered {answer}")).unwrap_or_default();
    let until = delivery.held_until.filter(|_| state == "held").map(|until| {
        let is_past = until < Clock::system().now();
        let why = if is_past { ", which has passed: it waits for a worker (`carebell queues list`)" } else { "" };
        format!(" until {}{why}", instant(until))
    });
    let until = until.unwrap_or_default();
    let at = match (delivery.sent_at, delivery.delivered_at) {
        (Some(sent), Some(delivered)) => format!("sent at {}, delivered at {}", instant(sent), instant(delivered)),
        _ => format!("at {}", instant(delivery.updated_at)),
    };
    let claims = counted(delivery.claims, "claim");
    let failures = counted(delivery.attempts, "failure");
    format!("{whom}: {channel} {state}{because}{quiet}{name}{its_id}{until}{answer}, {at}; {claims}, {failures} ({id})")
}

fn stage(kind: &str) -> Option<Stage> {
    jobs::registry().kinds().iter().find(|known| known.name == kind).map(|known| known.stage)
}

fn counted(count: impl Display, thing: &str) -> String {
    let count = count.to_string();
    let ending = if count == "1" { "" } else { "s" };
    format!("{count} {thing}{ending}")
}
