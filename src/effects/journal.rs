//! The journal: what was committed lately, in the stream JOURNAL.
//!
//! Postgres loses commits that it has answered when it fails over to a standby that had not received them. Their
//! messages are acknowledged, so no redelivery makes up for them; [`super::restore`] does, from here. Each grouped
//! statement makes a page, after its answer and before anybody is told of it.

mod page;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};

use self::write::Kept;
pub use self::{
    page::Page,
    read::{Entries, Pages},
};
use super::publish::send;
use crate::{
    clock::{Clock, Random},
    group::{Batch, Group},
    health::{Health, JOURNAL, Part},
    store::StoreError,
};

/// The stream.
pub const STREAM: &str = "JOURNAL";

/// Of a page that fits into one message.
pub const WHOLE: &str = "journal.page";

/// Begins the subjects of parts of a larger one: `journal.part.<id>.<number>.<of>`.
pub const PART: &str = "journal.part.";

/// Bytes of a message.
const LARGEST: usize = 512 * 1024;

/// Wait for the acknowledgement. Jobs wait that long at most, and not again until the journal can be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval of attempts while it cannot be written.
const AGAIN: Duration = Duration::from_secs(1);

/// How long pages wait for others to share a message, if no commit is among them: nobody waits for an outcome.
const SHARED: Duration = Duration::from_millis(10);

/// The most pages in a message.
const MOST: usize = 64;

/// Writes the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    pages: mpsc::Sender<Waiting>,
    is_down: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Waiting {
    page: Page,
    done: oneshot::Sender<()>,
}

impl Journal {
    /// Starts the task that writes it.
    #[must_use]
    pub fn start(context: jetstream::Context, health: Arc<Health>) -> Self {
        let (pages, receiver) = mpsc::channel(MOST);
        let is_down = Arc::new(AtomicBool::new(false));
        let writer = Writer { context, health, is_down: Arc::clone(&is_down) };
        tokio::spawn(writer.run(receiver));
        Self { pages, is_down }
    }

    /// One that nothing is written to.
    #[must_use]
    pub fn off() -> Self {
        Self { pages: mpsc::channel(1).0, is_down: Arc::new(AtomicBool::new(true)) }
    }

    /// Starts a group whose answers are kept here before they are given.
    #[must_use]
    pub fn group<B: Batch>(&self, batch: B, limit: usize, health: &Arc<Health>) -> Group<Journaled<B>>
    where
        B::Ask: Kept<B::Answer>,
    {
        Group::start(Journaled { batch, journal: self.clone() }, limit, Arc::clone(health))
    }

    /// Writes a page. The future ends when it is there, or the journal cannot be written. `None` if it could not.
    fn write(&self, page: Page) -> Option<impl Future<Output = ()> + Send + 'static> {
        if self.is_down.load(Ordering::Relaxed) {
            return None;
        }
        let (done, is_done) = oneshot::channel();
        let pages = self.pages.clone();
        Some(async move {
            // Fails only as the worker stops.
            let _ = pages.send(Waiting { page, done }).await;
            let _ = is_done.await;
        })
    }
}

struct Writer {
    context: jetstream::Context,
    health: Arc<Health>,
    is_down: Arc<AtomicBool>,
}

impl Writer {
    /// Pages that come while one is written share the next message.
    async fn run(self, mut receiver: mpsc::Receiver<Waiting>) {
        let mut waiting = Vec::with_capacity(MOST);
        while receiver.recv_many(&mut waiting, MOST).await > 0 {
            let until = Instant::now() + SHARED;
            while waiting.len() < MOST && waiting.iter().all(|waiting| waiting.page.commits.is_empty()) {
                let Ok(Some(another)) = timeout_at(until, receiver.recv()).await else { break };
                waiting.push(another);
            }
            let (pages, done): (Vec<Page>, Vec<_>) =
                waiting.drain(..).map(|waiting| (waiting.page, waiting.done)).unzip();
            let written = self.publish(&Page::of(pages)).await;
            for done in done {
                let _ = done.send(());
            }
            if let Err(why) = written {
                self.go_without(&why, &mut receiver).await;
            }
        }
    }

    async fn publish(&self, page: &Page) -> Result<(), String> {
        let messages = messages(page);
        let sent = messages.iter().map(|(subject, body)| send(&self.context, subject, HeaderMap::new(), body.clone()));
        let acks = timeout(PATIENCE, join_all(sent)).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        acks.into_iter().try_for_each(|ack| ack.map(drop).map_err(|error| error.to_string()))
    }

    /// Work goes on without it until an empty page is taken.
    async fn go_without(&self, why: &str, receiver: &mut mpsc::Receiver<Waiting>) {
        self.is_down.store(true, Ordering::Relaxed);
        self.health.set(JOURNAL, Part::Down(format!("a failover of Postgres might lose commits: {why}")));
        loop {
            // Whoever has come meanwhile is not kept waiting.
            let come = async { while receiver.recv().await.is_some() {} };
            if timeout(AGAIN, come).await.is_ok() {
                return;
            }
            if self.publish(&Page::default()).await.is_ok() {
                self.is_down.store(false, Ordering::Relaxed);
                return self.health.set(JOURNAL, Part::Up);
            }
        }
    }
}

/// Subjects and bodies of a page.
fn messages(page: &Page) -> Vec<(String, Bytes)> {
    let body = Bytes::from(page.encode_to_vec());
    if body.len() <= LARGEST {
        return vec![(WHOLE.to_owned(), body)];
    }
    let id = Random::system().uuid(Clock::system().now());
    let of = body.len().div_ceil(LARGEST);
    let part = |number: usize| {
        let end = body.len().min((number + 1) * LARGEST);
        (format!("{PART}{id}.{number}.{of}"), body.slice(number * LARGEST..end))
    };
    (0..of).map(part).collect()
}

/// A batch whose answers are kept in the journal.
pub struct Journaled<B> {
    batch: B,
    journal: Journal,
}

impl<B: Batch> Batch for Journaled<B>
where
    B::Ask: Kept<B::Answer>,
{
    type Ask = B::Ask;
    type Answer = B::Answer;

    const NAME: &'static str = B::NAME;
    const WAITS: bool = B::WAITS;
    const WRITES: bool = B::WRITES;
    const REST: Duration = B::REST;

    fn round_trip(&self) -> Duration {
        self.batch.round_trip()
    }

    async fn run(&self, asks: &[B::Ask]) -> Result<Vec<B::Answer>, StoreError> {
        self.batch.run(asks).await
    }

    fn keep(&self, asks: &[B::Ask], answers: &[B::Answer]) -> Option<BoxFuture<'static, ()>> {
        let mut page = Page::default();
        for (ask, answer) in asks.iter().zip(answers) {
            ask.keep(answer, &mut page);
        }
        if page == Page::default() {
            return None;
        }
        Some(Box::pin(self.journal.write(page)?))
    }
}
