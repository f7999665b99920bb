//! Logs: one readable message and fields, as text or JSON, on standard error. Never payloads or personal data. And
//! [`metrics`] and [`traces`].

pub mod metrics;
pub mod names;
mod process;
pub mod traces;

use std::{io::IsTerminal, panic};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogConfig;

/// Sets up logs for the process, and a panic hook that logs where a panic was but not its text, which may hold data.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, as tests may make, keeps what the first has set up.
    let _ = if config.json {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    };
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a task panicked");
    }));
}
