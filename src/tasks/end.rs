//! How an attempt ends, as it is kept until it is committed or recorded.

use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::told::{FailedAs, Told, ToldFailure};
use crate::{
    job::{Failure, Outcome},
    plan::{Effect, Plan, Reason},
};

/// The wait for an endpoint that wants to be asked later and does not say when, in seconds.
const DEFAULT_WAIT: u64 = 30;

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum End {
    /// Done, with this result and these effects.
    Done(Told),
    /// It has failed. Repeated after so many seconds at the soonest.
    Retry {
        /// Why.
        error: String,
        /// Seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    /// Asked again after so many seconds; burns no attempt.
    Later {
        /// Seconds.
        after: u64,
    },
    /// No retry mends it.
    Permanent {
        /// Why.
        error: String,
    },
    /// Nothing was to be done.
    Skipped,
    /// Ended because it was cancelled.
    Cancelled,
}

impl End {
    /// That of an endpoint's report.
    #[must_use]
    pub fn failed(told: ToldFailure) -> Self {
        let error = told
            .error
            .map_or_else(|| "the endpoint reports a failure".into(), |error| format!("the endpoint reports: {error}"));
        match told.outcome {
            FailedAs::Permanent => Self::Permanent { error },
            FailedAs::Retry => Self::Retry { error, after: told.after.map(u64::from) },
            FailedAs::Later => Self::Later { after: told.after.map_or(DEFAULT_WAIT, u64::from) },
            FailedAs::Skipped => Self::Skipped,
            FailedAs::Cancelled => Self::Cancelled,
        }
    }

    /// What is kept in the row.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what is kept. What a later version has written is a failed attempt.
    #[must_use]
    pub fn from_json(json: Value) -> Self {
        serde_json::from_value(json).unwrap_or_else(|_| Self::Retry {
            error: "another version of Carebell has noted an end that this one cannot read".into(),
            after: None,
        })
    }
}

/// The consequence of an end at `now`. `effects` are those that it asks for.
///
/// # Errors
/// A failed attempt, or that no retry mends it.
pub fn outcome(end: End, effects: Vec<Effect>, now: chrono::DateTime<chrono::Utc>) -> Result<Outcome, Failure> {
    match end {
        End::Done(told) => {
            let result = (!told.result.is_null()).then_some(told.result);
            Ok(Outcome::Done(Plan { effects, result, ..Plan::default() }))
        }
        End::Retry { error, after } => Err(Failure::Retry { why: error, after: after.map(Duration::from_secs) }),
        End::Later { after } => {
            let wait = TimeDelta::try_seconds(i64::try_from(after).unwrap_or(i64::MAX));
            let until = wait.and_then(|wait| now.checked_add_signed(wait));
            Ok(Outcome::Wait(until.unwrap_or(chrono::DateTime::<chrono::Utc>::MAX_UTC), Reason::RetryLater))
        }
        End::Permanent { error } => Err(Failure::permanent(error)),
        End::Skipped => Ok(Outcome::Skipped(Reason::NotNeeded)),
        End::Cancelled => Ok(Outcome::Skipped(Reason::Cancelled)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_read_as_it_was_kept() {
        let told = Told { result: json!({ "pages": 3 }), effects: Vec::new() };
        for end in [
            End::Done(told),
            End::Done(Told::default()),
            End::Retry { error: "no luck".into(), after: Some(5) },
            End::Later { after: 7 },
            End::Permanent { error: "no way".into() },
            End::Skipped,
            End::Cancelled,
        ] {
            assert_eq!(End::from_json(end.to_json()), end);
        }
        assert!(matches!(End::from_json(json!({ "outcome": "else" })), End::Retry { .. }));
    }
}
