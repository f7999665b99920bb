use url::Host;

use super::EndpointRefused;
use crate::channels::outbound::AllowedHost;

/// Push services of common browsers. A leading `*.` matches one or more labels.
const BUILT_IN: [&str; 5] = [
    "fcm.googleapis.com",
    "jmt17.google.com",
    "*.push.services.mozilla.com",
    "*.push.apple.com",
    "*.notify.windows.com",
];

/// Chrome gives the endpoint of an ended subscription this host, and it resolves to nothing (RFC 2606 §2).
const REMOVED: &str = "permanently-removed.invalid";

pub const HTTPS_PORT: u16 = 443;

/// Allowed push services: built in, and named by the operator.
#[derive(Clone, Debug, Default)]
pub struct AllowList {
    named: Vec<AllowedHost>,
}

impl AllowList {
    /// Adds these to the built-in ones.
    pub fn new(named: Vec<AllowedHost>) -> Self {
        Self { named }
    }

    /// Hosts of the operator.
    pub fn named(&self) -> &[AllowedHost] {
        &self.named
    }

    /// Checks an endpoint's host and port.
    pub fn check(&self, host: &Host<&str>, port: u16) -> Result<(), EndpointRefused> {
        if *host == Host::Domain(REMOVED) {
            return Err(EndpointRefused::Removed);
        }
        if self.named.iter().any(|named| named.is_at(host, port)) {
            return Ok(());
        }
        let built_in = matches!(host, Host::Domain(domain) if is_built_in(domain));
        match (built_in, port) {
            (true, HTTPS_PORT) => Ok(()),
            (true, _) => Err(EndpointRefused::Port),
            (false, _) if self.named.iter().any(|named| named.has(host)) => Err(EndpointRefused::Port),
            (false, _) => Err(EndpointRefused::Host),
        }
    }
}

pub fn is_built_in(domain: &str) -> bool {
    BUILT_IN.iter().any(|pattern| matches(pattern, domain))
}

/// The built-in push services, by the names that metrics and the ledger have.
pub fn services() -> impl Iterator<Item = &'static str> {
    BUILT_IN.into_iter().map(|pattern| pattern.trim_start_matches("*."))
}

/// The built-in push service of a host, or the host itself.
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
