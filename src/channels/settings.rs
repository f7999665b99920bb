use std::{borrow::Cow, fmt};

/// A missing or malformed setting. The text never repeats a key or password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    variable: Cow<'static, str>,
    expected: String,
}

impl SettingsError {
    /// `expected` is the problem or the expected value.
    pub fn new(variable: impl Into<Cow<'static, str>>, expected: impl Into<String>) -> Self {
        Self { variable: variable.into(), expected: expected.into() }
    }

    /// The variable to fix.
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
