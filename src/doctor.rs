//! Self-tests of a worker's surroundings, for `carebell doctor` and starting workers.
//!
//! They change nothing. Permissions are tested with messages that every server refuses for another reason, so that a
//! missing permission looks different.

mod check;
mod clocks;
mod database;
mod descriptors;
mod documents;
mod findings;
mod mail;
mod nats;
mod producer;
mod providers;
mod push;

use self::check::some;
pub use self::{
    check::{AtStart, Check, CheckResult, Egress, Item},
    database::database,
    descriptors::descriptors,
    findings::Depth,
    nats::{connected, nats, unreachable},
    producer::{Producer, examine_producer},
};
use crate::{
    clock::Clock,
    config::Source,
    schedule::ZoneData,
    templates::{LoadError, Templates},
};

/// Runs all checks at once. Results are in [`Item`] order.
pub async fn examine(source: &Source, clock: &Clock, egress: Egress) -> Vec<Check> {
    let (of_nats, of_database, of_push, of_providers, of_mail, of_documents) = tokio::join!(
        nats::examine(source, clock),
        Box::pin(database::examine(source, clock)),
        push::examine(source, clock, egress),
        providers::examine(source, egress),
        mail::examine(source, egress),
        documents::examine(source, clock, egress),
    );
    let mut checks = vec![configuration(source), descriptors(source), zones(clock), templates(source)];
    checks.extend(of_nats);
    checks.extend(of_database);
    checks.extend(of_push);
    checks.extend(of_providers);
    checks.extend(of_mail);
    checks.extend(of_documents);
    checks.sort_by_key(|check| check.item);
    checks
}

/// The gravest reaction to these checks, with failures in words. Logs harmless ones.
///
/// # Errors
/// The worker must wait or exit.
pub fn at_start(checks: &[Check]) -> Result<(), (AtStart, String)> {
    for consequence in [AtStart::Exit, AtStart::Wait] {
        let failed = checks.iter().filter(|check| check.is_failure() && check.item.at_start() == consequence);
        let words: Vec<String> = failed.map(Check::words).collect();
        if !words.is_empty() {
            return Err((consequence, words.join("; ")));
        }
    }
    for check in checks {
        if matches!(check.outcome, CheckResult::Warn { .. } | CheckResult::Fail { .. }) {
            tracing::warn!("{}", check.words());
        }
    }
    Ok(())
}

/// `15 checks, all ok`, or counts by result.
#[must_use]
pub fn summary(checks: &[Check]) -> String {
    let count = |wanted: fn(&CheckResult) -> bool| checks.iter().filter(|check| wanted(&check.outcome)).count();
    let parts = [
        (count(|outcome| matches!(outcome, CheckResult::Fail { .. })), "failed"),
        (count(|outcome| matches!(outcome, CheckResult::Warn { .. })), "with warnings"),
        (count(|outcome| matches!(outcome, CheckResult::NotChecked(_))), "not checked"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let rest = if parts.is_empty() { "all ok".to_owned() } else { parts.join(", ") };
    format!("{} checks, {rest}", checks.len())
}

fn configuration(source: &Source) -> Check {
    let problems: Vec<String> = source.problems().iter().map(ToString::to_string).collect();
    if problems.is_empty() {
        return Check::ok(Item::Configuration, "every value is well-formed");
    }
    Check::fail(Item::Configuration, problems.join("; "), "set it in the environment or the --config file")
}

/// The age of the rules of time zones.
#[must_use]
pub fn zones(clock: &Clock) -> Check {
    let data = ZoneData::in_use();
    if data.is_old(clock.now()) {
        let advice = "install a newer Carebell or the system's tzdata, or name a newer copy in ZONEINFO_DIR";
        return Check::warn(Item::Zones, format!("{data}: older than a year"), advice);
    }
    Check::ok(Item::Zones, data.to_string())
}

fn templates(source: &Source) -> Check {
    let item = Item::Templates;
    match source.templates_dir().map(|directory| Templates::load(directory.as_deref())) {
        Ok(Ok(templates)) => Check::ok(item, templates.summary()),
        Ok(Err(LoadError(problems))) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Check::fail(item, some(&problems), "fix the file; see docs/TEMPLATES.md")
        }
        Err(problem) => Check::not_checked(item, format!("{} is not valid", problem.variable)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_counts_what_is_not_well() {
        let ok = Check::ok(Item::Nats, "");
        assert_eq!(summary(&[ok.clone(), ok.clone()]), "2 checks, all ok");
        let others = [ok, Check::fail(Item::Schema, "", ""), Check::not_checked(Item::CareTables, "")];
        assert_eq!(summary(&others), "3 checks, 1 failed, 1 not checked");
    }
}
