//! Ways to reach a person. A channel is a folder here, its consumers `streams/DELIVERIES.deliver_<channel>_*.json`, and
//! one test file (`docs/ADDING_A_CHANNEL.md`).
//!
//! A channel names a parcel's provider ([`Sender::provider`]), sends it ([`Sender::send`]), and judges the response
//! ([`Answer`]). This module picks the provider, keeps its circuit breaker, and handles outages. `jobs/deliver.rs`
//! decides the consequences.

mod answer;
pub mod breaker;
pub mod email;
pub mod endpoint;
pub mod gateway;
pub mod outbound;
mod parcel;
mod sender;
mod settings;
pub mod sms;
pub mod voice;
pub mod web_push;
pub mod webhook;
pub mod whatsapp;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use tracing::{info, warn};

use self::breaker::{Breaker, BreakerPolicy, BreakerState, Pass, Transition};
pub use self::{
    answer::Answer,
    breaker::Appetite,
    parcel::{Address, Parcel},
    sender::{AfterUnknown, NOBODY, Sender},
    settings::SettingsError,
};
use crate::{
    clock::Clock,
    pauses::Pauses,
    plan::Channel,
    telemetry::{
        metrics::{Metrics, ProviderMetrics},
        traces::{self, Requesting},
    },
};

/// Push services are few, but each webhook host has a breaker.
const MOST_BREAKERS: usize = 1000;

/// Hosts whose idle connections a channel keeps. Users name them: webhooks, and push services of a wildcard.
pub const MOST_HOSTS: usize = 128;

/// A provider that asks for a longer wait is passed over.
const PATIENCE: Duration = Duration::from_mins(1);

/// When a queue whose providers are paused looks again.
const PAUSED_AGAIN: TimeDelta = TimeDelta::milliseconds(500);

/// Outcome of a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A provider was asked.
    Answered {
        /// Name.
        provider: String,
        /// Answer.
        answer: Answer,
    },
    /// All providers are down. Burns no attempt.
    Closed {
        /// Earliest retry.
        until: DateTime<Utc>,
    },
    /// Its providers are paused, or some are and the others down. Burns no attempt.
    Paused {
        /// When to look again.
        until: DateTime<Utc>,
    },
}

/// The configured channels. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    clock: Clock,
    policy: BreakerPolicy,
    metrics: Metrics,
    pauses: Pauses,
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
    pub fn new(senders: Vec<Arc<dyn Sender>>, policy: BreakerPolicy, clock: Clock, metrics: &Metrics) -> Self {
        let guarded = senders.into_iter().map(|sender| {
            let known = sender.providers().into_iter();
            let providers = known.map(|name| {
                let provider = Arc::new(Provider::new(sender.as_ref(), &name, policy, clock.clone(), metrics));
                (name, provider)
            });
            let providers = Mutex::new(providers.collect());
            (sender.channel(), Guarded { sender, providers })
        });
        let pauses = Pauses::default();
        Self { guarded: Arc::new(guarded.collect()), policy, clock, metrics: metrics.clone(), pauses }
    }

    /// The same channels, of which people may pause providers. Defaults to none.
    #[must_use]
    pub fn with_pauses(self, pauses: &Pauses) -> Self {
        Self { pauses: pauses.clone(), ..self }
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

    /// Sends a parcel through the first provider whose breaker admits it. If that one is down and did not accept it,
    /// the next is tried; otherwise a probing parcel would wait out the outage. `None` if the channel is not
    /// configured. `trace` is the context of the delivery's run.
    pub async fn send(&self, channel: Channel, parcel: &Parcel<'_>, trace: Option<&str>) -> Option<Sent> {
        let guarded = self.guarded.get(&channel)?;
        // The shortest of the requested waits.
        let mut soonest: Option<(DateTime<Utc>, Sent)> = None;
        for rank in 0.. {
            let Some(name) = guarded.sender.provider(parcel, rank) else { break };
            if let Some(pause) = self.pauses.of_provider(&name, guarded.sender.label(&name)) {
                let until = pause.look_again(self.clock.now());
                if soonest.as_ref().is_none_or(|(earlier, _)| until < *earlier) {
                    soonest = Some((until, Sent::Paused { until }));
                }
                continue;
            }
            let provider = self.provider(guarded, &name);
            let permit = provider.breaker.permit().await;
            let pass = permit.and_then(|permit| provider.breaker.admit().map(|pass| (permit, pass)));
            let sent = match pass {
                Ok((_permit, pass)) => {
                    let name = name.into_owned();
                    Attempt { guarded, provider: &provider, name, rank, pass, trace }.send(parcel).await
                }
                Err(until) => Sent::Closed { until },
            };
            let until = match &sent {
                Sent::Closed { until } | Sent::Paused { until } => *until,
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

    fn provider(&self, guarded: &Guarded, name: &str) -> Arc<Provider> {
        let mut providers = guarded.providers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(provider) = providers.get(name) {
            return Arc::clone(provider);
        }
        if providers.len() >= MOST_BREAKERS {
            let is_needed = |provider: &Arc<Provider>| {
                Arc::strong_count(provider) > 1 || provider.breaker.state() != BreakerState::Closed
            };
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
            let appetite = match self.pauses.of_provider(&provider, guarded.sender.label(&provider)) {
                Some(_) => Appetite::None(self.clock.now() + PAUSED_AGAIN),
                None => self.provider(guarded, &provider).breaker.appetite(),
            };
            best = match (best, appetite) {
                (_, Appetite::All) => return Appetite::All,
                (Some(Appetite::One), _) | (_, Appetite::One) => Some(Appetite::One),
                (Some(Appetite::None(one)), Appetite::None(other)) => Some(Appetite::None(one.min(other))),
                (_, only) => Some(only),
            };
        }
        best.unwrap_or(Appetite::All)
    }

    /// State of each breaker. Excludes webhooks: their hosts belong to users.
    #[must_use]
    pub fn breakers(&self) -> BTreeMap<(Channel, String), BreakerState> {
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

struct Attempt<'a> {
    guarded: &'a Guarded,
    provider: &'a Provider,
    name: String,
    rank: usize,
    pass: Pass<'a>,
    trace: Option<&'a str>,
}

impl Attempt<'_> {
    async fn send(self, parcel: &Parcel<'_>) -> Sent {
        let Self { guarded, provider, name, rank, pass, trace } = self;
        let answer = if pass.is_probe() && !guarded.sender.is_back(rank).await {
            Answer::Down { why: "the probe found it still down".into(), after: None, timed_out: false }
        } else {
            let started = Instant::now();
            let mut span = request(trace, guarded.sender.channel(), &name);
            let sending = AssertUnwindSafe(guarded.sender.send(parcel, rank)).catch_unwind();
            let answer = span.around(sending).await.unwrap_or_else(|_| panicked(guarded.sender.after_unknown()));
            span.answered(answer.class(), answer.error());
            provider.metrics.answered(answer.class(), started.elapsed());
            answer
        };
        let Transition { open_until, change } = pass.report(answer.health());
        let channel = guarded.sender.channel().name();
        // Hosts of users may hold personal data.
        let shown = if guarded.sender.channel() == Channel::Webhook { "an endpoint" } else { name.as_str() };
        match (change, &answer) {
            (Some(BreakerState::Open), Answer::Down { why, .. } | Answer::Unknown { why }) => {
                warn!(channel, provider = shown, "{shown} is down, its deliveries wait: {why}");
            }
            (Some(BreakerState::Closed), _) => info!(channel, provider = shown, "{shown} is back"),
            _ => {}
        }
        match (&answer, open_until) {
            // A known outage burns no attempt. `Unknown` stays: it may have been accepted.
            (Answer::Down { .. }, Some(until)) => Sent::Closed { until },
            _ => Sent::Answered { provider: name, answer },
        }
    }
}

/// A provider's answer can make a client library panic. The panic's text may hold personal data; the hook has logged
/// where it was.
fn panicked(after_unknown: AfterUnknown) -> Answer {
    let why = "the send panicked: see the log for where".to_owned();
    match after_unknown {
        AfterUnknown::Stop => Answer::Unknown { why },
        AfterUnknown::SendAgain => Answer::Down { why, after: None, timed_out: false },
    }
}

/// Omits webhook hosts, which may hold personal data.
fn request(trace: Option<&str>, channel: Channel, provider: &str) -> Requesting {
    let server = (channel != Channel::Webhook && provider != NOBODY).then_some(provider);
    traces::request(trace, channel.name(), channel != Channel::Email, server)
}

impl Provider {
    fn new(sender: &dyn Sender, name: &str, policy: BreakerPolicy, clock: Clock, metrics: &Metrics) -> Self {
        let metrics = metrics.provider(sender.channel(), sender.label(name));
        Self { breaker: Breaker::new(policy, sender.concurrency(), clock), metrics }
    }
}

impl fmt::Debug for Channels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.guarded.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use futures::future::BoxFuture;

    use super::*;
    use crate::{health::Health, kind::Lane, plan::Content};

    /// A channel whose library panics on its provider's answer.
    struct Panics(AfterUnknown);

    impl Sender for Panics {
        fn channel(&self) -> Channel {
            Channel::Email
        }

        fn after_unknown(&self) -> AfterUnknown {
            self.0
        }

        fn provider<'a>(&'a self, _: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>> {
            (rank == 0).then_some(Cow::Borrowed("one"))
        }

        fn send<'a>(&'a self, _: &'a Parcel<'a>, _: usize) -> BoxFuture<'a, Answer> {
            Box::pin(async { panic!("at an answer of blanks") })
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_send_is_an_answer_of_a_provider_that_is_down() {
        let health = Health::new();
        let content = Content::default();
        let parcel = Parcel {
            id: "1",
            root_id: "1",
            address: Address::Plain("a@example.org"),
            content: &content,
            locale: "",
            lane: Lane::Normal,
            created_at: Clock::system().now(),
            ttl: Duration::from_mins(1),
        };
        let first = async |after_unknown| {
            let senders: Vec<Arc<dyn Sender>> = vec![Arc::new(Panics(after_unknown))];
            let channels = Channels::new(senders, BreakerPolicy::default(), Clock::system(), health.metrics());
            let Some(Sent::Answered { answer, .. }) = channels.send(Channel::Email, &parcel, None).await else {
                panic!("not sent");
            };
            let mut closed = false;
            for _ in 0..20 {
                closed |= matches!(channels.send(Channel::Email, &parcel, None).await, Some(Sent::Closed { .. }));
            }
            assert!(closed, "its breaker opens");
            answer
        };
        assert!(matches!(first(AfterUnknown::SendAgain).await, Answer::Down { why, .. } if !why.contains("blanks")));
        assert!(matches!(first(AfterUnknown::Stop).await, Answer::Unknown { why } if !why.contains("blanks")));
    }
}
