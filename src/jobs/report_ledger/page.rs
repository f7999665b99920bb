//! A report as HTML and CSV: numbers by kind, channel and lane, and nothing about anybody. The same counts make the same
//! bytes.

use std::fmt::Write;

use maud::{DOCTYPE, html as page};
use serde::Serialize;

use super::period::Period;
use crate::store::{LedgerCounts, LedgerKey, Outcomes};

/// Columns of published jobs, with their meaning.
const JOBS: [(&str, &str); 8] = [
    ("told", "at least one delivery was accepted in time"),
    ("late", "the first delivery was accepted more than five minutes after the job was on record"),
    ("missed", "no delivery was accepted, and at least one failed or expired"),
    ("quiet", "nothing had to be sent beyond the inbox"),
    ("skipped", "nobody had to be told"),
    ("expired", "its time had passed before it ran"),
    ("dead", "given up: it is a dead letter"),
    ("open", "it waits or runs"),
];

/// Columns of deliveries.
const DELIVERIES: [(&str, &str); 8] = [
    ("sent", "accepted by a provider in time"),
    ("late", "accepted more than five minutes after its job was on record; quiet hours count"),
    ("failed", "the address or the channel does not work"),
    ("expired", "its time had passed"),
    ("unknown", "perhaps accepted"),
    ("dead", "given up: it is a dead letter"),
    ("skipped", "the recipient does not want it"),
    ("open", "it waits or is sent"),
];

/// Numbers of all published jobs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub told: u64,
    pub late: u64,
    pub missed: u64,
    pub expired: u64,
    pub dead: u64,
}

pub fn totals(counts: &LedgerCounts) -> Totals {
    let of = |outcome: &str| counts.jobs.values().map(|outcomes| number(outcomes, outcome)).sum();
    Totals { told: of("told"), late: of("late"), missed: of("missed"), expired: of("expired"), dead: of("dead") }
}

/// One page that needs nothing else.
pub fn html(period: &Period, counts: &LedgerCounts) -> Vec<u8> {
    let table = |caption: &str, has_channels: bool, columns: &[(&str, &str)], rows: Vec<(&LedgerKey, &Outcomes)>| {
        page! {
            table {
                caption { (caption) }
                thead { tr {
                    th scope="col" { "Kind" }
                    @if has_channels { th scope="col" { "Channel" } }
                    th scope="col" { "Lane" }
                    @for (column, meaning) in columns { th scope="col" title=(meaning) { (column) } }
                } }
                tbody {
                    @for (key, outcomes) in rows { tr {
                        th scope="row" { (key.kind) }
                        @if has_channels { td { (key.channel) } }
                        td { (key.lane) }
                        @for (column, _) in columns { td.number { (number(outcomes, column)) } }
                    } }
                }
            }
            dl { @for (column, meaning) in columns { dt { (column) } dd { (meaning) } } }
        }
    };
    let style = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
                 table{border-collapse:collapse;width:100%}caption{text-align:left;font-weight:bold}\
                 th,td{border-bottom:1px solid #ccc;padding:.25rem .5rem;text-align:left}\
                 .number{text-align:right;font-variant-numeric:tabular-nums}\
                 dl{display:grid;grid-template-columns:auto 1fr;gap:0 1rem;color:#444;font-size:.875rem}dd{margin:0}";
    let markup = page! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { "Reminders and notifications, " (period.label) }
                style { (maud::PreEscaped(style)) }
            }
            body {
                h1 { "Reminders and notifications, " (period.label) }
                p { (period.words) }
                (table("Published jobs", false, &JOBS, counts.jobs.iter().collect()))
                (table("Deliveries", true, &DELIVERIES, counts.deliveries.iter().collect()))
            }
        }
    };
    markup.into_string().into_bytes()
}

/// RFC 4180: one row for each kind, channel, lane and outcome. No field needs quotes.
pub fn csv(counts: &LedgerCounts) -> Vec<u8> {
    let mut text = String::from("table,kind,channel,lane,outcome,number\r\n");
    for (table, columns, rows) in [("jobs", &JOBS, &counts.jobs), ("deliveries", &DELIVERIES, &counts.deliveries)] {
        for (LedgerKey { kind, channel, lane }, outcomes) in rows {
            for (column, _) in columns {
                let number = number(outcomes, column);
                // A `String` takes whatever is written to it.
                let _ = write!(text, "{table},{kind},{channel},{lane},{column},{number}\r\n");
            }
        }
    }
    text.into_bytes()
}

fn number(outcomes: &Outcomes, outcome: &str) -> u64 {
    outcomes.get(outcome).copied().unwrap_or_default()
}
