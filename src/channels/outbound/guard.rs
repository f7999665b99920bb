//! Addresses that users or jobs name: only the internet, unless the operator names the host.

use std::{fmt, sync::Arc};

use reqwest::ClientBuilder;
use rustls::ClientConfig;
use url::{Host, Url};

use super::{AllowedHost, client, is_public};

/// Other ports must be allowed by name.
const HTTPS_PORT: u16 = 443;

/// Why an address is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// Its host is an address that is not public.
    Private,
    /// It has another port than 443.
    Port,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "is not public",
            Self::Port => "has another port than 443",
        })
    }
}

/// Refuses a host that settings do not allow. The addresses of a name are checked by the resolver of [`client_to`].
///
/// # Errors
/// Says why.
pub fn check(url: &Url, allowed: &[AllowedHost]) -> Result<(), Forbidden> {
    let (Some(host), port) = (url.host(), url.port_or_known_default().unwrap_or_default()) else { return Ok(()) };
    if allowed.iter().any(|allowed| allowed.is_at(&host, port)) {
        return Ok(());
    }
    let is_public = match host {
        Host::Domain(_) => true,
        Host::Ipv4(address) => is_public(address.into()),
        Host::Ipv6(address) => is_public(address.into()),
    };
    if !is_public {
        return Err(Forbidden::Private);
    }
    if port != HTTPS_PORT {
        return Err(Forbidden::Port);
    }
    Ok(())
}

/// Client for one origin. At another port than the allowed one, a host is like any other.
pub fn client_to(url: &Url, allowed: &Arc<[AllowedHost]>, tls: &ClientConfig) -> ClientBuilder {
    let (host, port) = (url.host(), url.port_or_known_default().unwrap_or_default());
    let is_allowed = host.is_some_and(|host| allowed.iter().any(|allowed| allowed.is_at(&host, port)));
    let allowed = if is_allowed { Arc::clone(allowed) } else { Arc::new([]) };
    client(allowed, tls.clone())
}
