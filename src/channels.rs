//! The ways to reach a person. A channel is a folder here, its consumers `streams/DELIVERIES.deliver_<channel>_*.json`
//! and one test file (`docs/ADDING_A_CHANNEL.md`).
//!
//! A channel says where a parcel can go ([`Sender::provider`]), sends it ([`Sender::send`]), and judges what comes back
//! ([`Answer`]). What is the same for all of them is here: which of its providers gets the parcel, the circuit breaker
//! of each, and what an outage means. What follows for the delivery is decided in `jobs/deliver.rs`.

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

/// The most breakers that are kept for one channel. Push services are few; webhooks have a host each.
const MOST_BREAKERS: usize = 1000;

/// The provider of a parcel that no provider is asked about, because its address is none.
pub const NOBODY: &str = "none";

/// A provider that asks for more patience than this is passed over, where there is another.
const PATIENCE: Duration = Duration::from_mins(1);

/// What all senders of one channel can do.
pub trait Sender: Send + Sync {
    /// Which channel it is.
    fn channel(&self) -> Channel;

    /// What is done about a parcel of which nobody knows whether it was accepted.
    fn after_unknown(&self) -> AfterUnknown;

    /// The name of the provider that would get this parcel: the best one for 0, the next best for 1, …; none where
    /// there is no further one. It stands in the ledger, in health and in metrics, so it holds nothing personal.
    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>>;

    /// All providers, where they do not depend on the parcel. While the breakers of all of them are open, nothing is
    /// pulled.
    fn providers(&self) -> Vec<String> {
        Vec::new()
    }

    /// What metrics call a provider: a word of a set that code or configuration bounds, where users name hosts.
    fn label<'a>(&self, provider: &'a str) -> &'a str {
        provider
    }

    /// How many parcels one provider may have at once. Others wait for a place and are parked where there is none in time,
    /// so that one that is slow does not hold all places of the queue.
    fn places(&self) -> Places {
        Places::ALL
    }

    /// Whether a provider that was down seems to be back, found out without a parcel. For what cannot be collapsed: a
    /// parcel that is sent to see might be lost to the person or, where it is sent again, reach them several times.
    fn is_back(&self, rank: usize) -> BoxFuture<'_, bool> {
        let _ = rank;
        async { true }.boxed()
    }

    /// Sends the parcel by the provider of this rank, and says what became of it. Bounded in time by itself.
    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, rank: usize) -> BoxFuture<'a, Answer>;
}

/// The one message to one address that a delivery is.
#[derive(Clone, Debug)]
pub struct Parcel<'a> {
    /// `deliveries.id`: the same each time that the delivery is sent.
    pub id: &'a str,
    /// The job that an application published.
    pub root_id: &'a str,
    /// Where to.
    pub address: Address<'a>,
    /// What a person is to read.
    pub content: &'a Content,
    /// The language of the person, as `users.locale` has it; empty where that is not known.
    pub locale: &'a str,
    /// How urgent it is.
    pub lane: Lane,
    /// When it was planned.
    pub created_at: DateTime<Utc>,
    /// How long it is still of use.
    pub ttl: Duration,
}

/// Where a parcel goes. Its debug form shows none of it.
#[derive(Clone, Copy)]
pub enum Address<'a> {
    /// A browser's Web Push subscription.
    Subscription {
        /// The push service's URL for this browser.
        endpoint: &'a str,
        /// The browser's public key, base64url.
        p256dh: &'a str,
        /// The shared secret, base64url.
        auth: &'a str,
    },
    /// An e-mail address, or a telephone number (E.164).
    Plain(&'a str),
    /// A webhook.
    Webhook {
        /// Its URL.
        url: &'a str,
        /// The secrets that requests are signed with, separated by blanks: the present one, and others while keys are
        /// changed.
        secrets: &'a str,
    },
}

impl fmt::Debug for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

/// What is done about a parcel of which nobody knows whether it was accepted: its worker or its connection was lost
/// between the request and the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterUnknown {
    /// It is sent again: whoever gets both can tell that they are one.
    SendAgain,
    /// It is not: the person would be reached twice. The delivery ends as `unknown`, for somebody to look at.
    Stop,
}

/// What became of one send. Texts are for people and hold no address, key or word of the parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The provider took charge of it.
    Accepted {
        /// The answer in short, for example `201`.
        answer: String,
        /// The provider's own id of it.
        provider_id: Option<String>,
    },
    /// The provider is well and asks to come back later. Burns no attempt.
    Later {
        /// Not before.
        after: Duration,
        /// The answer in short.
        answer: String,
    },
    /// The provider is well, and this parcel failed in a way that trying again may mend.
    Retry {
        /// What went wrong.
        why: String,
        /// At least this long, where the provider said so.
        after: Option<Duration>,
    },
    /// The provider is down: no connection, a timeout before anything was asked of it, an answer 5xx. Its breaker counts
    /// it.
    Down {
        /// What went wrong.
        why: String,
        /// At least this long, where the provider said so.
        after: Option<Duration>,
        /// Whether that was silence.
        timed_out: bool,
    },
    /// The request went out and no answer came: perhaps it was accepted. Its breaker counts it, as silence.
    Unknown {
        /// What went wrong.
        why: String,
    },
    /// Trying again cannot help.
    Permanent {
        /// What is wrong, and whose it is to mend.
        why: String,
    },
    /// The address does not exist any more, or wants nothing more. It is marked or removed.
    Gone {
        /// The answer in short.
        answer: String,
        /// `deliveries.reason`, for example `subscription_gone`.
        reason: &'static str,
    },
}

impl Answer {
    /// Its class, as metrics call it: one of [`ANSWERS`](crate::telemetry::metrics::ANSWERS).
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

    /// What went wrong, where the parcel was not taken.
    fn error(&self) -> Option<&str> {
        match self {
            Self::Accepted { .. } | Self::Later { .. } => None,
            Self::Retry { why, .. } | Self::Down { why, .. } | Self::Unknown { why } | Self::Permanent { why } => {
                Some(why)
            }
            Self::Gone { reason, .. } => Some(reason),
        }
    }

    /// What it says of the provider.
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

/// What became of a parcel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A provider was asked.
    Answered {
        /// Which.
        provider: String,
        /// What it said.
        answer: Answer,
    },
    /// The breakers of all its providers are open, one of them perhaps by this very parcel, which was not accepted. Burns
    /// no attempt.
    Closed {
        /// Not before.
        until: DateTime<Utc>,
    },
}

/// How much a channel can take now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appetite {
    /// As much as there is.
    All,
    /// One, to try whether a provider is back.
    One,
    /// Nothing before this instant.
    None(DateTime<Utc>),
}

/// The channels that are configured. Cheap to clone.
#[derive(Clone)]
pub struct Channels {
    clock: Clock,
    policy: breaker::Policy,
    metrics: Metrics,
    guarded: Arc<BTreeMap<Channel, Guarded>>,
}

/// A sender with what is kept of its providers.
struct Guarded {
    sender: Arc<dyn Sender>,
    providers: Mutex<HashMap<String, Arc<Provider>>>,
}

/// What is kept of a provider.
struct Provider {
    breaker: Breaker,
    metrics: ProviderMetrics,
}

impl Channels {
    /// These channels, with breakers of this policy, counted here.
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

    /// See [`Sender::after_unknown`]; none where the channel is not configured.
    #[must_use]
    pub fn after_unknown(&self, channel: Channel) -> Option<AfterUnknown> {
        self.guarded.get(&channel).map(|guarded| guarded.sender.after_unknown())
    }

    /// Sends a parcel by the first provider whose breaker lets it pass. Where this very parcel finds one down, which did
    /// not accept it, the next is asked: else the one that tries whether a provider is back would wait as long as it is
    /// not. None where the channel is not configured.
    /// `trace` is the context of the delivery's run.
    pub async fn send(&self, channel: Channel, parcel: &Parcel<'_>, trace: Option<&str>) -> Option<Sent> {
        let guarded = self.guarded.get(&channel)?;
        // Of all that ask to wait, the one that does so for the shortest.
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
                // Another provider may have no need of so much patience.
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
        // What users named is theirs, and may tell of them.
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
            // An outage is nobody's failed attempt once it is known to be one. What may have been accepted is another
            // matter.
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
            // Hosts that users name may all be down. Whichever goes is found down again by its next sends.
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

    /// How much a channel can take now. A channel whose providers depend on the parcel takes all.
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

    /// The state of every breaker, by channel and provider. Those of webhooks are left out: their hosts are users', and
    /// as many.
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

    /// The same as metrics show it: by the label of a provider, the worst of those that share one.
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

/// The span of a request. Hosts of webhooks are users', and may tell of them.
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
