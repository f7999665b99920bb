//! `carebell dead-letters`: look at what failed for good, send it back, throw it away.
//!
//! A list shows ids and reasons only. `show` has the body too, which may hold what people wrote: it is what somebody has
//! to read who is to correct it.

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
    /// List them, the newest first
    List {
        #[command(flatten)]
        which: Which,
        /// Show no more than this many
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: usize,
        /// One JSON array in place of lines
        #[arg(long)]
        json: bool,
    },
    /// Show one whole, with its headers and its body, which may hold what people wrote
    Show {
        /// The number that `list` gives it, or the id of its job
        letter: String,
        /// One JSON object in place of words
        #[arg(long)]
        json: bool,
    },
    /// Send them back to where they were: the same jobs, counted afresh. Safe to repeat, and to interrupt
    Redrive(send::Redrive),
    /// Throw them away for good. Their jobs stay on record as dead
    Discard(send::Discard),
}

/// Filters. Those that are given must all hold.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Which {
    /// Of this kind, for example reminder.medication
    #[arg(long)]
    kind: Option<String>,
    #[arg(
        long,
        value_parser = parse_reason,
        help = "For this reason: permanent, exhausted, crashed, undecodable or unknown_kind"
    )]
    reason: Option<DeadReason>,
    /// Of this job, or of one that followed from it; may be given several times
    #[arg(long = "job-id", value_name = "ID")]
    job_ids: Vec<String>,
    /// Given up at this instant or later: RFC 3339, or how long ago, for example 2h
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Given up before this instant: RFC 3339, or how long ago
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

const WHEN: &str = "expected an instant such as 2027-03-01T09:00:00Z, or how long ago, such as 2h";

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
    // Those that are shown are the last ones, and no more than those are in memory.
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

/// The letter of a number or of a job; of several, the newest.
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
    DeadReason::parse(text).ok_or_else(|| "it is permanent, exhausted, crashed, undecodable or unknown_kind".to_owned())
}

fn parse_when(text: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Some(instant.with_timezone(&Utc));
    }
    let ago = TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
    now.checked_sub_signed(ago)
}
