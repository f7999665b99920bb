use std::{
    io::Write as _,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};

/// How long a step waits for others that came before it and are told of later: a worker's log, and what arrived.
const HELD_BACK: TimeDelta = TimeDelta::milliseconds(250);

/// Prints steps in the order in which they happened, with the time since the start.
pub struct Screen {
    pub started: DateTime<Utc>,
    pub quiet: bool,
    waiting: Mutex<Vec<Step>>,
}

pub struct Step {
    pub at: DateTime<Utc>,
    pub who: String,
    pub what: String,
}

impl Screen {
    pub fn new(started: DateTime<Utc>, quiet: bool) -> Self {
        Self { started, quiet, waiting: Mutex::default() }
    }

    pub fn say(&self, step: Step) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Prints the steps that no earlier one can follow any more.
    pub fn show_settled(&self, now: DateTime<Utc>) {
        self.show_until(now - HELD_BACK);
    }

    /// Prints all steps, then the lines of a text.
    pub fn show(&self, text: &str) {
        self.show_all();
        self.line(text);
    }

    pub fn show_all(&self) {
        self.show_until(DateTime::<Utc>::MAX_UTC);
    }

    fn show_until(&self, last: DateTime<Utc>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.sort_by_key(|step| step.at);
        let settled = waiting.partition_point(|step| step.at <= last);
        for Step { at, who, what } in waiting.drain(..settled) {
            let since = (at - self.started).num_milliseconds();
            self.line(&format!("{:>4}.{:03} s  {who:<20}  {what}", since / 1000, (since % 1000).abs()));
        }
    }

    fn line(&self, line: &str) {
        if self.quiet {
            eprintln!("{line}");
        } else {
            // A closed pipe (`carebell dev | head`) must not panic.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}
