use std::fmt::{Display, Formatter, Result};

use super::field::Field;
use crate::cut;

/// A refused expression: the field, its fault, and the expected values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpressionError {
    field: Option<(usize, Field)>,
    problem: String,
    expected: String,
}

impl ExpressionError {
    pub(super) fn in_field(number: usize, field: Field, problem: &str) -> Self {
        Self { field: Some((number, field)), problem: problem.to_owned(), expected: field.expected() }
    }

    pub(super) fn whole(problem: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { field: None, problem: problem.into(), expected: expected.into() }
    }

    /// The faulty field, unless the whole expression is at fault.
    #[must_use]
    pub fn field(&self) -> Option<Field> {
        self.field.map(|(_, field)| field)
    }
}

impl Display for ExpressionError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.field {
            Some((number, field)) => {
                write!(f, "field {number} ({}): {}; {}", field.name(), self.problem, self.expected)
            }
            None => write!(f, "{}; {}", self.problem, self.expected),
        }
    }
}

impl std::error::Error for ExpressionError {}

/// User input, shortened for messages.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 40;
    let kept = cut::beginning(text, MOST, cut::one);
    let rest = if kept.len() < text.len() { "…" } else { "" };
    format!("{}{rest}", kept.escape_debug())
}
