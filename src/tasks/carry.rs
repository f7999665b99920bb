//! One attempt at a task: what is on record, the request, and what its answer means.

use std::time::{Duration, Instant};

use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;

use super::{
    Task,
    answer::{Meaning, meaning},
    effects,
    end::{self, End},
    request::request,
    state::{Moment, Next, next},
    told::{Told, told},
};
use crate::{
    channels::{
        breaker::{BreakerState, Pass, ProviderHealth},
        endpoint::{Answer, LARGEST_ANSWER, Reply},
    },
    checkpoint::{self, Step},
    declared::{AfterUnknown, Mode},
    job::{Context, Failure, Outcome},
    pipeline::Registry,
    plan::Reason,
    store::{NewTask, StoreError, TaskChange, TaskRow, TaskState},
    telemetry::traces,
};

/// Bytes of a request's body.
const LARGEST_REQUEST: usize = 512 * 1024;

/// Jobs that wait together come back apart.
const SPREAD: TimeDelta = TimeDelta::seconds(5);

/// When a job looks again whose kind has as many open tasks as it may have.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(2);

/// How long the end of a request waits for the database. The runner gives a task longer.
const PATIENCE: Duration = Duration::from_secs(20);

const NOTE_AGAIN: Duration = Duration::from_millis(500);

/// The part of an answer that says how the attempt ends.
enum Judged {
    /// It has ended so.
    Ended(End),
    /// It goes on at the endpoint.
    Accepted,
}

impl Task {
    pub(super) async fn carry(&self, registry: &Registry, body: Bytes, cx: &Context) -> Result<Outcome, Failure> {
        if body.len() > LARGEST_REQUEST {
            let size = body.len();
            return Err(Failure::permanent(format!("the job has {size} bytes; at most {LARGEST_REQUEST} are sent")));
        }
        let now = cx.clock.now();
        if self.has_rows() {
            let row = cx.store.task(&cx.meta.job_id).await.map_err(Failure::reading)?;
            match next(row.as_ref(), self.moment(cx, now)) {
                Next::Send => {}
                Next::Wait(until) => return Ok(Outcome::Wait(until, Reason::Accepted)),
                Next::End(kept) => {
                    let end = End::from_json(kept);
                    if matches!(end, End::Later { .. }) {
                        self.release(cx).await?;
                    }
                    return self.end(registry, cx, end);
                }
                Next::Missed(why) => return Err(Failure::retry(why)),
                Next::Cancelled => return Ok(Outcome::Skipped(Reason::Cancelled)),
                Next::Unknown => {
                    let why = "a worker was lost while the request was under way";
                    return self.settle(registry, cx, self.unknown(why)).await;
                }
            }
        } else if cx.attempt.is_cancelled {
            return Ok(Outcome::Skipped(Reason::Cancelled));
        }
        if now >= cx.not_after {
            return Ok(Outcome::Skipped(Reason::Expired));
        }
        let pass = match self.breaker.admit() {
            Ok(pass) => pass,
            Err(until) => return Ok(Outcome::Wait(until + SPREAD * spread(cx) / 100, Reason::ProviderDown)),
        };
        self.send(registry, body, cx, pass).await
    }

    fn moment<'a>(&self, cx: &'a Context, now: DateTime<Utc>) -> Moment<'a> {
        let position = (cx.meta.position.stream.as_str(), cx.meta.position.sequence);
        let (is_cancelled, after_unknown) = (cx.attempt.is_cancelled, self.after_unknown);
        Moment { position, is_cancelled, after_unknown, now }
    }

    async fn send(&self, registry: &Registry, body: Bytes, cx: &Context, pass: Pass<'_>) -> Result<Outcome, Failure> {
        let now = cx.clock.now();
        let may_take = if self.mode == Mode::Sync { cx.attempt.timeout } else { self.declaration.deadline };
        let deadline = now + TimeDelta::from_std(may_take).unwrap_or(TimeDelta::MAX);
        let token = if self.mode == Mode::Sync { None } else { Some(new_token()?) };
        if self.has_rows() {
            let hash = token.as_deref().map(hash);
            let task = NewTask {
                job_id: &cx.meta.job_id,
                kind: cx.meta.kind.name,
                attempt: cx.attempt.number,
                position: (&cx.meta.position.stream, cx.meta.position.sequence),
                token: hash.as_deref(),
                deadline,
                now,
            };
            let most = self.declaration.in_flight;
            if !cx.store.open_task(&task, most).await.map_err(Failure::reading)? {
                return Ok(Outcome::Wait(now + LOOK_AGAIN + SPREAD * spread(cx) / 100, Reason::EndpointFull));
            }
            checkpoint::reached(Step::Opened);
        }
        let request = request(&self.declaration, self.mode, body, cx, deadline, token.as_deref());
        let started = Instant::now();
        let mut span = traces::request(cx.meta.trace.as_deref(), "task", true, Some(self.endpoint.host()));
        let reply = span.around(self.endpoint.post(&request)).await;
        checkpoint::reached(Step::Answered);
        let class = class(&reply);
        span.answered(class, None);
        self.metrics.task_request(cx.meta.kind.name, class, started.elapsed());
        let (step, health) = self.judge(reply);
        let open_until = self.report(pass, health);
        match step {
            Judged::Accepted => self.accept(registry, cx, deadline).await,
            // A known outage burns no attempt; silence does, because something may have been done.
            Judged::Ended(End::Retry { .. }) if class != "silence" && open_until.is_some() => {
                self.release(cx).await?;
                let until = open_until.unwrap_or(now);
                Ok(Outcome::Wait(until + SPREAD * spread(cx) / 100, Reason::ProviderDown))
            }
            Judged::Ended(end) => self.settle(registry, cx, end).await,
        }
    }

    /// When the breaker lets jobs pass again, if the endpoint is down.
    fn report(&self, pass: Pass<'_>, health: ProviderHealth) -> Option<DateTime<Utc>> {
        let transition = pass.report(health);
        let (kind, host) = (self.declaration.kind.name, self.endpoint.host());
        match transition.change {
            Some(BreakerState::Open) => tracing::warn!(kind, host, "the endpoint of {kind} is down, its jobs wait"),
            Some(BreakerState::Closed) => tracing::info!(kind, host, "the endpoint of {kind} is back"),
            _ => {}
        }
        transition.open_until.filter(|_| health == ProviderHealth::Failing)
    }

    /// What an answer means for the attempt, and what it says of the endpoint.
    fn judge(&self, reply: Reply) -> (Judged, ProviderHealth) {
        let ended = |end| (Judged::Ended(end), ProviderHealth::Well);
        let answer = match reply {
            Reply::Answer(answer) => answer,
            Reply::NotSent(why) => {
                return (Judged::Ended(End::Retry { error: why, after: None }), ProviderHealth::Failing);
            }
            Reply::Silence { why, timed_out } => {
                let health = if timed_out { ProviderHealth::Silent } else { ProviderHealth::Failing };
                return (Judged::Ended(self.unknown(&why)), health);
            }
            Reply::TooLarge(status) => {
                let error = format!("answered {status} with more than {LARGEST_ANSWER} bytes");
                return ended(End::Permanent { error });
            }
        };
        let Answer { status, outcome, retry_after, body } = answer;
        let seconds = |after: Option<Duration>| after.map(|after| after.as_secs());
        match meaning(status, outcome.as_deref(), retry_after, self.mode) {
            Meaning::Accepted => (Judged::Accepted, ProviderHealth::Well),
            Meaning::Done if status == 204 => ended(End::Done(Told::default())),
            Meaning::Done => ended(match told(&body) {
                Ok(told) => End::Done(told),
                Err(why) => End::Permanent { error: format!("answered {status}, and its body is wrong: {why}") },
            }),
            Meaning::Later(after) => ended(End::Later { after: after.as_secs() }),
            Meaning::Retry(after) => ended(End::Retry { error: format!("answered {status}"), after: seconds(after) }),
            Meaning::Down(after) => {
                let end = End::Retry { error: format!("answered {status}"), after: seconds(after) };
                (Judged::Ended(end), ProviderHealth::Failing)
            }
            Meaning::Permanent(why) => ended(End::Permanent { error: format!("answered {status}: {why}") }),
            Meaning::Skipped => ended(End::Skipped),
            Meaning::Cancelled => ended(End::Cancelled),
        }
    }

    /// The end of an attempt whose request may have been taken.
    fn unknown(&self, why: &str) -> End {
        match self.after_unknown {
            AfterUnknown::SendAgain => End::Retry { error: why.to_owned(), after: None },
            AfterUnknown::Stop => End::Permanent {
                error: format!(
                    "unknown: {why}, so it may have been done or not (after_unknown = stop); look before it is redriven"
                ),
            },
        }
    }

    /// Its endpoint has accepted it, unless it has ended already: an endpoint may be faster than its own answer.
    async fn accept(&self, registry: &Registry, cx: &Context, deadline: DateTime<Utc>) -> Result<Outcome, Failure> {
        let now = cx.clock.now();
        let heartbeat = now + TimeDelta::from_std(self.declaration.heartbeat).unwrap_or(TimeDelta::MAX);
        let heartbeat = heartbeat.min(deadline);
        let number = cx.attempt.number;
        let accepted = |row: Option<&TaskRow>| match row {
            Some(row) if row.is_open && row.attempt == number && row.state == TaskState::Sending => {
                (None, Some(TaskChange::Accepted(heartbeat)))
            }
            Some(row) if row.is_open => (row.answer.clone(), None),
            _ => (None, None),
        };
        let kept = self.note(cx, accepted).await?;
        if let Some(kept) = kept {
            return self.end(registry, cx, End::from_json(kept));
        }
        checkpoint::reached(Step::Accepted);
        Ok(Outcome::Wait(heartbeat, Reason::Accepted))
    }

    /// Notes the end of an attempt, unless its endpoint has reported another, and carries it out.
    async fn settle(&self, registry: &Registry, cx: &Context, end: End) -> Result<Outcome, Failure> {
        // An endpoint that is still at it may report with the token that it has.
        if !self.has_rows() || (matches!(end, End::Later { .. }) && self.mode != Mode::Sync) {
            return self.end(registry, cx, end);
        }
        if matches!(end, End::Later { .. }) {
            self.release(cx).await?;
            return self.end(registry, cx, end);
        }
        let json = end.to_json();
        let is_done = matches!(end, End::Done(_));
        let ended = |row: Option<&TaskRow>| match row {
            Some(row) if row.is_open && row.state == TaskState::Completed => (row.answer.clone(), None),
            Some(row) if row.is_open && is_done => (None, Some(TaskChange::Completed(json.clone()))),
            Some(row) if row.is_open => (None, Some(TaskChange::Failed(json.clone()))),
            _ => (None, None),
        };
        let kept = self.note(cx, ended).await?;
        self.end(registry, cx, kept.map_or(end, End::from_json))
    }

    /// The attempt is over, and burns none.
    async fn release(&self, cx: &Context) -> Result<(), Failure> {
        if !self.has_rows() {
            return Ok(());
        }
        self.note(cx, |_| ((), Some(TaskChange::Released))).await
    }

    /// Carries out an end that is on record, or needs none.
    fn end(&self, registry: &Registry, cx: &Context, end: End) -> Result<Outcome, Failure> {
        let now = cx.clock.now();
        let mut effects = Vec::new();
        if let End::Done(told) = &end {
            let read = effects::read(registry, &self.declaration, &cx.meta.job_id, told, now);
            effects = read.map_err(|why| Failure::permanent(format!("its answer is wrong: {why}")))?;
        }
        end::outcome(end, effects, now)
    }

    /// Notes something after a request. While the database is away, it waits: the request would go out again.
    async fn note<T: Send>(
        &self,
        cx: &Context,
        decide: impl Fn(Option<&TaskRow>) -> (T, Option<TaskChange>) + Send + Sync,
    ) -> Result<T, Failure> {
        let since = Instant::now();
        loop {
            match cx.store.change_task(&cx.meta.job_id, cx.clock.now(), &decide).await {
                Err(StoreError::Unavailable(_) | StoreError::Busy(_)) if since.elapsed() < PATIENCE => {
                    sleep(NOTE_AGAIN).await;
                }
                noted => return noted.map_err(Failure::reading),
            }
        }
    }
}

/// In percent.
fn spread(cx: &Context) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "from 0 to 100")]
    let percent = (cx.random.fraction() * 100.0) as i32;
    percent
}

/// A label of metrics.
fn class(reply: &Reply) -> &'static str {
    match reply {
        Reply::Answer(answer) => match answer.status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => "other",
        },
        Reply::TooLarge(_) => "too_large",
        Reply::NotSent(_) => "not_sent",
        Reply::Silence { .. } => "silence",
    }
}

/// Characters of a token.
pub(super) const TOKEN_LENGTH: usize = 43;

/// 256 random bits.
fn new_token() -> Result<String, Failure> {
    let mut token = [0; 32];
    rand::fill(&mut token).map_err(|_| Failure::retry("the machine has no randomness"))?;
    Ok(URL_SAFE_NO_PAD.encode(token))
}

/// As it is kept.
pub(super) fn hash(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec()
}
