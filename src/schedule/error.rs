//! What is wrong with an expression, and where.

use std::fmt::{Display, Formatter, Result};

use super::field::Field;

/// An expression that is refused: the field, the part of it that is wrong, and what is expected there.
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

    /// Of no field in particular.
    pub(super) fn whole(problem: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { field: None, problem: problem.into(), expected: expected.into() }
    }

    /// The field that is wrong, where it is one.
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
