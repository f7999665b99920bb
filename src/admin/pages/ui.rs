//! The parts that pages are made of. Each is a function from data to markup, which escapes all text.

use chrono::{DateTime, SecondsFormat, Utc};
use maud::{Markup, Render, html};

use crate::schedule::Zone;

/// How a state is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Neither good nor bad, or not over.
    Plain,
    /// Somebody should look, soon.
    Warn,
    /// Somebody must look now.
    Bad,
}

impl Tone {
    /// Of a state of a run, a delivery, a queue or a part.
    #[must_use]
    pub fn of(state: &str) -> Self {
        match state {
            "done" | "sent" | "delivered" | "up" | "running" | "closed" | "published" | "active" | "read" | "told"
            | "busy" => Self::Good,
            "held" | "unknown" | "retry" | "paused" | "expired" | "half-open" | "draining" | "lost"
            | "told in part" | "perhaps told" => Self::Warn,
            "dead" | "failed" | "down" | "not told" | "open breaker" => Self::Bad,
            _ => Self::Plain,
        }
    }

    /// The class of the style sheet.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Plain => "plain",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// A state as a word, with a mark whose shape tells the same.
pub fn state(name: &str) -> Markup {
    html! { span class={ "state " (Tone::of(name).class()) } { (name) } }
}

/// A number with thousands apart, as in 12,345.
pub fn count(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An instant, in the zone of whoever looks.
pub fn time(at: DateTime<Utc>, zone: Zone) -> Markup {
    let utc = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let shown = at.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S %Z").to_string();
    html! { time datetime=(utc) title=(utc) { (shown) } }
}

/// An instant in the zone of whoever looks, and on the clocks of a care recipient.
pub fn time_in_both(at: DateTime<Utc>, zone: Zone, other: Zone) -> Markup {
    html! {
        (time(at, zone))
        @if other.name() != zone.name() { " (" (at.with_timezone(&other).format("%Y-%m-%d %H:%M")) " " (other.name()) ")" }
    }
}

/// Links to the next and the first page of a list. `query` has all filters of the page without its cursor.
pub fn pages(path: &str, query: &str, is_first: bool, next: Option<&str>) -> Markup {
    let joint = if query.is_empty() { "" } else { "&" };
    html! {
        @if !is_first || next.is_some() {
            nav.pages aria-label="Pages of the list" {
                @if !is_first { a href={ (path) "?" (query) } { "First page" } }
                @if let Some(next) = next { a rel="next" href={ (path) "?" (query) (joint) "cursor=" (next) } { "Next page" } }
            }
        }
    }
}

/// A tile with one number that leads to what it counts.
pub struct Tile<'a> {
    /// What is counted.
    pub name: &'a str,
    /// The number, as shown.
    pub value: String,
    /// More in a few words.
    pub note: Option<String>,
    /// The list behind it.
    pub href: Option<String>,
}

/// Several tiles.
pub fn tiles(tiles: &[Tile<'_>]) -> Markup {
    html! {
        dl.tiles {
            @for tile in tiles {
                div {
                    dt { (tile.name) }
                    dd {
                        @match &tile.href {
                            Some(href) => a href=(href) { (tile.value) },
                            None => (tile.value),
                        }
                        @if let Some(note) = &tile.note { small { (note) } }
                    }
                }
            }
        }
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub name: &'static str,
    /// Whether it holds numbers.
    pub is_number: bool,
}

/// A column of text.
#[must_use]
pub const fn text(name: &'static str) -> Column {
    Column { name, is_number: false }
}

/// A column of numbers.
#[must_use]
pub const fn number(name: &'static str) -> Column {
    Column { name, is_number: true }
}

/// A table whose rows become a list on a narrow screen. The first cell names its row.
pub fn table(caption: &str, columns: &[Column], rows: Vec<Vec<Markup>>, empty: &str) -> Markup {
    html! {
        div.table tabindex="0" role="region" aria-label=(caption) {
            @if rows.is_empty() {
                p.empty { (empty) }
            } @else {
                table {
                    caption { (caption) }
                    thead { tr { @for column in columns { th scope="col" class=[column.is_number.then_some("number")] { (column.name) } } } }
                    tbody {
                        @for row in rows {
                            tr {
                                @for (index, (cell, column)) in row.into_iter().zip(columns).enumerate() {
                                    @if index == 0 {
                                        th scope="row" { (cell) }
                                    } @else {
                                        td data-of=(column.name) class=[column.is_number.then_some("number")] { (cell) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Names with their values.
pub fn facts(facts: Vec<(&str, Markup)>) -> Markup {
    html! { dl.facts { @for (name, value) in facts { dt { (name) } dd { (value) } } } }
}

/// A word that is explained where it stands.
pub fn term(word: &str, meaning: &str) -> Markup {
    html! { abbr.term title=(meaning) { (word) } }
}

/// A part of a page that is kept current by its id.
pub fn live(id: &str, content: impl Render) -> Markup {
    html! { div id=(id) data-live { (content) } }
}

/// When a page was true, and a link to load it again.
pub fn as_of(time: &Markup, path: &str) -> Markup {
    html! { span.soft { "as of " (time) " · " a href=(path) { "again" } } }
}

/// A message of one paragraph.
pub fn note(tone: Tone, content: impl Render) -> Markup {
    html! { p class={ "note " (tone.class()) } { (content) } }
}
