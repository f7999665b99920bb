//! Helpers for texts: shortened names, instants, time zones, links.

use std::{borrow::Cow, fmt::Write};

use chrono::{DateTime, SecondsFormat, Utc};
use url::Url;

use crate::{cut, schedule::Zone};

/// Characters of a name in a text. Care tables have no limits, notifications do.
const LONGEST_NAME: usize = 200;

/// A name, title or place from the care tables, shortened.
#[must_use]
pub fn name(text: &str) -> String {
    shorten(text.trim(), LONGEST_NAME)
}

/// Cuts a text to `most` characters as Unicode counts them, between those that readers see, with an ellipsis.
#[must_use]
pub fn shorten(text: &str, most: usize) -> String {
    cut::with_ellipsis(text, most, cut::one)
}

/// Cuts a text to `most` UTF-16 units, as many programming interfaces count characters.
#[must_use]
pub fn shorten_utf16(text: &str, most: usize) -> String {
    cut::with_ellipsis(text, most, char::len_utf16)
}

/// A text that strangers wrote, for a terminal: control characters but line breaks and tabs, and those that reorder
/// what is shown, as `\uXXXX`, which is also right within the strings of JSON.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            // All of them have four digits at most. Writing to a String cannot fail.
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// A path of the application with an id in its query.
#[must_use]
pub fn link(path: &str, id: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("id", id).finish();
    format!("{path}?{query}")
}

/// Resolves a path against the application's URL, if known.
#[must_use]
pub fn absolute<'a>(link: &'a str, app_url: Option<&Url>) -> Cow<'a, str> {
    match app_url.filter(|_| link.starts_with('/')).and_then(|base| base.join(link).ok()) {
        Some(url) => Cow::Owned(url.into()),
        None => Cow::Borrowed(link),
    }
}

/// A link for people, escaped. `None` for a path if the application's URL is unknown.
#[must_use]
pub fn openable(link: &str, app_url: Option<&Url>) -> Option<String> {
    Url::parse(&absolute(link, app_url)).ok().map(Into::into)
}

/// An instant for programs: RFC 3339 in UTC, with milliseconds.
#[must_use]
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Time zone of an IANA name; UTC if unknown, which the texts then mention.
#[must_use]
pub fn zone(name: &str) -> Zone {
    name.trim().parse().unwrap_or_else(|_| Zone::utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_place_in_a_link() {
        assert_eq!(link("/shifts", "a&b=c d#e"), "/shifts?id=a%26b%3Dc+d%23e");
    }

    #[test]
    fn nothing_that_steers_a_terminal_or_reorders_a_line_is_shown() {
        let hostile = "a\u{1b}[2J\r\u{9b}31m\u{202e}cba\u{2066}\u{7f}\u{0}";
        assert_eq!(visible(hostile), "a\\u001b[2J\\u000d\\u009b31m\\u202ecba\\u2066\\u007f\\u0000");
        let json = serde_json::json!({ "title": hostile }).to_string();
        let shown = visible(&json);
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["title"], hostile);
        let plain = "Zeit für Rose’s Tee 👩‍👧\n\tשלום";
        assert!(matches!(visible(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn a_link_is_one_that_can_be_opened() {
        let base: Url = "https://app.example.org".parse().unwrap();
        for (link, base, expected) in [
            ("/visits?id=3", Some(&base), Some("https://app.example.org/visits?id=3")),
            ("/visits?id=3", None, None),
            ("https://a.example/x y", None, Some("https://a.example/x%20y")),
        ] {
            assert_eq!(openable(link, base).as_deref(), expected, "{link}");
        }
    }
}
