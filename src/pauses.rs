//! The pauses of this moment, in memory: queues, channels and providers that people have stopped.
//!
//! The table `pauses` has them; `effects/pauses.rs` follows it. Who pulls, plans or sends looks here, and asks nobody.

use std::sync::{
    Arc, Mutex, PoisonError,
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

/// How long the end of a pause is remembered, and of how many: what waited for it has ended by then, or is late.
const REMEMBERED: (TimeDelta, usize) = (TimeDelta::hours(24), 100);

#[derive(Debug, Default)]
struct Inner {
    /// Whether there is any: mostly there is none, and then nobody reads further.
    any: AtomicBool,
    all: watch::Sender<Vec<Pause>>,
    /// Whether there was any lately.
    any_over: AtomicBool,
    /// Pauses that are over, and when they ended.
    over: Mutex<Vec<(Pause, DateTime<Utc>)>>,
}

impl Pauses {
    /// Replaces them by those that hold at `now`. Answers whether they differ from those before.
    pub fn set(&self, pauses: Vec<Pause>, now: DateTime<Utc>) -> bool {
        self.0.all.send_if_modified(|all| {
            let differs = *all != pauses;
            if differs {
                self.remember(all, &pauses, now);
            }
            self.0.any.store(!pauses.is_empty(), Ordering::Release);
            *all = pauses;
            differs
        })
    }

    fn remember(&self, before: &[Pause], after: &[Pause], now: DateTime<Utc>) {
        let is_same =
            |one: &Pause, other: &Pause| (one.scope, &one.name, one.since) == (other.scope, &other.name, other.since);
        let over = before.iter().filter(|pause| !after.iter().any(|other| is_same(pause, other)));
        let mut remembered = self.0.over.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.extend(over.map(|pause| (pause.clone(), pause.until.map_or(now, |until| until.min(now)))));
        remembered.retain(|(_, end)| now - *end < REMEMBERED.0);
        let spare = remembered.len().saturating_sub(REMEMBERED.1);
        remembered.drain(..spare);
        self.0.any_over.store(!remembered.is_empty(), Ordering::Release);
    }

    /// For how long between two instants a queue was paused, as far as this process saw it.
    #[must_use]
    pub fn held(&self, queue: Queue, from: DateTime<Utc>, until: DateTime<Utc>) -> TimeDelta {
        if !self.any() && !self.0.any_over.load(Ordering::Acquire) {
            return TimeDelta::zero();
        }
        // Locked in the order of `set`.
        let all = self.0.all.borrow();
        let over = self.0.over.lock().unwrap_or_else(PoisonError::into_inner);
        let over = over.iter().filter(|(pause, _)| pause.holds(queue)).map(|(pause, end)| (pause.since, *end));
        let now = all.iter().filter(|pause| pause.holds(queue)).map(|pause| (pause.since, until));
        let mut spans: Vec<_> = over.chain(now).collect();
        spans.sort_unstable();
        let (mut held, mut counted) = (TimeDelta::zero(), from);
        for (begin, end) in spans {
            let (begin, end) = (begin.max(counted), end.min(until));
            held += (end - begin).max(TimeDelta::zero());
            counted = counted.max(end);
        }
        held
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
            let now = DateTime::UNIX_EPOCH;
            assert!(pauses.set(vec![pause(scope, name)], now) && !pauses.set(vec![pause(scope, name)], now));
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

    #[test]
    fn the_time_in_which_a_queue_was_paused_is_known_after_its_end() {
        let at = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        let push = Queue { kind: Channel::WebPush.kind(), lane: Some(Lane::Normal) };
        let since = |scope, name, seconds| Pause { since: at(seconds), ..pause(scope, name) };
        let pauses = Pauses::default();
        assert_eq!(pauses.held(push, at(0), at(100)), TimeDelta::zero());
        pauses.set(vec![since(Scope::Channel, "web_push", 10), since(Scope::Channel, "email", 10)], at(10));
        assert_eq!(pauses.held(push, at(0), at(30)), TimeDelta::seconds(20), "it goes on");
        pauses.set(vec![since(Scope::Queue, ALL, 30)], at(40));
        // Both together held it from 10 to 50.
        pauses.set(vec![], at(50));
        for (from, until, held) in [(0, 100, 40), (45, 100, 5), (0, 10, 0), (50, 90, 0), (20, 35, 15)] {
            assert_eq!(pauses.held(push, at(from), at(until)), TimeDelta::seconds(held), "{from} to {until}");
        }
        pauses.set(vec![since(Scope::Channel, "web_push", 60)], at(60));
        let later = at(60) + TimeDelta::hours(24);
        pauses.set(vec![], later);
        assert_eq!(pauses.held(push, at(0), later), TimeDelta::hours(24), "the others are forgotten");
    }
}
