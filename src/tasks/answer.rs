//! The meaning of an endpoint's answer, from its status and headers alone.

use std::time::Duration;

use crate::declared::Mode;

/// The wait that a busy endpoint gets if it names none.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// The meaning of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Done. The body, if any, has its result and effects.
    Done,
    /// It works on, and tells later.
    Accepted,
    /// It is to be asked again after this wait. Burns no attempt.
    Later(Duration),
    /// A failed attempt. Repeated after this wait at the soonest, if it says so.
    Retry(Option<Duration>),
    /// The endpoint is down: a failed attempt, of which the breaker hears.
    Down(Option<Duration>),
    /// No retry mends it: why.
    Permanent(&'static str),
    /// Nothing is to be done.
    Skipped,
    /// It has ended because it was cancelled.
    Cancelled,
}

/// `Carebell-Outcome`: frameworks turn exceptions into whatever status.
const OUTCOMES: &str = "its Carebell-Outcome is none of permanent, retry, later, skipped and cancelled";

/// The meaning of an answer with this status, `Carebell-Outcome` and `Retry-After`.
#[must_use]
pub fn meaning(status: u16, outcome: Option<&str>, retry_after: Option<Duration>, mode: Mode) -> Meaning {
    let later = || Meaning::Later(retry_after.unwrap_or(DEFAULT_WAIT));
    if let Some(outcome) = outcome {
        return match outcome.trim() {
            "permanent" => Meaning::Permanent("it says that no retry mends it"),
            "retry" => Meaning::Retry(retry_after),
            "later" => later(),
            "skipped" => Meaning::Skipped,
            "cancelled" => Meaning::Cancelled,
            _ => Meaning::Permanent(OUTCOMES),
        };
    }
    match status {
        200 | 201 | 204 => Meaning::Done,
        202 if mode != Mode::Sync => Meaning::Accepted,
        202 => Meaning::Permanent("its declaration does not let it answer later (mode)"),
        100..=299 => Meaning::Permanent("expected 200, 201, 202 or 204"),
        409 | 429 => later(),
        503 if retry_after.is_some() => later(),
        400 | 410 | 413 | 415 | 422 | 501 => Meaning::Permanent("it refuses the job"),
        401 | 403 => Meaning::Down(retry_after),
        300..=499 => Meaning::Retry(retry_after),
        _ => Meaning::Down(retry_after),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODES: [Mode; 3] = [Mode::Sync, Mode::Async, Mode::Either];

    #[test]
    fn each_status_has_its_meaning() {
        let of = |status| meaning(status, None, None, Mode::Sync);
        for status in [200, 201, 204] {
            assert_eq!(of(status), Meaning::Done, "{status}");
        }
        for status in [202, 203, 205, 206, 400, 410, 413, 415, 422, 501] {
            assert!(matches!(of(status), Meaning::Permanent(_)), "{status}");
        }
        for status in [409, 429] {
            assert_eq!(of(status), Meaning::Later(DEFAULT_WAIT), "{status}");
        }
        for status in [404, 405, 408, 425, 301, 302, 307, 418] {
            assert_eq!(of(status), Meaning::Retry(None), "{status}");
        }
        for status in [401, 403, 500, 502, 503, 504, 599] {
            assert_eq!(of(status), Meaning::Down(None), "{status}");
        }
        let wait = Duration::from_secs(7);
        assert_eq!(meaning(503, None, Some(wait), Mode::Sync), Meaning::Later(wait));
        assert_eq!(meaning(202, None, None, Mode::Async), Meaning::Accepted);
        assert_eq!(meaning(202, None, None, Mode::Either), Meaning::Accepted);
    }

    proptest! {
        #[test]
        fn the_outcome_that_it_names_overrides_its_status(
            status in 100..600_u16, mode in prop::sample::select(&MODES[..]), wait in prop::option::of(1..1000_u64),
        ) {
            let wait = wait.map(Duration::from_secs);
            let of = |outcome| meaning(status, Some(outcome), wait, mode);
            prop_assert!(matches!(of("permanent"), Meaning::Permanent(_)));
            prop_assert_eq!(of("retry"), Meaning::Retry(wait));
            prop_assert_eq!(of("later"), Meaning::Later(wait.unwrap_or(DEFAULT_WAIT)));
            prop_assert_eq!(of("skipped"), Meaning::Skipped);
            prop_assert_eq!(of(" cancelled"), Meaning::Cancelled);
            prop_assert_eq!(of("done"), Meaning::Permanent(OUTCOMES), "a failure may not be made a success");
        }

        #[test]
        fn only_a_success_is_done_and_only_where_it_may_a_202_is_accepted(
            status in 0..1000_u16, mode in prop::sample::select(&MODES[..]), wait in prop::option::of(1..1000_u64),
        ) {
            let meaning = meaning(status, None, wait.map(Duration::from_secs), mode);
            prop_assert_eq!(meaning == Meaning::Done, [200, 201, 204].contains(&status));
            prop_assert_eq!(meaning == Meaning::Accepted, status == 202 && mode != Mode::Sync);
            if let (Meaning::Later(after), Some(wait)) = (meaning, wait) {
                prop_assert_eq!(after, Duration::from_secs(wait));
            }
        }
    }
}
