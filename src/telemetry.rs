//! Logs, [`metrics`] and [`traces`]. Log lines never contain payloads or personal data.

pub mod console;
pub mod metrics;
pub mod names;
pub mod process;
pub mod tally;
pub mod traces;

use std::{io::IsTerminal, panic};

use tracing::{Level, Metadata};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use self::console::SlowQueries;
use crate::config::LogConfig;

/// Sets up logs on standard error, and a panic hook that omits the panic's text, which may contain data.
pub fn init(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if config.json {
        lines.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed()
    };
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(SlowQueries)
        .with(filter)
        .with(filter_fn(is_harmless))
        .try_init();
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a task panicked");
    }));
}

/// Below `info`, libraries log what they carry: the NATS client its password and whole messages, others hosts. That of the
/// document stores names addresses of objects above it too; whoever asks it logs its failures.
fn is_harmless(line: &Metadata<'_>) -> bool {
    match line.target().split("::").next() {
        Some("carebell") => true,
        Some("object_store") => false,
        _ => *line.level() <= Level::INFO,
    }
}
