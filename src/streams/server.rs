//! Applies the files to a server, and compares it with them.

use std::time::Duration;

use async_nats::jetstream::{
    self, ErrorCode, consumer,
    context::{CreateStreamErrorKind, RequestError, RequestErrorKind},
    response::Response,
    stream::{self, ConsumerErrorKind},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    Difference, LookError, ServerError, Streams,
    look::{judge, lacks_leader},
    missing, server_error,
};
use crate::{events, retry::Once};

/// Between attempts on a cluster that is not ready.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a cluster answers nothing, or refuses most.
pub const NO_LEADER: &str =
    "no leader: more than half of the nodes of a cluster, or of a stream's replicas, must be up and reach each other";

const NO_ANSWER: &str = "no answer: in a cluster, the node that leads it may be away, or not elected yet";

const FEW_NODES: &str =
    "the cluster has too few nodes: each replica (STREAMS_REPLICAS) needs one that is up, with JetStream and storage";

/// A refused `apply`.
struct Refusal {
    error: ServerError,
    /// A new or recovering cluster may take it a moment later.
    may_pass: bool,
}

impl Streams {
    /// Creates and updates everything. Returns the names.
    ///
    /// # Errors
    /// The server's first refusal.
    pub async fn apply(&self, context: &jetstream::Context) -> Result<Vec<String>, ServerError> {
        self.apply_once(context).await.map_err(|refusal| refusal.error)
    }

    /// Waits until a cluster has a leader, and nodes for all replicas: at most so long, beside an attempt under way.
    /// `tell` hears of the first refusal.
    ///
    /// # Errors
    /// The server's last refusal, or the first that waiting cannot help.
    pub async fn apply_within(
        &self,
        context: &jetstream::Context,
        wait: Duration,
        tell: impl Fn(&ServerError),
    ) -> Result<Vec<String>, ServerError> {
        let since = Instant::now();
        let mut told = Once::new();
        loop {
            match self.apply_once(context).await {
                Ok(done) => return Ok(done),
                Err(refusal) if refusal.may_pass && since.elapsed() < wait => {
                    if told.is_first() {
                        tell(&refusal.error);
                    }
                    sleep(AGAIN).await;
                }
                Err(refusal) => return Err(refusal.error),
            }
        }
    }

    /// Deletes all streams with what is in them, for tests.
    ///
    /// # Errors
    /// The server's first refusal.
    pub async fn delete_all(&self, context: &jetstream::Context) -> Result<(), ServerError> {
        for config in &self.configs {
            let deleted = context.delete_stream(&config.name).await;
            deleted.map_err(|error| server_error("delete", &config.name, &error))?;
        }
        Ok(())
    }

    /// Whether no consumer waits for an acknowledgement.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn are_idle(&self, context: &jetstream::Context) -> Result<bool, ServerError> {
        for consumer in self.consumers.iter().filter(|consumer| consumer.is_queue()) {
            if consumer.load(context).await?.is_some_and(|load| load.in_flight > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn apply_once(&self, context: &jetstream::Context) -> Result<Vec<String>, Refusal> {
        let mut done = Vec::new();
        for config in &self.configs {
            let applied = context.create_or_update_stream(config.clone()).await;
            applied.map_err(|error| match error.kind() {
                CreateStreamErrorKind::JetStream(refused) => refusal(&config.name, &refused),
                CreateStreamErrorKind::TimedOut => unanswered(&config.name),
                _ => Refusal { error: server_error("apply", &config.name, &error), may_pass: false },
            })?;
            done.push(config.name.clone());
        }
        let queues = self.consumers.iter().map(|queue| (queue.place(), &queue.config, queue.stream.as_str()));
        let readers = self.readers.iter().map(|reader| (reader.place(), &reader.config, events::STREAM));
        for (place, config, stream) in queues.chain(readers) {
            let applied = context.create_consumer_on_stream(config.clone(), stream).await;
            applied.map_err(|error| match error.kind() {
                ConsumerErrorKind::JetStream(refused) => refusal(&place, &refused),
                ConsumerErrorKind::TimedOut => unanswered(&place),
                _ => Refusal { error: server_error("apply", &place, &error), may_pass: false },
            })?;
            done.push(place);
        }
        Ok(done)
    }

    /// Compares the server with the files, field by field. A missing stream is a difference.
    ///
    /// # Errors
    /// If the server does not answer, or something has no leader.
    pub async fn check(&self, context: &jetstream::Context) -> Result<Vec<Difference>, ServerError> {
        let mut differences = Vec::new();
        for name in self.names() {
            let found: Option<stream::Info> = ask(context, "STREAM.INFO", name).await?;
            match found {
                None => differences.push(missing(name)),
                Some(found) => {
                    let look = self.look_at(name, &found).map_err(|error| unseen(name, &error))?;
                    differences.extend(look.differences);
                }
            }
        }
        for consumer in &self.consumers {
            let place = consumer.place();
            let found: Option<consumer::Info> = ask(context, "CONSUMER.INFO", &place).await?;
            match found {
                None => differences.push(missing(&place)),
                Some(found) => {
                    let look = consumer.look_at(found).map_err(|error| unseen(&place, &error))?;
                    differences.extend(look.differences);
                }
            }
        }
        for reader in &self.readers {
            let place = reader.place();
            let found: Option<consumer::Info> = ask(context, "CONSUMER.INFO", &place).await?;
            differences.extend(found.map_or_else(|| vec![missing(&place)], |found| reader.compare(found.config)));
        }
        Ok(differences)
    }
}

/// `None` if the server has no such stream or consumer.
async fn ask<T: DeserializeOwned>(
    context: &jetstream::Context,
    call: &str,
    place: &str,
) -> Result<Option<T>, ServerError> {
    let answer: Result<Response<T>, RequestError> = context.request(format!("{call}.{place}"), &json!({})).await;
    match answer {
        Ok(answer) => judge(answer).map_err(|error| unseen(place, &error)),
        Err(error) if error.kind() == RequestErrorKind::TimedOut => Err(wanting("check", place, NO_ANSWER)),
        Err(error) => Err(server_error("check", place, &error)),
    }
}

fn unseen(place: &str, error: &LookError) -> ServerError {
    match error {
        LookError::NoLeader(_) => wanting("check", place, NO_LEADER),
        LookError::NotEnabled | LookError::Other(_) => server_error("check", place, error),
    }
}

fn refusal(place: &str, refused: &jetstream::Error) -> Refusal {
    let why = match refused.error_code() {
        _ if lacks_leader(refused) => NO_LEADER,
        ErrorCode::CLUSTER_NO_PEERS => FEW_NODES,
        _ => return Refusal { error: server_error("apply", place, refused), may_pass: false },
    };
    Refusal { error: wanting("apply", place, why), may_pass: true }
}

fn unanswered(place: &str) -> Refusal {
    Refusal { error: wanting("apply", place, NO_ANSWER), may_pass: true }
}

fn wanting(what: &str, place: &str, why: &str) -> ServerError {
    ServerError { what: format!("{what} {place}"), why: why.into() }
}
