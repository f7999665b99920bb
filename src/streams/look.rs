//! Parses the server's answers about streams and consumers.

use async_nats::jetstream::{
    self, ErrorCode,
    consumer::{self, IntoConsumerConfig},
    response::Response,
    stream,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{
    DeclaredConsumer, Difference, Streams, compare,
    declared::Reader,
    missing,
    replicas::{Replicas, replicas},
};

/// An answer about a stream or consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Differences from the file. One without a field if it is missing.
    pub differences: Vec<Difference>,
    /// Number of replicas that the server is to keep. 0: as many as its stream, or it is missing.
    pub wanted: usize,
    /// Where it is. `None` outside a cluster, or if it is missing.
    pub replicas: Option<Replicas>,
}

impl Look {
    fn missing(place: &str) -> Self {
        Self { differences: vec![missing(place)], wanted: 0, replicas: None }
    }
}

/// An API error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// `JetStream` is not enabled for the account.
    #[error("JetStream is not enabled for the account")]
    NotEnabled,
    /// It has no leader, or the cluster has none. With the nodes that are away, as far as known.
    #[error("no leader")]
    NoLeader(Vec<String>),
    /// Any other.
    #[error("{0}")]
    Other(String),
}

impl Streams {
    /// Names of the streams.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.configs.iter().map(|config| config.name.as_str())
    }

    /// Compares an answer of `$JS.API.STREAM.INFO.<name>` with the file.
    ///
    /// # Errors
    /// If it is an error other than "not found".
    pub fn look_at_stream(&self, name: &str, answer: &[u8]) -> Result<Look, LookError> {
        match judge(parse(answer)?)? {
            None => Ok(Look::missing(name)),
            Some(found) => self.look_at(name, &found),
        }
    }

    pub(super) fn look_at(&self, name: &str, found: &stream::Info) -> Result<Look, LookError> {
        let mut differences = Vec::new();
        if let Some(wanted) = self.configs.iter().find(|config| config.name == name) {
            compare(name, wanted, &found.config, &mut differences);
        }
        let replicas = replicas(found.cluster.as_ref()).map_err(LookError::NoLeader)?;
        Ok(Look { differences, wanted: found.config.num_replicas, replicas })
    }
}

impl DeclaredConsumer {
    /// `JOBS.reminder_medication`
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}.{}", self.stream, self.durable())
    }

    /// Compares an answer of `$JS.API.CONSUMER.INFO.<stream>.<durable>` with the file.
    ///
    /// # Errors
    /// If it is an error other than "not found".
    pub fn look(&self, answer: &[u8]) -> Result<Look, LookError> {
        match judge(parse(answer)?)? {
            None => Ok(Look::missing(&self.place())),
            Some(found) => self.look_at(found),
        }
    }

    pub(super) fn look_at(&self, found: consumer::Info) -> Result<Look, LookError> {
        let replicas = replicas(found.cluster.as_ref()).map_err(LookError::NoLeader)?;
        Ok(Look { wanted: found.config.num_replicas, differences: self.compare(found.config), replicas })
    }

    pub(super) fn compare(&self, found: consumer::Config) -> Vec<Difference> {
        compare_consumers(&self.place(), &self.config, found)
    }
}

impl Reader {
    pub(super) fn compare(&self, found: consumer::Config) -> Vec<Difference> {
        compare_consumers(&self.place(), &self.config, found)
    }
}

fn compare_consumers(place: &str, wanted: &consumer::pull::Config, mut found: consumer::Config) -> Vec<Difference> {
    let mut wanted = wanted.clone().into_consumer_config();
    // Synonyms; some servers send both.
    wanted.name.clone_from(&wanted.durable_name);
    found.name.clone_from(&found.durable_name);
    let mut differences = Vec::new();
    compare(place, &wanted, &found, &mut differences);
    differences
}

/// The server's time in an answer.
#[must_use]
pub fn written_at(answer: &[u8]) -> Option<DateTime<Utc>> {
    #[derive(Deserialize)]
    struct Stamp {
        ts: DateTime<Utc>,
    }
    serde_json::from_slice::<Stamp>(answer).ok().map(|stamp| stamp.ts)
}

fn parse<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<Response<T>, LookError> {
    serde_json::from_slice(answer).map_err(|error| LookError::Other(format!("invalid answer: {error}")))
}

/// `None`: the server says that there is no such stream or consumer.
pub(super) fn judge<T>(answer: Response<T>) -> Result<Option<T>, LookError> {
    match answer {
        Response::Ok(info) => Ok(Some(info)),
        Response::Err { error } => match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                Err(LookError::NotEnabled)
            }
            _ if lacks_leader(&error) => Err(LookError::NoLeader(Vec::new())),
            _ => Err(LookError::Other(error.to_string())),
        },
    }
}

/// Whether a cluster refused because nobody leads it, or the stream or consumer. These are offline once their nodes have
/// been stopped in good order; about those of nodes that were killed nobody answers.
pub(super) fn lacks_leader(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::STREAM_OFFLINE
            | ErrorCode::CONSUMER_OFFLINE
    )
}
