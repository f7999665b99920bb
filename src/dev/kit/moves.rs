//! How far a test wants the clock to move.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

/// The farthest a clock moves: certificates and tokens of the kit are not made for longer.
const FARTHEST: TimeDelta = TimeDelta::days(400);

/// Reads `{"by": "2h"}` or `{"to": "2027-03-01T09:00:00Z"}`.
///
/// # Errors
/// Names the field and what it may hold.
pub fn read(body: &Value, now: DateTime<Utc>) -> Result<TimeDelta, String> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let by = match (text("by"), text("to")) {
        (Some(by), None) => humantime::parse_duration(by)
            .ok()
            .and_then(|by| TimeDelta::from_std(by).ok())
            .ok_or("by: expected a duration such as 90s, 2h or 1day")?,
        (None, Some(to)) => {
            let to = DateTime::parse_from_rfc3339(to)
                .map_err(|_| "to: expected an RFC 3339 instant, for example 2027-03-01T09:00:00Z")?;
            to.with_timezone(&Utc) - now
        }
        _ => return Err(r#"expected {"by": "2h"} or {"to": "2027-03-01T09:00:00Z"}"#.to_owned()),
    };
    if by < TimeDelta::zero() {
        return Err(format!("the clock goes forward only, and it is {now} already; POST /reset sets it back"));
    }
    if by > FARTHEST {
        return Err(format!("the clock moves at most {} days at a time", FARTHEST.num_days()));
    }
    Ok(by)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_move_is_a_time_or_an_instant_and_goes_forward() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert_eq!(read(&json!({ "by": "2h" }), now), Ok(TimeDelta::hours(2)));
        assert_eq!(read(&json!({ "to": now + TimeDelta::minutes(5) }), now), Ok(TimeDelta::minutes(5)));
        for (body, expected) in [
            (json!({}), r#"{"by": "2h"}"#),
            (json!({ "by": "2h", "to": now }), r#"{"by": "2h"}"#),
            (json!({ "by": 7 }), r#"{"by": "2h"}"#),
            (json!({ "by": "soon" }), "by: expected a duration"),
            (json!({ "to": "tomorrow" }), "to: expected an RFC 3339 instant"),
            (json!({ "to": now - TimeDelta::seconds(1) }), "forward only"),
            (json!({ "by": "3years" }), "at most 400 days"),
        ] {
            let why = read(&body, now).unwrap_err();
            assert!(why.contains(expected), "{body}: {why}");
        }
    }
}
