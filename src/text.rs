//! What texts are made of: names cut to size, instants, the time zone of the place of care, links.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use url::Url;

/// The most characters of a name in a text. Care tables know no limits; a notification does.
const LONGEST_NAME: usize = 200;

/// A name, title or place from the care tables, cut to a length that every text has room for.
#[must_use]
pub fn name(text: &str) -> String {
    shorten(text.trim(), LONGEST_NAME)
}

/// A text cut to `most` characters.
#[must_use]
pub fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A path of the application with an id as its query.
#[must_use]
pub fn link(path: &str, id: &str) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("id", id).finish();
    format!("{path}?{query}")
}

/// A link that can be followed from outside of the application: one that is a path is resolved against its URL, where
/// that is known.
#[must_use]
pub fn absolute<'a>(link: &'a str, app_url: Option<&Url>) -> Cow<'a, str> {
    match app_url.filter(|_| link.starts_with('/')).and_then(|base| base.join(link).ok()) {
        Some(url) => Cow::Owned(url.into()),
        None => Cow::Borrowed(link),
    }
}

/// A link as a person can open it, without characters that would end it. A path of the application is none where nobody
/// knows the application's address.
#[must_use]
pub fn openable(link: &str, app_url: Option<&Url>) -> Option<String> {
    Url::parse(&absolute(link, app_url)).ok().map(Into::into)
}

/// An instant for programs: RFC 3339 in UTC, to the millisecond.
#[must_use]
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The time zone of this IANA name. UTC where there is none; texts then say so.
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
