//! Waits: a job is published again for later, and acknowledged.
//!
//! A parked job frees its permit and its place in ack-pending, and comes back as a new message with its delivery count
//! at one, so that no number of waits exhausts it. What it has failed at is on record, and is not forgotten by that.

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::publish::{header, insist_if_it_fits, rfc3339};
use crate::{
    checkpoint::{self, Step},
    job::Meta,
    store::NO_MESSAGE,
};

/// What the subject of every parked job begins with.
pub const PREFIX: &str = "hold.";

/// Whether a job is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// It is.
    Yes,
    /// It cannot be: with the headers that a parked job needs it is larger than the streams take.
    TooLarge,
}

/// Publishes the job to be resumed at `until`, and waits for the acknowledgement. Safe to repeat: the subject is the
/// message's own, and a later schedule on it replaces an earlier one.
pub async fn park(
    context: &jetstream::Context,
    meta: &Meta,
    not_after: DateTime<Utc>,
    subject: &str,
    headers: Option<&HeaderMap>,
    body: Bytes,
    until: DateTime<Utc>,
) -> Parked {
    let mut resumed = HeaderMap::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        if !name.starts_with("Nats-") {
            for value in values {
                resumed.append(name, value.clone());
            }
        }
    }
    // What was a default so far would have another value for the resumed message, so it is written down.
    resumed.insert(header::JOB_ID, meta.job_id.as_str());
    resumed.insert(header::ROOT_ID, meta.root_id.as_str());
    resumed.insert(header::NOT_AFTER, rfc3339(not_after));
    resumed.insert(header::SCHEDULE, format!("@at {}", rfc3339(until)).as_str());
    resumed.insert(header::SCHEDULE_TARGET, format!("resume.{subject}").as_str());
    let own_subject = match meta.sequence {
        // What was sent at once has no message yet.
        NO_MESSAGE => format!("{PREFIX}{}.{}", meta.stream, meta.job_id),
        sequence => format!("{PREFIX}{}.{sequence}", meta.stream),
    };
    if !insist_if_it_fits(context, &own_subject, resumed, body).await {
        return Parked::TooLarge;
    }
    checkpoint::reached(Step::Parked);
    Parked::Yes
}
