//! Shown to the person at the terminal.

pub type DemoError = Box<dyn std::error::Error + Send + Sync>;
