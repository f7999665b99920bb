//! HTTP clients shared by channels.

mod allowed;
mod resolve;
mod retry_after;

use std::{error::Error, fs, path::Path, time::Duration};

use reqwest::{Certificate, ClientBuilder, Response, redirect};
use url::{Host, Url};

pub use self::allowed::AllowedHost;
use self::resolve::{NoPublicAddress, PublicOnly};
pub use self::{resolve::is_public, retry_after::retry_after};
use super::SettingsError;

/// Error text of a timeout.
pub const TIMEOUT: &str = "timeout";

/// Bytes read of a response; usually about 1 KiB.
pub const MAX_BODY: usize = 64 * 1024;

/// Limit for connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Client for providers of the operator, at any address. No redirects, no proxy.
pub fn to_provider(roots: Vec<Certificate>) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("carebell/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .tls_certs_merge(roots)
        .connect_timeout(CONNECT_TIMEOUT)
}

/// Client for hosts named by users: https to public addresses only, except for the `named` hosts.
pub fn client(named: &[AllowedHost], roots: Vec<Certificate>) -> ClientBuilder {
    to_provider(roots).https_only(true).dns_resolver(PublicOnly::new(named))
}

/// Whether the operator's URL is allowed: https, or http to this machine (tests, `carebell dev`).
#[must_use]
pub fn may_be_asked(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback)
}

/// Roots in the PEM file of this variable.
pub fn roots(variable: &'static str, file: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let error = |why: &str| {
        let file = file.display();
        SettingsError::new(variable, format!("should name a PEM file of root certificates, but {file} {why}"))
    };
    let pem = fs::read(file).map_err(|_| error("cannot be read"))?;
    let roots = Certificate::from_pem_bundle(&pem).map_err(|_| error("is malformed"))?;
    if roots.is_empty() { Err(error("holds no certificate")) } else { Ok(roots) }
}

/// Error if the machine has no roots of its own.
#[must_use]
pub fn no_roots(variable: &'static str) -> SettingsError {
    SettingsError::new(
        variable,
        "should name a PEM file of root certificates: this machine has none of its own (or install its \
         `ca-certificates`)",
    )
}

/// Up to `most` bytes of a body; fewer if the connection broke.
pub async fn body(mut response: Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]);
        if body.len() == most {
            break;
        }
    }
    body
}

/// Cause of an error, without URL or host names, which may hold personal data.
#[must_use]
pub fn describe(error: &reqwest::Error) -> String {
    let kind = match error {
        error if error.is_timeout() => return TIMEOUT.to_owned(),
        error if error.is_connect() => "no connection",
        _ => "the connection broke",
    };
    let mut innermost = String::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        innermost = error.to_string();
        cause = error.source();
    }
    if innermost == NoPublicAddress.to_string() {
        return innermost;
    }
    if innermost.contains("not valid for name") {
        return format!("{kind}: the certificate is for another name");
    }
    let names_it = error.url().and_then(Url::host_str).is_some_and(|host| innermost.contains(host));
    if innermost.is_empty() || names_it || innermost.contains(['"', '/']) || innermost.len() > 120 {
        return kind.to_owned();
    }
    format!("{kind}: {innermost}")
}
