use super::{
    error::{ConfigError, error, from_channel},
    source::Source,
};
use crate::{
    channels::{
        AfterUnknown,
        gateway::{Account, DEFAULT_TIMEOUT, PublicUrl, Settings},
    },
    plan::Channel,
};

struct Names {
    channel: Channel,
    url: &'static str,
    from: &'static str,
    fallback_url: &'static str,
    fallback_from: &'static str,
    after_unknown: &'static str,
}

const CHANNELS: [Names; 3] = [
    Names {
        channel: Channel::Sms,
        url: "SMS_PROVIDER_URL",
        from: "SMS_FROM",
        fallback_url: "SMS_FALLBACK_URL",
        fallback_from: "SMS_FALLBACK_FROM",
        after_unknown: "SMS_AFTER_UNKNOWN",
    },
    Names {
        channel: Channel::WhatsApp,
        url: "WHATSAPP_PROVIDER_URL",
        from: "WHATSAPP_FROM",
        fallback_url: "WHATSAPP_FALLBACK_URL",
        fallback_from: "WHATSAPP_FALLBACK_FROM",
        after_unknown: "WHATSAPP_AFTER_UNKNOWN",
    },
    Names {
        channel: Channel::Voice,
        url: "VOICE_PROVIDER_URL",
        from: "VOICE_FROM",
        fallback_url: "VOICE_FALLBACK_URL",
        fallback_from: "VOICE_FALLBACK_FROM",
        after_unknown: "VOICE_AFTER_UNKNOWN",
    },
];

impl Source {
    /// Settings of channels with a provider.
    ///
    /// # Errors
    /// The first missing or malformed variable.
    pub fn gateways(&self) -> Result<Vec<Settings>, ConfigError> {
        let mut channels = Vec::new();
        for names in &CHANNELS {
            channels.extend(self.gateway(names)?);
        }
        Ok(channels)
    }

    fn gateway(&self, names: &Names) -> Result<Option<Settings>, ConfigError> {
        let after_unknown = self.parse_with(names.after_unknown, |text| match text {
            "stop" => Some(AfterUnknown::Stop),
            "send_again" => Some(AfterUnknown::SendAgain),
            _ => None,
        })?;
        let public_url = self.public_url()?;
        let first = self.account(names.channel, names.url, names.from)?;
        let second = self.account(names.channel, names.fallback_url, names.fallback_from)?;
        let accounts = match (first, second) {
            (None, None) => return Ok(None),
            (None, Some(_)) => {
                return Err(error(names.url, &format!("is not set, but {} is", names.fallback_url)));
            }
            (Some(first), None) => vec![first],
            (Some(first), Some(second)) => {
                let second = second.beside(&first);
                vec![first, second]
            }
        };
        Ok(Some(Settings {
            channel: names.channel,
            accounts,
            after_unknown: after_unknown.unwrap_or(AfterUnknown::Stop),
            ca_file: self.path("PROVIDER_CA_FILE")?,
            public_url,
            app_url: self.app_url()?,
            timeout: DEFAULT_TIMEOUT,
        }))
    }

    fn account(&self, channel: Channel, url: &'static str, from: &'static str) -> Result<Option<Account>, ConfigError> {
        match (self.get(url), self.get(from)) {
            (None, None) => Ok(None),
            (Some(_), None) => Err(error(from, &format!("is not set, but {url} is"))),
            (None, Some(_)) => Err(error(url, &format!("is not set, but {from} is"))),
            (Some(address), Some(sender)) => {
                Account::parse(channel, (url, address), (from, sender)).map(Some).map_err(from_channel)
            }
        }
    }

    /// Public URL for callbacks.
    ///
    /// # Errors
    /// Malformed.
    pub fn public_url(&self) -> Result<Option<PublicUrl>, ConfigError> {
        self.parse_with("PUBLIC_URL", PublicUrl::parse)
    }

    /// Port for status callbacks, if received.
    ///
    /// # Errors
    /// Malformed, or set without `PUBLIC_URL`, which callback signatures cover.
    pub fn public_port(&self) -> Result<Option<u16>, ConfigError> {
        let port = self.parse_with("PUBLIC_PORT", |text| text.parse().ok())?;
        if port.is_some() && self.get("PUBLIC_URL").is_none() {
            return Err(error("PUBLIC_URL", "is not set, but PUBLIC_PORT is"));
        }
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMS: [(&str, &str); 2] =
        [("SMS_PROVIDER_URL", "https://AC1:secret@api.twilio.com"), ("SMS_FROM", "Carebell")];

    fn source(change: &[(&str, &str)]) -> Source {
        Source::of(SMS.iter().chain(change).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn a_channel_is_there_where_it_has_a_provider() {
        assert!(Source::default().gateways().unwrap().is_empty());
        let read = source(&[("VOICE_PROVIDER_URL", "https://AC1:t@x.example"), ("VOICE_FROM", "+4366012345678")]);
        let channels: Vec<_> = read.gateways().unwrap().iter().map(|settings| settings.channel).collect();
        assert_eq!(channels, [Channel::Sms, Channel::Voice]);
        let two = source(&[
            ("SMS_FALLBACK_URL", "https://AC2:secret@api.twilio.com"),
            ("SMS_FALLBACK_FROM", "72345"),
            ("SMS_AFTER_UNKNOWN", "send_again"),
        ]);
        let sms = two.gateways().unwrap().remove(0);
        let names: Vec<_> = sms.accounts.iter().map(|account| account.name.as_str()).collect();
        assert_eq!(names, ["api.twilio.com", "api.twilio.com#2"]);
        assert_eq!(sms.after_unknown, AfterUnknown::SendAgain);
    }

    #[test]
    fn each_mistake_names_its_variable_and_hides_its_value() {
        for (change, variable) in [
            (&[("SMS_FROM", "")][..], "SMS_FROM"),
            (&[("SMS_PROVIDER_URL", "")], "SMS_PROVIDER_URL"),
            (&[("SMS_PROVIDER_URL", "http://AC1:secret@sms.example")], "SMS_PROVIDER_URL"),
            (&[("SMS_FROM", "this secret is too long")], "SMS_FROM"),
            (&[("SMS_FALLBACK_URL", "https://AC1:secret@b.example")], "SMS_FALLBACK_FROM"),
            (&[("SMS_AFTER_UNKNOWN", "secret")], "SMS_AFTER_UNKNOWN"),
            (
                &[("VOICE_FALLBACK_URL", "https://a:secret@x.example"), ("VOICE_FALLBACK_FROM", "+4366012345678")],
                "VOICE_PROVIDER_URL",
            ),
            (&[("PUBLIC_URL", "http://secret.example")], "PUBLIC_URL"),
            (&[("PROVIDER_CA_FILE", "/no/such/secret")], "PROVIDER_CA_FILE"),
        ] {
            let error = source(change).gateways().unwrap_err();
            assert_eq!(error.variable, variable);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let without_url = source(&[("PUBLIC_PORT", "3003")]).public_port().unwrap_err();
        assert_eq!(without_url.variable, "PUBLIC_URL");
        let malformed = source(&[("PUBLIC_PORT", "x"), ("PUBLIC_URL", "https://a.example")]).public_port().unwrap_err();
        assert_eq!(malformed.variable, "PUBLIC_PORT");
    }
}
