use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};

/// Longer waits are cut to this.
const MAX_WAIT: Duration = Duration::from_hours(24);

/// Parses `Retry-After` (RFC 9110 §10.2.3): seconds, or a date in any of three forms. Between 1 s and 24 h.
pub fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Overflow means longer than the bound.
        value.parse().map_or(MAX_WAIT, Duration::from_secs)
    } else {
        let date = DateTime::parse_from_rfc2822(value).map(|date| date.to_utc()).ok().or_else(|| {
            ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
                .iter()
                .find_map(|form| NaiveDateTime::parse_from_str(value, form).ok())
                .map(|date| date.and_utc())
        })?;
        (date - now).to_std().unwrap_or_default()
    };
    Some(wait.clamp(Duration::from_secs(1), MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms_and_bounded() {
        let now = "1994-11-06T08:49:00Z".parse().unwrap();
        for (value, wait) in [
            ("120", Some(secs(120))),
            (" 3 ", Some(secs(3))),
            ("0", Some(secs(1))),
            ("99999999999999999999999", Some(secs(86_400))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(secs(37))),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(secs(37))),
            ("Sun Nov  6 08:49:37 1994", Some(secs(37))),
            ("Sun, 06 Nov 1994 08:40:00 GMT", Some(secs(1))),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(secs(86_400))),
            ("", None),
            ("-5", None),
            ("soon", None),
            ("1.5", None),
        ] {
            assert_eq!(retry_after(value, now), wait, "{value}");
        }
    }
}
