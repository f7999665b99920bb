use std::io::Write as _;

use chrono::{DateTime, Utc};

/// Prints steps with the time since the start.
pub struct Screen {
    pub started: DateTime<Utc>,
    pub quiet: bool,
}

pub struct Step {
    pub at: DateTime<Utc>,
    pub who: String,
    pub what: String,
}

impl Screen {
    pub fn say(&self, at: DateTime<Utc>, who: &str, what: &str) {
        let since = (at - self.started).num_milliseconds();
        self.show(&format!("{:>4}.{:03} s  {who:<20}  {what}", since / 1000, (since % 1000).abs()));
    }

    pub fn show(&self, line: &str) {
        if self.quiet {
            eprintln!("{line}");
        } else {
            // A closed pipe (`carebell dev | head`) must not panic.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}
