//! Reads a job from JSON, and checks it as `carebell publish` does.

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{access::Caller, problem::Problem};
use crate::{
    clock::{Clock, Random},
    cut,
    events::Notify,
    header,
    kind::{Kind, Lane, Queue},
    meta::{LONGEST_DELAY, LONGEST_JOB_ID, is_job_id},
    near::nearest,
    pipeline::{Form, Registry},
    policy::{PolicyError, Wishes},
    store::Offer,
    when::lacks_offset,
};

/// The largest job: a message of the intake streams without its headers.
pub const LARGEST_JOB: usize = 512 * 1024 - 4096;

/// How much of a foreign field's name is repeated.
const LONGEST_NAME: usize = 64;

const FIELDS: [&str; 11] =
    ["kind", "jobId", "lane", "at", "delay", "notAfter", "attempts", "backoff", "timeout", "notify", "job"];

/// The field that says what a header of NATS says: `notAfter` of `Carebell-Not-After`.
pub fn field_of(header: &str) -> &'static str {
    let plain = header.replace('-', "").to_ascii_lowercase();
    let is_of = |field: &&&str| plain.ends_with(&field.to_ascii_lowercase());
    FIELDS.iter().filter(is_of).max_by_key(|field| field.len()).copied().unwrap_or("job")
}

/// See [`Job::identity`].
pub type Identity = ([u8; 32], Option<DateTime<Utc>>);

/// A job that a worker can run.
#[derive(Debug)]
pub struct Job {
    /// Its id, as its application gave it.
    pub id: String,
    /// Its kind.
    pub kind: Kind,
    /// Its lane.
    pub lane: Lane,
    /// When it is due, if it is delayed.
    pub at: Option<DateTime<Utc>>,
    /// When it expires, if not by its kind's default.
    pub not_after: Option<DateTime<Utc>>,
    /// When it expires, its kind's default included.
    pub expiry: DateTime<Utc>,
    /// Headers with its own policy, and its wish to be told of ends.
    pub policy: Vec<(&'static str, String)>,
    /// The message.
    pub body: Bytes,
    digest: [u8; 32],
}

impl Job {
    /// For the table, under the id that its application's jobs have there.
    pub fn offer(&self, scoped: String) -> Offer {
        Offer {
            job_id: scoped,
            digest: self.digest,
            kind: self.kind.name,
            lane: self.kind.lane_for(self.lane).map(Lane::name),
            due: self.at,
        }
    }

    /// Alike for the same job, due at the same instant.
    pub fn identity(&self) -> Identity {
        (self.digest, self.at)
    }
}

/// A job that cannot be published.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its id, if that could be read.
    pub id: Option<String>,
    /// The reason.
    pub problem: Box<Problem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    job_id: Option<&'a RawValue>,
    #[serde(borrow)]
    lane: Option<&'a RawValue>,
    #[serde(borrow)]
    at: Option<&'a RawValue>,
    #[serde(borrow)]
    delay: Option<&'a RawValue>,
    #[serde(borrow)]
    not_after: Option<&'a RawValue>,
    #[serde(borrow)]
    attempts: Option<&'a RawValue>,
    #[serde(borrow)]
    backoff: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout: Option<&'a RawValue>,
    #[serde(borrow)]
    notify: Option<&'a RawValue>,
    #[serde(borrow)]
    job: Option<&'a RawValue>,
}

/// Reads jobs.
pub struct Reader {
    registry: Registry,
    clock: Clock,
    random: Random,
}

impl Reader {
    /// Of these kinds.
    pub fn new(registry: Registry, clock: Clock, random: Random) -> Self {
        Self { registry, clock, random }
    }

    /// Reads one job. `key` is its id if it names none.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn read(&self, caller: &Caller, text: &[u8], key: Option<&str>) -> Result<Job, Refused> {
        let (fields, id) = self.parse(text, key)?;
        let read = self.named(caller, &fields).and_then(|(kind, lane)| self.check(&fields, id.clone(), kind, lane));
        read.map_err(|problem| Refused { id: Some(id), problem: problem.into() })
    }

    /// Reads one job of a queue, which its fields do not name.
    ///
    /// # Errors
    /// Names the field and what was expected.
    pub fn read_for(&self, queue: Queue, text: &[u8], key: Option<&str>) -> Result<Job, Refused> {
        let (fields, id) = self.parse(text, key)?;
        let named = [("kind", fields.kind), ("lane", fields.lane)].into_iter().find(|(_, value)| value.is_some());
        let read = match named {
            Some((field, _)) => Err(Problem::field(field, "must be left out: the queue names it")),
            None => self.check(&fields, id.clone(), queue.kind, queue.lane.unwrap_or(Lane::Critical)),
        };
        read.map_err(|problem| Refused { id: Some(id), problem: problem.into() })
    }

    fn parse<'a>(&self, text: &'a [u8], key: Option<&str>) -> Result<(Fields<'a>, String), Refused> {
        // The parser would take a list of the fields' values, too.
        if text.trim_ascii_start().first() == Some(&b'[') {
            return Err(Refused { id: None, problem: no_object().into() });
        }
        let fields: Fields<'_> =
            serde_json::from_slice(text).map_err(|error| Refused { id: None, problem: not_fields(&error).into() })?;
        let id = match (fields.job_id, key) {
            (Some(value), _) => checked_id("jobId", &string("jobId", value)),
            (None, Some(key)) => checked_id("Idempotency-Key", &Ok(key.to_owned())),
            (None, None) => Ok(self.random.uuid(self.clock.now()).to_string()),
        };
        let id = id.map_err(|problem| Refused { id: None, problem: problem.into() })?;
        Ok((fields, id))
    }

    fn named(&self, caller: &Caller, fields: &Fields<'_>) -> Result<(Kind, Lane), Problem> {
        let kind = self.kind(caller, &required("kind", fields.kind, "a kind such as notification")?)?;
        let lane = match optional("lane", fields.lane)? {
            None => Lane::Normal,
            Some(_) if kind.lanes.is_empty() => {
                return Err(Problem::field("lane", format!("must be left out: {kind} has no lanes")));
            }
            Some(text) => {
                Lane::parse(&text).ok_or_else(|| Problem::field("lane", "must be critical, normal or bulk"))?
            }
        };
        Ok((kind, lane))
    }

    fn check(&self, fields: &Fields<'_>, id: String, kind: Kind, lane: Lane) -> Result<Job, Problem> {
        let job = fields.job.ok_or_else(|| Problem::field("job", "is required: the kind's message as JSON"))?;
        if job.get().len() > LARGEST_JOB {
            let size = job.get().len();
            return Err(Problem::too_large(format!("`job` has {size} bytes; the limit is {LARGEST_JOB}")));
        }
        let body = Bytes::copy_from_slice(job.get().as_bytes());
        let decoder = self.registry.decoder(kind).ok_or_else(|| Problem::field("kind", "has no decoder"))?;
        let runnable = decoder.decode(&body, Form::Json).map_err(|why| misread(&why))?;
        let at = self.due(fields)?;
        let not_after = optional("notAfter", fields.not_after)?.map(|text| instant("notAfter", &text)).transpose()?;
        let now = self.clock.now();
        let expiry = not_after.unwrap_or_else(|| runnable.default_expiry(at.unwrap_or(now).max(now)));
        let lane_name = kind.lane_for(lane).map_or("", Lane::name);
        Ok(Job {
            digest: digest(kind, lane_name, job)?,
            id,
            kind,
            lane,
            at,
            not_after,
            expiry,
            policy: policy(fields)?,
            body,
        })
    }

    fn kind(&self, caller: &Caller, name: &str) -> Result<Kind, Problem> {
        let published: Vec<&Kind> = self.registry.kinds().iter().filter(|kind| kind.is_published()).collect();
        let Some(kind) = published.iter().find(|kind| kind.name == name) else {
            let names = published.iter().map(|kind| kind.name).filter(|name| caller.may_publish(name));
            let names = names.collect::<Vec<_>>().join(", ");
            return Err(Problem::field("kind", format!("must be one of {names}")));
        };
        if !caller.may_publish(name) {
            return Err(Problem::forbidden(format!("this token may not publish {name}")));
        }
        Ok(**kind)
    }

    fn due(&self, fields: &Fields<'_>) -> Result<Option<DateTime<Utc>>, Problem> {
        let now = self.clock.now();
        let (field, due) = match (optional("at", fields.at)?, optional("delay", fields.delay)?) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => return Err(Problem::field("delay", "must be left out where `at` is given")),
            (Some(at), None) => ("at", instant("at", &at)?),
            (None, Some(delay)) => {
                let delay = humantime::parse_duration(&delay).ok().and_then(|delay| TimeDelta::from_std(delay).ok());
                let delay = delay.ok_or_else(|| Problem::field("delay", "must be a duration such as 5m"))?;
                ("delay", now.checked_add_signed(delay).unwrap_or(DateTime::<Utc>::MAX_UTC))
            }
        };
        if due - now > LONGEST_DELAY {
            return Err(Problem::field(field, "must be within ten years"));
        }
        Ok(Some(due))
    }
}

/// A header that is an id, with or without the quotes of its draft standard.
pub fn key(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn checked_id(path: &str, text: &Result<String, Problem>) -> Result<String, Problem> {
    match text {
        Ok(text) if is_job_id(text) => Ok(text.clone()),
        Ok(_) => {
            Err(Problem::field(path, format!("must be 1 to {LONGEST_JOB_ID} of the characters A-Z a-z 0-9 _ : . -")))
        }
        Err(problem) => Err(problem.clone()),
    }
}

fn required(path: &'static str, value: Option<&RawValue>, expected: &str) -> Result<String, Problem> {
    string(path, value.ok_or_else(|| Problem::field(path, format!("is required: {expected}")))?)
}

fn optional(path: &'static str, value: Option<&RawValue>) -> Result<Option<String>, Problem> {
    value.map(|value| string(path, value)).transpose()
}

fn string(path: &'static str, value: &RawValue) -> Result<String, Problem> {
    serde_json::from_str(value.get()).map_err(|_| Problem::field(path, "must be a string"))
}

fn instant(path: &'static str, text: &str) -> Result<DateTime<Utc>, Problem> {
    let expected = "must be an instant in RFC 3339 with its offset, such as 2027-03-01T09:00:00Z";
    let local = if lacks_offset(text) { "lacks an offset: it " } else { "" };
    let wrong = |_| Problem::field(path, format!("{local}{expected}"));
    let instant = DateTime::parse_from_rfc3339(text).map_err(wrong)?;
    Ok(instant.with_timezone(&Utc))
}

fn policy(fields: &Fields<'_>) -> Result<Vec<(&'static str, String)>, Problem> {
    let mut headers = Vec::new();
    let wrong = |path| move |error: PolicyError| Problem::field(path, format!("must be {}", error.expected()));
    // Written anew: a text of a producer is no text of a header.
    if let Some(value) = fields.attempts {
        // A number, or a text as in the header.
        let text = serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned());
        let attempts = Wishes::attempts(&text).map_err(wrong("attempts"))?;
        headers.push((header::ATTEMPTS, attempts.to_string()));
    }
    if let Some(text) = optional("backoff", fields.backoff)? {
        let backoff = Wishes::backoff(&text).map_err(wrong("backoff"))?;
        headers.push((header::BACKOFF, backoff.to_string()));
    }
    if let Some(text) = optional("timeout", fields.timeout)? {
        let timeout = Wishes::timeout(&text).map_err(wrong("timeout"))?;
        headers.push((header::TIMEOUT, humantime::format_duration(timeout).to_string()));
    }
    if let Some(value) = fields.notify {
        let list = serde_json::from_str::<Vec<String>>(value.get()).map(|list| list.join(","));
        let text = list.or_else(|_| serde_json::from_str(value.get()));
        let text: String = text.map_err(|_| Problem::field("notify", "must be a list of strings, or one string"))?;
        let notify = Notify::parse(&text).map_err(|expected| Problem::field("notify", format!("must {expected}")))?;
        headers.push((header::NOTIFY, notify.to_string()));
    }
    Ok(headers)
}

/// Of the job's content: neither blanks nor the order of fields make another job.
fn digest(kind: Kind, lane: &str, job: &RawValue) -> Result<[u8; 32], Problem> {
    // Its maps are sorted.
    let value: serde_json::Value =
        serde_json::from_str(job.get()).map_err(|_| Problem::field("job", "must be a JSON object"))?;
    let mut context = Context::new(&SHA256);
    for part in [kind.name, lane, &value.to_string()] {
        context.update(part.as_bytes());
        context.update(&[0]);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

/// The decoder's error, whose path is below `job`.
fn misread(why: &str) -> Problem {
    let why = why.split_once(" as JSON: ").map_or(why, |(_, rest)| rest);
    let named = |text: &str| {
        text.strip_prefix('`').and_then(|rest| {
            rest.split_once('`').map(|(path, rest)| Problem::field(format!("job.{path}"), rest.trim()))
        })
    };
    let inside = || {
        why.split_once(" in `").and_then(|(what, rest)| {
            let (path, rest) = rest.split_once('`')?;
            what.starts_with("unrecognized field")
                .then(|| Problem::field(format!("job.{path}"), format!("has an {what}{rest}")))
        })
    };
    named(why).or_else(inside).unwrap_or_else(|| Problem::field("job", format!("cannot be read: {why}")))
}

fn no_object() -> Problem {
    Problem::field("", format!("a job must be one JSON object with the fields {}", FIELDS.join(", ")))
}

/// serde's own words would repeat values.
fn not_fields(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let quoted = |text: &str| text.split('`').nth(1).unwrap_or_default().to_owned();
    if text.starts_with("unknown field") {
        let found = quoted(&text);
        let meant = nearest(&found, FIELDS).map(|field| format!("; did you mean `{field}`?")).unwrap_or_default();
        let path = cut::with_ellipsis(&found, LONGEST_NAME, char::len_utf8);
        return Problem::field(path, format!("is no field of a job{meant} There are {}", FIELDS.join(", ")));
    }
    if text.starts_with("duplicate field") {
        return Problem::field(quoted(&text), "is there twice");
    }
    let place = format!("line {} column {}", error.line(), error.column());
    if error.is_data() {
        return no_object();
    }
    Problem::field(
        "",
        format!("this is not JSON: {} ({place})", if error.is_eof() { "it ends too soon" } else { "a syntax error" }),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(why: &str) -> serde_json::Value {
        let problem = serde_json::to_value(misread(why)).unwrap();
        problem["errors"][0].clone()
    }

    #[test]
    fn the_decoders_errors_have_their_paths() {
        let json = "the body is not a carebell.v1.Notification as JSON: ";
        assert_eq!(
            told(&format!("{json}`channels[0]` must be one of CHANNEL_SMS (line 1 column 5)")),
            json!({ "path": "job.channels[0]", "detail": "must be one of CHANNEL_SMS (line 1 column 5)" })
        );
        assert_eq!(told("`title` is required"), json!({ "path": "job.title", "detail": "is required" }));
        assert_eq!(told(&format!("{json}unrecognized field in `data` at line 1"))["path"], "job.data");
        assert_eq!(told("something else")["path"], "job");
    }

    #[test]
    fn each_header_of_a_producer_has_a_field() {
        let fields = crate::intake::ALLOWED.map(field_of);
        assert_eq!(fields, ["jobId", "at", "notAfter", "attempts", "backoff", "timeout", "notify"]);
    }

    #[test]
    fn a_key_may_have_quotes() {
        assert_eq!((key("\"a-1\""), key(" a-1 "), key("\"")), ("a-1", "a-1", "\""));
    }

    #[test]
    fn the_order_of_fields_makes_no_other_job() {
        let of = |text: &str, lane| {
            let raw = RawValue::from_string(text.to_owned()).unwrap();
            digest(Kind::notification("notification"), lane, &raw).unwrap()
        };
        assert_eq!(of(r#"{"a": 1, "b": [1, 2]}"#, "bulk"), of(r#"{"b":[1,2],"a":1}"#, "bulk"));
        assert_ne!(of("{}", "bulk"), of("{}", "normal"));
        assert_ne!(of(r#"{"a":[1,2]}"#, ""), of(r#"{"a":[2,1]}"#, ""));
    }
}
