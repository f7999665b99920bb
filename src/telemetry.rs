//! Logs, [`metrics`] and [`traces`]. Log lines never contain payloads or personal data.

pub mod metrics;
pub mod names;
mod process;
pub mod traces;

use std::{io::IsTerminal, panic};

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::LogConfig;

/// Sets up logs on standard error, and a panic hook that omits the panic's text, which may contain data.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
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
