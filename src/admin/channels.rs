//! What channels and providers did lately, and what waits for them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{problem::Problem, state::Admin};
use crate::{
    kind::{Kind, Queue},
    pauses::{Pause, Scope},
    plan::Channel,
    store::lists::{Holding, OutcomeCount},
};

/// Looked back at.
const SPAN: TimeDelta = TimeDelta::hours(1);

/// A channel.
pub struct ChannelState {
    /// Its name in the ledger.
    pub name: &'static str,
    /// Deliveries that wait and that run. `None` while NATS cannot be seen.
    pub load: Option<(u64, u64)>,
    /// Deliveries that a provider accepted.
    pub accepted: u64,
    /// Attempts and deliveries that failed.
    pub failed: u64,
    /// Deliveries that wait, by reason.
    pub held: Vec<Holding>,
    /// Its own pause.
    pub pause: Option<Pause>,
}

/// A provider, by its name in the ledger.
#[derive(Default)]
pub struct ProviderState {
    /// Its name.
    pub name: String,
    /// The channels that it sent by.
    pub channels: Vec<String>,
    /// Deliveries that it accepted.
    pub accepted: u64,
    /// Deliveries that it refused or did not answer.
    pub failed: u64,
    /// When it last accepted one.
    pub last_accepted: Option<DateTime<Utc>>,
    /// Its pause.
    pub pause: Option<Pause>,
}

/// All of them.
pub struct LastHour {
    /// In the order of their numbers.
    pub channels: Vec<ChannelState>,
    /// Those known by settings, by deliveries of the last hour, or by a pause.
    pub providers: Vec<ProviderState>,
    /// Begin of the last hour.
    pub since: DateTime<Utc>,
    /// When it was read.
    pub as_of: DateTime<Utc>,
}

impl Admin {
    /// What channels and providers did in the last hour.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn channels(&self) -> Result<LastHour, Problem> {
        let now = self.clock.now();
        let since = now - SPAN;
        let pauses = self.store.pauses(now).await?;
        let counts = self.store.outcome_counts(None, since).await?;
        let held = self.store.held_deliveries().await?;
        let snapshot = self.snapshot().await;
        let load = |queue: &str| {
            let queues = &snapshot.streaming.as_ref().ok()?.queues;
            queues.iter().find(|state| state.name == queue)?.load
        };
        let channels = Channel::ALL.map(|channel| {
            let queues: Vec<String> = Kind::queues(&channel.kind()).iter().map(Queue::durable).collect();
            let sum = |outcomes: &[&str]| {
                let of =
                    |count: &&OutcomeCount| queues.contains(&count.queue) && outcomes.contains(&count.outcome.as_str());
                counts.iter().filter(of).map(|count| count.count).sum()
            };
            let loads: Option<Vec<_>> = queues.iter().map(|queue| load(queue)).collect();
            ChannelState {
                name: channel.name(),
                load: loads.map(|loads| {
                    (loads.iter().map(|load| load.waiting).sum(), loads.iter().map(|load| load.in_flight).sum())
                }),
                accepted: sum(&["done"]),
                failed: sum(&["failed", "unknown", "dead", "retry"]),
                held: held.iter().filter(|held| held.channel == channel.name()).cloned().collect(),
                pause: pause_of(&pauses, Scope::Channel, channel.name()),
            }
        });
        let mut providers: BTreeMap<String, ProviderState> = BTreeMap::new();
        for line in self.store.providers_since(since).await? {
            let provider = providers.entry(line.provider).or_default();
            provider.channels.push(line.channel);
            provider.accepted += line.accepted;
            provider.failed += line.failed;
            provider.last_accepted = provider.last_accepted.max(line.last_accepted);
        }
        let held_up = pauses.iter().filter(|pause| pause.scope == Scope::Provider).map(|pause| &pause.name);
        for name in self.providers.iter().chain(held_up) {
            providers.entry(name.clone()).or_default();
        }
        let named = |(name, state): (String, ProviderState)| ProviderState {
            pause: pause_of(&pauses, Scope::Provider, &name),
            name,
            ..state
        };
        let providers = providers.into_iter().map(named).collect();
        Ok(LastHour { channels: channels.into(), providers, since, as_of: now })
    }
}

fn pause_of(pauses: &[Pause], scope: Scope, name: &str) -> Option<Pause> {
    pauses.iter().find(|pause| pause.scope == scope && pause.name == name).cloned()
}
