//! `carebell schedules`: `preview` of an expression; `manage` has saved schedules.

mod manage;

use std::{fmt::Write as _, io::Write as _};

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, NaiveDateTime, Offset, SecondsFormat, Utc};
use chrono_tz::Tz;
use clap::Subcommand;
use serde_json::{Value, json};

use super::Failed;
use crate::{
    clock::Clock,
    config::Source,
    schedule::{self, Calendar, Expression, Fold, Gap, Note, Occurrence, Rules},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the next instants of an expression and the effect of daylight saving; needs no server
    Preview(PreviewArgs),
    /// Save a schedule, which publishes a job at each of its instants
    Add(Box<manage::Add>),
    /// List schedules and their next instants
    List {
        /// Only those of this owner, for example medication:metformin
        #[arg(long)]
        owner: Option<String>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show one schedule with its next instants
    Show {
        /// Its name
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Pause a schedule
    Pause(manage::Named),
    /// Resume a schedule, from its next instant after now
    Resume(manage::Named),
    /// Delete a schedule. Jobs that it has published stay
    Delete(manage::Named),
    /// Publish its job now, in addition to its instants
    RunNow(manage::Named),
}

#[derive(Debug, clap::Args)]
pub(super) struct PreviewArgs {
    /// Five fields ("0 9 * * 1-5": minute, hour, day of month, month, day of week), six with seconds in front, @daily
    /// and the like, or "@every 90m"
    #[arg(value_name = "EXPR")]
    expression: String,
    /// IANA time zone, for example Europe/London
    #[arg(long, value_name = "ZONE")]
    tz: String,
    /// Start: a date (midnight in the zone) or an RFC 3339 instant. Intervals (@every) count from it [default: now]
    #[arg(long, value_name = "DATE|RFC 3339")]
    from: Option<String>,
    /// How many instants to show, not counting dropped ones
    #[arg(short = 'n', long = "count", default_value_t = 10, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Rule for times that the clock skips: shift (to the first instant after the gap) or skip
    #[arg(long, value_parser = parse_gap, default_value = "shift", value_name = "RULE")]
    gap: Gap,
    /// Rule for times that the clock shows twice: first, second or both
    #[arg(long, value_parser = parse_fold, default_value = "first", value_name = "RULE")]
    fold: Fold,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(source: &Source, command: Command) -> Result<(), Failed> {
    match command {
        Command::Preview(args) => preview(&args),
        Command::Add(args) => manage::add(source, args).await,
        Command::List { owner, json } => manage::list(source, owner.as_deref(), json).await,
        Command::Show { name, json } => manage::show(source, &name, json).await,
        Command::Pause(named) => manage::pause(source, named, true).await,
        Command::Resume(named) => manage::pause(source, named, false).await,
        Command::Delete(named) => manage::delete(source, named).await,
        Command::RunNow(named) => manage::run_now(source, named).await,
    }
}

fn preview(args: &PreviewArgs) -> Result<(), Failed> {
    let expression = Expression::parse(&args.expression)?;
    let zone = schedule::zone(&args.tz)?;
    let from = match &args.from {
        Some(text) => parse_from("--from", text, zone)?,
        None => Clock::system().now(),
    };
    if !(1970..2100).contains(&from.with_timezone(&zone).year()) {
        return Err(Failed(format!("--from must be in the years 1970 to 2099, but is {from}")));
    }
    let calendar = Calendar::new(expression, zone, Rules { gap: args.gap, fold: args.fold }, from);
    let (shown, count) = first(&calendar, from, args.count);
    let text = if args.json { format!("{}\n", to_json(&shown)) } else { in_words(&shown) };
    std::io::stdout().write_all(text.as_bytes())?;
    if count < args.count {
        eprintln!("note: there are only {count} until the end of 2099; later clock changes are unknown");
    }
    Ok(())
}

/// Occurrences until `count` happen, dropped ones included, and how many happen.
fn first(calendar: &Calendar, from: DateTime<Utc>, count: u32) -> (Vec<Occurrence>, u32) {
    let (mut shown, mut happening) = (Vec::new(), 0);
    for occurrence in calendar.occurrences(from) {
        happening += u32::from(occurrence.at.is_some());
        shown.push(occurrence);
        if happening == count {
            break;
        }
    }
    (shown, happening)
}

fn to_json(occurrences: &[Occurrence]) -> Value {
    let one = |occurrence: &Occurrence| {
        json!({
            "at": occurrence.at.map(rfc3339),
            "local": local(occurrence.local),
            "note": occurrence.note.map(Note::name),
        })
    };
    occurrences.iter().map(one).collect()
}

/// `2026-03-08T03:00:00-04:00  Sun  (moved) 2026-03-08T02:30:00 is skipped by the clock`
fn in_words(occurrences: &[Occurrence]) -> String {
    let mut text = String::new();
    for Occurrence { at, local: asked, note } in occurrences {
        let (when, day) = match at {
            Some(at) => (rfc3339(*at), at.weekday()),
            None => (format!("{:25}", "-"), asked.weekday()),
        };
        let _ = write!(text, "{when}  {day}");
        if let Some(note) = note {
            let why = match note {
                Note::Moved | Note::Dropped => "is skipped by the clock",
                Note::Repeated => "for the second time",
            };
            let _ = write!(text, "  ({}) {} {why}", note.name(), local(*asked));
        }
        text.push('\n');
    }
    text
}

/// RFC 3339 offsets have no seconds, but Liberia's had until 1972: truncates the offset, keeps the instant.
fn rfc3339(at: DateTime<Tz>) -> String {
    let offset = at.offset().fix();
    let minutes = FixedOffset::east_opt(offset.local_minus_utc() / 60 * 60).unwrap_or(offset);
    at.with_timezone(&minutes).to_rfc3339_opts(SecondsFormat::AutoSi, false)
}

fn local(at: NaiveDateTime) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.f").to_string()
}

/// An instant, or a date as its midnight in the zone.
fn parse_from(option: &str, text: &str, zone: Tz) -> Result<DateTime<Utc>, Failed> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        let midnight = schedule::start_of_day(zone, date);
        return midnight.ok_or_else(|| Failed(format!("{option} must be in the years 1970 to 2099, but is {date}")));
    }
    DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).map_err(|_| {
        Failed(format!(
            "{option} is {text:?}; expected a date such as 2026-03-07, or an instant such as 2026-03-07T09:00:00Z"
        ))
    })
}

fn parse_gap(text: &str) -> Result<Gap, String> {
    Gap::parse(text).ok_or_else(|| "expected shift or skip".into())
}

fn parse_fold(text: &str) -> Result<Fold, String> {
    Fold::parse(text).ok_or_else(|| "expected first, second or both".into())
}
