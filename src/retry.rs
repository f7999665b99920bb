//! Two small helpers of loops that try again: a wait that doubles, and a message that is logged once.

use std::time::Duration;

use tokio::time::sleep;

/// A wait that doubles each time, up to a longest.
#[derive(Clone, Debug)]
pub struct DoublingWait {
    first: Duration,
    next: Duration,
    longest: Duration,
}

impl DoublingWait {
    /// Waits of `first`, twice that, and so on up to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, next: first, longest }
    }

    /// Waits, and doubles the next wait.
    pub async fn pass(&mut self) {
        sleep(self.take()).await;
    }

    /// The wait that is due; the next one is twice as long.
    pub fn take(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }

    /// Starts again with the first wait, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Lets a loop that tries again each second log its trouble once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Once(bool);

impl Once {
    /// Nothing was logged yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(false)
    }

    /// True the first time, and the first time after a [`Self::reset`].
    pub fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    /// The trouble is over: the next one is logged again.
    pub fn reset(&mut self) {
        self.0 = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_again_after_a_success() {
        let mut wait = DoublingWait::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| wait.take().as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        wait.reset();
        assert_eq!(wait.take().as_millis(), 100);
    }

    #[test]
    fn once_is_once_until_it_is_reset() {
        let mut once = Once::new();
        assert_eq!([once.is_first(), once.is_first()], [true, false]);
        once.reset();
        assert!(once.is_first());
    }
}
