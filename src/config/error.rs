use std::fmt;

use super::variables::known;
use crate::channels::SettingsError;

/// A missing or malformed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the variable.
    pub variable: String,
    /// Problem and expected form. Never the value: it may be a secret.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.problem)
    }
}

impl std::error::Error for ConfigError {}

pub(super) fn error(variable: &str, what: &str) -> ConfigError {
    let expected = known().find(|(name, _)| *name == variable).map_or("", |(_, expected)| expected);
    ConfigError { variable: variable.into(), problem: format!("{what}; expected {expected}") }
}

#[expect(clippy::needless_pass_by_value, reason = "it is used as `map_err(from_channel)`")]
pub(crate) fn from_channel(problem: SettingsError) -> ConfigError {
    let text = problem.to_string();
    let variable = problem.variable();
    let variable = variable.to_owned();
    let problem = text.strip_prefix(variable.as_str()).unwrap_or(&text).trim_start().to_owned();
    ConfigError { variable, problem }
}
