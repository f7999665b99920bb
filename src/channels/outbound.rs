//! HTTP clients shared by channels.

mod allowed;
pub mod download;
pub mod guard;
mod hosts;
mod resolve;
mod retry_after;
mod tls;

use std::{error::Error, sync::Arc, time::Duration};

use reqwest::{ClientBuilder, Response, redirect};
use rustls::ClientConfig;
use url::Url;

pub use self::allowed::AllowedHost;
use self::resolve::{NoPublicAddress, PublicOnly};
pub use self::{hosts::Hosts, resolve::is_public, retry_after::retry_after, tls::tls};
use crate::host::is_this_machine;

/// Error text of a timeout.
pub const TIMEOUT: &str = "timeout";

/// Bytes read of a response; usually about 1 KiB.
pub const MAX_BODY: usize = 64 * 1024;

/// Limit for connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Client for providers of the operator, at any address. No redirects, no proxy.
pub fn to_provider(tls: ClientConfig) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("carebell/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT_TIMEOUT)
}

/// Client for hosts named by users: https to public addresses only, except for the `named` hosts.
pub fn client(named: Arc<[AllowedHost]>, tls: ClientConfig) -> ClientBuilder {
    to_provider(tls).https_only(true).dns_resolver(PublicOnly::new(named))
}

/// Whether the operator's URL is allowed: https, or http to this machine (tests, `carebell dev`).
#[must_use]
pub fn may_be_asked(url: &Url) -> bool {
    let is_here = url.host_str().is_some_and(is_this_machine);
    url.scheme() == "https" || (url.scheme() == "http" && is_here)
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
