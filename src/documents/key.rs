//! Names of stores and objects.

use object_store::path::Path;

/// Bytes of a key, the store's own prefix not counted.
const LONGEST_KEY: usize = 512;

/// Bytes of a store's name.
const LONGEST_NAME: usize = 32;

/// The place of an object in its store, below the store's own prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Parses a key: parts with `/` between them, none of them empty, `.` or `..`.
    ///
    /// # Errors
    /// Continues the sentence that the field's name begins.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
        let has_odd = text.chars().any(|c| c.is_control() || c == '\\' || c == '#');
        let is_fine =
            text.len() <= LONGEST_KEY && text.split('/').all(is_part) && !has_odd && Path::parse(text).is_ok();
        if is_fine {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "must be 1 to {LONGEST_KEY} bytes, such as `reports/2027/march.pdf`: parts with `/` between them, none of them \
             empty, `.` or `..`, without control characters, `\\` and `#`"
        ))
    }

    /// As the job has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a store may have this name: 1 to 32 of the characters `a-z 0-9 - _`.
#[must_use]
pub fn is_store_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_to_no_other_place_than_the_stores_own() {
        for fine in ["a", "a/b.pdf", "Befunde/März 2027.pdf", "a/..b/c.", &"x".repeat(512)] {
            assert!(Key::parse(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            "a\\..\\b",
            "a\nb",
            "a\0",
            "a#1",
            &"x".repeat(513),
        ] {
            assert!(Key::parse(wrong).is_err(), "{wrong}");
        }
    }
}
