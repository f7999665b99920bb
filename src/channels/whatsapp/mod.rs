//! `WhatsApp` messages, by the same API as text messages, to `whatsapp:+…`.
//!
//! They are free text, which `WhatsApp` delivers only within a day of the person's last message to the sender, or if it
//! matches an approved template. Otherwise it reports error 63016, which is kept in the ledger.

use super::{
    Parcel,
    gateway::{Composed, Gateway, Medium},
};
use crate::{plan::Channel, text};

/// The `WhatsApp` channel.
pub type WhatsApp = Gateway<Message>;

/// The specifics of `WhatsApp` messages.
#[derive(Debug)]
pub enum Message {}

/// Limit of the API, which is stated in characters. UTF-16 units are never fewer.
const LONGEST: usize = 1600;

/// The part of a text that is kept beside a link.
const LEAST_TEXT: usize = 40;

impl Medium for Message {
    const CHANNEL: Channel = Channel::WhatsApp;
    const RESOURCE: &'static str = "Messages.json";
    const PREFIX: &'static str = "whatsapp:";

    fn compose(parcel: &Parcel<'_>, link: Option<&str>) -> Composed {
        Composed { fields: vec![("Body", body(&parcel.content.words(), link))], note: None }
    }
}

/// Cuts the text to keep the link whole. A link that no message can hold is left out.
fn body(text: &str, link: Option<&str>) -> String {
    let units = |text: &str| text.encode_utf16().count();
    let end = link.map(|link| format!("\n{link}")).filter(|end| units(end) + LEAST_TEXT <= LONGEST);
    let end = end.unwrap_or_default();
    format!("{}{end}", text::shorten_utf16(text, LONGEST - units(&end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_no_more_characters_than_the_api_takes() {
        let link = "https://app.example.org/x";
        assert_eq!(body("Metformin", Some(link)), format!("Metformin\n{link}"));
        let long = body(&"ж".repeat(2200), Some(link));
        assert_eq!(long.chars().count(), LONGEST);
        assert!(long.ends_with(&format!("ж…\n{link}")), "{long}");
        let long = format!("https://app.example.org/{}", "x".repeat(1500));
        let body_of_long = body(&"Metformin ".repeat(20), Some(&long));
        assert!(body_of_long.ends_with(&long) && body_of_long.starts_with("Metformin Metformin"), "{body_of_long}");
        assert_eq!(body("Metformin", Some(&"x".repeat(1600))), "Metformin");
        let family = body(&"👩‍👧‍👦".repeat(400), None);
        assert!(family.encode_utf16().count() <= LONGEST && family.ends_with("👩‍👧‍👦…"), "{family}");
    }
}
