//! The push services that may be sent to: those of the browsers in use, and what the operator named beside them.

use std::{fmt, str::FromStr};

use url::{Host, Url};

use super::Refused;
use crate::channels::SettingsError;

/// The push services of the browsers in use. A leading `*.` stands for one or more labels.
const BUILT_IN: [&str; 5] = [
    "fcm.googleapis.com",
    "jmt17.google.com",
    "*.push.services.mozilla.com",
    "*.push.apple.com",
    "*.notify.windows.com",
];

/// The port of a built-in push service, and of a named host without one.
pub const HTTPS_PORT: u16 = 443;

/// A host that the operator named in `WEB_PUSH_ALLOWED_HOSTS`: `host` (port 443) or `host:port`; an IPv6 address in
/// brackets. Only such a host may have another port, be an IP address, or resolve to a private address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    host: Host<String>,
    port: u16,
}

impl AllowedHost {
    /// Reads the comma-separated form of the environment variable; blanks and empty parts are skipped.
    ///
    /// # Errors
    /// Shows the first part that is neither `host` nor `host:port`.
    pub fn list(text: &str) -> Result<Vec<Self>, SettingsError> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for AllowedHost {
    type Err = SettingsError;

    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let error = || not_a_list_of_hosts(text);
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)) {
            return Err(error());
        }
        let url = Url::parse(&format!("https://{text}/")).map_err(|_| error())?;
        let host = url.host().ok_or_else(error)?.to_owned();
        let port = url.port_or_known_default().unwrap_or(HTTPS_PORT);
        let rooted = matches!(&host, Host::Domain(name) if name.ends_with('.'));
        if rooted || port == 0 {
            return Err(error());
        }
        Ok(Self { host, port })
    }
}

fn not_a_list_of_hosts(part: &str) -> SettingsError {
    let part: String = part.chars().filter(|c| !c.is_control()).take(80).collect();
    SettingsError::new(
        "WEB_PUSH_ALLOWED_HOSTS",
        format!("should be a comma-separated list of `host` or `host:port`, and `{part}` is neither"),
    )
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The built-in push services and what the operator named beside them.
#[derive(Clone, Debug, Default)]
pub struct AllowList {
    named: Vec<AllowedHost>,
}

impl AllowList {
    /// The built-in push services and these.
    pub fn new(named: Vec<AllowedHost>) -> Self {
        Self { named }
    }

    /// What the operator named.
    pub fn named(&self) -> &[AllowedHost] {
        &self.named
    }

    /// Whether a domain may resolve to addresses that are not public.
    pub fn may_be_private(&self, domain: &str) -> bool {
        self.named.iter().any(|named| matches!(&named.host, Host::Domain(name) if name == domain))
    }

    /// Whether an endpoint may have this host and port.
    pub fn check(&self, host: &Host<&str>, port: u16) -> Result<(), Refused> {
        let host = host.to_owned();
        if self.named.iter().any(|named| named.host == host && named.port == port) {
            return Ok(());
        }
        let built_in = matches!(&host, Host::Domain(domain) if is_built_in(domain));
        match (built_in, port) {
            (true, HTTPS_PORT) => Ok(()),
            (true, _) => Err(Refused::Port),
            (false, _) if self.named.iter().any(|named| named.host == host) => Err(Refused::Port),
            (false, _) => Err(Refused::Host),
        }
    }
}

/// Whether a domain is one of the push services in use.
pub fn is_built_in(domain: &str) -> bool {
    BUILT_IN.iter().any(|pattern| matches(pattern, domain))
}

fn matches(pattern: &str, domain: &str) -> bool {
    let Some(parent) = pattern.strip_prefix('*') else { return pattern == domain };
    domain.strip_suffix(parent).is_some_and(|labels| labels.split('.').all(|label| !label.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_list_of_hosts_names_its_variable() {
        for text in ["*.example.com", "https://a.example", "a.example/path", "user@a.example", "a.example:99999", "::1"]
        {
            let error = AllowedHost::list(text).unwrap_err();
            assert_eq!(error.variable(), "WEB_PUSH_ALLOWED_HOSTS", "{text}");
            assert!(error.to_string().contains("host:port"), "{error}");
        }
        assert_eq!(AllowedHost::list("a.example.:1").unwrap_err().variable(), "WEB_PUSH_ALLOWED_HOSTS");
        assert_eq!(AllowedHost::list(" ,").unwrap(), []);
    }

    #[test]
    fn only_a_named_host_may_be_private() {
        let allowed = AllowList::new(AllowedHost::list("localhost:8443, push.internal").unwrap());
        assert!(allowed.may_be_private("localhost") && allowed.may_be_private("push.internal"));
        assert!(!allowed.may_be_private("fcm.googleapis.com") && !allowed.may_be_private("a.push.internal"));
    }
}
