//! `carebell schedules preview`: the instants of an expression, before anything is saved.

use crate::cli::print::note;
use std::fmt::Write as _;

use chrono::Datelike;
use serde_json::Value;

use super::{
    super::{failed::Failed, output::Format, print::print},
    parse::{parse_fold, parse_from, parse_gap},
};
use crate::{
    clock::Clock,
    schedule::{self, Calendar, Expression, Fold, Gap, Occurrence, Rules},
    show,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Preview {
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
    #[command(flatten)]
    format: Format,
}

pub(super) fn preview(args: &Preview) -> Result<(), Failed> {
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
    let (shown, count) = calendar.first(from, args.count);
    let text = if args.format.is_json() {
        format!("{}\n", shown.iter().map(show::occurrence).collect::<Value>())
    } else {
        in_words(&shown)
    };
    print(&text)?;
    if count < args.count {
        note!("note: there are only {count} until the end of 2099; later clock changes are unknown");
    }
    Ok(())
}

/// `2026-03-08T03:00:00-04:00  Sun  (moved) 2026-03-08T02:30:00 is skipped by the clock`
fn in_words(occurrences: &[Occurrence]) -> String {
    let mut text = String::new();
    for occurrence in occurrences {
        let (when, day) = match &occurrence.at {
            Some(at) => (show::local_instant(*at), at.weekday()),
            None => (format!("{:25}", "-"), occurrence.local.weekday()),
        };
        let _ = write!(text, "{when}  {day}");
        if let Some(change) = show::clock_change(occurrence) {
            let _ = write!(text, "  {change}");
        }
        text.push('\n');
    }
    text
}
