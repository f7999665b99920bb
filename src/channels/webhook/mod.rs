//! Webhooks: one signed HTTP request to a user's endpoint, by Standard Webhooks 1.0.
//!
//! Every send of a delivery has the same JSON body and `webhook-id`, so the endpoint can deduplicate.
//! `webhook-signature` holds a signature per secret, for rotation.
//!
//! Endpoints are user input: https only, to a public address found by the connection's own resolver, without redirects.

pub(super) mod signature;

use std::{borrow::Cow, path::PathBuf, sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use futures::{FutureExt, future::BoxFuture};
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use rustls::ClientConfig;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::timeout;
use url::Url;

use super::{
    Address, AfterUnknown, Answer, MOST_HOSTS, NOBODY, Parcel, Sender, SettingsError,
    breaker::Concurrency,
    outbound::{self, AllowedHost, Hosts, describe, guard},
};
use crate::{clock::Clock, plan::Channel, telemetry::traces::http_status, text};

/// Limit up to the response's status.
const LIMIT: Duration = Duration::from_secs(10);

/// Requests to one host.
const MOST_AT_ONCE: usize = 8;

/// Wait after a 429 without Retry-After.
const DEFAULT_WAIT: Duration = Duration::from_mins(1);

/// Bytes.
const LONGEST_URL: usize = 2048;

const CA_FILE: &str = "WEBHOOK_CA_FILE";

/// Settings of the webhook channel.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `WEBHOOK_ALLOWED_HOSTS`: hosts that may have a private address or another port than 443.
    pub allowed_hosts: Vec<AllowedHost>,
    /// `WEBHOOK_CA_FILE`: PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
    /// `APP_URL`: base of relative links.
    pub app_url: Option<Url>,
}

/// The channel. Create one per process: it owns its connections.
#[derive(Debug)]
pub struct Webhook {
    tls: ClientConfig,
    hosts: Hosts<reqwest::Client>,
    allowed: Arc<[AllowedHost]>,
    app_url: Option<Url>,
    clock: Clock,
}

#[derive(Serialize)]
struct Body<'a> {
    /// Event type by Standard Webhooks: `carebell.notification`.
    r#type: &'static str,
    /// When the delivery was planned, the same on every send.
    timestamp: String,
    data: Told<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    delivery_id: &'a str,
    job_id: &'a str,
    r#type: &'a str,
    title: &'a str,
    body: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<Cow<'a, str>>,
    data: &'a Map<String, Value>,
}

impl Webhook {
    /// Checks the settings and reads the extra roots. Connects to nothing.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let tls = outbound::tls(CA_FILE, settings.ca_file.as_deref())?;
        let allowed = settings.allowed_hosts.into();
        Ok(Self { tls, hosts: Hosts::new(MOST_HOSTS), allowed, app_url: settings.app_url, clock })
    }

    fn endpoint(text: &str) -> Result<Url, &'static str> {
        let url =
            Url::parse(text).ok().filter(|_| text.len() <= LONGEST_URL).ok_or("the webhook's address is not a URL")?;
        if url.scheme() != "https" {
            return Err("the webhook's address is not https");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the webhook's address carries a user name");
        }
        if url.host().is_none() {
            return Err("the webhook's address has no host");
        }
        Ok(url)
    }

    /// Refuses a host that settings do not allow.
    fn check_host(&self, url: &Url) -> Result<(), Answer> {
        let refused = |why| Answer::Refused { why: format!("the webhook's address {why}"), reason: "host_not_allowed" };
        guard::check(url, &self.allowed).map_err(refused)
    }

    fn client(&self, url: &Url) -> reqwest::Result<reqwest::Client> {
        guard::client_to(url, &self.allowed, &self.tls).build()
    }

    async fn post(&self, parcel: &Parcel<'_>) -> Result<Answer, Answer> {
        let Address::Webhook { url, secrets } = parcel.address else {
            return Err(permanent("the address is not a webhook"));
        };
        let url = Self::endpoint(url).map_err(malformed)?;
        self.check_host(&url)?;
        let body =
            serde_json::to_vec(&self.body(parcel)).map_err(|_| permanent("the text cannot be written as JSON"))?;
        let now = self.clock.now().timestamp();
        let signatures = signature::sign_with_all(secrets, parcel.id, now, &body).map_err(malformed)?;
        let http = self.hosts.get(&url.origin().ascii_serialization(), || self.client(&url));
        let http = http.map_err(|error| Answer::Down { why: describe(&error), after: None, timed_out: false })?;
        let request = http
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", parcel.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signatures)
            .body(body);
        let answer = match timeout(LIMIT, request.send()).await {
            Err(_) => Answer::Down { why: outbound::TIMEOUT.into(), after: None, timed_out: true },
            Ok(Err(error)) => Answer::Down { why: describe(&error), after: None, timed_out: error.is_timeout() },
            Ok(Ok(response)) => {
                http_status(response.status().as_u16());
                let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let after = header.and_then(|value| outbound::retry_after(value, self.clock.now()));
                judge(response.status(), after)
            }
        };
        Ok(answer)
    }

    fn body<'a>(&self, parcel: &Parcel<'a>) -> Body<'a> {
        let content = parcel.content;
        let url = content.url.as_deref().map(|url| text::absolute(url, self.app_url.as_ref()));
        Body {
            r#type: "carebell.notification",
            timestamp: rfc3339(parcel.created_at),
            data: Told {
                delivery_id: parcel.id,
                job_id: parcel.root_id,
                r#type: &content.kind,
                title: &content.title,
                body: &content.body,
                url,
                data: &content.data,
            },
        }
    }
}

impl Sender for Webhook {
    fn channel(&self) -> Channel {
        Channel::Webhook
    }

    /// The `webhook-id` stays the same.
    fn after_unknown(&self) -> AfterUnknown {
        AfterUnknown::SendAgain
    }

    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>> {
        let Address::Webhook { url, .. } = parcel.address else { return None };
        let host = Self::endpoint(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        (rank == 0).then(|| host.map_or(Cow::Borrowed(NOBODY), Cow::Owned))
    }

    /// Users name the hosts, so they share one label.
    fn label<'a>(&self, provider: &'a str) -> &'a str {
        if provider == NOBODY { provider } else { Channel::Webhook.name() }
    }

    /// A slow endpoint leaves permits to the others.
    fn concurrency(&self) -> Concurrency {
        Concurrency { limit: MOST_AT_ONCE, ..Concurrency::UNLIMITED }
    }

    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, _rank: usize) -> BoxFuture<'a, Answer> {
        async move { self.post(parcel).await.unwrap_or_else(|never_sent| never_sent) }.boxed()
    }
}

/// By Standard Webhooks, 2xx is success, 410 unsubscribes, anything else may be retried. Redirects could lead anywhere.
fn judge(status: StatusCode, after: Option<Duration>) -> Answer {
    let why = || format!("answered {}", status.as_u16());
    match status.as_u16() {
        200..=299 => Answer::Accepted { answer: status.as_u16().to_string(), provider_id: None },
        410 => Answer::Gone { answer: "410".into(), reason: "webhook_gone" },
        429 => Answer::Later { after: after.unwrap_or(DEFAULT_WAIT), answer: "429".into() },
        500.. => Answer::Down { why: why(), after, timed_out: false },
        300..=399 => Answer::Retry { why: format!("{}, a redirect, which is not followed", why()), after },
        _ => Answer::Retry { why: why(), after },
    }
}

/// The row stays as it is: whoever corrects it need not know that it was tried.
fn malformed(why: &'static str) -> Answer {
    Answer::Refused { why: why.into(), reason: "invalid_address" }
}

fn permanent(why: &'static str) -> Answer {
    Answer::Permanent { why: why.into() }
}

fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(named: &str) -> Webhook {
        let allowed_hosts = AllowedHost::list("WEBHOOK_ALLOWED_HOSTS", named).unwrap();
        Webhook::new(Settings { allowed_hosts, ..Settings::default() }, Clock::system()).unwrap()
    }

    #[test]
    fn no_host_that_a_user_named_is_in_metrics() {
        assert_eq!(webhook("").label("hooks.of-somebody.example"), "webhook");
        assert_eq!(webhook("").label(NOBODY), NOBODY);
    }

    #[test]
    fn only_https_to_the_internet_or_to_what_the_operator_named() {
        let webhook = webhook("127.0.0.1:8443, hooks.internal:8443");
        for allowed in [
            "https://hooks.example.org/carebell?key=1",
            "https://hooks.example.org:443/",
            "https://8.8.8.8/",
            "https://127.0.0.1:8443/x",
            "https://hooks.internal:8443/x",
            // The resolver wants a public address.
            "https://hooks.internal/x",
        ] {
            let url = Webhook::endpoint(allowed).unwrap();
            assert_eq!(webhook.check_host(&url), Ok(()), "{allowed}");
        }
        for refused in [
            "",
            "hooks.example.org",
            "http://hooks.example.org/",
            "https://user:secret@hooks.example.org/",
            "https://hooks.example.org:8443/",
            "https://hooks.example.org:22/",
            "https://8.8.8.8:8443/",
            "https://127.0.0.1/",
            "https://127.0.0.1:9443/",
            "https://hooks.internal:6443/x",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            &format!("https://a.example/{}", "x".repeat(2048)),
        ] {
            let checked = Webhook::endpoint(refused).map(|url| webhook.check_host(&url));
            assert!(!matches!(checked, Ok(Ok(()))), "{refused}");
        }
    }

    #[test]
    fn each_answer_has_its_meaning() {
        let answer = |status: u16| judge(StatusCode::from_u16(status).unwrap(), None);
        for status in [200, 201, 204, 299] {
            assert!(matches!(answer(status), Answer::Accepted { .. }), "{status}");
        }
        for status in [301, 307, 400, 401, 404, 408, 425] {
            assert!(matches!(answer(status), Answer::Retry { .. }), "{status}");
        }
        for status in [500, 502, 503, 504] {
            assert!(matches!(answer(status), Answer::Down { timed_out: false, .. }), "{status}");
        }
        assert!(matches!(answer(410), Answer::Gone { reason: "webhook_gone", .. }));
        assert!(matches!(answer(429), Answer::Later { after: DEFAULT_WAIT, .. }));
    }
}
