use std::ops::RangeInclusive;

/// A field, in the order of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// 0 to 59; 0 in expressions of five fields.
    Second,
    /// 0 to 59.
    Minute,
    /// 0 to 23.
    Hour,
    /// 1 to 31.
    DayOfMonth,
    /// 1 to 12, or a name.
    Month,
    /// 0 to 7, or a name; 0 and 7 are Sunday.
    DayOfWeek,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

impl Field {
    /// In order.
    pub const ALL: [Self; 6] = [Self::Second, Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    /// For messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        }
    }

    pub(super) fn bounds(self) -> RangeInclusive<u32> {
        match self {
            Self::Second | Self::Minute => 0..=59,
            Self::Hour => 0..=23,
            Self::DayOfMonth => 1..=31,
            Self::Month => 1..=12,
            Self::DayOfWeek => 0..=7,
        }
    }

    pub(super) fn count(self) -> u32 {
        match self {
            Self::DayOfWeek => 7,
            other => other.bounds().end() - other.bounds().start() + 1,
        }
    }

    /// Expected values, for messages.
    pub(super) fn expected(self) -> String {
        let (names, examples) = match self {
            Self::Second | Self::Minute => ("", "`0`, `0,30`, `10-20` or `*/5`"),
            Self::Hour => ("", "`9`, `8,20`, `9-17` or `*/2`"),
            Self::DayOfMonth => ("", "`1`, `1,15`, `1-7` or `*`"),
            Self::Month => (" or names", "`1`, `jun,dec`, `4-9` or `*/3`"),
            Self::DayOfWeek => (" or names, 0 and 7 being Sunday", "`1-5`, `mon,thu`, `sun` or `*`"),
        };
        let bounds = self.bounds();
        format!("expected numbers from {} to {}{names}: for example {examples}", bounds.start(), bounds.end())
    }

    pub(super) fn named(self, word: &str) -> Option<u32> {
        let (names, first): (&[&str], u32) = match self {
            Self::Month => (&MONTHS, 1),
            Self::DayOfWeek => (&WEEKDAYS, 0),
            _ => return None,
        };
        let word = word.to_lowercase();
        let numbered = (first..).zip(names);
        numbered.into_iter().find(|(_, name)| word == **name || word == name[..3]).map(|(number, _)| number)
    }
}
