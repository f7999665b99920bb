use std::borrow::Cow;

use futures::{FutureExt, future::BoxFuture};

use super::{Answer, Parcel, breaker::Concurrency};
use crate::plan::Channel;

/// Provider of a parcel with an invalid address.
pub const NOBODY: &str = "none";

/// Interface of a channel.
pub trait Sender: Send + Sync {
    /// The channel.
    fn channel(&self) -> Channel;

    /// Policy for unknown outcomes.
    fn after_unknown(&self) -> AfterUnknown;

    /// Provider of this parcel: the preferred one at rank 0, then the fallbacks, then `None`. Names appear in the
    /// ledger, health and metrics, so they hold no personal data.
    fn provider<'a>(&'a self, parcel: &Parcel<'a>, rank: usize) -> Option<Cow<'a, str>>;

    /// All providers, if independent of the parcel. The queue stops pulling while all are down.
    fn providers(&self) -> Vec<String> {
        Vec::new()
    }

    /// Metric label of a provider, bounded even if users name the hosts.
    fn label<'a>(&self, provider: &'a str) -> &'a str {
        provider
    }

    /// Limit of concurrent sends to one provider. Excess parcels wait, then park, so that a slow provider can't take
    /// the queue's permits.
    fn concurrency(&self) -> Concurrency {
        Concurrency::UNLIMITED
    }

    /// Checks without a parcel whether a provider is back. For channels without deduplication: a probe could be lost,
    /// or reach the person twice.
    fn is_back(&self, rank: usize) -> BoxFuture<'_, bool> {
        let _ = rank;
        async { true }.boxed()
    }

    /// Sends the parcel. Must bound its own duration.
    fn send<'a>(&'a self, parcel: &'a Parcel<'a>, rank: usize) -> BoxFuture<'a, Answer>;
}

/// Policy for a parcel whose worker or connection was lost before the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterUnknown {
    /// The recipient can recognise a duplicate.
    SendAgain,
    /// A duplicate would reach the person: the delivery ends as `unknown`, for a human to check.
    Stop,
}
