use std::fmt::Display;

/// Error message of a command that exits with 1.
#[derive(Debug)]
pub(super) struct Failed(pub(super) String);

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}
