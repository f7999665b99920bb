//! The push services that may be sent to: those of the browsers in use, and what the operator named beside them.

use url::Host;

use super::Refused;
use crate::channels::outbound::AllowedHost;

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

    /// Whether an endpoint may have this host and port.
    pub fn check(&self, host: &Host<&str>, port: u16) -> Result<(), Refused> {
        if self.named.iter().any(|named| named.is_at(host, port)) {
            return Ok(());
        }
        let built_in = matches!(host, Host::Domain(domain) if is_built_in(domain));
        match (built_in, port) {
            (true, HTTPS_PORT) => Ok(()),
            (true, _) => Err(Refused::Port),
            (false, _) if self.named.iter().any(|named| named.has(host)) => Err(Refused::Port),
            (false, _) => Err(Refused::Host),
        }
    }
}

/// Whether a domain is one of the push services in use.
pub fn is_built_in(domain: &str) -> bool {
    BUILT_IN.iter().any(|pattern| matches(pattern, domain))
}

/// The push service that a host belongs to; the host itself where it is one that the operator named.
pub fn service_of(host: &str) -> &str {
    let service = BUILT_IN.into_iter().find(|pattern| matches(pattern, host));
    service.map_or(host, |pattern| pattern.trim_start_matches("*."))
}

fn matches(pattern: &str, domain: &str) -> bool {
    let Some(parent) = pattern.strip_prefix('*') else { return pattern == domain };
    domain.strip_suffix(parent).is_some_and(|labels| labels.split('.').all(|label| !label.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hosts_of_a_push_service_are_one() {
        for (host, service) in [
            ("fcm.googleapis.com", "fcm.googleapis.com"),
            ("a.notify.windows.com", "notify.windows.com"),
            ("any.thing.push.apple.com", "push.apple.com"),
            ("push.example.org:8443", "push.example.org:8443"),
        ] {
            assert_eq!(service_of(host), service);
        }
    }
}
