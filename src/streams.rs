//! Streams and consumers of Carebell. Files in `streams/` are wire JSON, which the `nats` CLI also takes.
//!
//! `apply` never deletes: a recreated durable would run its exhausted messages again.

mod applications;
mod declared;
mod find;
mod load;
mod look;
pub mod observe;
mod queued;
mod replicas;
mod server;
pub mod upgrade;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_nats::jetstream::{self, consumer, stream};
use serde_json::Value;

use self::declared::{Reader, adjust};
pub use self::{
    declared::{Adjustments, Application, DeclaredConsumer, FileError, Override},
    find::Waiting,
    load::Load,
    look::{Look, LookError, written_at},
    queued::{Page, Queued, Standing},
    replicas::Replicas,
    server::NO_LEADER,
};
use crate::{events, intake::is_intake, kind::Queue, policy::Policy};

/// Embedded at build time, by name.
static FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/streams.rs"));

/// All streams and consumers, checked.
#[derive(Clone, Debug)]
pub struct Streams {
    configs: Vec<stream::Config>,
    consumers: Vec<DeclaredConsumer>,
    readers: Vec<Reader>,
}

/// The server refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct ServerError {
    /// The failed action.
    pub what: String,
    /// The server's error.
    pub why: String,
}

/// A difference between server and file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `JOBS`, or `JOBS.reminder_medication`.
    pub place: String,
    /// Empty if the whole stream or consumer is missing.
    pub field: String,
    /// The file's value.
    pub wanted: String,
    /// The server's value.
    pub found: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            return write!(f, "{}: not on the server", self.place);
        }
        write!(f, "{} {}: streams/ has {}, the server has {}", self.place, self.field, self.wanted, self.found)
    }
}

impl Streams {
    /// The embedded files.
    ///
    /// # Errors
    /// If an override is wrong.
    pub fn embedded(adjustments: &Adjustments) -> Result<Self, FileError> {
        Self::read(FILES.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())), adjustments)
    }

    /// Files given as names and texts.
    ///
    /// # Errors
    /// The first mistake.
    pub fn read(
        files: impl IntoIterator<Item = (String, String)>,
        adjustments: &Adjustments,
    ) -> Result<Self, FileError> {
        let mut streams = Vec::new();
        let mut consumers = Vec::new();
        let mut readers = Vec::new();
        for (file, text) in files {
            match file.trim_end_matches(".json").split_once('.') {
                None => streams.push(read_stream(&file, &text, adjustments.replicas)?),
                Some((events::STREAM, durable)) => readers.push(Reader { config: parse_named(&file, &text, durable)? }),
                Some((stream, durable)) => consumers.push(read_consumer(&file, &text, stream, durable, adjustments)?),
            }
        }
        applications::add(&mut streams, &mut consumers, adjustments)?;
        applications::add_readers(&mut readers, adjustments);
        check_overrides(&consumers, adjustments)?;
        // Sources before the streams that draw on them; the advisory stream before any consumer.
        streams.sort_by_key(|stream| stream.sources.is_some());
        Ok(Self { configs: streams, consumers, readers })
    }

    /// Stored in memory, for tests.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        for stream in &mut self.configs {
            stream.storage = stream::StorageType::Memory;
        }
        self
    }

    /// All consumers, by file name.
    #[must_use]
    pub fn consumers(&self) -> &[DeclaredConsumer] {
        &self.consumers
    }

    /// Names of the streams with consumers.
    #[must_use]
    pub fn work_queues(&self) -> BTreeSet<String> {
        self.consumers.iter().map(|consumer| consumer.stream.clone()).collect()
    }

    /// Streams that others source by subjects starting with `prefix`, and these subjects.
    #[must_use]
    pub fn sourced(&self, prefix: &str) -> BTreeMap<String, Vec<String>> {
        let mut sourced: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for source in self.configs.iter().flat_map(|stream| stream.sources.iter().flatten()) {
            let subjects = source.subject_transforms.iter().map(|transform| transform.source.clone());
            let subjects: Vec<String> = subjects.filter(|subject| subject.starts_with(prefix)).collect();
            if !subjects.is_empty() {
                sourced.entry(source.name.clone()).or_default().extend(subjects);
            }
        }
        sourced
    }

    /// The consumer of the jobs of a queue that Carebell publishes.
    #[must_use]
    pub fn consumer(&self, queue: &Queue) -> Option<&DeclaredConsumer> {
        self.consumers_of(queue).into_iter().find(|consumer| !is_intake(&consumer.stream))
    }

    /// The consumers of a queue, one in each stream that holds its jobs.
    #[must_use]
    pub fn consumers_of(&self, queue: &Queue) -> Vec<&DeclaredConsumer> {
        let durable = queue.durable();
        self.consumers.iter().filter(|consumer| consumer.durable() == durable).collect()
    }
}

fn read_stream(file: &str, text: &str, replicas: usize) -> Result<stream::Config, FileError> {
    let mut json = parse_json(file, text)?;
    json["num_replicas"] = replicas.into();
    let config: stream::Config = parse(file, &json)?;
    refuse_unknown_keys(file, &json, &config)?;
    Ok(config)
}

fn read_consumer(
    file: &str,
    text: &str,
    stream: &str,
    durable: &str,
    adjustments: &Adjustments,
) -> Result<DeclaredConsumer, FileError> {
    let mut config = parse_named(file, text, durable)?;
    for change in &adjustments.overrides {
        if change.durable == "*" || change.durable == durable {
            adjust(&mut config, &change.key, &change.value)?;
        }
    }
    let policy = Policy::from_metadata(&config.metadata).map_err(|why| FileError::Policy { file: file.into(), why })?;
    // Above the recorded attempts, since releases and lost workers count here.
    config.max_deliver = i64::from(policy.max_attempts) + 10;
    Ok(DeclaredConsumer { stream: stream.into(), config, policy, has_own_rate: false })
}

/// A consumer that is named as its file says.
fn parse_named(file: &str, text: &str, durable: &str) -> Result<consumer::pull::Config, FileError> {
    let json = parse_json(file, text)?;
    let config: consumer::pull::Config = parse(file, &json)?;
    refuse_unknown_keys(file, &json, &config)?;
    if config.durable_name.as_deref() != Some(durable) {
        let why = format!("`durable_name` must be {durable:?}, like the file name");
        return Err(FileError::Shape { file: file.into(), why });
    }
    Ok(config)
}

fn check_overrides(consumers: &[DeclaredConsumer], adjustments: &Adjustments) -> Result<(), FileError> {
    for Override { durable, .. } in &adjustments.overrides {
        let names = |consumer: &DeclaredConsumer| consumer.durable() == durable || consumer.place() == *durable;
        if durable != "*" && !consumers.iter().any(names) {
            let known: Vec<_> = consumers.iter().map(DeclaredConsumer::durable).collect();
            let text = format!("there is no queue {durable:?}; there are {}", known.join(", "));
            return Err(FileError::Override(text));
        }
    }
    Ok(())
}

fn parse_json(file: &str, text: &str) -> Result<Value, FileError> {
    let shape = |why: String| FileError::Shape { file: file.into(), why };
    let json: Value = serde_json::from_str(text).map_err(|error| shape(error.to_string()))?;
    if json.is_object() { Ok(json) } else { Err(shape("must be a JSON object".into())) }
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, json: &Value) -> Result<T, FileError> {
    T::deserialize(json).map_err(|error| FileError::Shape { file: file.into(), why: error.to_string() })
}

/// The client's types ignore unknown keys, so the file is serialized again to see which keys vanish. Known keys with a
/// default value vanish too ([`is_default`]).
fn refuse_unknown_keys<T: serde::Serialize>(file: &str, json: &Value, typed: &T) -> Result<(), FileError> {
    let written = serde_json::to_value(typed).unwrap_or_default();
    match vanished("", json, &written) {
        Some(key) => Err(FileError::UnknownKey { file: file.into(), key }),
        None => Ok(()),
    }
}

fn vanished(path: &str, given: &Value, written: &Value) -> Option<String> {
    match (given, written) {
        (Value::Object(given), Value::Object(written)) => given.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match written.get(key) {
                Some(written) => vanished(&path, value, written),
                None if is_default(key, value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(written)) => {
            given.iter().zip(written).find_map(|(given, written)| vanished(path, given, written))
        }
        _ => None,
    }
}

/// Keys that the client omits at these values.
fn is_default(key: &str, value: &Value) -> bool {
    const LEFT_OUT: [&str; 6] =
        ["allow_direct", "allow_msg_schedules", "max_age", "max_consumers", "max_waiting", "max_ack_pending"];
    LEFT_OUT.contains(&key) && (value == &Value::Bool(false) || value == &Value::from(0))
}

fn compare<T: serde::Serialize>(place: &str, wanted: &T, found: &T, differences: &mut Vec<Difference>) {
    let (wanted, found) = (flat(wanted), flat(found));
    let mut fields: Vec<&String> = wanted.keys().chain(found.keys()).collect();
    fields.sort_unstable();
    fields.dedup();
    for field in fields {
        let show = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
        if wanted.get(field) != found.get(field) {
            differences.push(Difference {
                place: place.into(),
                field: field.clone(),
                wanted: show(wanted.get(field)),
                found: show(found.get(field)),
            });
        }
    }
}

/// Every leaf by its path, without empty values and the server's `_nats.` keys.
fn flat<T: serde::Serialize>(config: &T) -> HashMap<String, Value> {
    fn walk(path: String, value: Value, into: &mut HashMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    walk(if path.is_empty() { key } else { format!("{path}.{key}") }, value, into);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    walk(format!("{path}[{index}]"), item, into);
                }
            }
            leaf => {
                let empty = [Value::Null, Value::Bool(false), Value::from(0), Value::from("")].contains(&leaf);
                if !empty && !path.contains("_nats.") {
                    into.insert(path, leaf);
                }
            }
        }
    }
    let mut leaves = HashMap::new();
    walk(String::new(), serde_json::to_value(config).unwrap_or_default(), &mut leaves);
    leaves
}

fn missing(place: &str) -> Difference {
    Difference { place: place.into(), field: String::new(), wanted: "present".into(), found: "nothing".into() }
}

/// Whether there is no such stream.
#[must_use]
pub fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), jetstream::context::GetStreamErrorKind::JetStream(error)
        if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

fn server_error(what: &str, place: &str, error: &dyn std::error::Error) -> ServerError {
    ServerError { what: format!("{what} {place}"), why: error.to_string() }
}
