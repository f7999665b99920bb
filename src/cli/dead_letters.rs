//! `carebell dead-letters`: list, show, redrive and discard.
//!
//! Only `show` prints bodies, which may hold personal text: whoever corrects one must read it.

mod edit;
mod send;
mod words;

use std::io::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde_json::Value;

use super::Failed;
use crate::{
    clock::Clock,
    config::Source,
    dead_letter::{Filter, Letter, Letters},
    health::Health,
    nats,
    plan::DeadReason,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        which: Which,
        /// Show at most this many
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: usize,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter with its headers and body, which may hold personal text
    Show {
        /// Its number in `list`, or the id of its job
        letter: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send dead letters back to their queues: same jobs, attempts counted afresh. Safe to repeat and to interrupt
    Redrive(send::Redrive),
    /// Delete dead letters for good. Their jobs stay recorded as dead
    Discard(send::Discard),
}

/// Filters, combined by AND.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Which {
    /// Of this kind, for example reminder.medication
    #[arg(long)]
    kind: Option<String>,
    #[arg(
        long,
        value_parser = parse_reason,
        help = "With this reason: permanent, exhausted, crashed, undecodable or unknown_kind"
    )]
    reason: Option<DeadReason>,
    /// Of this job or a job that followed from it; repeatable
    #[arg(long = "job-id", value_name = "ID")]
    job_ids: Vec<String>,
    /// Dead since this instant: RFC 3339, or an age such as 2h
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Dead before this instant: RFC 3339, or an age
    #[arg(long, value_name = "WHEN")]
    before: Option<String>,
}

impl Which {
    fn filter(&self, now: DateTime<Utc>) -> Result<Filter, Failed> {
        let instant = |option: &str, text: &Option<String>| {
            let text = text.as_ref();
            text.map(|text| parse_when(text, now).ok_or_else(|| Failed(format!("{option}: {WHEN}")))).transpose()
        };
        Ok(Filter {
            kind: self.kind.clone(),
            reason: self.reason,
            job_ids: self.job_ids.clone(),
            since: instant("--since", &self.since)?,
            before: instant("--before", &self.before)?,
        })
    }

    fn is_empty(&self) -> bool {
        let Self { kind, reason, job_ids, since, before } = self;
        kind.is_none() && reason.is_none() && job_ids.is_empty() && since.is_none() && before.is_none()
    }
}

const WHEN: &str = "expected an instant such as 2027-03-01T09:00:00Z, or an age such as 2h";

pub(super) async fn run(source: &Source, command: Command) -> Result<(), Failed> {
    match command {
        Command::List { which, limit, json } => list(source, &which, limit, json).await,
        Command::Show { letter, json } => show(source, &letter, json).await,
        Command::Redrive(args) => send::redrive(source, args).await,
        Command::Discard(args) => send::discard(source, args).await,
    }
}

async fn list(source: &Source, which: &Which, limit: usize, json: bool) -> Result<(), Failed> {
    let filter = which.filter(Clock::system().now())?;
    let letters = open(source).await?;
    // Keeps only the last `limit` letters in memory.
    let mut shown = std::collections::VecDeque::new();
    let mut totals = words::Totals::default();
    letters
        .each(&filter, |letter| {
            totals.count(&letter);
            shown.push_back(letter);
            if shown.len() > limit {
                shown.pop_front();
            }
        })
        .await?;
    let shown: Vec<Letter> = shown.into_iter().rev().collect();
    let text = if json {
        format!("{}\n", shown.iter().map(words::to_json).collect::<Value>())
    } else {
        words::table(&shown, &totals)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

async fn show(source: &Source, target: &str, json: bool) -> Result<(), Failed> {
    let letters = open(source).await?;
    let letter = one(&letters, target).await?;
    let text = if json { format!("{}\n", words::whole_to_json(&letter)) } else { words::whole(&letter) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// By number, or the newest by job id.
async fn one(letters: &Letters, target: &str) -> Result<Letter, Failed> {
    let mut number = target.parse().ok();
    if number.is_none() {
        let filter = Filter { job_ids: vec![target.to_owned()], ..Filter::default() };
        letters.each(&filter, |letter| number = Some(letter.number)).await?;
    }
    let letter = match number {
        Some(number) => letters.get(number).await?,
        None => None,
    };
    letter.ok_or_else(|| Failed(format!("there is no dead letter {target:?}; `carebell dead-letters list` shows all")))
}

async fn open(source: &Source) -> Result<Letters, Failed> {
    let client = nats::connect(&source.nats()?, &Health::new()).await?;
    Ok(Letters::open(&nats::jetstream(&client)).await?)
}

fn parse_reason(text: &str) -> Result<DeadReason, String> {
    DeadReason::parse(text)
        .ok_or_else(|| "expected permanent, exhausted, crashed, undecodable or unknown_kind".to_owned())
}

fn parse_when(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    let ago = TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
    now.checked_sub_signed(ago)
}
