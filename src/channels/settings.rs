//! What is wrong with the settings of a channel.

use std::{borrow::Cow, fmt};

/// A setting that is missing or malformed. The text never repeats a key or a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    variable: Cow<'static, str>,
    expected: String,
}

impl SettingsError {
    /// For a variable, with what is wrong with it or what it should be.
    pub fn new(variable: impl Into<Cow<'static, str>>, expected: impl Into<String>) -> Self {
        Self { variable: variable.into(), expected: expected.into() }
    }

    /// The environment variable to mend.
    pub fn variable(&self) -> &str {
        &self.variable
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.expected)
    }
}

impl std::error::Error for SettingsError {}
