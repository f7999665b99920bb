//! HTTP endpoints of operators, which carry out jobs of declared kinds: signed requests by Standard Webhooks 1.0.
//!
//! Not a way to reach people: `tasks` uses it. The URL stands in a file of the operator's, so its host is shown. It must
//! be https, or this machine; a private address or another port than 443 must be allowed by name.

mod secrets;

use std::{error::Error, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::header::HeaderMap;
use tokio::time::timeout;
use url::{Host, Url};

use self::secrets::Secrets;
use super::{
    SettingsError,
    outbound::{self, AllowedHost, describe, is_public},
    webhook::signature,
};
use crate::{clock::Clock, header, telemetry::traces::http_status};

/// Bytes of an answer that are read.
pub const LARGEST_ANSWER: usize = 256 * 1024;

/// Connections that rest this long are closed: before most servers close them, and a request is lost in between.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// Idle connections.
const MOST_IDLE: usize = 32;

const HTTPS_PORT: u16 = 443;

/// Settings of an endpoint.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where jobs are posted.
    pub url: Url,
    /// Holds the secrets of Standard Webhooks, a line each.
    pub secret_file: PathBuf,
    /// PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
    /// Hosts that may have a private address or another port than 443.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Whether a request may be sent twice, when the connection closed before any answer.
    pub may_repeat: bool,
}

/// An endpoint. Create one per kind: it owns its connections.
#[derive(Debug)]
pub struct Endpoint {
    url: Url,
    secrets: Secrets,
    reusing: Option<reqwest::Client>,
    fresh: reqwest::Client,
    clock: Clock,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `webhook-id`: the same for each attempt, without a dot.
    pub id: String,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Body.
    pub body: Bytes,
    /// Limit, to the last byte of the answer.
    pub limit: Duration,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An answer.
    Answer(Answer),
    /// It was not sent: why. There was no connection, or it cannot be signed.
    NotSent(String),
    /// It may have been received, and no whole answer came: why.
    Silence {
        /// Why.
        why: String,
        /// Whether its time was over.
        timed_out: bool,
    },
    /// An answer of this status with a larger body than is read.
    TooLarge(u16),
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// `Carebell-Outcome`.
    pub outcome: Option<String>,
    /// `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Body.
    pub body: Vec<u8>,
}

/// How sending failed.
enum Unanswered {
    /// The connection closed before any byte of an answer. If it was an idle one, the request was not taken.
    Closed,
    Other(Reply),
}

impl Endpoint {
    /// Checks the settings and reads the files. Connects to nothing.
    ///
    /// # Errors
    /// Names the setting and what it should be.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let Settings { url, secret_file, ca_file, allowed_hosts, may_repeat } = settings;
        check(&url, &allowed_hosts)?;
        let secrets = Secrets::new(secret_file);
        secrets.read().map_err(|why| SettingsError::new("secret_file", why))?;
        let tls = outbound::tls("ca_file", ca_file.as_deref())?;
        let is_allowed = |host: &Host<&str>| allowed_hosts.iter().any(|allowed| allowed.is_at(host, port(&url)));
        let named: Arc<[AllowedHost]> =
            if url.host().is_some_and(|host| is_allowed(&host)) { allowed_hosts.into() } else { Arc::new([]) };
        let client = |idle: usize| {
            let builder = outbound::client(Arc::clone(&named), tls.clone()).https_only(url.scheme() == "https");
            let client = builder.pool_max_idle_per_host(idle).pool_idle_timeout(IDLE_FOR).build();
            client.map_err(|error| SettingsError::new("url", describe(&error)))
        };
        // A connection that its server closes meanwhile leaves it open whether a request was taken.
        let reusing = if may_repeat { Some(client(MOST_IDLE)?) } else { None };
        Ok(Self { fresh: client(0)?, reusing, secrets, url, clock })
    }

    /// The host, for logs.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Posts a job.
    pub async fn post(&self, request: &Request) -> Reply {
        self.post_to(self.url.clone(), request).await
    }

    /// Posts to `<url>/cancel`.
    pub async fn post_cancel(&self, request: &Request) -> Reply {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("cancel");
        }
        self.post_to(url, request).await
    }

    async fn post_to(&self, url: Url, request: &Request) -> Reply {
        let secrets = match self.secrets.read() {
            Ok(secrets) => secrets,
            Err(why) => return Reply::NotSent(why),
        };
        let now = self.clock.now().timestamp();
        let Ok(signatures) = signature::sign_with_all(&secrets, &request.id, now, &request.body) else {
            return Reply::NotSent(secrets::EXPECTED.into());
        };
        let sending = async {
            if let Some(client) = &self.reusing {
                match self.send(client, url.clone(), request, now, &signatures).await {
                    Err(Unanswered::Closed) => {}
                    Err(Unanswered::Other(reply)) => return reply,
                    Ok(answer) => return answer,
                }
            }
            match self.send(&self.fresh, url, request, now, &signatures).await {
                Err(Unanswered::Closed) => {
                    Reply::Silence { why: "the connection closed before an answer".into(), timed_out: false }
                }
                Err(Unanswered::Other(reply)) | Ok(reply) => reply,
            }
        };
        let why = || format!("no answer within {}", humantime::format_duration(request.limit));
        timeout(request.limit, sending).await.unwrap_or_else(|_| Reply::Silence { why: why(), timed_out: true })
    }

    async fn send(
        &self,
        client: &reqwest::Client,
        url: Url,
        request: &Request,
        now: i64,
        signatures: &str,
    ) -> Result<Reply, Unanswered> {
        let mut builder = client
            .post(url)
            .header("content-type", request.content_type)
            .header("webhook-id", &request.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signatures);
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        let mut response = match builder.body(request.body.clone()).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => {
                return Err(Unanswered::Other(Reply::NotSent(describe(&error))));
            }
            Err(error) if is_closed(&error) => return Err(Unanswered::Closed),
            Err(error) => {
                let timed_out = error.is_timeout();
                return Err(Unanswered::Other(Reply::Silence { why: describe(&error), timed_out }));
            }
        };
        let status = response.status().as_u16();
        http_status(status);
        let mut answer = self.head(status, response.headers());
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if answer.body.len() + chunk.len() > LARGEST_ANSWER => {
                    return Ok(Reply::TooLarge(status));
                }
                Ok(Some(chunk)) => answer.body.extend_from_slice(&chunk),
                Ok(None) => return Ok(Reply::Answer(answer)),
                // Whatever its status: what it says of the job is not known.
                Err(error) => {
                    let why = format!("answered {status}, and {} before its end", describe(&error));
                    return Ok(Reply::Silence { why, timed_out: error.is_timeout() });
                }
            }
        }
    }

    fn head(&self, status: u16, headers: &HeaderMap) -> Answer {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        Answer {
            status,
            outcome: text(header::OUTCOME).map(str::to_owned),
            retry_after: text("retry-after").and_then(|value| outbound::retry_after(value, self.clock.now())),
            body: Vec::new(),
        }
    }
}

fn port(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or_default()
}

/// Whether jobs may be posted to a URL.
///
/// # Errors
/// What it should be.
pub fn check(url: &Url, allowed: &[AllowedHost]) -> Result<(), SettingsError> {
    let wrong = |why: &str| Err(SettingsError::new("url", why));
    if !outbound::may_be_asked(url) {
        return wrong("should be https://…; http only reaches this machine");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return wrong("should have no user name, password or fragment: requests are signed");
    }
    let Some(host) = url.host() else { return wrong("has no host") };
    if allowed.iter().any(|allowed| allowed.is_at(&host, port(url))) {
        return Ok(());
    }
    let is_public = match host {
        // The resolver checks a name's addresses.
        Host::Domain(_) => url.scheme() == "https",
        Host::Ipv4(address) => is_public(address.into()),
        Host::Ipv6(address) => is_public(address.into()),
    };
    if !is_public || port(url) != HTTPS_PORT {
        let port = port(url);
        return wrong(&format!(
            "is at a private address or another port than 443: name it in allowed_hosts, as {host}:{port}"
        ));
    }
    Ok(())
}

/// Whether the other side closed the connection before any byte of an answer.
fn is_closed(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(io, Some(ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected))
            || error.to_string().contains("connection closed before message completed")
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_to_public_addresses_or_to_what_is_allowed() {
        let allowed = AllowedHost::list("allowed_hosts", "127.0.0.1:8080, jobs.internal:8443").unwrap();
        let check = |text: &str| super::check(&Url::parse(text).unwrap(), &allowed);
        for url in ["https://jobs.example.org/x", "http://127.0.0.1:8080/x", "https://jobs.internal:8443/x"] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
        for url in [
            "http://jobs.example.org/",
            "https://jobs.example.org:8443/",
            "https://10.0.0.1/",
            "http://127.0.0.1:8081/",
            "http://localhost/",
            "https://[::1]/",
            "https://user@jobs.example.org/",
            "https://jobs.example.org/#x",
            "ftp://jobs.example.org/",
        ] {
            assert_eq!(check(url).unwrap_err().variable(), "url", "{url}");
        }
        let why = check("https://10.0.0.1/x").unwrap_err().to_string();
        assert!(why.contains("name it in allowed_hosts, as 10.0.0.1:443"), "{why}");
    }
}
