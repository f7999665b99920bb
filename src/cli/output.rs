//! How results are printed: `--output`, and `--json` for short.

use std::io;

use serde_json::Value;

use super::print::print;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON value.
    Json,
}

/// Of a command that takes no job with `--json`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Format {
    /// text or json: one JSON value
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORM")]
    output: Output,
    /// The same as --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Format {
    pub fn is_json(self) -> bool {
        self.json || self.output == Output::Json
    }

    /// Prints the form that is asked for. `text` is one or several lines, without the last line break.
    pub fn print(self, json: &Value, text: &str) -> io::Result<()> {
        let text = if self.is_json() { json.to_string() } else { text.to_owned() };
        print(&format!("{text}\n"))
    }
}
