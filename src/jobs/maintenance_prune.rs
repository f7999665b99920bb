//! `maintenance.prune`: removes old, finished records from Carebell's own tables.

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    plan::{KeepRule, Maintenance},
    wire,
};

/// Default age of removed records.
const KEEP_DAYS: i32 = 90;

/// Job ids may be published again after a weekend without a worker.
const LEAST_DAYS: i32 = 7;

/// A day more than the stream `DEAD_LETTERS` keeps letters, since a redriven delivery needs its row.
const LEAST_DEAD_DAYS: i32 = 91;

const MOST_DAYS: i32 = 36_500;

const MOST_LAST: i32 = 10_000_000;

/// Of one job: each has passes of its own.
const MOST_RULES: usize = 100;

/// Characters.
const LONGEST_KIND: usize = 64;

/// A week can be compared with the same day of the last.
const KEEP_COUNTS: TimeDelta = TimeDelta::days(8);

/// A lost worker is shown for this long.
const KEEP_WORKERS: TimeDelta = TimeDelta::days(1);

/// Another job comes each day.
const USEFUL_FOR: TimeDelta = TimeDelta::hours(6);

/// Removes old records.
#[derive(Clone, Debug, PartialEq)]
pub struct Prune {
    keep: TimeDelta,
    keep_dead: TimeDelta,
    rules: Vec<Rule>,
}

/// For one kind.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    kind: String,
    keep: Option<TimeDelta>,
    keep_dead: Option<TimeDelta>,
    last: Option<u32>,
    dead_last: Option<u32>,
}

impl Job for Prune {
    const KIND: Kind = Kind::maintenance("maintenance.prune");

    type Wire = wire::Prune;

    fn parse(wire: Self::Wire) -> Result<Self, Invalid> {
        let keep = days("keep_days", wire.keep_days)?.unwrap_or(TimeDelta::days(KEEP_DAYS.into()));
        let keep_dead = dead_days("keep_dead_days", wire.keep_dead_days)?;
        let mut rules: Vec<Rule> = Vec::new();
        for rule in wire.kinds {
            let rule = Rule::parse(rule)?;
            if rules.iter().any(|other| other.kind == rule.kind) {
                return Err(Invalid::new("kinds.kind", "must be there once: two rules name the same kind"));
            }
            rules.push(rule);
        }
        if rules.len() > MOST_RULES {
            return Err(Invalid::new("kinds", format!("must be at most {MOST_RULES} rules")));
        }
        Ok(Self { keep, keep_dead: keep_dead.unwrap_or(keep.max(TimeDelta::days(LEAST_DEAD_DAYS.into()))), rules })
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + USEFUL_FOR
    }

    async fn work(self, cx: &Context) -> Result<Outcome, Failure> {
        let now = cx.clock.now();
        let rules = self.rules.into_iter().map(|rule| KeepRule {
            before: now - rule.keep.unwrap_or(self.keep),
            dead_before: now - rule.keep_dead.unwrap_or(self.keep_dead),
            latest: now - TimeDelta::days(LEAST_DAYS.into()),
            dead_latest: now - TimeDelta::days(LEAST_DEAD_DAYS.into()),
            last: rule.last,
            dead_last: rule.dead_last,
            kind: rule.kind,
        });
        Ok(Outcome::Maintenance(Maintenance::Prune {
            before: now - self.keep,
            dead_before: now - self.keep_dead,
            counts_before: now - KEEP_COUNTS,
            workers_before: now - KEEP_WORKERS,
            rules: rules.collect(),
        }))
    }
}

impl Rule {
    fn parse(wire: wire::KeepKind) -> Result<Self, Invalid> {
        let is_named = (1..=LONGEST_KIND).contains(&wire.kind.len())
            && wire
                .kind
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte));
        if !is_named {
            return Err(Invalid::new("kinds.kind", "is required: the kind of a published job, such as notification"));
        }
        Ok(Self {
            kind: wire.kind,
            keep: days("kinds.keep_days", wire.keep_days)?,
            keep_dead: dead_days("kinds.keep_dead_days", wire.keep_dead_days)?,
            last: count("kinds.keep_last", wire.keep_last)?,
            dead_last: count("kinds.keep_dead_last", wire.keep_dead_last)?,
        })
    }
}

fn days(field: &'static str, days: i32) -> Result<Option<TimeDelta>, Invalid> {
    let why = "a job id that is published again within that time must have no second effect";
    between(field, days, LEAST_DAYS, &format!(" for {KEEP_DAYS}"), why)
}

fn dead_days(field: &'static str, days: i32) -> Result<Option<TimeDelta>, Invalid> {
    let why = "dead letters are kept for 90 days, and a redrive needs the records";
    between(field, days, LEAST_DEAD_DAYS, " for the default", why)
}

fn between(field: &'static str, days: i32, least: i32, default: &str, why: &str) -> Result<Option<TimeDelta>, Invalid> {
    if days == 0 {
        return Ok(None);
    }
    if (least..=MOST_DAYS).contains(&days) {
        return Ok(Some(TimeDelta::days(days.into())));
    }
    Err(Invalid::new(field, format!("must be {least} to {MOST_DAYS} days, or 0{default}: {why}")))
}

fn count(field: &'static str, count: i32) -> Result<Option<u32>, Invalid> {
    match u32::try_from(count) {
        Ok(0) => Ok(None),
        Ok(last) if count <= MOST_LAST => Ok(Some(last)),
        _ => Err(Invalid::new(field, format!("must be 1 to {MOST_LAST} jobs, or 0 for any number"))),
    }
}
