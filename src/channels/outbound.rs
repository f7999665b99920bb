//! What all channels share that send HTTP requests: where they may go, and what is told of those that broke.

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

/// What a request that took too long is reported as.
pub const TIMEOUT: &str = "timeout";

/// The most of an answer that is read. Those of providers have about 1 KiB.
pub const MAX_BODY: usize = 64 * 1024;

/// How long a connection may take to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client for a provider that the operator named, at whichever address: follows no redirect, and knows no proxy.
pub fn to_provider(roots: Vec<Certificate>) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("carebell/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .tls_certs_merge(roots)
        .connect_timeout(CONNECT_TIMEOUT)
}

/// A client for what users named: the same, and it speaks https only, and connects to public addresses only; of the named
/// hosts, to any.
pub fn client(named: &[AllowedHost], roots: Vec<Certificate>) -> ClientBuilder {
    to_provider(roots).https_only(true).dns_resolver(PublicOnly::new(named))
}

/// Whether a URL that the operator named may be asked: over https; over http only within this machine, for tests and
/// `carebell dev`.
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

/// The roots in a PEM file that this variable names.
///
/// # Errors
/// If it cannot be read, is none, or holds none.
pub fn roots(variable: &'static str, file: &Path) -> Result<Vec<Certificate>, SettingsError> {
    let error = |why: &str| {
        let file = file.display();
        SettingsError::new(variable, format!("should name a PEM file of root certificates, and {file} {why}"))
    };
    let pem = fs::read(file).map_err(|_| error("cannot be read"))?;
    let roots = Certificate::from_pem_bundle(&pem).map_err(|_| error("is not one"))?;
    if roots.is_empty() { Err(error("holds none")) } else { Ok(roots) }
}

/// For a client that cannot be built: without roots of its own, the machine needs some.
#[must_use]
pub fn no_roots(variable: &'static str) -> SettingsError {
    SettingsError::new(
        variable,
        "should name a PEM file of root certificates: this machine has none of its own (or install its \
         `ca-certificates`)",
    )
}

/// The body of an answer up to so many bytes, as far as it is of use; less if it broke off.
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

/// What went wrong, without the URL that the error itself repeats, and without names: those of hosts may be users'.
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
