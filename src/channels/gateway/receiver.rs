use std::{collections::BTreeMap, fmt};

use super::{PublicUrl, Settings, answer::is_id, signature::is_right};
use crate::plan::{Channel, Report, Undelivered};

/// Authenticates status callbacks.
#[derive(Clone)]
pub struct Receiver {
    public_url: PublicUrl,
    /// Names and tokens of each channel's providers.
    keys: BTreeMap<Channel, Vec<(String, String)>>,
}

/// One status callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback {
    /// Provider's id of the message or call.
    pub provider_id: String,
    /// Outcome.
    pub report: Report,
    /// Status and numeric code: `undelivered, error 30003`.
    pub words: String,
}

/// An unreadable callback. The text names the field and repeats no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl Receiver {
    /// For these channels at this URL.
    #[must_use]
    pub fn new(public_url: PublicUrl, channels: &[Settings]) -> Self {
        let keys = |settings: &Settings| {
            settings.accounts.iter().map(|account| (account.name.clone(), account.token.clone())).collect()
        };
        Self { public_url, keys: channels.iter().map(|settings| (settings.channel, keys(settings))).collect() }
    }

    /// Public URL of this process.
    #[must_use]
    pub fn public_url(&self) -> &PublicUrl {
        &self.public_url
    }

    /// Whether this channel is configured.
    #[must_use]
    pub fn has(&self, channel: Channel) -> bool {
        self.keys.contains_key(&channel)
    }

    /// The channel's provider that signed this, if any.
    #[must_use]
    pub fn signer(
        &self,
        channel: Channel,
        delivery_id: &str,
        parameters: &[(String, String)],
        signature: &str,
    ) -> Option<&str> {
        let url = self.public_url.callback(channel, delivery_id);
        let keys = self.keys.get(&channel)?;
        let signer = keys.iter().find(|(_, token)| is_right(token, &url, parameters, signature));
        signer.map(|(name, _)| name.as_str())
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("channels", &self.keys.keys()).finish_non_exhaustive()
    }
}

impl Callback {
    /// Parses the fields of a callback.
    pub fn read(channel: Channel, parameters: &[(String, String)]) -> Result<Self, Malformed> {
        let field = |name: &str| parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let (id, status) = if channel == Channel::Voice {
            let status = field("CallStatus").ok_or(Malformed("CallStatus is missing"))?;
            (field("CallSid").ok_or(Malformed("CallSid is missing"))?, status)
        } else {
            let status = field("MessageStatus").ok_or(Malformed("MessageStatus is missing"))?;
            (field("MessageSid").ok_or(Malformed("MessageSid is missing"))?, status)
        };
        if !is_id(id) {
            return Err(Malformed("the id of the message or call is invalid"));
        }
        let (report, status) = read_status(status).ok_or(Malformed("the status is unknown"))?;
        let code = field("ErrorCode").and_then(|code| code.parse::<u32>().ok()).filter(|code| *code > 0);
        let words = code.map_or_else(|| status.to_owned(), |code| format!("{status}, error {code}"));
        Ok(Self { provider_id: id.to_owned(), report, words })
    }
}

/// Meaning of each status. (`completed` includes calls answered by a machine.)
fn read_status(text: &str) -> Option<(Report, &'static str)> {
    const KNOWN: [(&str, Report); 17] = [
        ("accepted", Report::Underway),
        ("scheduled", Report::Underway),
        ("queued", Report::Underway),
        ("initiated", Report::Underway),
        ("sending", Report::Underway),
        ("sent", Report::Underway),
        ("ringing", Report::Underway),
        ("in-progress", Report::Underway),
        ("answered", Report::Underway),
        ("delivered", Report::Delivered),
        ("read", Report::Delivered),
        ("completed", Report::Delivered),
        ("undelivered", Report::Failed(Undelivered::Undelivered)),
        ("failed", Report::Failed(Undelivered::Undelivered)),
        ("canceled", Report::Failed(Undelivered::Canceled)),
        ("busy", Report::Failed(Undelivered::Busy)),
        ("no-answer", Report::Failed(Undelivered::NoAnswer)),
    ];
    KNOWN.iter().find(|(name, _)| *name == text).map(|(name, report)| (*report, *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(channel: Channel, fields: &[(&str, &str)]) -> Result<Callback, String> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Callback::read(channel, &fields).map_err(|malformed| malformed.to_string())
    }

    #[test]
    fn each_status_means_one_thing() {
        let failed = Report::Failed(Undelivered::Undelivered);
        for (channel, status, code, report, words) in [
            (Channel::Sms, "queued", None, Report::Underway, "queued"),
            (Channel::Sms, "delivered", None, Report::Delivered, "delivered"),
            (Channel::WhatsApp, "read", None, Report::Delivered, "read"),
            (Channel::Sms, "undelivered", Some("30003"), failed, "undelivered, error 30003"),
            (Channel::Sms, "failed", Some("not a code"), failed, "failed"),
            (Channel::Voice, "no-answer", None, Report::Failed(Undelivered::NoAnswer), "no-answer"),
            (Channel::Voice, "completed", Some("0"), Report::Delivered, "completed"),
        ] {
            let names =
                if channel == Channel::Voice { ("CallSid", "CallStatus") } else { ("MessageSid", "MessageStatus") };
            let mut fields = vec![(names.0, "SM1"), (names.1, status)];
            fields.extend(code.map(|code| ("ErrorCode", code)));
            let expected = Callback { provider_id: "SM1".into(), report, words: words.into() };
            assert_eq!(read(channel, &fields), Ok(expected), "{status}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        for (channel, fields, error) in [
            (Channel::Sms, &[("MessageSid", "SM1")][..], "MessageStatus is missing"),
            (Channel::Sms, &[("MessageStatus", "sent")], "MessageSid is missing"),
            (Channel::Voice, &[("MessageSid", "SM1"), ("MessageStatus", "sent")], "CallStatus is missing"),
            (
                Channel::Sms,
                &[("MessageSid", "a b"), ("MessageStatus", "sent")],
                "the id of the message or call is invalid",
            ),
            (Channel::Sms, &[("MessageSid", "SM1"), ("MessageStatus", "eaten")], "the status is unknown"),
        ] {
            assert_eq!(read(channel, fields), Err(error.to_owned()));
        }
    }
}
