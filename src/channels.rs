//! Ways to reach a person. A channel consists of a folder here, its consumers
//! `streams/DELIVERIES.deliver_<channel>_*.json`, and one test file (`docs/ADDING_A_CHANNEL.md`).
//!
//! A channel names the provider for a parcel ([`Sender::provider`]), sends it ([`Sender::send`]), and judges the
//! response ([`Answer`]). This module picks the provider, keeps its circuit breaker, and handles outages.
//! `jobs/deliver.rs` decides the consequences for the delivery.

pub mod breaker;
pub mod email;
pub mod gateway;
pub mod outbound;
mod settings;
pub mod sms;
pub mod voice;
pub mod web_push;
pub mod webhook;
pub mod whatsapp;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, future::BoxFuture};
use tracing::{info, warn};

use self::breaker::{Breaker, Health, Pass, Places, State};
pub use self::settings::SettingsError;
use crate::{
    clock::Clock,
    kind::Lane,
    plan::{Channel, Content},
    telemetry::{
        metrics::{Metrics, ProviderMetrics},
        traces::{self, Requesting},
    },
};

/// Push services are few, but each webhook host has a breaker.
const MOST_BREAKERS: usize = 1000;

/// Provider of a parcel with an invalid address.
pub const NOBODY: &str = "none";

/// A provider that asks for a longer wait is passed over for another.
const PATIENCE: Duration = Duration::from_mins(1);

/// A channel.
pub trait Sender: Send + Sync {
    /// Its channel.
    fn channel(&self) -> Channel;

    /// Policy for parcels whose outcome is unknown.
    fn after_unknown(&self) -> AfterUnknown;

    /// Provider of this parcel: the preferred one at rank 0, then the fallbacks, then `None`. Names appear in the
    /// ledger, health and metrics, so they must hold no personal data.
    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>>;

    /// All providers, if they don't depend on the parcel. The queue stops pulling while all are down.
    fn providers(&self) -> Vec<String> {
        Vec::new()
    }

    /// Metric label of a provider, from a bounded set even if users name the hosts.
    fn label<'a>(&self, provider: &'a str) -> &'a str {
        provider
    }

    /// Limit of concurrent sends to one provider. Excess parcels wait, then park, so that a slow provider can't take
    /// all permits of the queue.
    fn places(&self) -> Places {
        Places::ALL
    }

    /// Checks without a parcel whether a provider is back. For channels without deduplication: a probing parcel could
    /// be lost, or reach the person twice.
    fn is_back(&self, rank: usize) -> BoxFuture<'_, bool> {
        let _ = rank;
        async { true }.boxed()
    }

    /// Sends the parcel through this provider. Must bound its own duration.
    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, rank: usize) -> BoxFuture<'a, Answer>;
}

/// One message to one address.
#[derive(Clone, Debug)]
pub struct Parcel<'a> {
    /// `deliveries.id`, constant across sends.
    pub id: &'a str,
    /// Id of the published job.
    pub root_id: &'a str,
    /// Recipient's address.
    pub address: Address<'a>,
    /// Text to show.
    pub content: &'a Content,
    /// `users.locale` of the recipient; empty if unknown.
    pub locale: &'a str,
    /// Urgency.
    pub lane: Lane,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// Time left until it is useless.
    pub ttl: Duration,
}

/// Destination of a parcel. `Debug` hides it.
#[derive(Clone, Copy)]
pub enum Address<'a> {
    /// Web Push subscription of a browser.
    Subscription {
        /// URL at the push service.
        endpoint: &'a str,
        /// Public key, base64url.
        p256dh: &'a str,
        /// Shared secret, base64url.
        auth: &'a str,
    },
    /// E-mail address or telephone number (E.164).
    Plain(&'a str),
    /// Webhook endpoint.
    Webhook {
        /// URL.
        url: &'a str,
        /// Signing secrets, separated by blanks; several during a rotation.
        secrets: &'a str,
    },
}

impl fmt::Debug for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// Policy for a parcel whose outcome is unknown, because the worker or connection was lost before the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterUnknown {
    /// The recipient can recognise a duplicate.
    SendAgain,
    /// A duplicate would reach the person. The delivery ends as `unknown`, for a human to check.
    Stop,
}

/// Outcome of one send. Texts hold no address, key or content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The provider accepted it.
    Accepted {
        /// Short form, such as `201`.
        answer: String,
        /// Id at the provider.
        provider_id: Option<String>,
    },
    /// The provider is healthy and asks for a pause. Burns no attempt.
    Later {
        /// Minimum wait.
        after: Duration,
        /// Short form.
        answer: String,
    },
    /// The provider is healthy; a retry of this parcel may succeed.
    Retry {
        /// Cause.
        why: String,
        /// Minimum wait, if requested.
        after: Option<Duration>,
    },
    /// No connection, a timeout before the request went out, or a 5xx. Counts against the breaker.
    Down {
        /// Cause.
        why: String,
        /// Minimum wait, if requested.
        after: Option<Duration>,
        /// Whether it timed out.
        timed_out: bool,
    },
    /// No response, so it may have been accepted. Counts against the breaker as silence.
    Unknown {
        /// Cause.
        why: String,
    },
    /// A retry can't help.
    Permanent {
        /// Cause, and who has to fix it.
        why: String,
    },
    /// The address no longer exists or has opted out. It is marked or removed.
    Gone {
        /// Short form.
        answer: String,
        /// `deliveries.reason`, such as `subscription_gone`.
        reason: &'static str,
    },
}

impl Answer {
    /// Metric label, one of [`ANSWERS`](crate::telemetry::metrics::ANSWERS).
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Later { .. } => "later",
            Self::Retry { .. } => "retry",
            Self::Down { .. } => "down",
            Self::Unknown { .. } => "unknown",
            Self::Permanent { .. } => "permanent",
            Self::Gone { .. } => "gone",
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Accepted { .. } | Self::Later { .. } => None,
            Self::Retry { why, .. } | Self::Down { why, .. } | Self::Unknown { why } | Self::Permanent { why } => {
                Some(why)
            }
            Self::Gone { reason, .. } => Some(reason),
        }
    }

    fn health(&self) -> Health {
        match self {
            Self::Accepted { .. }
            | Self::Later { .. }
            | Self::Retry { .. }
            | Self::Permanent { .. }
            | Self::Gone { .. } => Health::Well,
            Self::Down { timed_out: false, .. } => Health::Failing,
            Self::Down { timed_out: true, .. } | Self::Unknown { .. } => Health::Silent,
        }
    }
}

/// Outcome of a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A provider was asked.
    Answered {
        /// Its name.
        provider: String,
        /// Its answer.
        answer: Answer,
    },
    /// All its providers are down. Burns no attempt.
    Closed {
        /// Earliest retry.
        until: DateTime<Utc>,
    },
}

/// How much a channel can take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// No limit.
    All,
    /// One delivery, as a probe.
    One,
    /// Nothing before this instant.
    None(DateTime<Utc>),
}

/// The configured channels. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    clock: Clock,
    policy: breaker::Policy,
    metrics: Metrics,
    guarded: Arc<BTreeMap<Channel, Guarded>>,
}

struct Guarded {
    sender: Arc<dyn Sender>,
    providers: Mutex<HashMap<String, Arc<Provider>>>,
}

struct Provider {
    breaker: Breaker,
    metrics: ProviderMetrics,
}

impl Channels {
    /// Channels with breakers of this policy.
    #[must_use]
    pub fn new(senders: Vec<Arc<dyn Sender>>, policy: breaker::Policy, clock: Clock, metrics: &Metrics) -> Self {
        let guarded = senders.into_iter().map(|sender| {
            let known = sender.providers().into_iter();
            let providers = known.map(|name| {
                let provider = Arc::new(Provider::new(sender.as_ref(), &name, policy, clock.clone(), metrics));
                (name, provider)
            });
            let providers = Mutex::new(providers.collect());
            (sender.channel(), Guarded { sender, providers })
        });
        Self { guarded: Arc::new(guarded.collect()), policy, clock, metrics: metrics.clone() }
    }

    /// Whether this channel is configured.
    #[must_use]
    pub fn has(&self, channel: Channel) -> bool {
        self.guarded.contains_key(&channel)
    }

    /// [`Sender::after_unknown`] of the channel; `None` if it is not configured.
    #[must_use]
    pub fn after_unknown(&self, channel: Channel) -> Option<AfterUnknown> {
        self.guarded.get(&channel).map(|guarded| guarded.sender.after_unknown())
    }

    /// Sends a parcel through the first provider whose breaker admits it. If that provider turns out to be down, and
    /// did not accept it, the next is tried; otherwise a probing parcel would wait as long as the outage lasts. `None`
    /// if the channel is not configured. `trace` is the context of the delivery's run.
    pub async fn send(&self, channel: Channel, parcel: &Parcel<'_>, trace: Option<&str>) -> Option<Sent> {
        let guarded = self.guarded.get(&channel)?;
        // The shortest of the requested waits.
        let mut soonest: Option<(DateTime<Utc>, Sent)> = None;
        for rank in 0.. {
            let Some(name) = guarded.sender.provider(parcel, rank) else { break };
            let provider = self.provider(guarded, &name);
            let place = provider.breaker.place().await;
            let pass = place.and_then(|place| provider.breaker.admit().map(|pass| (place, pass)));
            let sent = match pass {
                Ok((_place, pass)) => {
                    let asked = (&provider.metrics, pass, trace);
                    Self::pass(guarded, parcel, rank, name.into_owned(), asked).await
                }
                Err(until) => Sent::Closed { until },
            };
            let until = match &sent {
                Sent::Closed { until } => *until,
                // Another provider may be available sooner.
                Sent::Answered { answer: Answer::Later { after, .. }, .. } if *after > PATIENCE => {
                    self.clock.now() + *after
                }
                Sent::Answered { .. } => return Some(sent),
            };
            if soonest.as_ref().is_none_or(|(earlier, _)| until < *earlier) {
                soonest = Some((until, sent));
            }
        }
        Some(soonest.map_or_else(|| Sent::Closed { until: self.clock.now() }, |(_, sent)| sent))
    }

    async fn pass(
        guarded: &Guarded,
        parcel: &Parcel<'_>,
        rank: usize,
        provider: String,
        (metrics, pass, trace): (&ProviderMetrics, Pass<'_>, Option<&str>),
    ) -> Sent {
        let answer = if pass.is_probe() && !guarded.sender.is_back(rank).await {
            Answer::Down { why: "it is not back".into(), after: None, timed_out: false }
        } else {
            let started = Instant::now();
            let mut span = request(trace, guarded.sender.channel(), &provider);
            let answer = span.around(guarded.sender.send(parcel, rank)).await;
            span.answered(answer.class(), answer.error());
            metrics.answered(answer.class(), started.elapsed());
            answer
        };
        let (until, change) = pass.report(answer.health());
        let channel = guarded.sender.channel().name();
        // Hosts of users may hold personal data.
        let provider_shown =
            if guarded.sender.channel() == Channel::Webhook { "an endpoint" } else { provider.as_str() };
        match (change, &answer) {
            (Some(State::Open), Answer::Down { why, .. } | Answer::Unknown { why }) => {
                warn!(channel, provider = provider_shown, "{provider_shown} is down, its deliveries wait: {why}");
            }
            (Some(State::Closed), _) => info!(channel, provider = provider_shown, "{provider_shown} is back"),
            _ => {}
        }
        match (&answer, until) {
            // A known outage burns no attempt. `Unknown` stays: the parcel may have been accepted.
            (Answer::Down { .. }, Some(until)) => Sent::Closed { until },
            _ => Sent::Answered { provider, answer },
        }
    }

    fn provider(&self, guarded: &Guarded, name: &str) -> Arc<Provider> {
        let mut providers = guarded.providers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(provider) = providers.get(name) {
            return Arc::clone(provider);
        }
        if providers.len() >= MOST_BREAKERS {
            let is_needed =
                |provider: &Arc<Provider>| Arc::strong_count(provider) > 1 || provider.breaker.state() != State::Closed;
            providers.retain(|_, provider| is_needed(provider));
            // All hosts may be down. The evicted one is soon found down again.
            if providers.len() >= MOST_BREAKERS
                && let Some(name) = providers.keys().next().cloned()
            {
                providers.remove(&name);
            }
        }
        let provider = Provider::new(guarded.sender.as_ref(), name, self.policy, self.clock.clone(), &self.metrics);
        let provider = Arc::new(provider);
        providers.insert(name.to_owned(), Arc::clone(&provider));
        provider
    }

    /// How much a channel can take now. Unlimited if the providers depend on the parcel.
    #[must_use]
    pub fn appetite(&self, channel: Channel) -> Appetite {
        let Some(guarded) = self.guarded.get(&channel) else { return Appetite::All };
        let mut best: Option<Appetite> = None;
        for provider in guarded.sender.providers() {
            best = match (best, self.provider(guarded, &provider).breaker.appetite()) {
                (_, Appetite::All) => return Appetite::All,
                (Some(Appetite::One), _) | (_, Appetite::One) => Some(Appetite::One),
                (Some(Appetite::None(one)), Appetite::None(other)) => Some(Appetite::None(one.min(other))),
                (_, only) => Some(only),
            };
        }
        best.unwrap_or(Appetite::All)
    }

    /// State of each breaker, by channel and provider. Excludes webhooks: their hosts belong to users.
    #[must_use]
    pub fn breakers(&self) -> BTreeMap<(Channel, String), State> {
        let mut states = BTreeMap::new();
        for (channel, guarded) in self.guarded.iter().filter(|(channel, _)| **channel != Channel::Webhook) {
            let providers = guarded.providers.lock().unwrap_or_else(PoisonError::into_inner);
            let state =
                |(name, provider): (&String, &Arc<Provider>)| ((*channel, name.clone()), provider.breaker.state());
            states.extend(providers.iter().map(state));
        }
        states
    }

    /// Breaker levels for metrics, by label. Providers that share a label show the worst.
    #[must_use]
    pub fn levels(&self) -> BTreeMap<(Channel, String), f64> {
        let mut levels = BTreeMap::new();
        for (channel, guarded) in self.guarded.iter() {
            let providers = guarded.providers.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, provider) in providers.iter() {
                let level = levels.entry((*channel, guarded.sender.label(name).to_owned())).or_insert(0.0_f64);
                *level = level.max(provider.breaker.state().level());
            }
        }
        levels
    }
}

/// Webhook hosts are left out: they may hold personal data.
fn request(trace: Option<&str>, channel: Channel, provider: &str) -> Requesting {
    let server = (channel != Channel::Webhook && provider != NOBODY).then_some(provider);
    traces::request(trace, channel.name(), channel != Channel::Email, server)
}

impl Provider {
    fn new(sender: &dyn Sender, name: &str, policy: breaker::Policy, clock: Clock, metrics: &Metrics) -> Self {
        let metrics = metrics.provider(sender.channel(), sender.label(name));
        Self { breaker: Breaker::new(policy, sender.places(), clock), metrics }
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.guarded.keys()).finish()
    }
}
