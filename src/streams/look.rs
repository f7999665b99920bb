//! Parses the server's answers about streams and consumers.

use async_nats::jetstream::{
    ErrorCode,
    consumer::{self, IntoConsumerConfig},
    response::Response,
    stream,
};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::{DeclaredConsumer, Difference, Streams, compare, missing};

/// An API error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// `JetStream` is not enabled for the account.
    #[error("JetStream is not enabled for the account")]
    NotEnabled,
    /// Any other, for example that no leader is elected.
    #[error("{0}")]
    Other(String),
}

impl Streams {
    /// Names of the streams.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().map(|config| config.name.as_str())
    }

    /// Compares an answer of `$JS.API.STREAM.INFO.<name>` with the file.
    ///
    /// # Errors
    /// If it is an error other than "not found".
    pub fn look_at_stream(&self, name: &str, answer: &[u8]) -> Result<Vec<Difference>, LookError> {
        let mut differences = Vec::new();
        match read::<stream::Info>(answer)? {
            None => differences.push(missing(name)),
            Some(found) => {
                if let Some(wanted) = self.streams.iter().find(|config| config.name == name) {
                    compare(name, wanted, &found.config, &mut differences);
                }
            }
        }
        Ok(differences)
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
    pub fn look(&self, answer: &[u8]) -> Result<Vec<Difference>, LookError> {
        Ok(match read::<consumer::Info>(answer)? {
            None => vec![missing(&self.place())],
            Some(found) => self.compare(found.config),
        })
    }

    pub(super) fn compare(&self, mut found: consumer::Config) -> Vec<Difference> {
        let mut wanted = self.config.clone().into_consumer_config();
        // Synonyms; some servers send both.
        wanted.name.clone_from(&wanted.durable_name);
        found.name.clone_from(&found.durable_name);
        let mut differences = Vec::new();
        compare(&self.place(), &wanted, &found, &mut differences);
        differences
    }
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

fn read<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<Option<T>, LookError> {
    match serde_json::from_slice::<Response<T>>(answer) {
        Ok(Response::Ok(info)) => Ok(Some(info)),
        Ok(Response::Err { error }) => match error.error_code() {
            ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
                Err(LookError::NotEnabled)
            }
            _ => Err(LookError::Other(error.to_string())),
        },
        Err(error) => Err(LookError::Other(format!("invalid answer: {error}"))),
    }
}
