//! Self-tests of a worker's surroundings, for `carebell doctor`. Starting workers test NATS and Postgres with the same
//! messages.
//!
//! The checks change nothing. Permissions are tested with messages that every server refuses for another reason, so
//! only a missing permission looks different.

mod database;
mod nats;
mod providers;

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

pub use self::{
    database::database,
    nats::{Depth, nats, unreachable},
};
use crate::{
    channels::{email::Email, web_push::WebPush},
    clock::Clock,
    config::Source,
    health::Health,
    nats as connection,
    store::Store,
    streams::{Adjustments, Streams},
    templates::{LoadError, Templates},
};

/// Tolerated difference between clocks.
const MOST_SKEW: TimeDelta = TimeDelta::seconds(1);

/// A check, in output order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// All variables are well-formed.
    Configuration,
    /// All templates load.
    Templates,
    /// The server answers and accepts the credentials.
    Nats,
    /// It has message schedules.
    NatsVersion,
    /// `JetStream` is on, for the account too.
    JetStream,
    /// Streams and consumers match `streams/`.
    Streams,
    /// The user's permissions suffice for a worker.
    NatsPermissions,
    /// Its clock agrees with this machine's.
    NatsClock,
    /// The server answers, accepts the credentials and is writable.
    Database,
    /// Carebell's own tables are current.
    Schema,
    /// The care tables have all required columns.
    CareTables,
    /// The role's privileges suffice for a worker.
    DatabasePermissions,
    /// Its clock agrees with this machine's.
    DatabaseClock,
    /// The keys match, and the subject is a contact.
    VapidKeys,
    /// Push services are reachable.
    PushEgress,
    /// Providers of text messages, `WhatsApp` and calls are reachable.
    ProviderEgress,
    /// Mail servers, if any, accept the credentials.
    MailServers,
}

/// A starting worker's reaction to a failed check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStart {
    /// Wait until it passes or the start timeout ends.
    Wait,
    /// Exit: only an administrator can fix it, and every job would suffer.
    Exit,
    /// Log it and go on.
    Tell,
}

impl Item {
    /// As shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Templates => "templates",
            Self::Nats => "NATS",
            Self::NatsVersion => "NATS version",
            Self::JetStream => "JetStream",
            Self::Streams => "streams",
            Self::NatsPermissions => "NATS permissions",
            Self::NatsClock => "NATS clock",
            Self::Database => "database",
            Self::Schema => "schema",
            Self::CareTables => "care tables",
            Self::DatabasePermissions => "database permissions",
            Self::DatabaseClock => "database clock",
            Self::VapidKeys => "VAPID keys",
            Self::PushEgress => "push egress",
            Self::ProviderEgress => "provider egress",
            Self::MailServers => "mail servers",
        }
    }

    /// A starting worker's reaction to its failure.
    #[must_use]
    pub const fn at_start(self) -> AtStart {
        match self {
            Self::Nats
            | Self::NatsVersion
            | Self::JetStream
            | Self::Streams
            | Self::Database
            | Self::Schema
            | Self::CareTables => AtStart::Wait,
            // A worker with these problems ends earlier.
            Self::Configuration
            | Self::Templates
            | Self::VapidKeys
            | Self::NatsPermissions
            | Self::DatabasePermissions => AtStart::Exit,
            Self::NatsClock | Self::DatabaseClock | Self::PushEgress | Self::ProviderEgress | Self::MailServers => {
                AtStart::Tell
            }
        }
    }
}

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed, with details.
    Ok(String),
    /// Works, but needs attention.
    Warn {
        /// The finding.
        what: String,
        /// The remedy.
        advice: String,
    },
    /// Does not work.
    Fail {
        /// The problem.
        what: String,
        /// The remedy.
        advice: String,
    },
    /// Skipped, with the reason.
    NotChecked(String),
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The item checked.
    pub item: Item,
    /// The result.
    pub outcome: Outcome,
}

impl Check {
    fn ok(item: Item, detail: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::Ok(detail.into()) }
    }

    fn warn(item: Item, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::Warn { what: what.into(), advice: advice.into() } }
    }

    fn fail(item: Item, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::Fail { what: what.into(), advice: advice.into() } }
    }

    fn not_checked(item: Item, why: impl Into<String>) -> Self {
        Self { item, outcome: Outcome::NotChecked(why.into()) }
    }

    /// Whether it failed.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Fail { .. })
    }

    /// Finding and remedy, without the severity.
    #[must_use]
    pub fn words(&self) -> String {
        let name = self.item.name();
        match &self.outcome {
            Outcome::Ok(detail) => format!("{name}: {detail}"),
            Outcome::Warn { what, advice } | Outcome::Fail { what, advice } => format!("{name}: {what} — {advice}"),
            Outcome::NotChecked(why) => format!("{name}: not checked: {why}"),
        }
    }

    /// As one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (result, detail, advice) = match &self.outcome {
            Outcome::Ok(detail) => ("ok", detail, None),
            Outcome::Warn { what, advice } => ("warn", what, Some(advice)),
            Outcome::Fail { what, advice } => ("fail", what, Some(advice)),
            Outcome::NotChecked(why) => ("not_checked", why, None),
        };
        json!({ "name": self.item.name(), "result": result, "detail": detail, "advice": advice })
    }
}

/// `FAIL  streams: JOBS.reminder_medication: not on the server — run …`
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match &self.outcome {
            Outcome::Ok(_) => "ok",
            Outcome::Warn { .. } => "warn",
            Outcome::Fail { .. } => "FAIL",
            Outcome::NotChecked(_) => "-",
        };
        write!(f, "{result:<4}  {}", self.words())
    }
}

/// Push services and mail servers to contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Egress {
    /// Configured ones, and those of common browsers.
    All,
    /// Only those in `WEB_PUSH_ALLOWED_HOSTS` and `SMTP_URL`.
    Named,
    /// None.
    Offline,
}

/// Runs all checks at once, in a few seconds. Results are in [`Item`] order.
pub async fn examine(source: &Source, clock: &Clock, egress: Egress) -> Vec<Check> {
    let (of_nats, of_database, of_push, of_providers, of_mail) = tokio::join!(
        examine_nats(source, clock),
        examine_database(source, clock),
        examine_push(source, clock, egress),
        providers::examine(source, egress),
        examine_mail(source, egress),
    );
    let mut checks = vec![configuration(source), templates(source)];
    checks.extend(of_nats);
    checks.extend(of_database);
    checks.extend(of_push);
    checks.extend(of_providers);
    checks.extend(of_mail);
    checks.sort_by_key(|check| check.item);
    checks
}

/// The gravest reaction to these checks, with its failures in words. Harmless failures are logged.
///
/// # Errors
/// If the worker must wait or exit.
pub fn at_start(checks: &[Check]) -> Result<(), (AtStart, String)> {
    for consequence in [AtStart::Exit, AtStart::Wait] {
        let failed = checks.iter().filter(|check| check.is_failure() && check.item.at_start() == consequence);
        let words: Vec<String> = failed.map(Check::words).collect();
        if !words.is_empty() {
            return Err((consequence, words.join("; ")));
        }
    }
    for check in checks {
        if matches!(check.outcome, Outcome::Warn { .. } | Outcome::Fail { .. }) {
            tracing::warn!("{}", check.words());
        }
    }
    Ok(())
}

/// `15 checks, all ok`, or counts by result.
#[must_use]
pub fn summary(checks: &[Check]) -> String {
    let count = |wanted: fn(&Outcome) -> bool| checks.iter().filter(|check| wanted(&check.outcome)).count();
    let parts = [
        (count(|outcome| matches!(outcome, Outcome::Fail { .. })), "failed"),
        (count(|outcome| matches!(outcome, Outcome::Warn { .. })), "with warnings"),
        (count(|outcome| matches!(outcome, Outcome::NotChecked(_))), "not checked"),
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

async fn examine_nats(source: &Source, clock: &Clock) -> Vec<Check> {
    let rest = |why: &str| nats::AFTER_THE_CONNECTION.map(|item| Check::not_checked(item, why));
    let config = match source.nats() {
        Ok(config) => config,
        Err(problem) => {
            let why = format!("{} is not valid", problem.variable);
            return [vec![Check::not_checked(Item::Nats, &*why)], rest(&why).into()].concat();
        }
    };
    let connection = match connection::open(&config, &Health::new()).await {
        Ok(connection) => connection,
        Err(error) => return [vec![unreachable(&error)], rest("NATS is not reachable").into()].concat(),
    };
    let adjusted = source.adjustments().ok().and_then(|adjustments| Streams::embedded(&adjustments).ok());
    let known = match &adjusted {
        Some(streams) => Ok(streams.clone()),
        // Permissions do not depend on adjustments.
        None => Streams::embedded(&Adjustments::default()),
    };
    let mut checks = vec![Check::ok(Item::Nats, format!("connected to {}", config.servers.join(", ")))];
    match known {
        Ok(streams) => checks.extend(nats(&connection, &streams, clock, Depth::Full).await),
        Err(error) => checks.extend(rest(&error.to_string())),
    }
    if adjusted.is_none() {
        checks.retain(|check| check.item != Item::Streams);
        checks.push(Check::fail(
            Item::Streams,
            "STREAMS_REPLICAS or QUEUE_OVERRIDES is wrong, so the wanted streams are unknown",
            "`carebell streams check` shows the problem",
        ));
    }
    checks
}

async fn examine_database(source: &Source, clock: &Clock) -> Vec<Check> {
    let url = source.database_url().map_err(|error| error.variable);
    let store = url.and_then(|url| Store::new(&url, 1).map_err(|_| "DATABASE_URL".to_owned()));
    match store {
        Ok(store) => database(&store, clock).await,
        Err(variable) => database::ALL.map(|item| Check::not_checked(item, format!("{variable} is not valid"))).into(),
    }
}

async fn examine_push(source: &Source, clock: &Clock, egress: Egress) -> [Check; 2] {
    let settings = match source.web_push() {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            let keys = Check::warn(
                Item::VapidKeys,
                "VAPID_PUBLIC_KEY and VAPID_PRIVATE_KEY are not set: inbox rows only, no Web Push",
                "`carebell keys generate` makes a pair",
            );
            return [keys, Check::not_checked(Item::PushEgress, "there are no VAPID keys")];
        }
        Err(problem) => {
            let why = format!("{} is not valid", problem.variable);
            return [Item::VapidKeys, Item::PushEgress].map(|item| Check::not_checked(item, &*why));
        }
    };
    match WebPush::new(settings, clock.clone()) {
        Ok(web_push) => [Check::ok(Item::VapidKeys, "a pair and a contact"), check_egress(&web_push, egress).await],
        Err(error) => {
            let advice = "`carebell keys generate` makes a pair; with a new pair browsers must subscribe again";
            let keys = Check::fail(Item::VapidKeys, error.to_string(), advice);
            [keys, Check::not_checked(Item::PushEgress, "the settings of Web Push are not valid")]
        }
    }
}

async fn check_egress(web_push: &WebPush, egress: Egress) -> Check {
    let item = Item::PushEgress;
    if egress == Egress::Offline {
        return Check::not_checked(item, "--offline");
    }
    let built_in = async {
        match egress {
            Egress::All => Some(web_push.reach_built_in().await),
            Egress::Named | Egress::Offline => None,
        }
    };
    let (named, built_in) = tokio::join!(web_push.reach_named(), built_in);
    let (reached, failed): (Vec<_>, Vec<_>) = named.into_iter().partition(|(_, problem)| problem.is_none());
    if !failed.is_empty() {
        let failed: Vec<_> =
            failed.into_iter().map(|(place, why)| format!("{place}: {}", why.unwrap_or_default())).collect();
        let advice = "allow the connection, or fix WEB_PUSH_ALLOWED_HOSTS or WEB_PUSH_CA_FILE";
        return Check::fail(item, failed.join("; "), advice);
    }
    let mut reached: Vec<String> = reached.into_iter().map(|(place, _)| place).collect();
    match built_in {
        Some(Err(why)) => Check::warn(
            item,
            format!("no push service of a browser is reachable ({why})"),
            "allow connections to port 443, or ignore this if no such browser subscribes",
        ),
        Some(Ok(host)) => {
            reached.push(host.to_owned());
            Check::ok(item, format!("{} reachable", reached.join(", ")))
        }
        None if reached.is_empty() => Check::not_checked(item, "WEB_PUSH_ALLOWED_HOSTS names none"),
        None => Check::ok(item, format!("{} reachable", reached.join(", "))),
    }
}

/// Signs in to each server of `SMTP_URL`, if any.
async fn examine_mail(source: &Source, egress: Egress) -> Option<Check> {
    let item = Item::MailServers;
    let advice = "fix SMTP_URL or SMTP_CA_FILE, or allow the connection";
    let email = match source.email() {
        Ok(settings) => Email::new(settings?),
        Err(problem) => return Some(Check::not_checked(item, format!("{} is not valid", problem.variable))),
    };
    let email = match email {
        Ok(email) if egress != Egress::Offline => email,
        Ok(_) => return Some(Check::not_checked(item, "--offline")),
        Err(error) => return Some(Check::fail(item, error.to_string(), advice)),
    };
    let (mut reached, mut failed) = (Vec::new(), Vec::new());
    for (server, problem) in email.reach().await {
        match problem {
            None => reached.push(server),
            Some(why) => failed.push(format!("{server}: {why}")),
        }
    }
    Some(match (reached.is_empty(), failed.is_empty()) {
        (_, true) => Check::ok(item, format!("{} reachable", reached.join(", "))),
        (true, false) => Check::fail(item, failed.join("; "), advice),
        (false, false) => Check::warn(item, format!("{}; the other server replaces it", failed.join("; ")), advice),
    })
}

/// Time of a question, and duration until its answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: DateTime<Utc>,
    took: TimeDelta,
}

/// Compares clocks. The server may have read its own at any moment in between.
fn compare_clocks(item: Item, asked: Asked, theirs: DateTime<Utc>) -> Check {
    let (early, late) = (theirs - asked.at, theirs - (asked.at + asked.took));
    // The smallest possible difference.
    let skew = if late > TimeDelta::zero() { late } else { early.min(TimeDelta::zero()) };
    if skew.abs() <= MOST_SKEW {
        return Check::ok(
            item,
            format!("within a second of this machine's (answered in {} ms)", asked.took.num_milliseconds()),
        );
    }
    let side = if skew > TimeDelta::zero() { "ahead of" } else { "behind" };
    let seconds = skew.abs().as_seconds_f64();
    let what = format!("the server's clock is {seconds:.1} s {side} this machine's");
    Check::fail(
        item,
        what,
        "synchronise both (chrony, systemd-timesyncd), or reminders are early or late by that \
         much",
    )
}

/// The start of a long list.
fn some(list: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = list[..list.len().min(SHOWN)].join("; ");
    match list.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_a_second_apart_and_the_way_does_not_count() {
        let at: DateTime<Utc> = "2026-10-25T00:30:00Z".parse().unwrap();
        let took = TimeDelta::milliseconds(400);
        let compare = |ms| compare_clocks(Item::NatsClock, Asked { at, took }, at + TimeDelta::milliseconds(ms));
        for (ms, fails) in [(0, false), (400, false), (1400, false), (1401, true), (-1000, false), (-1001, true)] {
            assert_eq!(compare(ms).is_failure(), fails, "{ms}: {}", compare(ms));
        }
        assert!(compare(5400).to_string().contains("5.0 s ahead of this machine's"), "{}", compare(5400));
        assert!(compare(-5000).to_string().contains("5.0 s behind this machine's"), "{}", compare(-5000));
    }

    #[test]
    fn a_summary_counts_what_is_not_well() {
        let ok = Check::ok(Item::Nats, "");
        assert_eq!(summary(&[ok.clone(), ok.clone()]), "2 checks, all ok");
        let others = [ok, Check::fail(Item::Schema, "", ""), Check::not_checked(Item::CareTables, "")];
        assert_eq!(summary(&others), "3 checks, 1 failed, 1 not checked");
    }

    #[test]
    fn long_lists_are_cut() {
        let list: Vec<String> = (1..=7).map(|number| number.to_string()).collect();
        assert_eq!(some(&list), "1; 2; 3; 4; 5; and 2 more");
        assert_eq!(some(&list[..2]), "1; 2");
    }
}
