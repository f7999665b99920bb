//! A job of each kind, to begin with.

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use serde_json::{Value, json};

/// A job of a kind as JSON, whose instants are to come. An empty object if the kind is declared in a file.
pub fn example(kind: &str, now: DateTime<Utc>) -> String {
    let soon = (now + TimeDelta::hours(1)).trunc_subsecs(0).to_rfc3339_opts(SecondsFormat::Secs, true);
    let job: Value = match kind {
        "reminder.medication" => json!({ "medicationId": "metformin", "scheduledTime": soon, "reminderMinutes": 0 }),
        "reminder.appointment" => json!({ "appointmentId": "dentist", "dateTime": soon, "reminderMinutes": 60 }),
        "reminder.shift" => json!({ "shiftId": "night-17", "startTime": soon, "reminderMinutes": 60 }),
        "alert.refill" => json!({ "medicationId": "metformin", "currentSupply": 4, "refillAt": 7 }),
        "notification" => json!({
            "recipients": [{ "userId": "ana" }], "title": "Tea at three", "body": "In the garden room",
        }),
        _ => json!({}),
    };
    serde_json::to_string_pretty(&job).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{jobs, kind::Stage, pipeline::Form};

    #[test]
    fn each_kind_has_an_example_that_a_worker_can_run() {
        let (registry, now) = (jobs::registry(), DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        for kind in registry.kinds().iter().filter(|kind| kind.is_published() && kind.stage != Stage::Task) {
            let body = Bytes::from(example(kind.name, now));
            let read = registry.decoder(*kind).unwrap().decode(&body, Form::Json).map(|_| ());
            assert_eq!(read, Ok(()), "{kind}");
        }
    }
}
