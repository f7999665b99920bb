use std::{fmt, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use url::Url;

use super::is_e164;
use crate::{
    channels::{AfterUnknown, SettingsError, outbound::may_be_asked},
    plan::Channel,
};

/// Default limit of one request. Two fit into the queues' 30 s, one per provider.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(12);

/// Settings of one channel. Errors name the variable to fix.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Channel.
    pub channel: Channel,
    /// One or two, the preferred first.
    pub accounts: Vec<Account>,
    /// Policy for unknown outcomes.
    pub after_unknown: AfterUnknown,
    /// `PROVIDER_CA_FILE`: PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
    /// `PUBLIC_URL`: where providers reach this process. Without it, no callbacks are requested.
    pub public_url: Option<PublicUrl>,
    /// `APP_URL`: base of relative links, which are left out without it.
    pub app_url: Option<Url>,
    /// Limit of one request with connecting and the response.
    pub timeout: Duration,
}

/// An account at a provider. `Debug` hides the account and the token.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The host, for ledger and health; numbered if both accounts share it.
    pub name: String,
    /// Base URL without credentials; ends with a slash.
    pub base: Url,
    /// `AccountSid`.
    pub sid: String,
    /// `AuthToken`, which also signs status callbacks.
    pub token: String,
    /// Sender.
    pub origin: Origin,
    /// Variable that names the account, for error texts.
    pub variable: &'static str,
}

/// Sender of messages and calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Telephone number, short code, or up to eleven letters and digits.
    From(String),
    /// Id `MG…` of a pool of senders at the provider.
    Service(String),
}

impl Account {
    /// Reads an account (`https://AccountSid:AuthToken@api.twilio.com`) and its sender. The error names the variable,
    /// never its value.
    pub fn parse(
        channel: Channel,
        (variable, url): (&'static str, &str),
        (from_variable, from): (&'static str, &str),
    ) -> Result<Self, SettingsError> {
        let wrong = || {
            SettingsError::new(
                variable,
                "is malformed; expected https://AccountSid:AuthToken@host, percent-encoded (http only to this machine)",
            )
        };
        let mut base = Url::parse(url).map_err(|_| wrong())?;
        let part = |text: &str| percent_decode_str(text).decode_utf8().ok().map(String::from).ok_or_else(wrong);
        let (sid, token) = (part(base.username())?, part(base.password().unwrap_or_default())?);
        let is_plain = sid.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let ends = base.query().is_none() && base.fragment().is_none();
        if sid.is_empty() || !is_plain || token.is_empty() || !ends || !may_be_asked(&base) {
            return Err(wrong());
        }
        let host = base.host_str().ok_or_else(wrong)?.to_owned();
        let name = base.port().map_or(host.clone(), |port| format!("{host}:{port}"));
        base.set_username("").and_then(|()| base.set_password(None)).map_err(|()| wrong())?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let origin = Origin::parse(channel, from).ok_or_else(|| {
            let expected = match channel {
                Channel::Sms => "a number such as +4366012345678, a short code, up to 11 letters and digits, or MG…",
                Channel::WhatsApp => "a number such as +4366012345678, or MG…",
                _ => "a number such as +4366012345678",
            };
            SettingsError::new(from_variable, format!("is malformed; expected {expected}"))
        })?;
        Ok(Self { name, base, sid, token, origin, variable })
    }

    /// Renames this account if the other is at the same provider.
    #[must_use]
    pub fn beside(mut self, other: &Self) -> Self {
        if self.name == other.name {
            self.name.push_str("#2");
        }
        self
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Origin {
    fn parse(channel: Channel, text: &str) -> Option<Self> {
        let is_service = text.len() == 34
            && text.starts_with("MG")
            && text[2..].bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let is_code = (3..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = (1..=11).contains(&text.len())
            && text.bytes().any(|byte| byte.is_ascii_alphabetic())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" -_&+".contains(&byte));
        match channel {
            Channel::Sms | Channel::WhatsApp if is_service => Some(Self::Service(text.into())),
            _ if is_e164(text) => Some(Self::From(text.into())),
            Channel::Sms if is_code || is_name => Some(Self::From(text.into())),
            _ => None,
        }
    }

    pub(super) fn field(&self, prefix: &str) -> (&'static str, String) {
        match self {
            Self::From(from) => ("From", format!("{prefix}{from}")),
            Self::Service(service) => ("MessagingServiceSid", service.clone()),
        }
    }
}

/// `PUBLIC_URL`: where providers reach this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// An https URL, perhaps with a path, without user, query and fragment.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok().filter(may_be_asked)?;
        let bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        (bare && url.password().is_none()).then(|| Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// Path in front of the callbacks' own; may be empty.
    #[must_use]
    pub fn path(&self) -> &str {
        let place = self.0.split_once("://").map_or("", |(_, rest)| rest);
        place.find('/').map_or("", |at| &place[at..])
    }

    /// Callback URL of a delivery.
    #[must_use]
    pub fn callback(&self, channel: Channel, delivery_id: &str) -> String {
        format!("{}/callbacks/{}/{delivery_id}", self.0, channel.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

    fn account(channel: Channel, url: &str, from: &str) -> Result<Account, SettingsError> {
        Account::parse(channel, ("SMS_PROVIDER_URL", url), ("SMS_FROM", from))
    }

    #[test]
    fn an_account_is_read_and_hides_its_token() {
        let read = account(Channel::Sms, "https://AC1:s%40cret@api.twilio.com", "Carebell").unwrap();
        assert_eq!((read.name.as_str(), read.base.as_str()), ("api.twilio.com", "https://api.twilio.com/"));
        assert_eq!((read.sid.as_str(), read.token.as_str()), ("AC1", "s@cret"));
        assert!(!format!("{read:?}").contains("cret"), "{read:?}");
        let with_path = account(Channel::Sms, "https://a:b@x.example:8443/api/laml", "+4366012345678").unwrap();
        assert_eq!((with_path.name.as_str(), with_path.base.path()), ("x.example:8443", "/api/laml/"));
        assert_eq!(with_path.clone().beside(&with_path).name, "x.example:8443#2");
        assert_eq!(with_path.beside(&read).name, "x.example:8443");
    }

    #[test]
    fn each_mistake_names_its_variable_and_repeats_no_secret() {
        for url in [
            "secret",
            "https://api.twilio.com",
            "https://AC1@api.twilio.com",
            "https://:secret@api.twilio.com",
            "https://AC/1:secret@api.twilio.com",
            "https://A%2FC:secret@api.twilio.com",
            "http://AC1:secret@api.twilio.com",
            "http://AC1:secret@127.0.0.1.example.org",
            "ftp://AC1:secret@localhost",
            "https://AC1:secret@api.twilio.com?x=1",
        ] {
            let error = account(Channel::Sms, url, "Carebell").unwrap_err();
            assert_eq!(error.variable(), "SMS_PROVIDER_URL", "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for url in ["http://AC1:t@127.0.0.1:8080", "http://AC1:t@localhost", "http://AC1:t@[::1]:1"] {
            assert!(account(Channel::Sms, url, "Carebell").is_ok(), "{url}");
        }
    }

    #[test]
    fn each_channel_has_senders_of_its_own() {
        for (from, sms, whatsapp, voice) in [
            ("+4366012345678", true, true, true),
            (SERVICE, true, true, false),
            ("Carebell", true, false, false),
            ("Care Bell-1", true, false, false),
            ("Carebell Home", false, false, false),
            ("72345", true, false, false),
            ("066012345678", false, false, false),
            ("", false, false, false),
            ("Büro", false, false, false),
        ] {
            for (channel, fits) in [(Channel::Sms, sms), (Channel::WhatsApp, whatsapp), (Channel::Voice, voice)] {
                let read = account(channel, "https://AC1:t@api.twilio.com", from);
                assert_eq!(read.is_ok(), fits, "{channel:?} {from}");
                assert!(read.err().is_none_or(|error| error.variable() == "SMS_FROM"));
            }
        }
        let origin = |channel, from| account(channel, "https://AC1:t@x.example", from).unwrap().origin;
        assert_eq!(origin(Channel::Sms, SERVICE).field("whatsapp:"), ("MessagingServiceSid", SERVICE.into()));
        let number = origin(Channel::WhatsApp, "+4366012345678");
        assert_eq!(number.field("whatsapp:"), ("From", "whatsapp:+4366012345678".into()));
    }

    #[test]
    fn a_public_url_is_one_that_callbacks_are_made_of() {
        for (text, expected) in [
            ("https://carebell.example.org", Some("https://carebell.example.org/callbacks/sms/d1")),
            ("https://example.org:8443/bell/", Some("https://example.org:8443/bell/callbacks/sms/d1")),
            ("http://127.0.0.1:3003", Some("http://127.0.0.1:3003/callbacks/sms/d1")),
            ("http://carebell.example.org", None),
            ("https://user:secret@example.org", None),
            ("https://example.org/?x", None),
            ("example.org", None),
        ] {
            let callback = PublicUrl::parse(text).map(|url| url.callback(Channel::Sms, "d1"));
            assert_eq!(callback.as_deref(), expected, "{text}");
        }
        let path = |text| PublicUrl::parse(text).unwrap().path().to_owned();
        assert_eq!((path("https://a.example"), path("https://a.example/b/c/")), (String::new(), "/b/c".into()));
    }
}
