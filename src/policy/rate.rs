use std::{fmt, time::Duration};

/// A rate: `50/s`, `100/min`, `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Duration,
}

const UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("min", Duration::from_mins(1)), ("h", Duration::from_hours(1))];

impl Rate {
    /// For messages.
    pub const EXAMPLES: &str = "a rate such as 50/s, 100/min or 1000/h";

    /// Parses a rate.
    ///
    /// # Errors
    /// If it has another form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rate = text.split_once('/').and_then(|(count, unit)| {
            let (_, per) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
            let count = count.parse().ok().filter(|count| *count > 0)?;
            Some(Self { count, per })
        });
        rate.ok_or_else(|| format!("expected {}", Self::EXAMPLES))
    }

    /// Shortest time for `count` starts.
    #[must_use]
    pub fn time_for(&self, count: usize) -> Duration {
        self.per.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)) / self.count
    }

    /// Starts that fit into `time`, rounded down.
    #[must_use]
    pub fn within(&self, time: Duration) -> usize {
        let count = time.as_nanos() * u128::from(self.count) / self.per.as_nanos();
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Rate {
    /// As declared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, per)| *per == self.per).map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_shown_and_kept() {
        let rate = Rate::parse("90/min").unwrap();
        assert_eq!(rate.time_for(45), Duration::from_secs(30));
        assert_eq!(rate.within(Duration::from_secs(2)), 3);
        for text in ["50/s", "100/min", "1000/h"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "50", "0/s", "-1/s", "50/day", "x/s", "1.5/s"] {
            assert!(Rate::parse(wrong).unwrap_err().contains("50/s"), "{wrong}");
        }
    }
}
