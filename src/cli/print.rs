use std::io::{self, ErrorKind, Write};

use crate::text::visible;

/// Prints a result. It may hold what strangers wrote.
///
/// Whoever reads it may stop doing so (`| head`): the command goes on, and its exit code says how that went.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(visible(text).as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Prints a line of the result, or returns the error.
macro_rules! say {
    ($($text:tt)+) => {
        $crate::cli::print::print(&format!("{}\n", format_args!($($text)+)))?
    };
}
pub(super) use say;

/// Prints a line for whoever looks at standard error. Nobody may: that changes nothing of the command.
macro_rules! note {
    ($($text:tt)+) => {
        $crate::cli::print::tell(format_args!($($text)+))
    };
}
pub(super) use note;

pub(super) fn tell(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}
