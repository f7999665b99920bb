//! A pulled message. It owns the acknowledgement, so a job is settled once and cannot be forgotten.

use std::{convert::Infallible, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{self, AckKind},
};
use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::{Instant, interval_at};

use crate::{
    effects::{park, publish},
    events::Notify,
    header,
    intake::{self, Unreadable},
    job::Invalid,
    kind::{LATER, Lane, Queue, Stage},
    meta::{Delay, IntakePosition, LONGEST_DELAY, Meta, StreamPosition, Waiting},
    policy::{PolicyError, Wishes},
    telemetry::traces::{self, Processing},
    when::lacks_offset,
};

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

/// A pulled message. [`super::settle`] consumes it.
pub struct Pulled {
    message: jetstream::Message,
    queue: Queue,
    /// Its position, known even if the headers cannot be read.
    pub position: StreamPosition,
    /// When its stream was created, if it is an intake.
    stream_created: DateTime<Utc>,
    /// That of the consumer that pulled it.
    ack_wait: Duration,
    /// Bytes of its body and headers, as they came.
    size: usize,
}

impl Pulled {
    /// Wraps a message pulled for `queue` by a consumer with this `ack_wait`. `None` without a `JetStream` reply subject, which every consumer's message
    /// has.
    #[must_use]
    pub fn new(message: jetstream::Message, queue: Queue, ack_wait: Duration) -> Option<Self> {
        let size = size(&message);
        let info = message.info().ok()?;
        let position = StreamPosition {
            stream: info.stream.to_owned(),
            sequence: i64::try_from(info.stream_sequence).unwrap_or(i64::MAX),
            delivered: info.delivered,
            published: DateTime::from_timestamp_nanos(
                i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(0),
            ),
        };
        Some(Self { message, queue, position, stream_created: DateTime::UNIX_EPOCH, ack_wait, size })
    }

    /// The message of an intake stream created at this time.
    #[must_use]
    pub fn of_stream_created_at(self, stream_created: DateTime<Utc>) -> Self {
        Self { stream_created, ..self }
    }

    /// The message of another queue.
    #[must_use]
    pub fn of_queue(self, queue: Queue) -> Self {
        Self { queue, ..self }
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> Queue {
        self.queue
    }

    /// The subject.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.message.subject.as_str()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.message.payload
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> Option<&HeaderMap> {
        self.message.headers.as_ref()
    }

    /// Reads the headers.
    ///
    /// # Errors
    /// Names the header that cannot be read, or that its writer may not set.
    pub fn meta(&self) -> Result<Meta, Unreadable> {
        intake::check(&self.position.stream, self.headers())?;
        Ok(self.read_headers()?)
    }

    fn read_headers(&self) -> Result<Meta, Invalid> {
        let not_after = match self.header(header::NOT_AFTER) {
            None => None,
            Some(text) => Some(parse_instant(header::NOT_AFTER, text)?),
        };
        let wishes = Wishes {
            attempts: self.wish(header::ATTEMPTS, Wishes::attempts)?,
            backoff: self.wish(header::BACKOFF, Wishes::backoff)?,
            timeout: self.wish(header::TIMEOUT, Wishes::timeout)?,
            notify: self.notify()?,
        };
        let mut meta = Meta { not_after, wishes, delay: self.delay()?, ..self.identity()? };
        meta.due = match self.header(header::DUE) {
            Some(text) => Some(parse_instant(header::DUE, text)?),
            None => is_awaited(meta.kind.stage, meta.lane).then(|| meta.begins()),
        };
        meta.waited = self.header(header::WAITS).and_then(Waiting::parse);
        Ok(meta)
    }

    fn delay(&self) -> Result<Option<Box<Delay>>, Invalid> {
        let only_waits = intake::asked(self.subject()).is_some_and(|asked| asked.starts_with(LATER));
        let due = match self.header(header::AT) {
            None if only_waits => return Err(Invalid::new(header::AT, "must say when the job is due, in RFC 3339")),
            None => return Ok(None),
            Some(text) => parse_instant(header::AT, text)?,
        };
        if due - self.position.published > LONGEST_DELAY {
            return Err(Invalid::new(header::AT, "must be within ten years"));
        }
        // The server never fires a schedule before 1678, and what is past is due now.
        let due = due.max(self.position.published);
        let asked_by = if intake::is_intake(&self.position.stream) {
            Some(self.intake_position())
        } else {
            self.header(header::DELAYED_BY).and_then(IntakePosition::parse)
        };
        let is_due = self.came_from(park::PREFIX);
        Ok(Some(Box::new(Delay { due, asked_by, only_waits, is_due })))
    }

    /// Whether it was parked under a subject that begins so.
    fn came_from(&self, prefix: &str) -> bool {
        let parked_as = || self.header(header::SCHEDULER).or_else(|| self.header(header::PARKED_AS));
        !intake::is_intake(&self.position.stream) && parked_as().is_some_and(|subject| subject.starts_with(prefix))
    }

    /// How long the job that comes back is not due yet.
    #[must_use]
    pub fn early(&self, now: DateTime<Utc>) -> Option<Duration> {
        if !self.came_from(park::AT) {
            return None;
        }
        let due = parse_instant(header::AT, self.header(header::AT)?).ok()?;
        // By a clock that is behind, it would wait too long.
        (due - now).min(park::EARLY).to_std().ok().filter(|early| !early.is_zero())
    }

    /// Its position among the messages of its application, if it is in an intake stream.
    #[must_use]
    pub fn intake_position(&self) -> IntakePosition {
        let StreamPosition { stream, sequence, .. } = &self.position;
        let created = self.stream_created.trunc_subsecs(6);
        IntakePosition { created, sequence: *sequence, stream: stream.clone() }
    }

    /// [`Self::meta`] without the job's own policy, to record a job with an unreadable header.
    ///
    /// # Errors
    /// If its ids themselves cannot be read.
    pub fn identity(&self) -> Result<Meta, Invalid> {
        let stream = &self.position.stream;
        let job_id = intake::job_id(self.headers(), stream, self.position.sequence)?;
        let root_id = intake::root_id(self.headers(), stream)?.unwrap_or_else(|| job_id.clone());
        let resumed = self.came_from(park::PREFIX) && !self.came_from(park::AT);
        Ok(Meta {
            wishes: Wishes::default(),
            root_id,
            job_id,
            kind: self.queue.kind,
            lane: self.queue.lane.unwrap_or(Lane::Critical),
            position: self.position.clone(),
            resumed,
            not_after: None,
            delay: None,
            due: None,
            waited: None,
            trace: self.headers().and_then(publish::trace),
        })
    }

    /// Begins the span of this run, if its trace is kept. All that follows from the job continues it; a message
    /// without a context gets it too, for when it is parked or dead.
    pub fn begin_span(&mut self, meta: Result<&mut Meta, &Unreadable>) -> Processing {
        let ids = meta.as_ref().ok().map(|meta| (meta.job_id.as_str(), meta.root_id.as_str()));
        let unread;
        let brought = if let Ok(meta) = &meta {
            meta.trace.as_deref()
        } else {
            unread = self.headers().and_then(publish::trace);
            unread.as_deref()
        };
        let is_first = brought.is_none();
        let (span, trace) = traces::process(self.queue, &self.position, ids, self.message.payload.len(), brought);
        if let Some(trace) = trace {
            if is_first {
                publish::set_trace(self.message.message.headers.get_or_insert_default(), Some(&trace));
            }
            if let Ok(meta) = meta {
                meta.trace = Some(trace);
            }
        }
        span
    }

    fn wish<T>(
        &self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, PolicyError>,
    ) -> Result<Option<T>, Invalid> {
        let refused = |error: PolicyError| Invalid::new(name, format!("must be {}", error.expected()));
        self.header(name).map(read).transpose().map_err(refused)
    }

    fn notify(&self) -> Result<Notify, Invalid> {
        let refused = |expected: String| Invalid::new(header::NOTIFY, format!("must {expected}"));
        self.header(header::NOTIFY).map(Notify::parse).transpose().map_err(refused).map(Option::unwrap_or_default)
    }

    /// The format that `Content-Type` names.
    ///
    /// # Errors
    /// If it names another.
    pub fn form(&self) -> Result<Form, Invalid> {
        let Some(text) = self.header(header::CONTENT_TYPE) else { return Ok(Form::Protobuf) };
        match text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "application/x-protobuf" | "application/protobuf" => Ok(Form::Protobuf),
            "application/json" => Ok(Form::Json),
            _ => Err(Invalid::new(header::CONTENT_TYPE, "must be application/x-protobuf or application/json")),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Bytes of its body and headers, as they came.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Keeps the message with this worker.
    #[must_use]
    pub fn lifeline(&self) -> Lifeline {
        Lifeline { every: self.ack_wait / 3, client: self.message.context.client(), reply: self.message.reply.clone() }
    }

    /// Only `settle` calls this. If the acknowledgement is lost, the message comes back and its record ends it.
    pub(super) async fn acknowledge(self, kind: AckKind) {
        if let Err(error) = self.message.ack_with(kind).await {
            tracing::warn!(sequence = self.position.sequence, "an acknowledgement could not be sent: {error}");
        }
    }

    /// Terminates the message, with a reason that the server's advisory repeats. The client's `Term` carries none, so
    /// this publishes the protocol text (ADR-15).
    pub(super) async fn terminate(self, reason: &str) {
        let Some(reply) = self.message.reply.clone() else { return };
        let text = format!("+TERM {reason}");
        if let Err(error) = self.message.context.client().publish(reply, text.into()).await {
            tracing::warn!(sequence = self.position.sequence, "a message could not be terminated: {error}");
        }
    }
}

/// Tells the server that a job is alive.
pub struct Lifeline {
    every: Duration,
    client: async_nats::Client,
    reply: Option<async_nats::Subject>,
}

impl Lifeline {
    /// Restarts `ack_wait` each time a third of it has passed, while the future is polled.
    pub async fn keep(self) -> Infallible {
        let mut ticks = interval_at(Instant::now() + self.every, self.every);
        loop {
            ticks.tick().await;
            if let Some(reply) = self.reply.clone() {
                // The connection is watched elsewhere; a lost signal only risks a redelivery.
                let _ = self.client.publish(reply, PROGRESS).await;
            }
        }
    }
}

fn size(message: &jetstream::Message) -> usize {
    let headers = message.headers.iter().flat_map(|headers| headers.iter());
    let headers = headers.flat_map(|(name, values)| {
        let name = <_ as AsRef<str>>::as_ref(name).len();
        values.iter().map(move |value| name + value.as_str().len() + HEADER_SIGNS)
    });
    message.payload.len() + headers.sum::<usize>()
}

/// Colon, blank and the end of the line.
const HEADER_SIGNS: usize = 4;

/// `AckKind::Progress` on the wire (ADR-15).
const PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Whether somebody waits for a job that says nothing about it. A delivery says so if anybody does.
fn is_awaited(stage: Stage, lane: Lane) -> bool {
    // The instant of a task is told to its endpoint, whoever waits.
    stage == Stage::Task || matches!(stage, Stage::Reminder | Stage::Notification) && lane != Lane::Bulk
}

fn parse_instant(name: &'static str, text: &str) -> Result<DateTime<Utc>, Invalid> {
    DateTime::parse_from_rfc3339(text).map(|instant| instant.with_timezone(&Utc)).map_err(|_| {
        let local = if lacks_offset(text) { "lacks an offset: it " } else { "" };
        Invalid::new(name, format!("{local}must be an RFC 3339 instant, for example 2027-03-01T09:00:00Z"))
    })
}
