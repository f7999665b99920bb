//! Buries messages whose headers the NATS client cannot parse: each delivery ends the client that gets it. The API's
//! JSON has the headers as bytes.

use async_nats::{
    HeaderName, HeaderValue,
    jetstream::{self, consumer::PullConsumer},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{DeadJob, PATIENCE, bury, kind_of, take_out};
use crate::{effects::Death, plan::DeadReason};

/// How far ahead of its consumer a queue is searched for unreadable messages, so that a row of them costs one search.
const AHEAD: usize = 2000;

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

/// Buries the unreadable messages among those that a consumer has not settled and the next ones, after such a message
/// ended a client that pulled it. Returns their number.
///
/// # Errors
/// If the server does not answer, or a dead letter cannot be published. Those before it are buried.
pub async fn bury_head(
    context: &jetstream::Context,
    consumer: &PullConsumer,
    now: DateTime<Utc>,
) -> Result<usize, String> {
    let info = consumer.cached_info();
    let next = info.ack_floor.stream_sequence + 1;
    bury_from(context, &info.stream_name, &info.config.filter_subject, next, now).await
}

/// Buries the first message of a filter from a sequence on, if the client cannot parse it. False if it can, or there is
/// none.
///
/// # Errors
/// If the server does not answer, or the dead letter cannot be published.
pub(super) async fn bury_first(
    context: &jetstream::Context,
    stream: &str,
    filter: &str,
    from: u64,
    now: DateTime<Utc>,
) -> Result<bool, String> {
    match get(context, stream, json!({ "seq": from, "next_by_subj": filter })).await? {
        Some(raw) if !is_readable(raw.hdrs.as_deref()) => {
            bury_unreadable(context, stream, raw.seq, now).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Buries all messages of a subject that the client cannot parse. Returns their number.
///
/// # Errors
/// If the server does not answer, or a dead letter cannot be published.
pub(super) async fn bury_unreadable_of(
    context: &jetstream::Context,
    stream: &str,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<usize, String> {
    bury_from(context, stream, subject, 1, now).await
}

async fn bury_from(
    context: &jetstream::Context,
    stream: &str,
    filter: &str,
    mut sequence: u64,
    now: DateTime<Utc>,
) -> Result<usize, String> {
    let mut buried = 0;
    for _ in 0..AHEAD {
        let Some(raw) = get(context, stream, json!({ "seq": sequence, "next_by_subj": filter })).await? else { break };
        sequence = raw.seq + 1;
        if !is_readable(raw.hdrs.as_deref()) {
            bury_unreadable(context, stream, raw.seq, now).await?;
            buried += 1;
        }
    }
    Ok(buried)
}

async fn get(context: &jetstream::Context, stream: &str, what: Value) -> Result<Option<Raw>, String> {
    let answer: Result<StoredMessage, _> = context.request(format!("STREAM.MSG.GET.{stream}"), &what).await;
    Ok(answer.map_err(|error| error.to_string())?.message)
}

/// Whether the client can parse a header block, as it does line by line, and takes it for a message: a status would be
/// the server's word about the pull.
fn is_readable(headers: Option<&str>) -> bool {
    let Some(bytes) = headers.map(|headers| STANDARD.decode(headers)) else { return true };
    let Ok(block) = bytes.map_err(drop).and_then(|bytes| String::from_utf8(bytes).map_err(drop)) else { return false };
    let mut lines = block.lines();
    if lines.next().and_then(|version| version.strip_prefix("NATS/1.0")).is_none_or(|status| !status.trim().is_empty())
    {
        return false;
    }
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { return false };
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        if name.parse::<HeaderName>().is_err() || value.trim_end().parse::<HeaderValue>().is_err() {
            return false;
        }
    }
    true
}

/// Makes a dead letter of an unreadable message and deletes the message.
///
/// # Errors
/// If the server does not answer, or the dead letter cannot be published.
pub(super) async fn bury_unreadable(
    context: &jetstream::Context,
    stream: &str,
    sequence: u64,
    now: DateTime<Utc>,
) -> Result<(), String> {
    let Some(raw) = get(context, stream, json!({ "seq": sequence })).await? else {
        return Err("the server does not return the message".into());
    };
    let body = DeadJob {
        kind: kind_of(&raw.subject).to_owned(),
        stream: stream.to_owned(),
        sequence: i64::try_from(raw.seq).unwrap_or(i64::MAX),
        job_id: None,
        headers: None,
        raw_headers: Some(raw.hdrs.unwrap_or_default()),
        payload: STANDARD.decode(raw.data.unwrap_or_default()).unwrap_or_default().into(),
        last: now,
        subject: raw.subject,
    };
    let error =
        "the headers cannot be parsed: the first line must be NATS/1.0, names and values UTF-8, without control \
                 characters, on one line each"
            .to_owned();
    tracing::error!(stream = body.stream, sequence, "{error}: dead letter");
    let death = Death { reason: DeadReason::Undecodable, error, attempts: 0, first: raw.time };
    tokio::time::timeout(PATIENCE, bury(context, &body, &death))
        .await
        .map_err(|_| "the dead letter cannot be published")?;
    take_out(context, &body.stream, sequence).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(block: &[u8]) -> bool {
        is_readable(Some(&STANDARD.encode(block)))
    }

    /// As `Connection::try_read_op` of async-nats 0.51 does.
    #[test]
    fn what_the_client_parses_is_kept() {
        for block in [
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nCarebell-Job-Id: a\r\nX: \r\n\r\n",
            "NATS/1.0\r\nX: a\r\n  goes on: here\r\nY:b\r\n\r\n",
            "NATS/1.0\nX: \u{1F48A}\n\n",
        ] {
            assert!(reads(block.as_bytes()), "{block:?}");
        }
        assert!(is_readable(None), "a message without headers");
    }

    #[test]
    fn what_ends_the_client_is_not() {
        for block in [
            b"NATS/1.0\r\nX: a\rb\r\n\r\n".as_slice(),
            b"NATS/1.0\r\nX: a\r\n b\rc\r\n\r\n",
            b"NATS/1.0\r\nX: caf\xe9\r\n\r\n",
            b"NATS/1.0\r\nX\r\n\r\n",
            b"NATS/1.0\r\nX: a\r\n\r\n more\r\n\r\n",
            b"NATS/1.0\r\nX: a\r\r\n b\r\n\r\n",
            b"NATS/1.0 100\r\n\r\n",
            b"NATS/1.0\r\n folded: first\r\n\r\n",
            b"NATS/1.0\r\nX\x01: a\r\n\r\n",
            b"NATS/1.0 busy\r\nX: a\r\n\r\n",
            b"HTTP/1.1\r\nX: a\r\n\r\n",
            b"",
        ] {
            assert!(!reads(block), "{:?}", String::from_utf8_lossy(block));
        }
    }
}
