//! One pull: a request for messages of a consumer, and the server's answers (ADR-13).
//!
//! The client's own pull tells neither a message from the server's word, if its headers have a status, nor a server that
//! is silent from a queue that is empty, and loses what is under way when it is dropped.

use std::time::Duration;

use async_nats::{
    StatusCode, Subscriber,
    jetstream::{self, consumer::PullConsumer},
};
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::health::PullWatch;

/// How often the server is to say that a waiting pull waits.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// A pull without an answer for this long is lost: with its server, or with the leader of the consumer, which nobody
/// tells.
const SILENCE: Duration = Duration::from_secs(5);

/// How long what is under way may take to arrive.
const ROUND_TRIP: Duration = Duration::from_secs(1);

/// Begins the reply subject of every message, and of no word of the server's.
const ACK: &str = "$JS.ACK.";

/// The server's word to a pull for messages that other pulls will get, although nobody gets them now: the consumer is
/// paused, or has too many unacknowledged.
const OTHERS_FIRST: &str = "Requests Pending";

/// The wait after that.
const AFTER_OTHERS: Duration = Duration::from_millis(200);

/// How long the server holds a pull open that finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits(pub Option<Duration>);

/// A pull under way. [`Self::end`] it: what comes after a drop waits for `ack_wait`.
pub struct Pull {
    subscriber: Subscriber,
    consumer: PullConsumer,
    context: jetstream::Context,
    watch: PullWatch,
    left: usize,
    answered: Instant,
}

impl Pull {
    /// Asks for at most `most` messages. If there are none, the server waits for the first and those after it.
    ///
    /// # Errors
    /// If the client has ended.
    pub async fn ask(
        context: &jetstream::Context,
        consumer: &PullConsumer,
        watch: &PullWatch,
        most: usize,
        waits: Waits,
    ) -> Result<Self, String> {
        let client = context.client();
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(inbox.clone()).await.map_err(show)?;
        let mut request = json!({ "batch": most, "no_wait": true });
        if let Some(expires) = waits.0 {
            request["expires"] = nanoseconds(expires).into();
            // The server takes no slower one.
            if expires > 2 * HEARTBEAT {
                request["idle_heartbeat"] = nanoseconds(HEARTBEAT).into();
            }
        }
        let info = consumer.cached_info();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", info.stream_name, info.name);
        watch.asked();
        client.publish_with_reply(subject, inbox, request.to_string().into()).await.map_err(show)?;
        Ok(Self {
            subscriber,
            consumer: consumer.clone(),
            context: context.clone(),
            watch: watch.clone(),
            left: most,
            answered: Instant::now(),
        })
    }

    /// The next message. `None` once the server has said that there are no more, or all are there.
    ///
    /// # Errors
    /// If the server is silent, or ends the pull for a reason of its own, or if a message's headers have a status, so
    /// that another client would take it for the server's word.
    pub async fn next(&mut self) -> Result<Option<jetstream::Message>, String> {
        while self.left > 0 {
            let message = timeout_at(self.answered + SILENCE, self.subscriber.next()).await.map_err(|_| {
                self.watch.silent_since(self.answered.into_std());
                "the server does not answer"
            })?;
            let message = message.ok_or("its connection has ended")?;
            self.answered = Instant::now();
            if message.status != Some(StatusCode::NO_RESPONDERS) {
                self.watch.answered();
            }
            if is_of_the_stream(&message) {
                self.left -= 1;
                if message.status.is_some() {
                    return Err("the headers of a message have a status".into());
                }
                return Ok(Some(jetstream::Message { message, context: self.context.clone() }));
            }
            match message.status {
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => {
                    self.left = 0;
                    if message.description.as_deref() == Some(OTHERS_FIRST) {
                        sleep(AFTER_OTHERS).await;
                    }
                }
                Some(StatusCode::NO_RESPONDERS) => return Err("nobody answers: is there a leader?".into()),
                status => {
                    let word = message.description.unwrap_or_default();
                    return Err(format!("the server ends the pull: {} {word}", status.unwrap_or_default()));
                }
            }
        }
        Ok(None)
    }

    /// Asks for no more, and answers the messages that were under way.
    pub async fn end(mut self) -> Vec<jetstream::Message> {
        // Nothing is under way after the last message.
        if self.left == 0 {
            return Vec::new();
        }
        // The client keeps the subscription until so many have come. The server reads at most nine digits, and takes more
        // for a subscription that ends at once (nats-server 2.11 to 2.15). The client's own drain forgets it before the
        // server has answered (async-nats 0.51).
        if self.subscriber.unsubscribe_after(u64::MAX).await.is_err() {
            return Vec::new();
        }
        // Over the same connection: what the server sent before it knew comes before the answer.
        let _ = timeout(ROUND_TRIP, self.consumer.get_info()).await;
        let mut messages = Vec::new();
        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
            if is_of_the_stream(&message) {
                messages.push(jetstream::Message { message, context: self.context.clone() });
            }
        }
        messages
    }
}

fn is_of_the_stream(message: &async_nats::Message) -> bool {
    message.reply.as_ref().is_some_and(|reply| reply.starts_with(ACK))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
