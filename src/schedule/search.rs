//! Finds the next occurrence after an instant.
//!
//! Between two clock changes, the next civil time is the next instant. So each step looks at a few days with at most
//! one change: before it, at it (for a gap), and after it.

use chrono::{DateTime, NaiveDateTime, TimeDelta, Timelike, Utc};

use super::{
    civil::Civil,
    rules::{Fold, Gap, Note, Rules},
    view::{ClockChange, FARTHEST, View, civil},
    zone::Zone,
};

/// How far ahead one step looks. It approaches anything farther first.
const REACH: TimeDelta = TimeDelta::hours(48);

/// Distance after an approach: within reach of the next step, but before any civil time of the old offset.
const APPROACH: TimeDelta = TimeDelta::hours(36);

const SECOND: TimeDelta = TimeDelta::seconds(1);

pub(super) struct Search<'a> {
    pub(super) times: &'a Civil,
    pub(super) zone: Zone,
    pub(super) rules: Rules,
    /// Match every tick of elapsed time: both of a fold, none of a gap.
    pub(super) every_hour: bool,
    pub(super) with_dropped: bool,
}

/// Everything up to it has been found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    after: DateTime<Utc>,
    /// The last skipped time reported, in a gap that begins right after `after`.
    lost: Option<NaiveDateTime>,
}

impl Position {
    pub(super) fn after(at: DateTime<Utc>) -> Self {
        Self { after: at, lost: None }
    }

    pub(super) fn behind(found: &Found) -> Self {
        match found.note {
            Some(Note::Dropped) => Self { after: found.at - SECOND, lost: Some(found.local) },
            _ => Self::after(found.at),
        }
    }

    pub(super) fn instant(self) -> DateTime<Utc> {
        self.after
    }
}

/// An occurrence. A dropped one has the instant of the clock change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: DateTime<Utc>,
    pub(super) local: NaiveDateTime,
    pub(super) note: Option<Note>,
}

impl Search<'_> {
    /// Ends with the expression, in the year 2100.
    pub(super) fn next(&self, mut position: Position) -> Option<Found> {
        loop {
            // Occurrences are in whole seconds.
            let after = position.after.with_nanosecond(0).unwrap_or(position.after);
            position.after = after;
            let view = View::new(self.zone, after - FARTHEST, after + REACH + FARTHEST);
            let found = match view.change {
                None => {
                    let local = self.times.next_after(civil(after, view.offset))?;
                    Found { at: local.and_utc() - view.offset, local, note: None }
                }
                Some(change) => self.next_around(position, change)?,
            };
            if found.at <= after + REACH {
                return Some(found);
            }
            // Nothing lies between, but the offset may change.
            position = Position::after(found.at - APPROACH);
        }
    }

    fn next_around(&self, position: Position, change: ClockChange) -> Option<Found> {
        // Civil times from `clock` to `set_to` are skipped or repeated.
        let ClockChange { at, before, after } = change;
        let (clock, set_to) = (civil(at, before), civil(at, after));
        let both = self.every_hour || self.rules.fold == Fold::Both;

        if position.after < at {
            let end = if both || self.rules.fold == Fold::First { clock } else { clock.min(set_to) };
            if let Some(local) = self.next_within(civil(position.after, before), end) {
                return Some(Found { at: local.and_utc() - before, local, note: None });
            }
            let rule = match self.rules.gap {
                _ if self.every_hour => None,
                Gap::Shift => Some(Note::Moved),
                Gap::Skip => self.with_dropped.then_some(Note::Dropped),
            };
            let told = position.lost.unwrap_or(clock - SECOND);
            if rule.is_some()
                && let Some(local) = self.next_within(told, set_to)
            {
                return Some(Found { at, local, note: rule });
            }
        }
        let behind = civil(position.after.max(at - SECOND), after);
        let behind = if !both && self.rules.fold == Fold::First { behind.max(clock - SECOND) } else { behind };
        let local = self.times.next_after(behind)?;
        Some(Found { at: local.and_utc() - after, local, note: (both && local < clock).then_some(Note::Repeated) })
    }

    fn next_within(&self, after: NaiveDateTime, end: NaiveDateTime) -> Option<NaiveDateTime> {
        self.times.next_after(after).filter(|local| *local < end)
    }
}
