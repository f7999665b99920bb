//! The budget of file descriptors: a worker that runs out of them can neither pull nor send.

use std::fs;

/// Connections that each of the two ports takes.
const OF_A_PORT: u64 = 256;

/// Connections to push services, mail servers, providers and webhooks, logs, timers and libraries.
const OF_OTHERS: u64 = 300;

/// The most that a worker may have open at a time.
#[must_use]
pub fn needed(pulls: usize, database_connections: u32) -> u64 {
    let nats = u64::try_from(pulls).unwrap_or(u64::MAX).saturating_add(1);
    2 * OF_A_PORT + OF_OTHERS + nats + u64::from(database_connections)
}

/// What is wrong with this process's limit, if it is known and too low.
#[must_use]
pub fn shortage(needed: u64) -> Option<String> {
    let limit = soft_limit(&fs::read_to_string("/proc/self/limits").ok()?)?;
    (limit < needed).then(|| {
        format!(
            "this process may open {limit} files, and may need {needed}: raise the limit (`ulimit -n`, LimitNOFILE), or \
             connections will be refused when it is busy"
        )
    })
}

/// From `/proc/self/limits`. `None` if there is no limit.
fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max cpu time              unlimited            unlimited            seconds\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(soft_limit(limits), Some(1024));
        assert_eq!(soft_limit("Max open files            unlimited            unlimited            files"), None);
        assert_eq!(soft_limit(""), None);
    }

    #[test]
    fn a_limit_that_is_too_low_is_told() {
        assert!(needed(9, 10) < 1024, "the usual limit is enough for an installation with one application");
        let said = shortage(u64::MAX);
        assert!(said.is_none_or(|said| said.contains("raise the limit")));
    }
}
