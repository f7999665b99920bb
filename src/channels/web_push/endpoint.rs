//! Validates endpoints, which are user input.
//!
//! Never log an endpoint: whoever knows it can send to it. [`Redacted`] is safe.

use std::fmt;

use aws_lc_rs::digest;
use url::Url;

use super::{AllowList, EndpointRefused, allowed::HTTPS_PORT, refusal::MAX_LENGTH};

/// A validated endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: Url,
    origin: String,
    text: Box<str>,
}

impl Endpoint {
    /// Validates an endpoint: a plain `https://host[:port]/…` on the allow list. Forms that the URL standard would
    /// repair (blanks, backslashes, missing or doubled slashes, other alphabets) are refused: no browser sends them.
    pub fn parse(text: &str, allowed: &AllowList) -> Result<Self, EndpointRefused> {
        if text.len() > MAX_LENGTH {
            return Err(EndpointRefused::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return Err(EndpointRefused::Malformed);
        }
        let (scheme, rest) = text.split_once("://").ok_or(EndpointRefused::Malformed)?;
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(EndpointRefused::NotHttps);
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(EndpointRefused::Malformed);
        }
        if authority.contains('@') {
            return Err(EndpointRefused::UserInfo);
        }
        let mut url = Url::parse(text).map_err(|_| EndpointRefused::Malformed)?;
        let host = url.host().ok_or(EndpointRefused::Malformed)?;
        allowed.check(&host, url.port_or_known_default().unwrap_or(HTTPS_PORT))?;
        url.set_fragment(None);
        let origin = url.origin().ascii_serialization();
        Ok(Self { url, origin, text: text.into() })
    }

    /// The whole URL. A secret: never log it.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// `https://host[:port]` (RFC 6454 §6.2), without port 443.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Form for logs and records.
    pub fn redacted(&self) -> Redacted {
        Redacted::of(&self.text)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({})", self.redacted())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redacted().fmt(f)
    }
}

/// Printable endpoint: its host and 48 bits of its SHA-256. Enough to identify it, not to send to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted(String);

impl Redacted {
    /// Accepts any text, even an invalid endpoint.
    pub fn of(endpoint: &str) -> Self {
        use fmt::Write;

        let url = Url::parse(endpoint).ok();
        let host = url.as_ref().and_then(Url::host_str).filter(|host| host.len() <= 100).unwrap_or("invalid");
        let mut text = format!("{host}#");
        for byte in &digest::digest(&digest::SHA256, endpoint.as_bytes()).as_ref()[..6] {
            let _ = write!(text, "{byte:02x}"); // A `String` takes whatever is written to it.
        }
        Self(text)
    }
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::allowed::is_built_in;
    use super::*;
    use crate::channels::outbound::AllowedHost;

    fn parse(text: &str) -> Result<String, EndpointRefused> {
        parse_with("", text)
    }

    fn parse_with(named: &str, text: &str) -> Result<String, EndpointRefused> {
        let allowed = AllowList::new(AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", named).unwrap());
        Endpoint::parse(text, &allowed).map(|endpoint| endpoint.origin)
    }

    #[test]
    fn the_push_services_in_use_are_allowed() {
        for (text, origin) in [
            ("https://fcm.googleapis.com/fcm/send/abc", "https://fcm.googleapis.com"),
            ("https://fcm.googleapis.com:443/wp/abc?x=1#y", "https://fcm.googleapis.com"),
            ("HTTPS://FCM.GoogleAPIs.com/x", "https://fcm.googleapis.com"),
            ("https://jmt17.google.com/x", "https://jmt17.google.com"),
            ("https://updates.push.services.mozilla.com/wpush/v2/x", "https://updates.push.services.mozilla.com"),
            ("https://web.push.apple.com/QaZ", "https://web.push.apple.com"),
            ("https://db5p.notify.windows.com/w/?token=BQ%3d", "https://db5p.notify.windows.com"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(origin), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, why) in [
            ("", EndpointRefused::Malformed),
            ("/path", EndpointRefused::Malformed),
            ("fcm.googleapis.com/x", EndpointRefused::Malformed),
            ("https:fcm.googleapis.com/x", EndpointRefused::Malformed),
            ("https:/fcm.googleapis.com/x", EndpointRefused::Malformed),
            ("https://", EndpointRefused::Malformed),
            ("https:///fcm.googleapis.com/x", EndpointRefused::Malformed),
            ("https:\\\\fcm.googleapis.com\\x", EndpointRefused::Malformed),
            (" https://fcm.googleapis.com/x", EndpointRefused::Malformed),
            ("https://fcm.googleapis.com/x\n", EndpointRefused::Malformed),
            ("https://fcm.google\tapis.com/x", EndpointRefused::Malformed),
            ("https://fcm。googleapis.com/x", EndpointRefused::Malformed),
            ("https://fcm.googleapis.com:99999/x", EndpointRefused::Malformed),
            ("https://[::1/x", EndpointRefused::Malformed),
            ("http://169.254.169.254/", EndpointRefused::NotHttps),
            ("http://fcm.googleapis.com/x", EndpointRefused::NotHttps),
            ("file:///etc/passwd", EndpointRefused::NotHttps),
            ("data://fcm.googleapis.com/x", EndpointRefused::NotHttps),
            ("https://localhost/", EndpointRefused::Host),
            ("https://127.1/", EndpointRefused::Host),
            ("https://0x7f.1/", EndpointRefused::Host),
            ("https://169.254.169.254/", EndpointRefused::Host),
            ("https://[::ffff:10.0.0.1]/", EndpointRefused::Host),
            ("https://[::1]/", EndpointRefused::Host),
            ("https://fcm.googleapis.com./x", EndpointRefused::Host),
            ("https://fcm.googleapis.com.evil.example/x", EndpointRefused::Host),
            ("https://evilfcm.googleapis.com/x", EndpointRefused::Host),
            ("https://push.apple.com/x", EndpointRefused::Host),
            ("https://.push.apple.com/x", EndpointRefused::Host),
            ("https://a..push.apple.com/x", EndpointRefused::Host),
            ("https://evilpush.apple.com/x", EndpointRefused::Host),
            ("https://fcm.googleapis.com:8443/x", EndpointRefused::Port),
            ("https://fcm.googleapis.com:80/x", EndpointRefused::Port),
            ("https://user@fcm.googleapis.com/x", EndpointRefused::UserInfo),
            ("https://user:pass@fcm.googleapis.com/x", EndpointRefused::UserInfo),
            ("https://@fcm.googleapis.com/x", EndpointRefused::UserInfo),
            ("https://fcm.googleapis.com@evil.example/x", EndpointRefused::UserInfo),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
        assert_eq!(
            parse(&format!("https://fcm.googleapis.com/{}", "x".repeat(5_000_000))),
            Err(EndpointRefused::TooLong)
        );
        assert!(parse(&format!("https://fcm.googleapis.com/{}", "x".repeat(2000))).is_ok());
    }

    #[test]
    fn a_named_host_may_use_its_named_port_and_no_other() {
        let named = "localhost:8443, push.example ,127.0.0.1:9000,[::1]:9001,";
        for (text, result) in [
            ("https://localhost:8443/x", Ok("https://localhost:8443")),
            ("https://localhost/x", Err(EndpointRefused::Port)),
            ("https://localhost:8444/x", Err(EndpointRefused::Port)),
            ("https://push.example/x", Ok("https://push.example")),
            ("https://push.example:8443/x", Err(EndpointRefused::Port)),
            ("https://a.push.example/x", Err(EndpointRefused::Host)),
            ("https://127.1:9000/x", Ok("https://127.0.0.1:9000")),
            ("https://[0:0::1]:9001/x", Ok("https://[::1]:9001")),
            ("http://localhost:8443/x", Err(EndpointRefused::NotHttps)),
            ("https://fcm.googleapis.com/x", Ok("https://fcm.googleapis.com")),
        ] {
            assert_eq!(parse_with(named, text).as_deref(), result.as_ref().map(|origin| *origin), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_shown_as_its_host_and_a_hash() {
        let text = "https://fcm.googleapis.com/fcm/send/very-secret?also=secret";
        let endpoint = Endpoint::parse(text, &AllowList::default()).unwrap();
        for shown in [format!("{endpoint:?}"), endpoint.to_string(), endpoint.redacted().to_string()] {
            assert!(shown.contains("fcm.googleapis.com#") && !shown.contains("secret"), "{shown}");
        }
        assert_ne!(Redacted::of("https://a.example/1"), Redacted::of("https://a.example/2"));
        assert!(Redacted::of("no url: secret").to_string().starts_with("invalid#"));
    }

    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("https://".to_owned()),
            Just("fcm.googleapis.com".to_owned()),
            Just(".push.apple.com".to_owned()),
            Just("localhost:8443".to_owned()),
            "[:/@.\\[\\]#?%\\\\*]",
            "[0-9]{1,6}",
            "\\PC{0,4}",
            any::<String>(),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_lets_only_listed_origins_through(text in pieces()) {
            let allowed = AllowList::new(AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", "localhost:8443").unwrap());
            let _ = Redacted::of(&text);
            let _ = AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", &text);
            if let Ok(endpoint) = Endpoint::parse(&text, &allowed) {
                let origin = endpoint.origin();
                let host = origin.strip_prefix("https://").expect("the scheme is https");
                prop_assert!(
                    host == "localhost:8443" || is_built_in(host),
                    "{origin}"
                );
                prop_assert!(endpoint.url().username().is_empty() && endpoint.url().password().is_none());
            }
        }
    }
}
