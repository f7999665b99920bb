use std::io::{self, Write};

use crate::text::visible;

/// Prints a result. It may hold what strangers wrote.
pub(super) fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(visible(text).as_bytes())
}
