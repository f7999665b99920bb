//! Events: the ends of jobs of which applications hear, in the stream EVENTS (`docs/EVENTS.md`).

use std::fmt;

use crate::near::nearest;

/// The stream.
pub const STREAM: &str = "EVENTS";

/// In subjects, the application that publishes to JOBS. No application that is kept apart may have this name.
pub const DEFAULT: &str = "default";

/// In `Carebell-Notify`, every end.
const ALL: &str = "all";

/// The longest word of a header that is repeated, in bytes.
const LONGEST_WORD: usize = 24;

/// The end of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its run has ended. What follows from it may still be under way.
    Done,
    /// Nobody is told.
    Skipped,
    /// It was too late to be of use.
    Expired,
    /// It, or what it is about, was called off.
    Cancelled,
    /// It failed for good. Applications always hear of it.
    Dead,
}

impl End {
    /// All.
    pub const ALL: [Self; 5] = [Self::Done, Self::Skipped, Self::Expired, Self::Cancelled, Self::Dead];

    /// In subjects, in `Carebell-Notify` and in the event.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The ends of which a job's application wants to hear, beside its death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify(u8);

impl Notify {
    /// Parses `Carebell-Notify`: `done, skipped`, or `all`.
    ///
    /// # Errors
    /// The expected form, and the word that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut notify = Self::default();
        for word in text.split(',').map(str::trim) {
            match End::ALL.into_iter().find(|end| end.name() == word) {
                Some(end) => notify.0 |= end.bit(),
                None if word == ALL => notify = End::ALL.into_iter().fold(notify, |all, end| Self(all.0 | end.bit())),
                None => return Err(wrong(word)),
            }
        }
        Ok(notify)
    }

    /// This one alone.
    #[must_use]
    pub const fn of(end: End) -> Self {
        Self(end.bit())
    }

    /// Whether it names this end.
    #[must_use]
    pub const fn wants(self, end: End) -> bool {
        self.0 & end.bit() != 0
    }

    /// Whether it names none.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = End::ALL.into_iter().filter(|end| self.wants(*end)).map(End::name).collect();
        f.write_str(&names.join(", "))
    }
}

fn wrong(word: &str) -> String {
    let names = End::ALL.map(End::name);
    let meant = nearest(word, names.into_iter().chain([ALL]));
    let meant = meant.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    // A word, and nothing that might be somebody's name or address.
    let is_word = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let said = match word.len() {
        0 => "; one of its words is empty".to_owned(),
        1..=LONGEST_WORD if is_word => format!("; there is no {word}"),
        _ => String::new(),
    };
    format!("be a list of {}, or {ALL}{said}{meant}", names.join(", "))
}

/// An application in subjects. Its name is empty in ids of jobs that came by JOBS.
#[must_use]
pub fn token(application: &str) -> &str {
    if application.is_empty() { DEFAULT } else { application }
}

/// All events of an application, by its token.
#[must_use]
pub fn subjects(token: &str) -> String {
    format!("events.{token}.>")
}

/// The subject of one end of jobs.
#[must_use]
pub fn subject(application: &str, end: End) -> String {
    format!("events.{}.job.{}", token(application), end.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_ends_is_read_as_people_write_it() {
        for (text, names) in [
            ("done", "done"),
            (" skipped ,done", "done, skipped"),
            ("all", "done, skipped, expired, cancelled, dead"),
            ("dead,all", "done, skipped, expired, cancelled, dead"),
        ] {
            let notify = Notify::parse(text).unwrap();
            assert_eq!(notify.to_string(), names, "{text}");
            assert_eq!(Notify::parse(names), Ok(notify));
        }
        assert!(Notify::default().is_none() && !Notify::default().wants(End::Done));
    }

    #[test]
    fn a_word_that_is_none_is_named_with_the_one_that_was_meant() {
        let list = "be a list of done, skipped, expired, cancelled, dead, or all";
        for (text, rest) in [
            ("done, skiped", "; there is no skiped; did you mean skipped?"),
            ("failed", "; there is no failed"),
            ("Done", "; did you mean done?"),
            ("done,", "; one of its words is empty"),
            ("", "; one of its words is empty"),
            ("done skipped", ""),
            ("rose.miller@example.org", ""),
        ] {
            assert_eq!(Notify::parse(text), Err(format!("{list}{rest}")), "{text}");
        }
    }
}
