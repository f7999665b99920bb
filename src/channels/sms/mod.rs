//! Text messages.
//!
//! The provider puts the segments of a long message together, so one delivery is one message. It has at most
//! [`segments::MOST`] of them.

pub mod segments;

use super::{
    Parcel,
    gateway::{Composed, Gateway, Medium},
};
use crate::plan::Channel;

/// The channel.
pub type Sms = Gateway<Text>;

/// What is particular to text messages.
#[derive(Debug)]
pub enum Text {}

/// The longest time that a provider may be asked to keep a message for a phone that is off; longer ones are its own.
const LONGEST_VALIDITY: u64 = 14_400;

impl Medium for Text {
    const CHANNEL: Channel = Channel::Sms;
    const RESOURCE: &'static str = "Messages.json";

    fn compose(parcel: &Parcel<'_>, link: Option<&str>) -> Composed {
        let body = segments::fit(&parcel.content.words(), link, segments::MOST);
        let count = segments::count(&body);
        let mut fields = vec![("Body", body)];
        // A dose of nine o'clock is not announced at three, when the phone is on again.
        if parcel.ttl.as_secs() < LONGEST_VALIDITY {
            fields.push(("ValidityPeriod", parcel.ttl.as_secs().max(1).to_string()));
        }
        let note = if count == 1 { "1 segment".to_owned() } else { format!("{count} segments") };
        Composed { fields, note: Some(note) }
    }
}
