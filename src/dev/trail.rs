//! Reads the worker's log as it is written, and tells it as the way of a reminder, a line a step.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde_json::Value;

/// The end of a log file that a worker writes, one JSON object a line.
pub struct Log {
    file: File,
    rest: String,
}

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Line(Value);

impl Log {
    /// Reads `path` from its beginning.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: String::new() })
    }

    /// The lines that were finished since the last call.
    pub fn new_lines(&mut self) -> Vec<Line> {
        let mut bytes = Vec::new();
        if self.file.read_to_end(&mut bytes).is_err() {
            return Vec::new();
        }
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.rest.rfind('\n') else { return Vec::new() };
        let rest = self.rest.split_off(end + 1);
        let done = std::mem::replace(&mut self.rest, rest);
        done.lines().filter_map(|line| serde_json::from_str(line).ok().map(Line)).collect()
    }
}

impl Line {
    fn text(&self, field: &str) -> Option<&str> {
        self.0.get(field)?.as_str()
    }

    /// When it was written.
    #[must_use]
    pub fn at(&self) -> Option<DateTime<Utc>> {
        self.text("timestamp")?.parse().ok()
    }

    /// The port that health is served on, where the line says so.
    #[must_use]
    pub fn health_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("health"))?;
        self.0.get("port")?.as_u64()
    }

    /// The port that callbacks are received on, where the line says so.
    #[must_use]
    pub fn public_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("callbacks are received"))?;
        self.0.get("port")?.as_u64()
    }

    /// Whether it says that a provider was found down.
    #[must_use]
    pub fn tells_of_a_provider_that_is_down(&self) -> bool {
        self.text("provider").is_some() && self.text("level") == Some("WARN")
    }

    /// Whether it says that the worker is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.text("message") == Some("ready")
    }

    /// The step it tells of: for an outcome its kind, what became of it and why; for a problem its message.
    #[must_use]
    pub fn step(&self) -> Option<(String, String)> {
        let message = self.text("message")?;
        if let (Some(kind), Some(outcome)) = (self.text("kind"), self.text("outcome")) {
            let why = self.text("error").or(self.text("reason")).map(|why| format!(": {why}")).unwrap_or_default();
            let took = self.0.get("ms").and_then(Value::as_u64).map(|ms| format!(" in {ms} ms")).unwrap_or_default();
            let job = self.text("job").unwrap_or_default();
            return Some((kind.to_owned(), format!("{outcome}{why}{took}   {job}")));
        }
        if let (Some(job), Some(after)) = (self.text("job"), self.0.get("after_ms").and_then(Value::as_i64)) {
            return Some(("schedule".into(), format!("published {after} ms after its second   {job}")));
        }
        if self.text("provider").is_some() {
            return Some(("provider".into(), message.to_owned()));
        }
        match self.text("level")? {
            "WARN" | "ERROR" => Some(("worker".into(), message.to_owned())),
            _ => None,
        }
    }
}
