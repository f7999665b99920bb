//! Tells applications of the ends of their jobs: publishes events (`docs/EVENTS.md`).
//!
//! An event is published after the commit and before the acknowledgement, so a stop in between repeats it. Its
//! `Nats-Msg-Id` is the same each time.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::time::sleep;

use super::{Effects, publish};
use crate::{
    checkpoint::{self, Step},
    events::{End, Notify, subject},
    header, intake,
    kind::Lane,
    meta::{IntakePosition, Meta, OWN, is_of_application, split},
    plan::Reason,
    retry::Once,
    store::{RunAsk, RunRecord},
    wire,
};

/// Wait before asking the database again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A job that an application published, and not one that followed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootJob {
    /// Its id, with its application.
    pub job_id: String,
    /// Its kind's name.
    pub kind: String,
    /// Its lane, if its kind has some.
    pub lane: Option<Lane>,
    /// The ends of which it asks to be told.
    pub notify: Notify,
}

/// The end of a job, for its application.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    job: RootJob,
    end: End,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Why, if it is not done.
    pub reason: Option<String>,
    /// Attempts that it took, if any is known.
    pub attempts: Option<u32>,
    /// Of a dead job, one line.
    pub error: Option<String>,
    /// Tells apart ends of one job that may be alike: the message that ended.
    pub occasion: Option<String>,
}

impl RootJob {
    /// `None` if no application published it.
    #[must_use]
    pub fn of(meta: &Meta) -> Option<Self> {
        let is_root = meta.job_id == meta.root_id && is_of_application(&meta.job_id);
        is_root.then(|| Self {
            job_id: meta.job_id.clone(),
            kind: meta.kind.name.to_owned(),
            lane: meta.kind.lane_for(meta.lane),
            notify: meta.wishes.notify,
        })
    }

    /// That of a message, whose kind and lane are known from its subject. `None` if no application published it.
    #[must_use]
    pub fn of_message(
        headers: Option<&HeaderMap>,
        stream: &str,
        sequence: i64,
        kind: &str,
        lane: Option<Lane>,
    ) -> Option<Self> {
        let own_id = intake::job_id(headers, stream, sequence);
        let job_id = if intake::is_intake(stream) {
            own_id.unwrap_or_else(|_| intake::default_id(stream, sequence))
        } else {
            let root = intake::root_id(headers, stream).ok().flatten();
            own_id.ok().filter(|id| Some(id) == root.as_ref() && is_of_application(id))?
        };
        let notify = headers.and_then(|headers| headers.get(header::NOTIFY));
        let notify = notify.and_then(|text| Notify::parse(text.as_str()).ok()).unwrap_or_default();
        Some(Self { job_id, kind: kind.to_owned(), lane, notify })
    }

    /// Its end at this instant. `None` if its application does not want to hear of it.
    #[must_use]
    pub fn event(self, end: End, at: DateTime<Utc>) -> Option<Event> {
        let is_wanted = end == End::Dead || self.notify.wants(end);
        is_wanted.then_some(Event { job: self, end, at, reason: None, attempts: None, error: None, occasion: None })
    }
}

impl Event {
    /// The same, as the end of one message of the job, and not of the job for all time.
    #[must_use]
    pub fn of_message(self, position: &IntakePosition) -> Self {
        Self { occasion: Some(format!("{}.{}", position.stream, position.sequence)), ..self }
    }

    /// The same in each copy.
    fn id(&self) -> String {
        let occasion = self.occasion.as_deref().map(|occasion| format!("{OWN}{occasion}")).unwrap_or_default();
        format!("{}{OWN}{}{occasion}", self.job.job_id, self.end.name())
    }

    fn message(&self) -> (String, HeaderMap, Bytes) {
        let (application, job_id) = split(&self.job.job_id);
        let event = wire::JobEvent {
            event_id: self.id(),
            job_id: job_id.to_owned(),
            kind: self.job.kind.clone(),
            lane: self.job.lane.map(Lane::name).unwrap_or_default().to_owned(),
            outcome: self.end.name().to_owned(),
            reason: self.reason.clone().unwrap_or_default(),
            attempts: self.attempts.unwrap_or_default(),
            at: Some(prost_types::Timestamp {
                seconds: self.at.timestamp(),
                nanos: i32::try_from(self.at.timestamp_subsec_micros() * 1000).unwrap_or_default(),
            }),
            error: self.error.clone().unwrap_or_default(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, event.event_id.as_str());
        headers.insert(header::CONTENT_TYPE, "application/json");
        (subject(application, self.end), headers, wire::to_json(&event).to_string().into())
    }

    /// Publishes it, and waits until the server has it, however long that takes.
    pub async fn insist(&self, context: &jetstream::Context) {
        let (subject, headers, body) = self.message();
        if !publish::insist_if_it_fits(context, &subject, headers, body).await {
            tracing::error!(job = self.job.job_id, subject, "an event exceeds its stream's message size: it is lost");
        }
        checkpoint::reached(Step::Told);
    }

    /// Publishes it once.
    ///
    /// # Errors
    /// The server's refusal, or its silence.
    pub async fn publish(&self, context: &jetstream::Context) -> Result<(), String> {
        let (subject, headers, body) = self.message();
        publish::send(context, &subject, headers, body).await.map(|_| ()).map_err(|error| error.to_string())
    }
}

impl Effects {
    /// Tells of an end.
    pub async fn tell(&self, event: &Event) {
        event.insist(&self.context).await;
    }

    /// Tells of the end that is on record of a job, if there is one. Waits for the database.
    pub async fn tell_recorded(&self, job: RootJob) {
        let mut told = Once::new();
        let record = loop {
            match self.look_ups.ask(RunAsk { job_id: job.job_id.clone() }).await {
                Ok(record) => break record,
                Err(refused) => {
                    if told.is_first() {
                        tracing::warn!(job = job.job_id, "its end cannot be looked up, again soon: {refused:?}");
                    }
                    sleep(ASK_AGAIN).await;
                }
            }
        };
        if let Some(event) = record.and_then(|record| recorded(job, record)) {
            self.tell(&event).await;
        }
    }
}

fn recorded(job: RootJob, record: RunRecord) -> Option<Event> {
    let end = match (record.state.as_str(), record.reason.as_deref()) {
        ("done", _) => End::Done,
        ("expired", _) => End::Expired,
        ("skipped", Some(reason)) if reason == Reason::Cancelled.name() => End::Cancelled,
        ("skipped", _) => End::Skipped,
        _ => return None,
    };
    let failures = u32::try_from(record.attempts).unwrap_or(0);
    let mut event = job.event(end, record.updated_at)?;
    event.attempts = Some(if end == End::Done { failures + 1 } else { failures });
    event.reason = record.reason.filter(|_| end != End::Done);
    Some(event)
}
