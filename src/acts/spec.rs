//! What an operation does, and on which jobs.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{Refused, predict::is_of_queue};
use crate::{
    dead_letter::Letter,
    jobs,
    kind::{Kind, Lane, Queue},
    meta::split,
    plan::DeadReason,
    store::lists::{JobFilter, JobState},
};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Dead jobs are redriven, parked ones go on now.
    Retry,
    /// Jobs that have not begun are cancelled.
    Cancel,
    /// Dead letters are discarded.
    Discard,
    /// A queue's messages are taken out, and their jobs cancelled.
    Empty,
}

impl Act {
    /// All acts.
    pub const ALL: [Self; 4] = [Self::Retry, Self::Cancel, Self::Discard, Self::Empty];

    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
            Self::Discard => "discard",
            Self::Empty => "empty",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.name() == text)
    }
}

/// An operation as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// On dead letters.
    Letters(Act, LetterFilter),
    /// On jobs that have a row.
    Jobs(Act, JobFilter),
    /// On the messages of a queue.
    Queue(Queue),
}

/// Which dead letters. An absent field lets all pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Of this lane of the kind.
    pub lane: Option<Lane>,
    /// With this reason.
    pub reason: Option<DeadReason>,
    /// Of this application.
    pub application: Option<String>,
    /// Died since.
    pub since: Option<DateTime<Utc>>,
    /// Died before.
    pub until: Option<DateTime<Utc>>,
}

impl LetterFilter {
    /// Whether a letter matches.
    #[must_use]
    pub fn takes(&self, letter: &Letter) -> bool {
        let queue = self.kind.map(|kind| Queue { kind, lane: self.lane });
        self.kind.is_none_or(|kind| kind.name == letter.kind)
            && self.lane.and(queue).is_none_or(|queue| is_of_queue(&queue, &letter.original_subject))
            && self.reason.is_none_or(|reason| reason.name() == letter.reason)
            && self.application.as_ref().is_none_or(|application| split(&letter.root_id).0 == application)
            && self.since.is_none_or(|since| letter.last >= since)
            && self.until.is_none_or(|until| letter.last < until)
    }
}

impl Spec {
    /// What an act on the jobs of a filter means. `reason`: of dead letters.
    ///
    /// # Errors
    /// If jobs in these states cannot be acted on so.
    pub fn of(act: Act, filter: JobFilter, reason: Option<DeadReason>) -> Result<Self, Refused> {
        let wrong = |field, why: &str| Err(Refused::Wrong(field, why.to_owned()));
        let states = filter.states.as_deref().unwrap_or_default();
        let are = |allowed: &[JobState]| !states.is_empty() && states.iter().all(|state| allowed.contains(state));
        let is_of_letters = states.is_empty() || are(&[JobState::Dead]);
        match act {
            Act::Retry | Act::Discard if is_of_letters => {
                if filter.user.is_some() {
                    return wrong("user", "dead letters name no user: leave it out");
                }
                let JobFilter { kind, lane, application, since, until, .. } = filter;
                Ok(Self::Letters(act, LetterFilter { kind, lane, reason, application, since, until }))
            }
            _ if reason.is_some() => wrong("reason", "only dead jobs are chosen by the reason of their death"),
            Act::Retry if are(&[JobState::Held, JobState::Open]) => Ok(Self::Jobs(act, filter)),
            Act::Retry => wrong("status", "only dead and parked jobs can be retried: expected dead, held or open"),
            Act::Discard => wrong("status", "only dead jobs can be discarded: expected dead, or nothing"),
            Act::Cancel if are(&[JobState::Delayed, JobState::Pending, JobState::Held, JobState::Open]) => {
                Ok(Self::Jobs(act, filter))
            }
            Act::Cancel => wrong(
                "status",
                "only jobs that have not begun can be cancelled: expected waiting, pending, delayed, held or open. What \
                 only waits in a queue goes when that is emptied",
            ),
            Act::Empty => wrong("act", "a queue is emptied by its name alone"),
        }
    }

    /// What is done.
    #[must_use]
    pub const fn act(&self) -> Act {
        match self {
            Self::Letters(act, _) | Self::Jobs(act, _) => *act,
            Self::Queue(_) => Act::Empty,
        }
    }

    /// As stored and shown. Fields that let all pass are left out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let fields: Vec<(&str, Option<Value>)> = match self {
            Self::Letters(_, filter) => vec![
                ("status", Some(json!(["dead"]))),
                ("kind", filter.kind.map(|kind| kind.name.into())),
                ("lane", filter.lane.map(|lane| lane.name().into())),
                ("reason", filter.reason.map(|reason| reason.name().into())),
                ("application", filter.application.clone().map(Value::from)),
                ("since", filter.since.map(|at| json!(at))),
                ("until", filter.until.map(|at| json!(at))),
            ],
            Self::Jobs(_, filter) => vec![
                ("status", filter.states.as_ref().map(|all| all.iter().map(|state| state.name()).collect())),
                ("kind", filter.kind.map(|kind| kind.name.into())),
                ("lane", filter.lane.map(|lane| lane.name().into())),
                ("user", filter.user.clone().map(Value::from)),
                ("application", filter.application.clone().map(Value::from)),
                ("since", filter.since.map(|at| json!(at))),
                ("until", filter.until.map(|at| json!(at))),
            ],
            Self::Queue(queue) => vec![("queue", Some(queue.durable().into()))],
        };
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }

    /// Reads what [`to_json`](Self::to_json) writes.
    ///
    /// # Errors
    /// If a newer version wrote it.
    pub fn read(act: &str, filter: &Value) -> Result<Self, Refused> {
        let unknown = |what: &str| Refused::Wrong("filter", format!("this version does not know the {what}"));
        let text = |name: &str| filter[name].as_str();
        let instant =
            |name: &str| text(name).and_then(|at| DateTime::parse_from_rfc3339(at).ok()).map(|at| at.to_utc());
        let act = Act::parse(act).ok_or_else(|| unknown("act"))?;
        if act == Act::Empty {
            return queue_named(text("queue").unwrap_or_default()).map(Self::Queue).ok_or_else(|| unknown("queue"));
        }
        let states = filter["status"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let states = states.map(|name| JobState::ALL.into_iter().find(|state| state.name() == name));
        let states: Vec<JobState> = states.collect::<Option<_>>().ok_or_else(|| unknown("state"))?;
        let kind = text("kind").map(|name| kind_named(name).ok_or_else(|| unknown("kind"))).transpose()?;
        let reason = text("reason").map(|name| DeadReason::parse(name).ok_or_else(|| unknown("reason"))).transpose()?;
        let filter = JobFilter {
            states: Some(states).filter(|states| !states.is_empty()),
            kind,
            lane: text("lane").and_then(Lane::parse),
            user: text("user").map(str::to_owned),
            application: text("application").map(str::to_owned),
            since: instant("since"),
            until: instant("until"),
        };
        Self::of(act, filter, reason)
    }
}

fn kind_named(name: &str) -> Option<Kind> {
    jobs::registry().kinds().iter().find(|kind| kind.name == name).copied()
}

fn queue_named(name: &str) -> Option<Queue> {
    jobs::registry().kinds().iter().flat_map(Kind::queues).find(|queue| queue.durable() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(states: &str) -> JobFilter {
        JobFilter { states: JobState::named(states), ..JobFilter::default() }
    }

    #[test]
    fn an_operation_is_read_as_it_was_written() {
        let at = DateTime::from_timestamp(1_796_112_000, 0).unwrap();
        let of = |act, filter, reason| Spec::of(act, filter, reason).unwrap();
        let queue = queue_named("deliver_sms_normal").unwrap();
        let narrow =
            JobFilter { kind: Some(queue.kind), lane: queue.lane, since: Some(at), until: Some(at), ..filter("held") };
        for spec in [
            of(Act::Retry, JobFilter::default(), Some(DeadReason::Exhausted)),
            of(Act::Retry, narrow.clone(), None),
            of(Act::Cancel, JobFilter { user: Some("ana".into()), ..narrow }, None),
            of(Act::Discard, filter("dead"), None),
            Spec::Queue(queue),
        ] {
            assert_eq!(Spec::read(spec.act().name(), &spec.to_json()).unwrap(), spec);
        }
        assert!(Spec::read("retry", &json!({ "kind": "reminder.dinner" })).is_err());
    }

    #[test]
    fn only_what_can_be_acted_on_is() {
        for (act, states) in [
            (Act::Retry, "done"),
            (Act::Retry, "failed"),
            (Act::Cancel, "sending"),
            (Act::Discard, "held"),
            (Act::Empty, "dead"),
        ] {
            assert!(Spec::of(act, filter(states), None).is_err(), "{act:?} {states}");
        }
        assert!(Spec::of(Act::Cancel, JobFilter::default(), None).is_err(), "not all that there is");
        assert!(Spec::of(Act::Cancel, filter("delayed"), None).is_ok());
        assert!(Spec::of(Act::Retry, JobFilter { user: Some("ana".into()), ..filter("dead") }, None).is_err());
    }
}
