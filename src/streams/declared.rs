//! Declared consumers, and the settings by which an installation differs from `streams/`.

use std::time::Duration;

use async_nats::jetstream::consumer;

use crate::{
    events,
    policy::{Policy, PolicyError},
};

/// Settings that differ between installations.
#[derive(Clone, Debug, PartialEq)]
pub struct Adjustments {
    /// Replicas of each stream, whatever the files say.
    pub replicas: usize,
    /// Policy changes. The last one wins.
    pub overrides: Vec<Override>,
    /// Applications that are kept apart, each with a stream like JOBS.
    pub applications: Vec<Application>,
}

/// One change of a queue's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The durable, `*` for all, or stream and durable of one application, as `INTAKE_care.notification_normal`.
    pub durable: String,
    /// `attempts`, …, `ack_wait`.
    pub key: String,
    /// As in the consumer's `metadata`.
    pub value: String,
}

impl Default for Adjustments {
    fn default() -> Self {
        Self { replicas: 1, overrides: Vec::new(), applications: Vec::new() }
    }
}

/// An application that is kept apart from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// In subjects, stream names, ids and metrics.
    pub name: String,
    /// Kinds that it may publish; `reminder.*` stands for a family.
    pub kinds: Vec<String>,
}

/// One durable pull consumer.
#[derive(Clone, Debug)]
pub struct DeclaredConsumer {
    /// Its stream.
    pub stream: String,
    /// Its configuration on the server.
    pub config: consumer::pull::Config,
    /// The queue's policy.
    pub policy: Policy,
    /// Whether its rate is its own, and not that of the whole queue.
    pub has_own_rate: bool,
}

impl DeclaredConsumer {
    /// The durable's name.
    #[must_use]
    pub fn durable(&self) -> &str {
        self.config.durable_name.as_deref().unwrap_or_default()
    }
}

/// A durable through which one application reads its events. Nobody here pulls from it: it is no queue.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    /// Its configuration on the server.
    pub(super) config: consumer::pull::Config,
}

impl Reader {
    /// `EVENTS.events_default`
    pub(super) fn place(&self) -> String {
        format!("{}.{}", events::STREAM, self.config.durable_name.as_deref().unwrap_or_default())
    }
}

/// A mistake in `streams/` or in an override.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Not JSON, or of the wrong shape.
    #[error("streams/{file}: {why}")]
    Shape {
        /// The file.
        file: String,
        /// The mistake.
        why: String,
    },
    /// A key unknown to server and Carebell.
    #[error("streams/{file}: unknown key `{key}`")]
    UnknownKey {
        /// The file.
        file: String,
        /// The key's path.
        key: String,
    },
    /// An invalid policy.
    #[error("streams/{file}: metadata {why}")]
    Policy {
        /// The file.
        file: String,
        /// The mistake.
        why: PolicyError,
    },
    /// An override for an unknown queue or key.
    #[error("QUEUE_OVERRIDES: {0}")]
    Override(String),
    /// An application that is there twice, or may publish an unknown kind.
    #[error("APPLICATIONS: {0}")]
    Applications(String),
}

/// Users of Carebell's own account, whose passwords are in variables named after them.
const OWN_USERS: [&str; 3] = ["setup", "worker", "ops"];

/// The longest name of an application, in bytes.
const LONGEST_NAME: usize = 32;

impl Application {
    /// Parses `care=reminder.* notification`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, kinds) = text.trim().split_once('=')?;
        let (name, kinds): (_, Vec<String>) = (name.trim(), kinds.split_whitespace().map(str::to_owned).collect());
        let is_name = (1..=LONGEST_NAME).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !OWN_USERS.contains(&name)
            && name != events::DEFAULT;
        (is_name && !kinds.is_empty()).then(|| Self { name: name.to_owned(), kinds })
    }

    /// Whether it may publish a kind.
    #[must_use]
    pub fn may_publish(&self, kind: &str) -> bool {
        self.kinds.iter().any(|granted| covers(granted, kind))
    }
}

/// Whether a kind, or a family `reminder.*`, covers a kind.
pub(super) fn covers(granted: &str, kind: &str) -> bool {
    match granted.strip_suffix('*') {
        Some(family) => family.ends_with('.') && kind.starts_with(family),
        None => granted == kind,
    }
}

/// Changes a setting of a consumer.
///
/// # Errors
/// If there is no such setting, or the value is wrong.
pub(super) fn adjust(config: &mut consumer::pull::Config, key: &str, value: &str) -> Result<(), FileError> {
    if key == "ack_wait" {
        config.ack_wait = humantime::parse_duration(value)
            .ok()
            .filter(|wait| *wait >= Duration::from_millis(500))
            .ok_or_else(|| FileError::Override(format!("`ack_wait` is {value:?}; expected at least 500ms")))?;
        return Ok(());
    }
    let key = format!("carebell.{key}");
    if !crate::policy::KEYS.contains(&key.as_str()) {
        let text = format!(
            "`{key}` is not a queue setting; expected attempts, backoff, jitter, timeout, concurrency, max_attempts, max_backoff, pause_above, rate or ack_wait"
        );
        return Err(FileError::Override(text));
    }
    config.metadata.insert(key, value.to_owned());
    Ok(())
}
