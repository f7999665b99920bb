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
            "done" | "sent" | "delivered" | "up" | "running" | "closed" | "published" | "active" | "read" => Self::Good,
            "held" | "unknown" | "retry" | "paused" | "expired" | "half-open" | "draining" | "lost" => Self::Warn,
            "dead" | "failed" | "down" | "open breaker" => Self::Bad,
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

/// A message of one paragraph.
pub fn note(tone: Tone, content: impl Render) -> Markup {
    html! { p class={ "note " (tone.class()) } { (content) } }
}

/// Links to the next and the first page of a list. `query` has all filters of the page without its cursor.
pub fn pages(path: &str, query: &str, is_first: bool, next: Option<&str>) -> Markup {
    let with = |cursor: &str| {
        let joint = if query.is_empty() { "" } else { "&" };
        format!("{path}?{query}{joint}cursor={cursor}")
    };
    html! {
        @if !is_first || next.is_some() {
            nav.pages aria-label="Pages" {
                @if !is_first { a href={ (path) "?" (query) } { "First page" } }
                @if let Some(next) = next { a rel="next" href=(with(next)) { "Next page" } }
            }
        }
    }
}

/// Counts in equal spans of time, as bars with a table behind them.
pub struct Bars<'a> {
    /// Of the chart.
    pub caption: &'a str,
    /// The name of the first series.
    pub good: &'a str,
    /// The name of the second, drawn on top.
    pub bad: &'a str,
    /// The name of each span, with both counts.
    pub spans: Vec<(String, u64, u64)>,
}

impl Bars<'_> {
    fn as_table(&self) -> Markup {
        html! {
            div.table {
                table {
                    thead { tr { th scope="col" { "from" } th.number scope="col" { (self.good) } th.number scope="col" { (self.bad) } } }
                    tbody {
                        @for (name, good, bad) in &self.spans {
                            tr { th scope="row" { (name) } td.number data-of=(self.good) { (count(*good)) } td.number data-of=(self.bad) { (count(*bad)) } }
                        }
                    }
                }
            }
        }
    }
}

impl Render for Bars<'_> {
    fn render(&self) -> Markup {
        const WIDTH: u64 = 720;
        const HEIGHT: u64 = 120;
        const FOOT: u64 = 18;
        let most = self.spans.iter().map(|(_, good, bad)| good + bad).max().unwrap_or(0).max(1);
        let of = self.spans.len().max(1) as u64;
        let step = WIDTH / of;
        let high = |count: u64| (count * HEIGHT).div_ceil(most).min(HEIGHT);
        html! {
            figure.chart {
                figcaption { (self.caption) ", most in one span: " (count(most)) }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + FOOT) } role="img" aria-label=(self.caption) {
                    line class="grid" x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                    @for (index, (name, good, bad)) in self.spans.iter().enumerate() {
                        @let x = index as u64 * step;
                        @let (g, b) = (high(*good), high(*bad));
                        rect class="good" x=(x) y=(HEIGHT.saturating_sub(g)) width=(step.saturating_sub(2).max(1)) height=(g) {
                            title { (name) ": " (count(*good)) " " (self.good) }
                        }
                        @if b > 0 {
                            rect class="bad" x=(x) y=(HEIGHT.saturating_sub(g + b)) width=(step.saturating_sub(2).max(1)) height=(b) {
                                title { (name) ": " (count(*bad)) " " (self.bad) }
                            }
                        }
                        @if index == 0 || index + 1 == self.spans.len() {
                            text x=(if index == 0 { 0 } else { WIDTH }) y=(HEIGHT + FOOT - 4)
                                text-anchor=(if index == 0 { "start" } else { "end" }) { (name) }
                        }
                    }
                }
                details {
                    summary { "As a table" }
                    (self.as_table())
                }
            }
        }
    }
}
