//! File descriptors: the limit of this process, and its need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::check::{Check, Item};
use crate::{
    channels::MOST_HOSTS, config::Source, http::listener::MOST_CONNECTIONS, intake::is_intake, streams::Streams,
};

/// Files, timers and look-ups of names.
const SPARE: u64 = 64;

/// Raises this process's limit to the most that the system allows it: the usual limit of 1,024 is for programs that call
/// `select`.
fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where the system refuses, the check below says what is missing.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// The descriptors that a worker may come to need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    /// Without it, connections of its own servers would fail.
    base: u64,
    /// With each send to a host of its own, and as many idle connections as are kept.
    all: u64,
}

impl Needs {
    fn of(streams: &Streams, database_connections: u32, listeners: u64) -> Self {
        let pulls = streams.consumers().iter().filter(|consumer| is_intake(&consumer.stream)).count() as u64;
        let listening = listeners * (MOST_CONNECTIONS as u64 + 1);
        let base = SPARE + 1 + pulls + u64::from(database_connections) + listening;
        let deliveries = streams.consumers().iter().filter(|consumer| consumer.stream == "DELIVERIES");
        let sends: usize = deliveries.map(|consumer| consumer.policy.concurrency).sum();
        // Push services and webhooks.
        let idle = 2 * MOST_HOSTS;
        Self { base, all: base + (sends + idle) as u64 }
    }
}

/// The check with this configuration. Raises the limit first.
#[must_use]
pub fn descriptors(source: &Source) -> Check {
    let item = Item::Descriptors;
    let needs =
        source.adjustments().ok().and_then(|adjustments| Streams::embedded(&adjustments).ok()).and_then(|streams| {
            let listeners = 1 + u64::from(source.public_port().ok()?.is_some());
            Some(Needs::of(&streams, source.database_connections().ok()?, listeners))
        });
    let Some(needs) = needs else { return Check::not_checked(item, "the configuration is not valid") };
    raise_limit();
    judge(getrlimit(Resource::Nofile).current, needs)
}

fn judge(limit: Option<u64>, Needs { base, all }: Needs) -> Check {
    let item = Item::Descriptors;
    let advice = format!("raise the limit of the process to {all} (ulimit -n, LimitNOFILE= of systemd)");
    match limit {
        Some(limit) if limit < base => {
            Check::fail(item, format!("{limit} allowed, {base} needed without a single send"), advice)
        }
        Some(limit) if limit < all => {
            Check::warn(item, format!("{limit} allowed; with sends to many hosts at once {all} are needed"), advice)
        }
        Some(limit) => Check::ok(item, format!("{limit} allowed, {all} needed at most")),
        None => Check::ok(item, "no limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::CheckResult, streams::Adjustments};

    #[test]
    fn too_few_are_told_with_the_number_to_set() {
        let streams = Streams::embedded(&Adjustments::default()).unwrap();
        let needs = Needs::of(&streams, 10, 2);
        assert!((550..650).contains(&needs.base) && (1500..1900).contains(&needs.all), "{needs:?}");
        assert_eq!(Needs::of(&streams, 60, 2), Needs { base: needs.base + 50, all: needs.all + 50 });
        assert!(judge(Some(needs.base - 1), needs).is_failure());
        for (limit, is_enough) in [(needs.base, false), (needs.all - 1, false), (needs.all, true)] {
            let check = judge(Some(limit), needs);
            assert_eq!(matches!(check.outcome, CheckResult::Ok(_)), is_enough, "{check}");
            assert!(is_enough || check.words().contains(&format!("to {}", needs.all)), "{check}");
        }
        assert!(matches!(judge(None, needs).outcome, CheckResult::Ok(_)));
    }
}
