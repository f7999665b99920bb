//! The states of a task, from values alone: how a job goes on whose task is on record, and which reports are taken.
//!
//! ```text
//! sending ── 202 ──► accepted ── done, failed ──► completed, failed ── its run ends, or the attempt is recorded ──► closed
//!    └── done or failed before its 202 is read, or an answer at once ──►┘
//! ```

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::{
    declared::AfterUnknown,
    store::{TaskRow, TaskState},
};

/// How a job goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Its request goes out.
    Send,
    /// Its endpoint works on; look again then.
    Wait(DateTime<Utc>),
    /// It is done, or the attempt has failed: carry out what is on record.
    End(Value),
    /// Its endpoint was silent for too long, or has missed its deadline: the attempt has failed.
    Missed(&'static str),
    /// People have cancelled it, and its endpoint is not at work.
    Cancelled,
    /// The request of this very message may have gone out, and must not go out twice.
    Unknown,
}

/// The message and the moment of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Stream and sequence of its message.
    pub position: (&'a str, i64),
    /// Whether people have asked to cancel the job.
    pub is_cancelled: bool,
    /// What follows on silence after a request.
    pub after_unknown: AfterUnknown,
    /// Time.
    pub now: DateTime<Utc>,
}

/// How a job goes on whose task, if any, is on record so.
#[must_use]
pub fn next(row: Option<&TaskRow>, moment: Moment<'_>) -> Next {
    let Moment { position, is_cancelled, after_unknown, now } = moment;
    let Some(row) = row.filter(|row| row.is_open) else {
        return if is_cancelled { Next::Cancelled } else { Next::Send };
    };
    let is_same_message = (row.stream.as_str(), row.sequence) == position;
    match row.state {
        TaskState::Sending if is_same_message && after_unknown == AfterUnknown::Stop => Next::Unknown,
        TaskState::Accepted if now < row.deadline.min(row.heartbeat_at) => {
            Next::Wait(row.deadline.min(row.heartbeat_at))
        }
        TaskState::Failed | TaskState::Sending | TaskState::Accepted if is_cancelled => Next::Cancelled,
        // A completion wins over a cancellation.
        TaskState::Completed | TaskState::Failed => Next::End(row.answer.clone().unwrap_or_default()),
        TaskState::Sending => Next::Send,
        TaskState::Accepted if now >= row.deadline => Next::Missed("the endpoint accepted it and missed its deadline"),
        TaskState::Accepted => Next::Missed("the endpoint accepted it and gave no sign of life in time"),
    }
}

/// A report of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// How far it is.
    Progress,
    /// Done, with this result.
    Done,
    /// The attempt has failed.
    Failed,
}

/// Whether a report is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Take,
    /// It was before.
    Repeated,
    /// Its token is not that of the job, or there is no such job.
    Unauthorised,
    /// It is about an earlier attempt, and another has begun.
    Superseded,
    /// The attempt has ended: otherwise, or at its deadline.
    Ended,
}

/// Whether a report with a token of this SHA-256 is taken.
#[must_use]
pub fn verdict(row: Option<&TaskRow>, token: &[u8], report: Report, now: DateTime<Utc>) -> Verdict {
    let Some(row) = row else { return Verdict::Unauthorised };
    let is_in = |tokens: &[Vec<u8>]| {
        // All are compared, so that the time tells nothing.
        tokens.iter().fold(false, |found, known| verify_slices_are_equal(known, token).is_ok() | found)
    };
    let (is_current, is_old) = (is_in(&row.tokens), is_in(&row.old_tokens));
    match (row.state, report) {
        _ if !is_current => {
            if is_old {
                Verdict::Superseded
            } else {
                Verdict::Unauthorised
            }
        }
        (TaskState::Completed, Report::Done) | (TaskState::Failed, Report::Failed) => Verdict::Repeated,
        (TaskState::Completed, Report::Progress | Report::Failed)
        | (TaskState::Failed, Report::Progress | Report::Done) => Verdict::Ended,
        (TaskState::Sending | TaskState::Accepted, _) if !row.is_open || row.is_over || now >= row.deadline => {
            Verdict::Ended
        }
        (TaskState::Sending | TaskState::Accepted, _) => Verdict::Take,
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn instant(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn row(state: TaskState, is_open: bool, is_over: bool, deadline: i64, heartbeat: i64) -> TaskRow {
        TaskRow {
            job_id: "job".into(),
            kind: "search.index".into(),
            attempt: 1,
            stream: "JOBS".into(),
            sequence: 7,
            state,
            is_open,
            tokens: vec![vec![1; 32], vec![2; 32]],
            old_tokens: vec![vec![3; 32]],
            deadline: instant(deadline),
            heartbeat_at: instant(heartbeat),
            percent: None,
            note: None,
            answer: Some(json!({ "outcome": "done" })),
            is_over,
            cancel_at: None,
        }
    }

    prop_compose! {
        fn rows()(
            state in prop::sample::select(&TaskState::ALL[..]), is_open: bool, is_over: bool, deadline in -100..100_i64,
            heartbeat in -100..100_i64,
        ) -> TaskRow {
            row(state, is_open, is_over, deadline, heartbeat)
        }
    }

    proptest! {
        #[test]
        fn a_task_under_way_is_never_sent_again(
            row in rows(), same: bool, is_cancelled: bool, stops: bool,
        ) {
            let after_unknown = if stops { AfterUnknown::Stop } else { AfterUnknown::SendAgain };
            let position = ("JOBS", if same { 7 } else { 8 });
            let next = next(Some(&row), Moment { position, is_cancelled, after_unknown, now: instant(0) });
            let goes_on = row.deadline > instant(0) && row.heartbeat_at > instant(0);
            match (row.state, next) {
                (_, Next::Send) => {
                    prop_assert!(!is_cancelled, "a cancelled job is not sent");
                    prop_assert!(!row.is_open || row.state == TaskState::Sending);
                    prop_assert!(!(row.is_open && stops && same), "it may have been done");
                }
                (state, Next::Wait(until)) => {
                    prop_assert!(state == TaskState::Accepted && row.is_open && goes_on);
                    prop_assert!(until > instant(0) && until <= row.deadline);
                }
                (state, Next::End(_)) => {
                    prop_assert!(row.is_open && [TaskState::Completed, TaskState::Failed].contains(&state));
                    prop_assert!(state == TaskState::Completed || !is_cancelled, "only a completion wins");
                }
                (state, Next::Missed(_)) => prop_assert!(state == TaskState::Accepted && !goes_on && !is_cancelled),
                (state, Next::Cancelled) => {
                    prop_assert!(is_cancelled);
                    prop_assert!(!row.is_open || state != TaskState::Completed && !(state == TaskState::Accepted && goes_on));
                }
                (state, Next::Unknown) => {
                    prop_assert!(row.is_open && state == TaskState::Sending && same && stops);
                }
            }
        }

        #[test]
        fn only_a_token_of_the_attempt_changes_anything(
            row in rows(), token in 0..5_u8, which in 0..3_usize,
        ) {
            let report = [Report::Progress, Report::Done, Report::Failed][which];
            let verdict = verdict(Some(&row), &[token; 32], report, instant(0));
            match token {
                1 | 2 => prop_assert!(![Verdict::Unauthorised, Verdict::Superseded].contains(&verdict)),
                3 => prop_assert_eq!(verdict, Verdict::Superseded),
                _ => prop_assert_eq!(verdict, Verdict::Unauthorised),
            }
            if verdict == Verdict::Take {
                prop_assert!(row.is_open && !row.is_over && row.deadline > instant(0));
                prop_assert!([TaskState::Sending, TaskState::Accepted].contains(&row.state));
            }
            if verdict == Verdict::Repeated {
                let same = if report == Report::Done { TaskState::Completed } else { TaskState::Failed };
                prop_assert!(report != Report::Progress && row.state == same);
            }
        }

        /// Reports in any order: the first end is the only one.
        #[test]
        fn a_task_ends_once(reports in prop::collection::vec((0..3_usize, 0..40_i64), 1..20)) {
            let mut task = row(TaskState::Sending, true, false, 30, 30);
            let (mut ends, mut last) = (0, 0);
            for (which, later) in reports {
                let report = [Report::Progress, Report::Done, Report::Failed][which];
                last = last.max(later);
                let verdict = verdict(Some(&task), &[1; 32], report, instant(0) + TimeDelta::seconds(last));
                if verdict == Verdict::Take && report != Report::Progress {
                    task.state = if report == Report::Done { TaskState::Completed } else { TaskState::Failed };
                    ends += 1;
                }
            }
            prop_assert!(ends <= 1);
        }
    }

    #[test]
    fn a_job_without_a_task_is_sent_and_nobody_reports_about_it() {
        let moment = |is_cancelled| Moment {
            position: ("JOBS", 7),
            is_cancelled,
            after_unknown: AfterUnknown::Stop,
            now: instant(0),
        };
        assert_eq!(next(None, moment(false)), Next::Send);
        assert_eq!(next(None, moment(true)), Next::Cancelled);
        assert_eq!(verdict(None, &[1; 32], Report::Done, instant(0)), Verdict::Unauthorised);
    }
}
