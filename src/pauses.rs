//! The pauses of this moment, in memory: queues, channels and providers that people have stopped.
//!
//! The table `pauses` has them; `effects/pauses.rs` follows it. Who pulls, plans or sends looks here, and asks nobody.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::{
    kind::{CANCEL, DELAYED, Queue},
    plan::Channel,
};

/// Pauses all queues of jobs. Delayed jobs are still parked, and taken back.
pub const ALL: &str = "*";

/// A delivery whose provider is paused looks again after a quarter of the time that the pause has lasted, within these
/// bounds: soon after a short pause, and seldom in a long one.
const LOOK_AGAIN: (TimeDelta, TimeDelta) = (TimeDelta::seconds(5), TimeDelta::seconds(30));

/// The sort of thing that is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// A queue by its durable's name, all queues of a kind by its name, or [`ALL`].
    Queue,
    /// A channel.
    Channel,
    /// A provider, by its name or its label in metrics.
    Provider,
}

impl Scope {
    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Channel => "channel",
            Self::Provider => "provider",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Queue, Self::Channel, Self::Provider].into_iter().find(|scope| scope.name() == text)
    }
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The sort of thing.
    pub scope: Scope,
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub reason: String,
    /// Who paused it.
    pub actor: String,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When it ends by itself. `None`: when it is resumed.
    pub until: Option<DateTime<Utc>>,
}

impl Pause {
    /// Whether it holds up the jobs of a queue. That of a channel does, of a provider does not: others may send them.
    #[must_use]
    pub fn holds(&self, queue: Queue) -> bool {
        match self.scope {
            Scope::Queue if self.name == ALL => queue != DELAYED && queue != CANCEL,
            Scope::Queue => self.name == queue.kind.name || self.name == queue.durable(),
            Scope::Channel => Channel::of(queue.kind).is_some_and(|channel| channel.name() == self.name),
            Scope::Provider => false,
        }
    }

    /// When a delivery that waits for its end looks again.
    #[must_use]
    pub fn look_again(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let (shortest, longest) = LOOK_AGAIN;
        let again = now + ((now - self.since) / 4).clamp(shortest, longest);
        self.until.map_or(again, |until| until.min(again)).max(now)
    }
}

/// The pauses of this process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pauses(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there is any: mostly there is none, and then nobody reads further.
    any: AtomicBool,
    all: watch::Sender<Vec<Pause>>,
}

impl Pauses {
    /// Replaces them. Answers whether they differ from those before.
    pub fn set(&self, pauses: Vec<Pause>) -> bool {
        self.0.all.send_if_modified(|all| {
            let differs = *all != pauses;
            self.0.any.store(!pauses.is_empty(), Ordering::Release);
            *all = pauses;
            differs
        })
    }

    /// All that hold.
    #[must_use]
    pub fn all(&self) -> Vec<Pause> {
        self.0.all.borrow().clone()
    }

    /// Whether a queue is paused, by itself or with its kind or channel.
    #[must_use]
    pub fn hold(&self, queue: Queue) -> bool {
        self.any() && hold(&self.0.all.borrow(), queue)
    }

    /// The pause of a provider that has this name or this label.
    #[must_use]
    pub fn of_provider(&self, name: &str, label: &str) -> Option<Pause> {
        if !self.any() {
            return None;
        }
        let all = self.0.all.borrow();
        all.iter().find(|pause| pause.scope == Scope::Provider && (pause.name == name || pause.name == label)).cloned()
    }

    /// Returns when a queue is paused.
    pub async fn begun(&self, queue: Queue) {
        // Cannot fail: the sender lives as long as `self`.
        let _ = self.0.all.subscribe().wait_for(|all| hold(all, queue)).await;
    }

    /// Returns when a queue is not paused.
    pub async fn over(&self, queue: Queue) {
        if self.hold(queue) {
            tracing::info!(queue = queue.durable(), "paused: not pulling");
            let _ = self.0.all.subscribe().wait_for(|all| !hold(all, queue)).await;
            tracing::info!(queue = queue.durable(), "resumed: pulling again");
        }
    }

    fn any(&self) -> bool {
        self.0.any.load(Ordering::Acquire)
    }
}

fn hold(all: &[Pause], queue: Queue) -> bool {
    all.iter().any(|pause| pause.holds(queue))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Kind, Lane};

    fn pause(scope: Scope, name: &str) -> Pause {
        let since = DateTime::UNIX_EPOCH;
        Pause { scope, name: name.into(), reason: "tried".into(), actor: "olga".into(), since, until: None }
    }

    #[test]
    fn a_pause_holds_the_queues_that_it_names() {
        let queue = |kind, lane| Queue { kind, lane };
        let critical = queue(Kind::notification("notification"), Some(Lane::Critical));
        let push = queue(Channel::WebPush.kind(), Some(Lane::Normal));
        let medication = queue(Kind::reminder("reminder.medication"), None);
        for (scope, name, held) in [
            (Scope::Queue, "notification_critical", vec![critical]),
            (Scope::Queue, "notification", vec![critical]),
            (Scope::Queue, "notification_bulk", vec![]),
            (Scope::Queue, "reminder_medication", vec![medication]),
            (Scope::Queue, "reminder.medication", vec![medication]),
            (Scope::Queue, "deliver.web_push", vec![push]),
            (Scope::Queue, ALL, vec![critical, push, medication]),
            (Scope::Queue, "later", vec![DELAYED]),
            (Scope::Channel, "web_push", vec![push]),
            (Scope::Channel, "email", vec![]),
            (Scope::Provider, "web_push", vec![]),
        ] {
            let pauses = Pauses::default();
            assert!(pauses.set(vec![pause(scope, name)]) && !pauses.set(vec![pause(scope, name)]));
            for queue in [critical, push, medication, DELAYED, CANCEL] {
                assert_eq!(pauses.hold(queue), held.contains(&queue), "{name} and {}", queue.durable());
            }
        }
    }

    #[test]
    fn a_delivery_looks_again_soon_after_the_beginning_and_seldom_later() {
        let mut pause = pause(Scope::Provider, "push.example");
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        for (now, again) in [(0, 5), (20, 25), (60, 75), (3600, 3630)] {
            assert_eq!(pause.look_again(at(now)), at(again));
        }
        pause.until = Some(at(61));
        assert_eq!(pause.look_again(at(60)), at(61));
        assert_eq!(pause.look_again(at(70)), at(70));
    }
}
