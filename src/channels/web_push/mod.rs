//! Web Push (RFC 8030).
//!
//! [`WebPush::payload`] turns a [`Note`] into JSON for all browsers (`payload.rs`). [`WebPush::send`] then
//!
//! 1. validates the endpoint (`endpoint.rs`) against the allowed push services (`allowed.rs`), so that subscribers
//!    can't aim
//!    our requests at the internal network;
//! 2. encrypts the payload for that browser (`seal.rs`, RFC 8291);
//! 3. signs in with a token (`vapid.rs`, RFC 8292), one per push service and half a day;
//! 4. posts it (`request.rs`) over the one connection to that push service (`client.rs`, `hosts.rs`);
//! 5. judges the response (`outcome.rs`); a 401 is retried once with a fresh token.
//!
//! A push replaces an undelivered one with the same [`Topic`], and on the device a notification with the same tag.
//!
//! Endpoints, keys, tokens and payloads never leave this module. Its errors and debug forms show at most a host and a
//! hash, and it logs nothing.

mod allowed;
mod client;
mod endpoint;
mod hosts;
mod library;
mod outcome;
mod payload;
mod push;
mod refusal;
mod request;
mod seal;
mod sender;
mod settings;
mod vapid;

use std::fmt;

use bytes::Bytes;
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use tokio::time::Instant;

pub use self::{
    allowed::{AllowList, services},
    endpoint::{Endpoint, Redacted},
    outcome::{DEFAULT_WAIT, PushOutcome},
    payload::{MAX_PAYLOAD, Note},
    push::{Push, Topic, Urgency},
    refusal::EndpointRefused,
    seal::{MAX_PLAINTEXT, SealError, SubscriberKeys, seal},
    settings::{DEFAULT_TIMEOUT, Settings},
    vapid::{KeyPair, generate_keys},
};
use self::{
    client::{Client, NoReply, Reply},
    payload::App,
    request::{Envelope, request},
    vapid::Vapid,
};
use crate::{
    channels::{SettingsError, outbound},
    clock::Clock,
};

/// Built-in push services without a wildcard.
const SOME_BUILT_IN: [&str; 3] = ["fcm.googleapis.com", "updates.push.services.mozilla.com", "web.push.apple.com"];

/// The channel. Create one per process: it owns its connections and tokens.
pub struct WebPush {
    allowed: AllowList,
    app: Option<App>,
    clock: Clock,
    vapid: Vapid,
    client: Client,
}

impl WebPush {
    /// Checks the settings and reads the extra roots. Connects to nothing.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, SettingsError> {
        let vapid = Vapid::new(&settings.keys, &settings.subject, clock.clone())?;
        if settings.app_url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
            return Err(SettingsError::new("APP_URL", "should be an http or https URL, as https://app.example.org"));
        }
        let allowed = AllowList::new(settings.allowed_hosts);
        let client = Client::new(&allowed, settings.ca_file.as_deref(), settings.timeout, clock.clone())?;
        Ok(Self { allowed, app: settings.app_url.map(App::new), clock, vapid, client })
    }

    /// Public key for subscribing, base64url without padding.
    pub fn public_key(&self) -> &str {
        self.vapid.public_key()
    }

    /// Checks the operator's push services. Returns each `host:port`, with an error if unreachable.
    pub async fn reach_named(&self) -> Vec<(String, Option<String>)> {
        let named = self.allowed.named().iter().map(ToString::to_string);
        join_all(named.map(async |place| {
            let failed = self.client.reach(&format!("https://{place}/")).await.err();
            (place, failed.map(|NoReply(why)| why))
        }))
        .await
    }

    /// The first built-in push service that responds, or the first error.
    pub async fn reach_built_in(&self) -> Result<&'static str, String> {
        let mut first = None;
        let mut attempts: FuturesUnordered<_> = SOME_BUILT_IN
            .iter()
            .map(async |host| (*host, self.client.reach(&format!("https://{host}/")).await))
            .collect();
        while let Some((host, reached)) = attempts.next().await {
            match reached {
                Ok(()) => return Ok(host),
                Err(NoReply(why)) => first = first.or(Some(format!("{host}: {why}"))),
            }
        }
        Err(first.unwrap_or_default())
    }

    /// JSON of at most [`MAX_PAYLOAD`] bytes; links are resolved against `APP_URL`.
    pub fn payload(&self, note: &Note<'_>) -> Vec<u8> {
        payload::build(note, self.app.as_ref())
    }

    /// Sends one push. Takes at most the timeout plus a second (twice that after a 401), plus the time of 100 others
    /// ahead at the same push service. If the future is dropped, the push may have been accepted.
    pub async fn send(&self, push: &Push<'_>) -> PushOutcome {
        self.try_send(push).await.unwrap_or_else(|never_sent| never_sent)
    }

    async fn try_send(&self, push: &Push<'_>) -> Result<PushOutcome, PushOutcome> {
        let started = Instant::now();
        let endpoint = Endpoint::parse(push.endpoint, &self.allowed).map_err(refused)?;
        let body = sealed(push)?;
        let authorization = self.vapid.authorization(endpoint.origin()).map_err(failed)?;
        let answer = self.post(push, started, &endpoint, &body, &authorization).await?;
        if !matches!(answer, PushOutcome::Unauthorized { .. }) {
            return Ok(answer);
        }
        let renewed = self.vapid.renew(endpoint.origin(), &authorization).map_err(failed)?;
        self.post(push, started, &endpoint, &body, &renewed).await
    }

    async fn post(
        &self,
        push: &Push<'_>,
        started: Instant,
        endpoint: &Endpoint,
        body: &Bytes,
        authorization: &str,
    ) -> Result<PushOutcome, PushOutcome> {
        let make = || {
            request(&Envelope {
                endpoint,
                // Waiting must not carry the push past its expiry.
                ttl: push.ttl.saturating_sub(started.elapsed()),
                urgency: push.urgency,
                topic: &push.topic,
                body,
                authorization,
            })
        };
        let reply = self.client.exchange(endpoint, make).await.map_err(bad_subscription)?;
        Ok(self.judge(reply))
    }

    fn judge(&self, reply: Result<Reply, NoReply>) -> PushOutcome {
        match reply {
            Ok(Reply { status, retry_after, why }) => {
                let wait = retry_after.and_then(|value| outbound::retry_after(&value, self.clock.now()));
                PushOutcome::judge(status, wait, why)
            }
            Err(NoReply(why)) => failed(why),
        }
    }
}

impl fmt::Debug for WebPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPush").field("public_key", &self.public_key()).finish_non_exhaustive()
    }
}

fn sealed(push: &Push<'_>) -> Result<Bytes, PushOutcome> {
    let keys = SubscriberKeys::parse(push.p256dh, push.auth);
    keys.and_then(|keys| seal::seal(&keys, push.payload)).map(Bytes::from).map_err(|error| match error {
        SealError::PublicKey | SealError::Secret => bad_subscription(error),
        SealError::TooLong => PushOutcome::TooLarge { status: None },
        SealError::Internal => failed(error),
    })
}

fn refused(why: EndpointRefused) -> PushOutcome {
    match why {
        EndpointRefused::Removed => PushOutcome::Removed,
        EndpointRefused::Host | EndpointRefused::Port => PushOutcome::NotAllowed { why: why.to_string() },
        EndpointRefused::TooLong
        | EndpointRefused::Malformed
        | EndpointRefused::NotHttps
        | EndpointRefused::UserInfo => bad_subscription(why),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn bad_subscription(why: impl ToString) -> PushOutcome {
    PushOutcome::BadSubscription { why: why.to_string() }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn failed(why: impl ToString) -> PushOutcome {
    PushOutcome::Failed { status: None, why: why.to_string(), after: None }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn an_app_url_that_is_no_web_address_names_its_variable() {
        let mut settings = Settings::new(generate_keys().unwrap(), "mailto:ops@carebell.example");
        settings.app_url = Some(Url::parse("ftp://app.example").unwrap());
        assert_eq!(WebPush::new(settings, Clock::system()).unwrap_err().variable(), "APP_URL");
    }
}
