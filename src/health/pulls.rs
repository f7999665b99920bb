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
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let _ = self.unanswered.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The server has answered, if only that there is nothing.
    pub fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
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
        quiet.answered();
        assert_eq!(pulls.unanswered(Duration::ZERO), (Vec::new(), 2));
    }
}
