//! Buries messages whose headers the NATS client cannot parse: each delivery ends the client that gets it. The API's
//! JSON has the headers as bytes.

use async_nats::jetstream::{self, stream::Stream};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{DeadJob, PATIENCE, bury, kind_of, take_out};
use crate::{effects::Death, plan::DeadReason};

/// Part of `$JS.API.STREAM.MSG.GET` (ADR-17).
#[derive(Debug, Deserialize)]
struct StoredMessage {
    message: Option<Raw>,
}

#[derive(Debug, Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    hdrs: Option<String>,
    data: Option<String>,
    time: DateTime<Utc>,
}

/// Makes a dead letter of an unreadable message and deletes the message.
///
/// # Errors
/// If the server does not answer, or the dead letter cannot be published.
pub(super) async fn bury_unreadable(
    context: &jetstream::Context,
    stream: &Stream,
    sequence: u64,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let name = stream.cached_info().config.name.clone();
    let asked: Result<StoredMessage, _> =
        context.request(format!("STREAM.MSG.GET.{name}"), &json!({ "seq": sequence })).await;
    let Some(raw) = asked.map_err(|error| error.to_string())?.message else {
        return Err("the server does not return the message".into());
    };
    let body = DeadJob {
        kind: kind_of(&raw.subject).to_owned(),
        stream: name,
        sequence: i64::try_from(raw.seq).unwrap_or(i64::MAX),
        job_id: None,
        headers: None,
        raw_headers: Some(raw.hdrs.unwrap_or_default()),
        payload: STANDARD.decode(raw.data.unwrap_or_default()).unwrap_or_default().into(),
        last: now,
        subject: raw.subject,
    };
    let error = "the headers cannot be parsed: header names and values must be UTF-8, on one line each".to_owned();
    tracing::error!(stream = body.stream, sequence, "{error}: dead letter");
    let death = Death { reason: DeadReason::Undecodable, error, attempts: 0, first: raw.time };
    tokio::time::timeout(PATIENCE, bury(context, &body, &death))
        .await
        .map_err(|_| "the dead letter cannot be published")?;
    take_out(context, &body.stream, sequence).await
}
