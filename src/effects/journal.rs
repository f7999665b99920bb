//! The journal: what was committed lately, in the stream JOURNAL.
//!
//! Postgres loses commits that it has answered when it fails over to a standby that had not received them. Their
//! messages are acknowledged, so no redelivery makes up for them; [`super::restore`] does, from here. Each grouped
//! statement makes a page, and no message is acknowledged before the pages that were made until then are there. A push
//! does not wait for them.

mod page;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
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

/// Wait for the server's answer. Acknowledgements wait that long at most, and not again until the journal can be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Interval of attempts while it cannot be written.
const AGAIN: Duration = Duration::from_secs(1);

/// How long pages wait for others to share a message, if no commit is among them: few wait for an outcome.
const SHARED: Duration = Duration::from_millis(10);

/// The most pages in a message.
const MOST: usize = 64;

/// Writes the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Unbounded, as those who write do not wait. Their jobs wait before they are acknowledged, and are limited.
    pages: mpsc::UnboundedSender<Page>,
    is_down: Arc<AtomicBool>,
    /// Pages that were handed over.
    handed_over: Arc<AtomicU64>,
    /// Of these, how many are on the server, or cannot be.
    written: watch::Receiver<u64>,
}

impl Journal {
    /// Starts the task that writes it.
    #[must_use]
    pub fn start(context: jetstream::Context, health: Arc<Health>) -> Self {
        let (pages, receiver) = mpsc::unbounded_channel();
        let is_down = Arc::new(AtomicBool::new(false));
        let (sender, written) = watch::channel(0);
        let writer = Writer { context, health, is_down: Arc::clone(&is_down), written: sender };
        tokio::spawn(writer.run(receiver));
        Self { pages, is_down, handed_over: Arc::default(), written }
    }

    /// One that nothing is written to.
    #[must_use]
    pub fn off() -> Self {
        Self {
            pages: mpsc::unbounded_channel().0,
            is_down: Arc::new(AtomicBool::new(true)),
            handed_over: Arc::default(),
            written: watch::channel(0).1,
        }
    }

    /// Starts a group whose answers are kept here before they are given.
    #[must_use]
    pub fn group<B: Batch>(&self, batch: B, limit: usize, health: &Arc<Health>) -> Group<Journaled<B>>
    where
        B::Ask: Kept<B::Answer>,
    {
        Group::start(Journaled { batch, journal: self.clone() }, limit, Arc::clone(health))
    }

    /// Hands a page over, unless the journal cannot be written.
    fn write(&self, page: Page) {
        if self.is_down.load(Ordering::Relaxed) {
            return;
        }
        // Counted first: whoever sees a page's effect waits for no less than that page.
        self.handed_over.fetch_add(1, Ordering::SeqCst);
        // Fails only as the worker stops.
        let _ = self.pages.send(page);
    }

    /// Waits until all pages are on the server that were handed over before, or it is given up.
    pub async fn is_written(&self) {
        let handed_over = self.handed_over.load(Ordering::SeqCst);
        if *self.written.borrow() >= handed_over {
            return;
        }
        // Fails only as the worker stops.
        let _ = self.written.clone().wait_for(|written| *written >= handed_over).await;
    }
}

struct Writer {
    context: jetstream::Context,
    health: Arc<Health>,
    is_down: Arc<AtomicBool>,
    written: watch::Sender<u64>,
}

impl Writer {
    /// Pages that come while one is written share the next message.
    async fn run(self, mut receiver: mpsc::UnboundedReceiver<Page>) {
        let mut pages = Vec::with_capacity(MOST);
        while receiver.recv_many(&mut pages, MOST).await > 0 {
            let until = Instant::now() + SHARED;
            while pages.len() < MOST && pages.iter().all(|page| page.commits.is_empty()) {
                let Ok(Some(another)) = timeout_at(until, receiver.recv()).await else { break };
                pages.push(another);
            }
            let count = pages.len();
            let written = self.publish(&Page::of(pages.drain(..))).await;
            self.count(count);
            if let Err(why) = written {
                self.go_without(&why, &mut receiver).await;
            }
        }
    }

    fn count(&self, pages: usize) {
        self.written.send_modify(|written| *written += pages as u64);
    }

    async fn publish(&self, page: &Page) -> Result<(), String> {
        let messages = messages(page);
        let sent = messages.iter().map(|(subject, body)| send(&self.context, subject, HeaderMap::new(), body.clone()));
        let acks = timeout(PATIENCE, join_all(sent)).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        acks.into_iter().try_for_each(|ack| ack.map(drop).map_err(|error| error.to_string()))
    }

    /// Work goes on without it until an empty page is taken.
    async fn go_without(&self, why: &str, receiver: &mut mpsc::UnboundedReceiver<Page>) {
        self.is_down.store(true, Ordering::Relaxed);
        self.health.set(JOURNAL, Part::Down(format!("a failover of Postgres might lose commits: {why}")));
        loop {
            // No acknowledgement waits for what has come meanwhile.
            let come = async {
                while receiver.recv().await.is_some() {
                    self.count(1);
                }
            };
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

    fn keep(&self, asks: &[B::Ask], answers: &[B::Answer]) {
        let mut page = Page::default();
        for (ask, answer) in asks.iter().zip(answers) {
            ask.keep(answer, &mut page);
        }
        if page != Page::default() {
            self.journal.write(page);
        }
    }
}
