//! `carebell publish`: one job, or many with `--from`.

use crate::cli::print::{note, say};
use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use clap::ArgGroup;
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::timeout;

use super::{connect, failed::Failed, kinds::parse_lane, output::Output};
use crate::{
    clock::{Clock, Random},
    config::Source,
    drafts::open_kind,
    effects::submit::{NotSubmitted, Producer, Stored, Submission, Submitted, stored, submit},
    jobs,
    kind::{Kind, Lane},
    meta::{LONGEST_DELAY, is_job_id},
    pipeline::{Form, Registry},
};

/// Limit of the JOBS stream less headers. The server's own error does not name it.
const LARGEST_BODY: usize = 512 * 1024 - 4096;

/// Unacknowledged publishes of `--from`.
const IN_FLIGHT: usize = 4096;

/// How long a duplicate waits for the first one's body.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);

/// Refused lines listed one by one.
const TOLD: usize = 20;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("due").args(["delay", "at"]), group = ArgGroup::new("jobs").args(["json", "from"]).required(true))]
pub(super) struct Args {
    /// For example reminder.medication; with --from, the default for lines without a kind
    #[arg(required_unless_present = "from")]
    kind: Option<String>,
    /// The job as canonical protobuf JSON
    #[arg(long, value_name = "JSON")]
    json: Option<String>,
    /// Many jobs: a file with one JSON object per line, `-` for standard input. Fields: `job`; optionally `kind`,
    /// `jobId`, `lane`, `notAfter`, `at` or `delay`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["job_id", "delay", "at"])]
    from: Option<PathBuf>,
    /// Run after this delay, for example 5m
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    delay: Option<Duration>,
    /// Run at this instant, for example 2027-03-01T09:00:00Z
    #[arg(long, value_name = "RFC 3339")]
    at: Option<DateTime<Utc>>,
    /// Expire at this instant
    #[arg(long, value_name = "RFC 3339")]
    not_after: Option<DateTime<Utc>>,
    /// The job's id, its idempotency key: publishing it again has no second effect [default: a new id]
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// critical, normal or bulk, for kinds with lanes [default: normal]
    #[arg(long, value_parser = parse_lane)]
    lane: Option<Lane>,
    /// Fail if a job of this id was published before, as far as the server remembers: for two minutes. Not for delayed
    /// jobs, of which the last replaces the others
    #[arg(long, conflicts_with_all = ["delay", "at"])]
    fail_if_exists: bool,
    /// text or json: one JSON object
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORM")]
    output: Output,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileLine<'a> {
    #[serde(borrow)]
    job: &'a RawValue,
    kind: Option<String>,
    job_id: Option<String>,
    lane: Option<String>,
    not_after: Option<DateTime<Utc>>,
    at: Option<DateTime<Utc>>,
    delay: Option<String>,
}

/// A job before its checks.
struct JobRequest {
    kind: Kind,
    body: Bytes,
    job_id: Option<String>,
    lane: Option<Lane>,
    not_after: Option<DateTime<Utc>>,
    at: Option<DateTime<Utc>>,
}

/// A job ready to publish.
struct CheckedJob {
    submission: Submission,
    /// Its expiry.
    not_after: DateTime<Utc>,
}

pub(super) async fn run(source: &Source, args: Args) -> Result<(), Failed> {
    let checker = Checker { registry: jobs::registry(), clock: Clock::system(), random: Random::system() };
    match (&args.from, &args.json) {
        (Some(file), _) => many(source, &checker, &args, file).await,
        (None, Some(json)) => one(source, &checker, &args, json.clone()).await,
        (None, None) => Err(Failed("--json or --from is required".into())),
    }
}

async fn one(source: &Source, checker: &Checker, args: &Args, json: String) -> Result<(), Failed> {
    let delayed = args.delay.map(|delay| checker.later(delay));
    let wanted = JobRequest {
        kind: checker.kind(args.kind.as_deref().unwrap_or_default()).map_err(Failed)?,
        body: Bytes::from(json),
        job_id: args.job_id.clone(),
        lane: args.lane,
        not_after: args.not_after,
        at: args.at.or(delayed),
    };
    let kind = wanted.kind;
    let CheckedJob { submission, not_after } = checker.check(wanted).map_err(Failed)?;
    let due = submission.at.unwrap_or_else(|| checker.clock.now()).max(checker.clock.now());
    if args.at.is_some_and(|at| at <= checker.clock.now()) {
        note!("note: --at has passed: the job is due now");
    }
    if due >= not_after {
        // Not refused: an expired job can replace a delayed one.
        note!("note: the job expires at {not_after} and is due at {due}: it will end as expired");
    }
    let (job_id, body) = (submission.job_id.clone(), submission.body.clone());
    let context = connect::jetstream(source).await?;
    let done = submit(&context, submission).await.map_err(|error| Failed(error.to_string()))?;
    let Submitted { subject, stream, sequence, duplicate } = &done;
    let first = if *duplicate { Some(compare(&context, &done, &body).await) } else { None };
    if args.output == Output::Json {
        say!(
            "{}",
            json!({
                "job_id": job_id, "kind": kind.name, "subject": subject, "stream": stream, "sequence": sequence,
                "duplicate": duplicate, "same_body": first.as_ref().and_then(First::is_same),
                "due": args.at.or(delayed),
            })
        );
    } else {
        let again = if *duplicate { ", which was there already" } else { "" };
        say!("published {kind} as job {job_id} to {subject} ({stream} #{sequence}{again})");
    }
    if let Some(first) = first {
        let text = format!("a job {job_id} was there already ({stream} #{sequence}), {first}. The first one counts");
        if args.fail_if_exists {
            return Err(Failed(text));
        }
        if first.is_same() != Some(true) {
            note!("note: {text}");
        }
    }
    Ok(())
}

/// The job that a stream has instead of a duplicate.
enum First {
    Same,
    /// With its subject, and both bodies in short.
    Other {
        subject: String,
        first: String,
        this: String,
    },
    /// It has run.
    Gone(String),
    /// This user may not read the stream, or the server does not answer.
    Unreadable(String),
}

impl First {
    fn is_same(&self) -> Option<bool> {
        match self {
            Self::Same => Some(true),
            Self::Other { .. } => Some(false),
            Self::Gone(_) | Self::Unreadable(_) => None,
        }
    }
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("with the same body"),
            Self::Other { subject, first, this } => {
                write!(f, "with another body or subject: {first} on {subject}; this one is {this}")
            }
            Self::Gone(this) => {
                write!(f, "and has left its stream, so its body cannot be compared with this one, {this}")
            }
            Self::Unreadable(this) => {
                write!(f, "and cannot be compared with this one, {this}: this user may not read the stream")
            }
        }
    }
}

async fn compare(context: &Producer, done: &Submitted, body: &Bytes) -> First {
    // A producer may not be allowed to ask, and gets no answer.
    match timeout(COMPARE_TIMEOUT, stored(context, done)).await {
        Ok(Stored::Message { subject, body: first }) if first == *body && subject == done.subject => First::Same,
        Ok(Stored::Message { subject, body: first }) => First::Other { subject, first: told(&first), this: told(body) },
        Ok(Stored::Gone) => First::Gone(told(body)),
        Ok(Stored::Unreadable) | Err(_) => First::Unreadable(told(body)),
    }
}

/// The size of a body and the beginning of its SHA-256: its content may be personal.
fn told(body: &Bytes) -> String {
    let hash = digest::digest(&digest::SHA256, body);
    format!("{} bytes, SHA-256 {}…", body.len(), URL_SAFE_NO_PAD.encode(&hash.as_ref()[..9]))
}

async fn many(source: &Source, checker: &Checker, args: &Args, file: &Path) -> Result<(), Failed> {
    let (reader, size) = open(file)?;
    let context = connect::jetstream(source).await?;
    let bar = ProgressBar::new(size);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent} %  {msg}  {elapsed}") {
        bar.set_style(style);
    }
    let started = std::time::Instant::now();
    let mut broken = false;
    let readable = reader.lines().take_while(move |line| {
        // Lines that are not UTF-8 are refused one by one; other read errors would recur forever.
        let go_on = !broken;
        broken |= matches!(line, Err(error) if error.kind() != ErrorKind::InvalidData);
        go_on
    });
    let lines = (1_u64..).zip(readable).filter(|(_, line)| !matches!(line, Ok(line) if line.trim().is_empty()));
    let results = stream::iter(lines).map(|(number, line)| {
        let (context, bar) = (&context, &bar);
        // Checked lazily, to limit lines in memory to publishes in flight.
        let submission = line.map_err(|error| error.to_string()).and_then(|line| {
            bar.inc(line.len() as u64 + 1);
            checker.line(&line, args)
        });
        async move {
            let published = match submission {
                Ok(submission) => {
                    let body = submission.body.clone();
                    match submit(context, submission).await {
                        Ok(done) if done.duplicate => Ok(Some(compare(context, &done, &body).await)),
                        done => done.map(|_| None),
                    }
                }
                Err(why) => Err(NotSubmitted::Other(why)),
            };
            (number, published)
        }
    });
    let mut results = std::pin::pin!(results.buffer_unordered(IN_FLIGHT));
    let (mut published, mut duplicates, mut refused) = (0_u64, 0_u64, Vec::new());
    let mut others = Vec::new();
    while let Some((number, result)) = results.next().await {
        match result {
            Ok(Some(first)) => {
                duplicates += 1;
                if first.is_same() == Some(false) {
                    others.push(number);
                }
            }
            Ok(None) => published += 1,
            Err(why) => refused.push((number, why)),
        }
        if (published + duplicates).is_multiple_of(1000) {
            bar.set_message(format!("{published} published, {} refused", refused.len()));
        }
    }
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = (published + duplicates) as f64 / seconds;
    if args.output == Output::Text {
        say!("{published} published, {duplicates} were there already, {} refused: {rate:.0} jobs/s", refused.len());
    }
    if args.output == Output::Json {
        let lines = refused.iter().map(|(line, why)| json!({ "line": line, "why": why.to_string() }));
        say!(
            "{}",
            json!({ "published": published, "duplicates": duplicates, "refused": lines.collect::<serde_json::Value>() })
        );
    }
    if !others.is_empty() {
        others.sort_unstable();
        note!(
            "note: jobs of these lines were there already with another body, which counts: {}",
            ranges(others.into_iter())
        );
    }
    if args.fail_if_exists && duplicates > 0 {
        return Err(Failed(format!("{duplicates} were there already")));
    }
    report(refused, args.output)
}

fn report(mut refused: Vec<(u64, NotSubmitted)>, output: Output) -> Result<(), Failed> {
    if refused.is_empty() {
        return Ok(());
    }
    refused.sort_by_key(|(number, _)| *number);
    let told = if output == Output::Json { 0 } else { TOLD };
    for (number, why) in refused.iter().take(told) {
        say!("line {number}: {why}");
    }
    if output == Output::Text && refused.len() > TOLD {
        say!("and lines {}", ranges(refused.iter().skip(TOLD).map(|(number, _)| *number)));
    }
    let without_room = refused.iter().filter(|(_, why)| why.wants_room()).count();
    if without_room == 0 {
        return Err(Failed(format!("{} lines were refused", refused.len())));
    }
    Err(Failed(format!(
        "{} lines were refused, {without_room} of them because the queue is full. Publish the file again once it has \
         room: lines with a `jobId` have no second effect. Of lines without one, publish only the refused ones",
        refused.len()
    )))
}

/// `3, 7-12, 20`, at most a hundred.
fn ranges(numbers: impl Iterator<Item = u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let one = |(first, last): &(u64, u64)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let more = if ranges.len() > 100 { ", …" } else { "" };
    format!("{}{more}", ranges.iter().take(100).map(one).collect::<Vec<_>>().join(", "))
}

fn open(file: &Path) -> Result<(BufReader<Box<dyn Read>>, u64), Failed> {
    if file == Path::new("-") {
        return Ok((BufReader::new(Box::new(std::io::stdin())), 0));
    }
    let opened = File::open(file).map_err(|error| format!("--from {}: {error}", file.display()))?;
    let size = opened.metadata().map_or(0, |metadata| metadata.len());
    Ok((BufReader::with_capacity(1 << 20, Box::new(opened)), size))
}

/// Refuses jobs that no worker could run.
struct Checker {
    registry: Registry,
    clock: Clock,
    random: Random,
}

impl Checker {
    fn line(&self, text: &str, args: &Args) -> Result<Submission, String> {
        let line: FileLine<'_> = serde_json::from_str(text).map_err(|error| {
            // The error's own words would repeat values.
            let what = if error.is_syntax() || error.is_eof() { "not JSON" } else { "a wrong field or value" };
            format!("is not an object as `publish --help` describes: {what} at column {}", error.column())
        })?;
        let kind =
            line.kind.as_deref().or(args.kind.as_deref()).ok_or("no `kind`, in the line or on the command line")?;
        if args.fail_if_exists && (line.at.is_some() || line.delay.is_some()) {
            return Err("--fail-if-exists is not for delayed jobs, of which the last replaces the others".into());
        }
        let delay = line.delay.as_deref().map(humantime::parse_duration).transpose();
        let delay = delay.map_err(|_| "`delay` must be a duration such as 5m")?;
        self.check(JobRequest {
            kind: self.kind(kind)?,
            body: Bytes::copy_from_slice(line.job.get().as_bytes()),
            job_id: line.job_id,
            lane: line.lane.as_deref().map(parse_lane).transpose()?.or(args.lane),
            not_after: line.not_after.or(args.not_after),
            at: line.at.or(delay.map(|delay| self.later(delay))),
        })
        .map(|checked| checked.submission)
    }

    fn check(&self, wanted: JobRequest) -> Result<CheckedJob, String> {
        if wanted.body.len() > LARGEST_BODY {
            return Err(format!("the job has {} bytes; the limit is {LARGEST_BODY}", wanted.body.len()));
        }
        let decoder = self.registry.decoder(wanted.kind).ok_or("the kind has no decoder")?;
        let job = decoder.decode(&wanted.body, Form::Json)?;
        if wanted.lane.is_some() && wanted.kind.lanes.is_empty() {
            return Err(format!("{} has no lanes: omit the lane", wanted.kind));
        }
        if wanted.at.is_some() && !wanted.kind.is_published() {
            return Err(format!(
                "{} cannot be delayed: schedule it with `carebell schedules add`, or run it now without --delay and \
                 --at",
                wanted.kind
            ));
        }
        let now = self.clock.now();
        // Compared here: to the server, an instant beyond 2262 is past.
        if wanted.at.is_some_and(|at| at - now > LONGEST_DELAY) {
            return Err("the job would be due in more than ten years, and no job is delayed for longer".into());
        }
        let published = wanted.at.unwrap_or(now).max(now);
        let not_after = wanted.not_after.unwrap_or_else(|| job.default_expiry(published));
        let job_id = wanted.job_id.unwrap_or_else(|| self.random.uuid(self.clock.now()).to_string());
        check_job_id(&job_id)?;
        let lane = wanted.lane.unwrap_or(Lane::Normal);
        let submission = Submission {
            subject: if wanted.kind.is_published() {
                wanted.kind.intake_subject(lane)
            } else {
                wanted.kind.subject(lane)
            },
            job_id,
            body: wanted.body,
            content_type: "application/json",
            not_after: wanted.not_after,
            at: wanted.at,
            due: None,
        };
        Ok(CheckedJob { submission, not_after })
    }

    fn kind(&self, name: &str) -> Result<Kind, String> {
        open_kind(&self.registry, name)
    }

    fn later(&self, delay: Duration) -> DateTime<Utc> {
        let delay = TimeDelta::from_std(delay).unwrap_or(TimeDelta::MAX);
        self.clock.now().checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

fn check_job_id(id: &str) -> Result<(), String> {
    if is_job_id(id) {
        return Ok(());
    }
    Err("the job id must be 1 to 128 of the characters A-Z a-z 0-9 _ : . -".into())
}
