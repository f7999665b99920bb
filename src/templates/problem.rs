//! Problems of template files.

use std::fmt;

/// A problem in a template file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File or directory.
    pub place: String,
    /// Line, if it is confined to one.
    pub line: Option<usize>,
    /// The problem and the expected form.
    pub what: String,
}

impl Problem {
    pub(super) fn new(place: &str, line: usize, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line: Some(line), what: what.into() }
    }

    pub(super) fn of(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), line: None, what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// All problems of the templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(pub Vec<Problem>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "{}", problems.join("; "))
    }
}

impl std::error::Error for LoadError {}
