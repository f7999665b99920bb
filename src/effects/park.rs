//! Parking: a job is published to the stream HOLD for later, and its message is acknowledged.
//!
//! A parked job frees its permit and leaves `max_ack_pending`. It comes back as a new message with a delivery count of
//! one, so no number of waits exhausts it. Its recorded failures stay.

use async_nats::{HeaderMap, jetstream};
use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use super::publish::{self, insist_if_it_fits, rfc3339};
use crate::{
    checkpoint::{self, Step},
    header,
    meta::{IntakePosition, Meta, NO_MESSAGE},
    schedule::ZoneData,
    store::Child,
};

/// The stream of parked jobs.
pub const STREAM: &str = "HOLD";

/// First token of a parked job's subject, with its dot.
pub const PREFIX: &str = "hold.";

/// Begins the subject of a job that waits for its instant. When it comes back it has not run before, unlike one that was
/// parked for a retry.
pub const AT: &str = "hold.at.";

/// Begins the subject of a reminder that is not due.
const DUE: &str = "hold.due.";

/// The subjects of parked jobs.
pub const SUBJECTS: &str = "hold.>";

/// Begins the subject of a job that comes back.
pub const RESUMED: &str = "resume.";

/// How much earlier a delayed job comes back than it is due. The server looks at its schedules at most every 250 ms
/// (nats-server 2.15.1), so a worker waits for the instant itself.
pub const EARLY: TimeDelta = TimeDelta::milliseconds(400);

/// 2262-01-01: the server counts nanoseconds since 1970 in 64 bits, and fires at once what is later.
const LAST: DateTime<Utc> = match DateTime::from_timestamp(9_214_646_400, 0) {
    Some(last) => last,
    None => DateTime::UNIX_EPOCH,
};

/// Whether a job is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// Parked.
    Yes,
    /// Not parked: with its headers it exceeds the stream's message size.
    TooLarge,
}

/// A job to park.
pub struct Parking<'a> {
    /// Identity.
    pub meta: &'a Meta,
    /// Expiry.
    pub not_after: DateTime<Utc>,
    /// Subject that it comes back on, after [`RESUMED`].
    pub subject: &'a str,
    /// Message headers.
    pub headers: Option<&'a HeaderMap>,
    /// Body.
    pub body: Bytes,
    /// When it comes back.
    pub until: DateTime<Utc>,
    /// The end of its wait.
    pub parked_for: ParkedFor,
}

/// The event for which a parked job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkedFor {
    /// Another attempt, or the end of a pause.
    Again,
    /// The end of its recipient's quiet hours, which depends on the rules of a time zone.
    QuietHours,
    /// Its own instant, as its application wished. It has not run.
    Instant,
    /// To be due: its application published it too early. One message waits for each job id.
    Due,
}

impl Parking<'_> {
    /// Publishes the job for its instant, and waits for the acknowledgement. Safe to repeat: the subject belongs to
    /// this message, and a later schedule replaces an earlier one.
    pub async fn park(self, context: &jetstream::Context) -> Parked {
        let Self { meta, not_after, subject, headers, body, until, parked_for } = self;
        let mut resumed = HeaderMap::new();
        for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
            let name: &str = name.as_ref();
            let is_of_a_wait = [header::ZONE_DATA, header::PARKED_AS, header::DUE, header::WAITS].contains(&name);
            if !name.starts_with("Nats-") && !is_of_a_wait {
                for value in values {
                    resumed.append(name, value.clone());
                }
            }
        }
        // The resumed message would have other defaults.
        resumed.insert(header::JOB_ID, meta.job_id.as_str());
        resumed.insert(header::ROOT_ID, meta.root_id.as_str());
        resumed.insert(header::NOT_AFTER, rfc3339(not_after));
        // That of a delayed job too: it may come back late.
        if let Some(due) = meta.due {
            resumed.insert(header::DUE, rfc3339(due));
        }
        if let Some(waiting) = meta.waited.filter(|_| parked_for != ParkedFor::Instant) {
            resumed.insert(header::WAITS, waiting.to_string().as_str());
        }
        resumed.insert(header::SCHEDULE_TARGET, format!("{RESUMED}{subject}").as_str());
        if parked_for == ParkedFor::QuietHours {
            resumed.insert(header::ZONE_DATA, ZoneData::in_use().version.as_str());
        }
        let asked_by = meta.delay.as_ref().and_then(|delay| delay.asked_by.as_ref());
        if let Some(position) = asked_by {
            resumed.insert(header::DELAYED_BY, position.to_string().as_str());
        }
        let fires = if parked_for == ParkedFor::Instant { until - EARLY } else { until };
        resumed.insert(header::SCHEDULE, schedule_at(fires).as_str());
        let own_subject = match (meta.position.sequence, asked_by) {
            // However often it is published under its id.
            _ if parked_for == ParkedFor::Due => due_subject(&meta.job_id),
            (_, Some(position)) if parked_for == ParkedFor::Instant => delayed_subject(position),
            (sequence, None) if parked_for == ParkedFor::Instant => format!("{AT}{}.{sequence}", meta.position.stream),
            (NO_MESSAGE, _) => format!("{PREFIX}{}.{}", meta.position.stream, meta.job_id),
            (sequence, _) => subject_of(&meta.position.stream, sequence),
        };
        if !insist_if_it_fits(context, &own_subject, resumed, body).await {
            return Parked::TooLarge;
        }
        checkpoint::reached(Step::Parked);
        Parked::Yes
    }
}

/// `Nats-Schedule` for an instant. One that the server cannot hold is taken for the nearest that it can.
#[must_use]
pub fn schedule_at(at: DateTime<Utc>) -> String {
    format!("@at {}", rfc3339(at.clamp(DateTime::UNIX_EPOCH, LAST)))
}

/// The subject of a delayed job until it is due. A stream made anew counts from 1 again.
#[must_use]
pub fn delayed_subject(position: &IntakePosition) -> String {
    format!("{AT}{}.{}.{}", position.stream, position.sequence, position.created.timestamp_micros())
}

/// The subject of a parked message of a stream.
#[must_use]
pub fn subject_of(stream: &str, sequence: i64) -> String {
    format!("{PREFIX}{stream}.{sequence}")
}

/// The subject of a reminder that is not due: one for each job id.
#[must_use]
pub fn due_subject(job_id: &str) -> String {
    let hash = digest::digest(&digest::SHA256, job_id.as_bytes());
    format!("{DUE}{}", URL_SAFE_NO_PAD.encode(hash))
}

/// Parks a direct send, which has no message: `child` is the one it would have.
pub async fn park_child(
    context: &jetstream::Context,
    meta: &Meta,
    child: &Child,
    until: DateTime<Utc>,
    parked_for: ParkedFor,
) -> Parked {
    let mut headers = HeaderMap::new();
    publish::set_trace(&mut headers, child.trace.as_deref());
    let body = Bytes::from(child.body.clone());
    let (not_after, subject) = (child.not_after, child.subject.as_str());
    Parking { meta, not_after, subject, headers: Some(&headers), body, until, parked_for }.park(context).await
}
