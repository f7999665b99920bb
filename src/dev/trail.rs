//! Tells a worker's log as steps of a reminder.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use chrono::{DateTime, Utc};
use serde_json::Value;

/// A reader of a worker's log.
pub struct Log {
    file: File,
    rest: String,
}

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line(Value);

impl Log {
    /// Opens `path` at its beginning.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: String::new() })
    }

    /// Lines completed since the last call.
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

    /// Time of the line.
    #[must_use]
    pub fn at(&self) -> Option<DateTime<Utc>> {
        self.text("timestamp")?.parse().ok()
    }

    /// Port of the health endpoints, if told.
    #[must_use]
    pub fn health_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("health"))?;
        self.0.get("port")?.as_u64()
    }

    /// Port of callbacks, if told.
    #[must_use]
    pub fn public_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("callbacks are received"))?;
        self.0.get("port")?.as_u64()
    }

    /// Port of the console, if told.
    #[must_use]
    pub fn console_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("the console is served"))?;
        self.0.get("port")?.as_u64()
    }

    /// Port of the gateway, if told.
    #[must_use]
    pub fn gateway_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("the gateway is served"))?;
        self.0.get("port")?.as_u64()
    }

    /// The port of the console's metrics.
    #[must_use]
    pub fn console_metrics_port(&self) -> Option<u64> {
        self.text("message").filter(|message| message.starts_with("the console's metrics are served"))?;
        self.0.get("port")?.as_u64()
    }

    /// Whether a provider is reported as down.
    #[must_use]
    pub fn tells_of_a_provider_that_is_down(&self) -> bool {
        self.text("provider").is_some() && self.text("level") == Some("WARN")
    }

    /// Whether the worker is reported as ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.text("message") == Some("ready")
    }

    /// The step: kind, outcome and reason of a job, or a problem's message.
    #[must_use]
    pub fn step(&self) -> Option<(String, String)> {
        let message = self.text("message")?;
        if let (Some(kind), Some(outcome)) = (self.text("kind"), self.text("outcome")) {
            let why = self.text("error").or(self.text("reason")).map(|why| format!(": {why}")).unwrap_or_default();
            let took = self.0.get("duration_ms").and_then(Value::as_u64);
            let word = if why.is_empty() { " in" } else { ", after" };
            let took = took.map(|ms| format!("{word} {ms} ms")).unwrap_or_default();
            let job = self.text("job").unwrap_or_default();
            return Some((kind.to_owned(), format!("{outcome}{why}{took}   {job}")));
        }
        if let (Some(job), Some(after)) = (self.text("job"), self.0.get("after_ms").and_then(Value::as_i64)) {
            return Some(("schedule".into(), format!("published {after} ms after its due time   {job}")));
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
