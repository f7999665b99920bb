//! A schedule as people write it: by the command line, by the API, on the console's pages. Checked as a whole before it
//! is saved, so that a schedule never publishes a job that no worker could run.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;

use crate::{
    jobs,
    kind::{Kind, Lane, Stage},
    pipeline::{Form, Registry},
    schedule::{self, Expression, Fold, Gap, Zone},
    scheduler::timing::{LONGEST_JITTER, LONGEST_WINDOW, Timing},
    store::{NextInstant, ScheduleRow, ScheduleSpec},
};

/// The most missed instants that are made up.
const MOST_MISSED: i32 = 1000;

/// The most characters of an owner.
const LONGEST_OWNER: usize = 200;

/// No schedule's name: `/schedules/preview`.
const RESERVED: &str = "preview";

/// A schedule before its checks. Durations are in seconds.
#[derive(Clone, Debug)]
pub struct Draft {
    /// 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// Recurrence: see [`Expression`].
    pub expression: String,
    /// IANA time zone.
    pub zone: String,
    /// Kind of its jobs.
    pub kind: String,
    /// For kinds with lanes; the default is normal.
    pub lane: Option<String>,
    /// The job as canonical protobuf JSON.
    pub payload: String,
    /// See [`Gap`].
    pub gap: String,
    /// See [`Fold`].
    pub fold: String,
    /// `skip`, `latest` or `all`.
    pub missed: String,
    /// The most instants that `all` makes up.
    pub missed_limit: i32,
    /// Age limit of made-up instants.
    pub missed_seconds: i64,
    /// Longest delay of a job.
    pub jitter_seconds: i64,
    /// Expiry after the instant.
    pub expiry_seconds: Option<i64>,
    /// A date or an instant; the default is now.
    pub start: Option<String>,
    /// A date or an instant.
    pub end: Option<String>,
    /// A label.
    pub owner: Option<String>,
    /// Whether it is saved paused.
    pub paused: bool,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            name: String::new(),
            expression: String::new(),
            zone: String::new(),
            kind: String::new(),
            lane: None,
            payload: String::new(),
            gap: Gap::Shift.name().to_owned(),
            fold: Fold::First.name().to_owned(),
            missed: "latest".to_owned(),
            missed_limit: 10,
            missed_seconds: 3600,
            jitter_seconds: 0,
            expiry_seconds: None,
            start: None,
            end: None,
            owner: None,
            paused: false,
        }
    }
}

/// A property of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the draft's fields")]
pub enum Property {
    Name,
    Expression,
    Zone,
    Kind,
    Lane,
    Payload,
    Gap,
    Fold,
    Missed,
    MissedLimit,
    MissedWindow,
    Jitter,
    Expiry,
    Start,
    End,
    Owner,
}

/// What is wrong with a draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The property.
    pub property: Property,
    /// What was expected.
    pub why: String,
}

/// A checked schedule with its next instant.
#[derive(Clone, Debug)]
pub struct Planned {
    /// To be saved.
    pub spec: ScheduleSpec,
    /// From which it goes on.
    pub next: NextInstant,
    /// Its instants.
    pub timing: Timing,
    /// Whether due instants of the schedule that it replaces are not published any more.
    pub drops_due: bool,
}

impl Draft {
    /// A schedule as it is, to be changed. Its job and its start, which are left out, stay.
    #[must_use]
    pub fn of(row: &ScheduleRow) -> Self {
        let spec = row.spec.clone();
        Self {
            name: spec.name,
            expression: spec.expression,
            zone: spec.zone,
            kind: spec.kind,
            lane: spec.lane,
            payload: String::new(),
            gap: spec.gap,
            fold: spec.fold,
            missed: spec.missed,
            missed_limit: spec.missed_limit,
            missed_seconds: spec.missed_seconds,
            jitter_seconds: spec.jitter_seconds,
            expiry_seconds: spec.expiry_seconds,
            start: None,
            end: spec.ends_at.map(|at| at.to_rfc3339()),
            owner: spec.owner,
            paused: spec.paused,
        }
    }

    /// Checks it. `before` is the schedule that it replaces, which keeps its pause and, with the same expression, its
    /// start and its next instant.
    ///
    /// # Errors
    /// The first property that is wrong.
    pub fn plan(&self, before: Option<&ScheduleRow>, now: DateTime<Utc>) -> Result<Planned, Wrong> {
        if before.is_none() && self.name == RESERVED {
            return wrong(Property::Name, format!("{RESERVED} is a path of the API: choose another name"));
        }
        let mut spec = self.spec(now)?;
        let kept = before.and_then(|before| keep(&mut spec, before, self.start.is_some()));
        let timing = Timing::read(&spec).map_err(|why| Wrong { property: Property::Expression, why })?;
        let next = kept.unwrap_or_else(|| timing.next_from(now));
        if next.at.is_none() {
            return wrong(
                Property::Expression,
                "it would never be due: there is no instant between its start and its end",
            );
        }
        let drops_due = kept.is_none() && before.is_some_and(|before| before.next.due.is_some_and(|due| due <= now));
        Ok(Planned { spec, next, timing, drops_due })
    }

    fn spec(&self, now: DateTime<Utc>) -> Result<ScheduleSpec, Wrong> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(allowed) {
            return wrong(Property::Name, "the name must be 1 to 64 of the characters A-Z a-z 0-9 _ . -");
        }
        let because = |property| move |why: String| Wrong { property, why };
        let zone = schedule::zone(&self.zone).map_err(|why| because(Property::Zone)(why.to_string()))?;
        let expression =
            Expression::parse(&self.expression).map_err(|why| because(Property::Expression)(why.to_string()))?;
        let gap = Gap::parse(&self.gap).ok_or("expected shift or skip");
        let fold = Fold::parse(&self.fold).ok_or("expected first, second or both");
        let gap = gap.map_err(|why| because(Property::Gap)(why.into()))?;
        let fold = fold.map_err(|why| because(Property::Fold)(why.into()))?;
        if !["skip", "latest", "all"].contains(&&*self.missed) {
            return wrong(Property::Missed, "expected skip, latest or all");
        }
        if !(1..=MOST_MISSED).contains(&self.missed_limit) {
            return wrong(Property::MissedLimit, format!("expected a number from 1 to {MOST_MISSED}"));
        }
        let jitter_seconds = within(Property::Jitter, self.jitter_seconds, 0, LONGEST_JITTER)?;
        let missed_seconds = within(Property::MissedWindow, self.missed_seconds, 1, LONGEST_WINDOW)?;
        let expiry_seconds = self.expiry_seconds.map(|expiry| within(Property::Expiry, expiry, 1, LONGEST_WINDOW));
        let expiry_seconds = expiry_seconds.transpose()?;
        if expiry_seconds.is_some_and(|expiry| expiry <= jitter_seconds) {
            let why = "the expiry must be longer than the jitter, or jobs would expire before they are published";
            return wrong(Property::Expiry, why);
        }
        if self.owner.as_ref().is_some_and(|owner| owner.chars().count() > LONGEST_OWNER) {
            return wrong(Property::Owner, format!("expected at most {LONGEST_OWNER} characters"));
        }
        let instant = |property, text: &Option<String>| {
            let text = text.as_deref().map(|text| instant(text, zone));
            text.transpose().map_err(because(property))
        };
        let (kind, lane, payload) = self.job()?;
        Ok(ScheduleSpec {
            name: self.name.clone(),
            kind,
            lane,
            payload,
            expression: expression.to_string(),
            zone: zone.name().to_owned(),
            gap: gap.name().to_owned(),
            fold: fold.name().to_owned(),
            missed: self.missed.clone(),
            missed_limit: self.missed_limit,
            missed_seconds,
            jitter_seconds,
            expiry_seconds,
            starts_at: instant(Property::Start, &self.start)?.unwrap_or(now),
            ends_at: instant(Property::End, &self.end)?,
            paused: self.paused,
            owner: self.owner.clone(),
        })
    }

    /// Refuses jobs that no worker could run.
    fn job(&self) -> Result<(String, Option<String>, Value), Wrong> {
        let registry = jobs::registry();
        let kind = open_kind(&registry, &self.kind).map_err(|why| Wrong { property: Property::Kind, why })?;
        let lane = match (kind.lanes.is_empty(), self.lane.as_deref()) {
            (true, None) => None,
            (true, Some(_)) => return wrong(Property::Lane, format!("{kind} has no lanes: omit it")),
            (false, None) => Some(Lane::Normal),
            (false, Some(lane)) => match Lane::parse(lane) {
                Some(lane) => Some(lane),
                None => return wrong(Property::Lane, "the lane must be critical, normal or bulk"),
            },
        };
        let payload = |why: String| Wrong { property: Property::Payload, why };
        let decoder = registry.decoder(kind).ok_or_else(|| payload("the kind has no decoder".into()))?;
        decoder.decode(&Bytes::copy_from_slice(self.payload.as_bytes()), Form::Json).map_err(payload)?;
        let json = serde_json::from_str(&self.payload).map_err(|why| payload(why.to_string()))?;
        Ok((kind.name.to_owned(), lane.map(|lane| lane.name().to_owned()), json))
    }
}

/// A kind that may be published from outside.
///
/// # Errors
/// If there is none of this name: the kinds that there are.
pub fn open_kind(registry: &Registry, name: &str) -> Result<Kind, String> {
    let mut open = registry.kinds().iter().filter(|kind| kind.stage != Stage::Delivery);
    open.clone().find(|kind| kind.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = open.by_ref().map(|kind| kind.name).collect();
        format!("there is no kind {name:?}; there are {}", names.join(", "))
    })
}

/// An instant, or a date as its midnight in the zone.
///
/// # Errors
/// If it is neither, or the date is out of range.
pub fn instant(text: &str, zone: Zone) -> Result<DateTime<Utc>, String> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        let midnight = schedule::start_of_day(zone, date);
        return midnight.ok_or_else(|| format!("is {date}; expected a date in the years 1970 to 2099"));
    }
    DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).map_err(|_| {
        format!("is {text:?}; expected a date such as 2026-03-07, or an instant such as 2026-03-07T09:00:00Z")
    })
}

/// Properties that a replacement keeps: the pause, an interval's anchor and, with an unchanged expression, the next
/// instant, so that nothing due is skipped.
fn keep(spec: &mut ScheduleSpec, before: &ScheduleRow, has_start: bool) -> Option<NextInstant> {
    let old = &before.spec;
    spec.paused |= old.paused;
    let same = |a: &ScheduleSpec, b: &ScheduleSpec| {
        (&a.expression, &a.zone, &a.gap, &a.fold, a.jitter_seconds, a.ends_at)
            == (&b.expression, &b.zone, &b.gap, &b.fold, b.jitter_seconds, b.ends_at)
    };
    if has_start || !same(spec, old) {
        return None;
    }
    spec.starts_at = old.starts_at;
    Some(before.next)
}

fn within(property: Property, seconds: i64, least: i64, most: i64) -> Result<i64, Wrong> {
    if (least..=most).contains(&seconds) {
        return Ok(seconds);
    }
    let most = humantime::format_duration(Duration::from_secs(most.unsigned_abs()));
    wrong(property, format!("expected whole seconds, from {least}s to {most}"))
}

fn wrong<T>(property: Property, why: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { property, why: why.into() })
}
