//! Names of hosts.

use std::net::IpAddr;

/// Whether a host as written in a URL is this machine, so that what is sent to it crosses no network: `localhost` or a
/// loopback address. Other names count as far, whatever they resolve to.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
