//! `carebell jobs list`

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    cli::{
        connect,
        failed::Failed,
        kinds::{kind_named, queue_named},
        output::Format,
    },
    clock::Clock,
    config::Source,
    show,
    store::lists::{JobFilter, JobLine, JobState, Page},
    text::instant,
    when::{WHEN, parse_when},
};

/// Filters of jobs, combined by AND.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Filters {
    /// Only those in this state, or in those of an older word: waiting, active, completed, failed, delayed
    #[arg(long)]
    state: Option<String>,
    /// Only those of this kind, such as reminder.medication
    #[arg(long, conflicts_with = "queue")]
    kind: Option<String>,
    /// Only those of this queue, as in `queues list`
    #[arg(long)]
    queue: Option<String>,
    /// Only those of which this user has an inbox row
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Only those of this application
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Only those first recorded since: an age such as 1h, or an instant in RFC 3339
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only those first recorded before: an age, or an instant
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
}

/// Which jobs to list.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// The most to list
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Where the page before ended, as it said
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(source: &Source, args: &Args) -> Result<(), Failed> {
    let now = Clock::system().now();
    let filter = args.filters.filter(now)?;
    let store = connect::store(source, 1).await?;
    let page = store.jobs(&filter, args.limit, args.cursor.as_deref(), now).await;
    store.close().await;
    let page = page.map_err(|error| Failed(error.to_string()))?;
    Ok(args.format.print(&to_json(&page), in_words(&page).trim_end())?)
}

impl Filters {
    pub(crate) fn filter(&self, now: DateTime<Utc>) -> Result<JobFilter, Failed> {
        let (kind, lane) = match (&self.kind, &self.queue) {
            (Some(kind), _) => (Some(kind_named(kind)?), None),
            (None, Some(queue)) => {
                let queue = queue_named(queue)?;
                (Some(queue.kind), queue.lane)
            }
            (None, None) => (None, None),
        };
        Ok(JobFilter {
            states: self.state.as_deref().map(states_named).transpose()?,
            kind,
            lane,
            user: self.user.clone(),
            application: self.application.clone(),
            since: self.since.as_deref().map(|text| when("--since", text, now)).transpose()?,
            until: self.until.as_deref().map(|text| when("--until", text, now)).transpose()?,
        })
    }
}

fn when(option: &str, text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Failed> {
    parse_when(text, now).ok_or_else(|| Failed(format!("{option}: {WHEN}")))
}

fn states_named(text: &str) -> Result<Vec<JobState>, Failed> {
    JobState::named(text).ok_or_else(|| Failed(JobState::unknown(text)))
}

fn to_json(page: &Page<JobLine>) -> Value {
    let jobs: Value = page.items.iter().map(show::job).collect();
    json!({ "jobs": jobs, "next": page.next, "as_of": page.as_of })
}

fn in_words(page: &Page<JobLine>) -> String {
    let mut text = String::new();
    for line in &page.items {
        let because = line.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let to = line.user_id.as_ref().map(|user| format!(" to {user}")).unwrap_or_default();
        let due = line.due_at.map(|at| format!(", until {}", instant(at))).unwrap_or_default();
        let name = line.queue.as_deref().unwrap_or(&line.kind);
        let _ =
            writeln!(text, "{}  {name} {}{to}: {}{because}{due}", instant(line.created_at), line.job_id, line.state);
    }
    match (&page.next, page.items.is_empty()) {
        (Some(next), true) => {
            let _ = writeln!(text, "none so far; to look further: --cursor {next}");
        }
        (Some(next), false) => {
            let _ = writeln!(text, "there may be more: --cursor {next}");
        }
        (None, true) => text.push_str("no such jobs are on record\n"),
        (None, false) => {}
    }
    text
}
