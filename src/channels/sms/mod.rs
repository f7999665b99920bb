//! Text messages, of at most [`segments::MOST`] segments, which phones reassemble.

pub mod segments;

use super::{
    Parcel,
    gateway::{Composed, Gateway, Medium},
};
use crate::plan::Channel;

/// The text message channel.
pub type Sms = Gateway<Text>;

/// The specifics of text messages.
#[derive(Debug)]
pub enum Text {}

/// Seconds; the API's longest validity for a phone that is off.
const LONGEST_VALIDITY: u64 = 14_400;

impl Medium for Text {
    const CHANNEL: Channel = Channel::Sms;
    const RESOURCE: &'static str = "Messages.json";

    fn compose(parcel: &Parcel<'_>, link: Option<&str>) -> Composed {
        let body = segments::fit(&parcel.content.words(), link, segments::MOST);
        let count = segments::count(&body);
        let mut fields = vec![("Body", body)];
        // A 9:00 dose must not be announced at 15:00, when the phone is on again.
        if parcel.ttl.as_secs() < LONGEST_VALIDITY {
            fields.push(("ValidityPeriod", parcel.ttl.as_secs().max(1).to_string()));
        }
        let note = if count == 1 { "1 segment".to_owned() } else { format!("{count} segments") };
        Composed { fields, note: Some(note) }
    }
}
