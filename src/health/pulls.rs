//! Whether pulls are answered: the server's word that a queue works, or has no leader.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Pulls of all queues of a worker.
#[derive(Debug)]
pub(super) struct Pulls {
    began: Instant,
    watches: Mutex<Vec<PullWatch>>,
}

/// Pulls of one consumer.
#[derive(Clone, Debug)]
pub struct PullWatch {
    /// Stream and durable.
    place: Arc<str>,
    /// Milliseconds since `began` at the first question without an answer; zero if there is none.
    unanswered: Arc<AtomicU64>,
    began: Instant,
}

impl Pulls {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), watches: Mutex::default() }
    }

    pub(super) fn watch(&self, place: &str) -> PullWatch {
        let watch = PullWatch { place: place.into(), unanswered: Arc::default(), began: self.began };
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).push(watch.clone());
        watch
    }

    /// Places without an answer for longer than `patience`, and the number of all.
    pub(super) fn unanswered(&self, patience: Duration) -> (Vec<Arc<str>>, usize) {
        let watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = watches.iter().filter(|watch| watch.silence().is_some_and(|silence| silence > patience));
        (silent.map(|watch| Arc::clone(&watch.place)).collect(), watches.len())
    }
}

impl PullWatch {
    /// The server is asked. Only an answer ends what this begins.
    pub fn asked(&self) {
        let now = self.millis(Instant::now());
        let _ = self.unanswered.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The server has answered, if only that there is nothing.
    pub fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Nothing is asked, because this worker itself is waiting.
    pub fn rests(&self) {
        self.answered();
    }

    /// A pull whose last answer came then is given up.
    pub fn silent_since(&self, answered: Instant) {
        self.unanswered.store(self.millis(answered), Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.began).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX).max(1)
    }

    fn silence(&self) -> Option<Duration> {
        let since = self.unanswered.load(Ordering::Relaxed);
        (since > 0).then(|| self.began.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_ends_a_silence() {
        let pulls = Pulls::new();
        let (watch, quiet) = (pulls.watch("WORK.a"), pulls.watch("WORK.b"));
        watch.asked();
        watch.asked();
        while pulls.unanswered(Duration::from_millis(2)).0.is_empty() {
            watch.asked();
        }
        assert_eq!(pulls.unanswered(Duration::ZERO), (vec!["WORK.a".into()], 2));
        watch.answered();
        quiet.rests();
        assert_eq!(pulls.unanswered(Duration::ZERO), (Vec::new(), 2));
        watch.silent_since(pulls.began);
        watch.asked();
        assert_eq!(
            pulls.unanswered(Duration::from_millis(1)).0,
            ["WORK.a".into()],
            "since then, not since it asked again"
        );
    }
}
