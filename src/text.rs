//! Helpers for texts: shortened names, instants, time zones, links.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use url::Url;

/// Characters of a name in a text. Care tables have no limits, notifications do.
const LONGEST_NAME: usize = 200;

/// A name, title or place from the care tables, shortened.
#[must_use]
pub fn name(text: &str) -> String {
    shorten(text.trim(), LONGEST_NAME)
}

/// Cuts a text to `most` characters, with an ellipsis.
#[must_use]
pub fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
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
pub fn zone(name: &str) -> Tz {
    name.trim().parse().unwrap_or(Tz::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_leave_its_place_in_a_link() {
        assert_eq!(link("/shifts", "a&b=c d#e"), "/shifts?id=a%26b%3Dc+d%23e");
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
