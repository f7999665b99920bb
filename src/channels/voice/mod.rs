//! Calls: a machine reads the text twice.

use super::{
    Parcel,
    gateway::{Composed, Gateway, Medium},
};
use crate::{plan::Channel, text};

/// The voice channel.
pub type Voice = Gateway<Call>;

/// The specifics of calls.
#[derive(Debug)]
pub enum Call {}

/// Limit of the API for the instructions, in characters. UTF-16 units are never fewer.
const LONGEST: usize = 4000;

/// Characters, about a minute.
const LONGEST_SPOKEN: usize = 900;

/// Languages every provider reads. The first of each is used if no region is named.
const LANGUAGES: [&str; 26] = [
    "en-US", "en-AU", "en-CA", "en-GB", "en-IN", "da-DK", "de-DE", "ca-ES", "es-ES", "es-MX", "fi-FI", "fr-FR",
    "fr-CA", "it-IT", "ja-JP", "ko-KR", "nb-NO", "nl-NL", "pl-PL", "pt-PT", "pt-BR", "ru-RU", "sv-SE", "zh-CN",
    "zh-HK", "zh-TW",
];

impl Medium for Call {
    const CHANNEL: Channel = Channel::Voice;
    const RESOURCE: &'static str = "Calls.json";

    /// A link can't be heard.
    fn compose(parcel: &Parcel<'_>, _link: Option<&str>) -> Composed {
        let instructions = instructions(&parcel.content.words(), language(parcel.locale));
        Composed { fields: vec![("Twiml", instructions)], note: None }
    }
}

/// The nearest of [`LANGUAGES`]. `None` leaves the choice to the provider.
fn language(locale: &str) -> Option<&'static str> {
    let locale = locale.replace('_', "-").to_lowercase();
    // Traditional characters are those of Taiwan.
    let locale = if locale.starts_with("zh-hant") && !locale.ends_with("-hk") { "zh-tw".to_owned() } else { locale };
    let exact = LANGUAGES.iter().find(|known| known.eq_ignore_ascii_case(&locale));
    let main = locale.split('-').next().unwrap_or_default();
    let near =
        || LANGUAGES.iter().find(|known| known.split('-').next().is_some_and(|of| of.eq_ignore_ascii_case(main)));
    exact.or_else(near).copied()
}

/// `TwiML`: read the text, pause, read it again.
fn instructions(text: &str, language: Option<&str>) -> String {
    // Ends each line as a sentence.
    let spoken: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let spoken = spoken.join(". ");
    let language = language.map(|language| format!(" language=\"{language}\"")).unwrap_or_default();
    let mut most = LONGEST_SPOKEN;
    loop {
        let say = format!("<Say{language}>{}</Say>", escaped(&text::shorten_utf16(&spoken, most)));
        let whole = format!("<Response>{say}<Pause length=\"1\"/>{say}</Response>");
        // An escaped character can take several.
        if whole.encode_utf16().count() <= LONGEST || most < 2 {
            return whole;
        }
        most /= 2;
    }
}

/// Escapes text for XML 1.0, without the characters that §2.2 excludes.
fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => xml.push(' '),
            c => xml.push(c),
        }
    }
    xml
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_read_twice_in_the_persons_language() {
        let expected = "<Response><Say language=\"de-DE\">Rose &amp; &lt;Co&gt;. Jetzt</Say><Pause length=\"1\"/>\
                        <Say language=\"de-DE\">Rose &amp; &lt;Co&gt;. Jetzt</Say></Response>";
        assert_eq!(instructions("Rose & <Co>\nJetzt", language("de-AT")), expected);
        assert!(instructions("x", language("")).starts_with("<Response><Say>x</Say>"));
    }

    #[test]
    fn a_language_is_the_nearest_that_is_read() {
        for (locale, expected) in [
            ("de", Some("de-DE")),
            ("de_AT", Some("de-DE")),
            ("EN-gb", Some("en-GB")),
            ("en", Some("en-US")),
            ("pt-BR", Some("pt-BR")),
            ("zh-Hant", Some("zh-TW")),
            ("zh-Hans-CN", Some("zh-CN")),
            ("tlh", None),
            ("", None),
        ] {
            assert_eq!(language(locale), expected, "{locale}");
        }
    }

    proptest! {
        #[test]
        fn instructions_are_short_enough_and_hold_no_marks_of_the_text(text in any::<String>(), marks in 0..2500_usize) {
            let text = format!("{text}{}", "\"".repeat(marks));
            let whole = instructions(&text, Some("de-DE"));
            prop_assert!(whole.encode_utf16().count() <= LONGEST);
            prop_assert_eq!(whole.matches('<').count(), 7, "the elements' own: {}", whole);
            prop_assert!(!whole.chars().any(char::is_control));
        }
    }
}
