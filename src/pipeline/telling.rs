//! Tells the application that published a job of its end, where the job asks for it. Dead jobs are told of with their
//! dead letters.

use chrono::{DateTime, Utc};

use super::ending::{Disposition, Ending};
use crate::{
    effects::{
        Effects,
        events::{Event, RootJob},
    },
    events::End,
    meta::Meta,
    plan::{JobOutcome, Reason},
};

/// What to tell.
pub(super) enum Telling {
    /// This end.
    Event(Box<Event>),
    /// The end that is on record: the job had ended before, and a stop may have kept its event back.
    Recorded(Box<RootJob>),
}

impl Telling {
    /// `None` if nobody wants to hear of it.
    pub(super) fn of(meta: &Meta, ending: &Ending, now: DateTime<Utc>) -> Option<Self> {
        if meta.wishes.notify.is_none() || ending.disposition != Disposition::Done {
            return None;
        }
        let job = RootJob::of(meta)?;
        if ending.outcome == JobOutcome::Duplicate {
            return Some(Self::Recorded(Box::new(job)));
        }
        let end = end(ending)?;
        let mut event = job.event(end, now)?;
        event.attempts = ending.attempts();
        event.reason = ending.label().map(str::to_owned).filter(|_| end != End::Done);
        if end == End::Expired {
            event.reason = Some(Reason::Expired.name().to_owned());
        }
        // An application may delay a job of this id again, and take it back again.
        let asked_by = meta.delay.as_ref().and_then(|delay| delay.asked_by.as_ref());
        if let Some(position) = asked_by.filter(|_| end == End::Cancelled) {
            event = event.of_message(position);
        }
        Some(Self::Event(Box::new(event)))
    }

    pub(super) async fn tell(self, effects: &Effects) {
        match self {
            Self::Event(event) => effects.tell(&event).await,
            Self::Recorded(job) => effects.tell_recorded(*job).await,
        }
    }
}

fn end(ending: &Ending) -> Option<End> {
    match (ending.outcome, ending.reason) {
        (JobOutcome::Done, _) => Some(End::Done),
        (JobOutcome::Expired, _) | (JobOutcome::Skipped, Some(Reason::Expired)) => Some(End::Expired),
        // The job that replaces it has its id.
        (JobOutcome::Skipped, Some(Reason::Replaced)) => None,
        (JobOutcome::Skipped, Some(Reason::Cancelled)) => Some(End::Cancelled),
        (JobOutcome::Skipped, _) => Some(End::Skipped),
        _ => None,
    }
}
