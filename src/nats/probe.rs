//! Permission checks: requests that show what a user may do, without effect.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use tokio::{
    sync::broadcast::error::RecvError,
    time::{Instant, sleep, timeout},
};

use super::Connection;

/// For all replies together.
const PATIENCE: Duration = Duration::from_secs(3);

/// For an answer to arrive at another user.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// For a received refusal to reach the check.
const SETTLED: Duration = Duration::from_millis(20);

/// A message that tests a permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionProbe {
    /// Subject to publish to.
    pub subject: String,
    /// At most one header.
    pub header: Option<(&'static str, &'static str)>,
    /// Body.
    pub body: &'static str,
    /// Whether a permitted publish gets a reply.
    pub is_answered: bool,
}

/// Result of an [`PermissionProbe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeReply {
    /// The server replied.
    Said {
        /// Reply body.
        body: Bytes,
        /// Time from publish to reply.
        after: Duration,
    },
    /// Allowed; nobody listens.
    Nobody,
    /// Not allowed.
    Refused,
    /// Apparently allowed; no reply.
    Silent,
}

impl Connection {
    /// Publishes all at once. Results are in the order of `probes`.
    ///
    /// # Errors
    /// If the connection is lost, or replies may not be received.
    pub async fn probe(&self, probes: &[PermissionProbe]) -> Result<Vec<ProbeReply>, String> {
        let mut refusals = self.refusals.subscribe();
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(format!("{inbox}.*")).await.map_err(show)?;
        let started = Instant::now();
        for (number, probe) in probes.iter().enumerate() {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = probe.header {
                headers.insert(name, value);
            }
            let reply = format!("{inbox}.{number}");
            let published =
                self.client.publish_with_reply_and_headers(probe.subject.clone(), reply, headers, probe.body.into());
            published.await.map_err(show)?;
        }
        // The server keeps the order: once a flush is answered, all refusals have arrived.
        let settle = async {
            let flushed = self.client.flush().await;
            sleep(SETTLED).await;
            flushed
        };
        let (mut settle, mut is_settled) = (std::pin::pin!(settle), false);
        let mut late = std::pin::pin!(sleep(PATIENCE));
        let mut replies = vec![ProbeReply::Silent; probes.len()];
        let is_open =
            |(reply, probe): (&ProbeReply, &PermissionProbe)| *reply == ProbeReply::Silent && probe.is_answered;
        while !is_settled || replies.iter().zip(probes).any(is_open) {
            tokio::select! {
                refusal = refusals.recv() => match refusal {
                    Ok(text) if text.contains(&inbox) => return Err(format!("the user may not subscribe to {inbox}.*")),
                    Ok(text) => refuse(&text, probes, &mut replies),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                Some(message) = answers.next() => {
                    let number = message.subject.rsplit('.').next().and_then(|number| number.parse::<usize>().ok());
                    if let Some(reply) = number.and_then(|number| replies.get_mut(number)) {
                        *reply = read(message, started.elapsed());
                    }
                }
                flushed = &mut settle, if !is_settled => {
                    flushed.map_err(show)?;
                    is_settled = true;
                }
                () = &mut late => break,
            }
        }
        Ok(replies)
    }
}

impl Connection {
    /// Those of these subjects that the user may subscribe to.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn may_subscribe(&self, subjects: &[&str]) -> Result<Vec<String>, String> {
        let mut refusals = self.refusals.subscribe();
        let mut subscriptions = Vec::new();
        for subject in subjects {
            subscriptions.push(self.client.subscribe((*subject).to_owned()).await.map_err(show)?);
        }
        self.client.flush().await.map_err(show)?;
        let mut open: Vec<String> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        let listen = async {
            while let (false, Ok(refusal)) = (open.is_empty(), refusals.recv().await) {
                open.retain(|subject| !refusal.contains(&format!("\"{subject}\"")));
                if open.is_empty() {
                    break;
                }
            }
        };
        // A busy machine takes its time to report a refusal.
        let _ = timeout(ELSEWHERE, listen).await;
        drop(subscriptions);
        Ok(open)
    }
}

impl Connection {
    /// Whether the answer to a probe of this user arrives at an inbox of another.
    ///
    /// # Errors
    /// If a connection is lost.
    pub async fn is_answered_at(&self, other: &Self, probe: &PermissionProbe) -> Result<bool, String> {
        let inbox = other.client.new_inbox();
        let mut answers = other.client.subscribe(inbox.clone()).await.map_err(show)?;
        other.client.flush().await.map_err(show)?;
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = probe.header {
            headers.insert(name, value);
        }
        let (subject, body) = (probe.subject.clone(), probe.body.into());
        self.client.publish_with_reply_and_headers(subject, inbox, headers, body).await.map_err(show)?;
        Ok(timeout(ELSEWHERE, answers.next()).await.is_ok())
    }
}

/// `Permissions Violation for Publish to "<subject>"`
fn refuse(text: &str, probes: &[PermissionProbe], replies: &mut [ProbeReply]) {
    for (probe, reply) in probes.iter().zip(replies) {
        if text.contains(&format!("\"{}\"", probe.subject)) {
            *reply = ProbeReply::Refused;
        }
    }
}

fn read(message: Message, after: Duration) -> ProbeReply {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return ProbeReply::Nobody;
    }
    ProbeReply::Said { body: message.payload, after }
}

fn show(error: impl std::fmt::Display) -> String {
    error.to_string()
}
