//! Reads files from addresses that jobs name: https to public addresses only, unless the operator allows the host.
//!
//! A redirect is followed where its target may be asked too. No text holds an address: it may be signed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_LENGTH, LOCATION, RETRY_AFTER},
};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};
use url::Url;

use super::{AllowedHost, Hosts, describe, guard, retry_after, tls};
use crate::{
    channels::{MOST_HOSTS, SettingsError},
    clock::Clock,
};

/// Limit up to the response's status.
const LIMIT: Duration = Duration::from_secs(30);

/// In this much time of waiting for a source, [`LEAST`] has to come.
const WINDOW: Duration = Duration::from_secs(30);

/// Bytes: 16 KiB each second. Who sends less would keep a permit for hours.
const LEAST: u64 = 480 * 1024;

/// Redirects of one download.
const MOST_REDIRECTS: usize = 3;

/// Settings of downloads.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hosts that may have a private address or another port than 443.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The variable of `ca_file`, for errors.
    pub ca_variable: &'static str,
    /// PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
}

/// Why a file cannot be read. Names no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Asking again may help.
    Later {
        /// Why.
        why: String,
        /// The shortest wait that the source asked for.
        after: Option<Duration>,
    },
    /// Asking again cannot help.
    Never {
        /// Why.
        why: String,
    },
}

impl Unread {
    fn later(why: impl Into<String>) -> Self {
        Self::Later { why: why.into(), after: None }
    }

    fn never(why: impl Into<String>) -> Self {
        Self::Never { why: why.into() }
    }
}

/// The client of downloads. Create one per process: it owns its connections.
#[derive(Debug)]
pub struct Downloads {
    tls: ClientConfig,
    hosts: Hosts<reqwest::Client>,
    allowed: Arc<[AllowedHost]>,
    clock: Clock,
}

/// A file that is being read.
#[derive(Debug)]
pub struct Download {
    response: Response,
    window: Duration,
    waited: Duration,
    came: u64,
}

impl Downloads {
    /// Reads the extra roots. Connects to nothing.
    ///
    /// # Errors
    /// Names the variable of the extra roots.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let tls = tls(settings.ca_variable, settings.ca_file.as_deref())?;
        Ok(Self { tls, hosts: Hosts::new(MOST_HOSTS), allowed: settings.allowed_hosts.into(), clock })
    }

    /// The TLS of this process, with the extra roots.
    #[must_use]
    pub fn tls(&self) -> &ClientConfig {
        &self.tls
    }

    /// Asks for a file.
    ///
    /// # Errors
    /// Says whether asking again may help.
    pub async fn open(&self, url: &Url) -> Result<Download, Unread> {
        let mut url = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            self.check(&url)?;
            let http = self
                .hosts
                .get(&url.origin().ascii_serialization(), || guard::client_to(&url, &self.allowed, &self.tls).build());
            let http = http.map_err(|error| Unread::later(describe(&error)))?;
            let response = match timeout(LIMIT, http.get(url.clone()).send()).await {
                Err(_) => return Err(Unread::later("the source does not answer")),
                Ok(Err(error)) => return Err(Unread::later(format!("the source: {}", describe(&error)))),
                Ok(Ok(response)) => response,
            };
            if !response.status().is_redirection() {
                return self.judge(response);
            }
            let to = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            url = to.and_then(|to| url.join(to).ok()).ok_or_else(|| {
                Unread::never(format!("the source answers {}, without an address", response.status().as_u16()))
            })?;
        }
        Err(Unread::never(format!("the source redirects more than {MOST_REDIRECTS} times")))
    }

    fn check(&self, url: &Url) -> Result<(), Unread> {
        if url.scheme() != "https" {
            return Err(Unread::never("the source's address is not https"));
        }
        guard::check(url, &self.allowed).map_err(|why| Unread::never(format!("the source's address {why}")))
    }

    fn judge(&self, response: Response) -> Result<Download, Unread> {
        let status = response.status();
        let why = || format!("the source answers {}", status.as_u16());
        match status {
            StatusCode::OK => {
                Ok(Download { response, window: self.clock.paced(WINDOW), waited: Duration::ZERO, came: 0 })
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Err(Unread::Later { why: why(), after: self.wait(&response) })
            }
            status if status.is_server_error() => Err(Unread::Later { why: why(), after: self.wait(&response) }),
            _ => Err(Unread::never(why())),
        }
    }

    fn wait(&self, response: &Response) -> Option<Duration> {
        let header = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
        retry_after(header, self.clock.now())
    }
}

impl Download {
    /// The size in bytes that its headers tell.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// The connection broke, or the source sends too slowly.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Unread> {
        let began = Instant::now();
        let chunk = timeout(self.window.saturating_sub(self.waited), self.response.chunk()).await;
        self.waited += began.elapsed();
        let is_over = chunk.is_err() || self.waited >= self.window;
        let chunk = match chunk {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(error)) => return Err(Unread::later(format!("the source: {}", describe(&error)))),
            // Nothing came in the rest of the window. It is judged below, and the next call waits anew.
            Err(_) => Some(Bytes::new()),
        };
        self.came += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if is_over && chunk.is_some() {
            if self.came < LEAST {
                let seconds = WINDOW.as_secs();
                return Err(Unread::later(format!(
                    "the source sends too slowly: {} KiB in {seconds} s, and at least {} are expected",
                    self.came / 1024,
                    LEAST / 1024
                )));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }
}
