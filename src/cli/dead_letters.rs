//! `carebell dead-letters`
//!
//! Only `show` prints bodies, which may hold personal text: whoever corrects one must read it.

mod edit;
pub(super) mod filters;
mod send;
mod words;

use clap::Subcommand;
use serde_json::Value;

use self::filters::Filters;
use super::{connect, failed::Failed, output::Format, print::print};
use crate::{
    clock::Clock,
    config::Source,
    dead_letter::{Filter, Letter, Letters},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        filters: Filters,
        /// Show at most this many
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        limit: usize,
        #[command(flatten)]
        format: Format,
    },
    /// Show one dead letter with its headers and body, which may hold personal text
    Show {
        /// Its number in `list`, or the id of its job
        letter: String,
        #[command(flatten)]
        format: Format,
    },
    /// Send dead letters back to their queues: same jobs, attempts counted afresh. Safe to repeat and to interrupt
    Redrive(send::Redrive),
    /// Delete dead letters for good. Their jobs stay recorded as dead
    Discard(send::Discard),
}

pub(super) async fn run(source: &Source, command: Command) -> Result<(), Failed> {
    match command {
        Command::List { filters, limit, format } => list(source, &filters, limit, format.is_json()).await,
        Command::Show { letter, format } => show(source, &letter, format.is_json()).await,
        Command::Redrive(args) => send::redrive(source, args).await,
        Command::Discard(args) => send::discard(source, args).await,
    }
}

async fn list(source: &Source, filters: &Filters, limit: usize, json: bool) -> Result<(), Failed> {
    let filter = filters.filter(Clock::system().now())?;
    let letters = open(source).await?;
    // Keeps only the last `limit` letters in memory.
    let mut shown = std::collections::VecDeque::new();
    let mut totals = words::ReasonCounts::default();
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
        format!("{}\n", shown.iter().map(crate::show::letter).collect::<Value>())
    } else {
        words::table(&shown, &totals)
    };
    print(&text)?;
    Ok(())
}

async fn show(source: &Source, target: &str, json: bool) -> Result<(), Failed> {
    let letters = open(source).await?;
    let letter = one(&letters, target).await?;
    let text = if json { format!("{}\n", words::whole_to_json(&letter)) } else { words::whole(&letter) };
    print(&text)?;
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
    Ok(Letters::open(&connect::jetstream(source).await?).await?)
}
