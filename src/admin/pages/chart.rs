//! Charts: SVG from the server, with a table behind each.

use maud::{Markup, Render, html};

use super::{
    ui::{self, number, text},
    visitor::Visitor,
};
use crate::store::lists::Throughput;

const WIDTH: u64 = 720;
const HEIGHT: u64 = 110;
/// Below the bars, for words.
const FOOT: u64 = 18;

/// Counts in equal spans of time, as bars.
pub struct Bars<'a> {
    /// What is counted.
    pub caption: &'a str,
    /// The name of each span, with its completed and failed jobs.
    pub spans: Vec<(String, u64, u64)>,
}

impl<'a> Bars<'a> {
    /// Jobs that ended in each minute of the last hour.
    pub fn of(throughput: &Throughput, caption: &'a str, visitor: &Visitor) -> Self {
        let name = |at: chrono::DateTime<chrono::Utc>| at.with_timezone(&visitor.zone).format("%H:%M").to_string();
        let spans = throughput.minutes.iter().map(|minute| (name(minute.at), minute.completed, minute.failed));
        Self { caption, spans: spans.collect() }
    }

    fn bar(&self, index: usize, most: u64) -> Markup {
        let (name, completed, failed) = &self.spans[index];
        let step = WIDTH / (self.spans.len().max(1) as u64);
        let high = |count: u64| (count * HEIGHT).div_ceil(most).min(HEIGHT);
        let (x, width) = (index as u64 * step, step.saturating_sub(2).max(1));
        let (good, bad) = (high(*completed), high(*failed));
        html! {
            @if good > 0 {
                rect class="good" x=(x) y=(HEIGHT - good) width=(width) height=(good) {
                    title { (name) ": " (ui::count(*completed)) " completed" }
                }
            }
            @if bad > 0 {
                rect class="bad" x=(x) y=(HEIGHT.saturating_sub(good + bad)) width=(width) height=(bad) {
                    title { (name) ": " (ui::count(*failed)) " failed" }
                }
            }
        }
    }
}

impl Render for Bars<'_> {
    fn render(&self) -> Markup {
        let sum = |(_, completed, failed): &(String, u64, u64)| completed + failed;
        let most = self.spans.iter().map(sum).max().unwrap_or(0);
        let all: u64 = self.spans.iter().map(sum).sum();
        let rows = self.spans.iter().rev();
        let rows = rows.map(|(name, completed, failed)| {
            vec![html! { (name) }, html! { (ui::count(*completed)) }, html! { (ui::count(*failed)) }]
        });
        html! {
            figure.chart {
                figcaption { (self.caption) ": " (ui::count(all)) ", most in one minute: " (ui::count(most)) }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + FOOT) } role="img"
                    aria-label={ (self.caption) ": " (ui::count(all)) ", as in the table below" } {
                    line class="grid" x1="0" x2=(WIDTH) y1=(HEIGHT) y2=(HEIGHT) {}
                    @for index in 0..self.spans.len() { (self.bar(index, most.max(1))) }
                    @if let (Some(first), Some(last)) = (self.spans.first(), self.spans.last()) {
                        text x="0" y=(HEIGHT + FOOT - 4) text-anchor="start" { (first.0) }
                        text x=(WIDTH) y=(HEIGHT + FOOT - 4) text-anchor="end" { (last.0) }
                    }
                }
                details {
                    summary { "As a table" }
                    (ui::table(self.caption, &[text("Minute"), number("Completed"), number("Failed")], rows.collect(), ""))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stay_within_the_picture_and_the_table_has_all_numbers() {
        let spans = (0..60).map(|minute| (format!("09:{minute:02}"), u64::MAX / 200, minute)).collect();
        let markup = Bars { caption: "Ended", spans }.render().into_string();
        assert!(markup.contains("height=\"110\"") && !markup.contains("y=\"-"), "{markup}");
        assert_eq!(markup.matches("<tr>").count(), 61);
        let none = Bars { caption: "Ended", spans: Vec::new() }.render().into_string();
        assert!(none.contains("most in one minute: 0"));
    }
}
