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
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{HeaderMap, jetstream};
use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use tokio::{
    select,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
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

/// Bytes of pages that are kept while it cannot be written. Of more, the latest.
const KEPT: usize = 16 << 20;

/// Writes the journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Unbounded, as those who write do not wait. Their jobs wait before they are acknowledged, and are limited.
    pages: mpsc::UnboundedSender<Page>,
    /// Pages that were handed over.
    handed_over: Arc<AtomicU64>,
    written: watch::Receiver<Written>,
}

/// What has become of the pages that were handed over.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// How many are on the server, or are not waited for.
    count: u64,
    /// Whether some of these are kept until it can be written again.
    is_behind: bool,
}

impl Journal {
    /// Starts the task that writes it.
    #[must_use]
    pub fn start(context: jetstream::Context, health: Arc<Health>) -> Self {
        let (pages, receiver) = mpsc::unbounded_channel();
        let (sender, written) = watch::channel(Written::default());
        tokio::spawn(Writer { context, health, written: sender }.run(receiver));
        Self { pages, handed_over: Arc::default(), written }
    }

    /// One that nothing is written to.
    #[must_use]
    pub fn off() -> Self {
        Self {
            pages: mpsc::unbounded_channel().0,
            handed_over: Arc::default(),
            written: watch::channel(Written::default()).1,
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

    /// Hands a page over.
    fn write(&self, page: Page) {
        // Counted first: whoever sees a page's effect waits for no less than that page.
        self.handed_over.fetch_add(1, Ordering::SeqCst);
        // Fails only as the worker stops, or if nothing is written.
        let _ = self.pages.send(page);
    }

    /// Waits until all pages are on the server that were handed over before, or the journal cannot be written.
    pub async fn is_written(&self) {
        let handed_over = self.handed_over.load(Ordering::SeqCst);
        if self.written.borrow().count >= handed_over {
            return;
        }
        // Fails only as the worker stops.
        let _ = self.written.clone().wait_for(|written| written.count >= handed_over).await;
    }

    /// Waits until all pages are on the server that were handed over before, however long that takes.
    pub async fn is_stored(&self) {
        let handed_over = self.handed_over.load(Ordering::SeqCst);
        let is_stored = |written: &Written| written.count >= handed_over && !written.is_behind;
        // Fails only as the worker stops.
        let _ = self.written.clone().wait_for(is_stored).await;
    }
}

/// Pages that wait until they can be written.
#[derive(Debug, Default)]
struct KeptPages {
    pages: VecDeque<Page>,
    bytes: usize,
}

impl KeptPages {
    fn push(&mut self, page: Page) {
        self.bytes += page.encoded_len();
        self.pages.push_back(page);
        while self.bytes > KEPT {
            let Some(oldest) = self.pages.pop_front() else { break };
            self.bytes -= oldest.encoded_len();
        }
    }

    /// The oldest, as one.
    fn take(&mut self) -> Page {
        let pages = self.pages.drain(..self.pages.len().min(MOST));
        Page::of(pages.inspect(|page| self.bytes -= page.encoded_len()))
    }
}

struct Writer {
    context: jetstream::Context,
    health: Arc<Health>,
    written: watch::Sender<Written>,
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
            let page = Page::of(pages.drain(..));
            let written = self.publish(&page).await;
            self.count(count, written.is_err());
            if let Err(why) = written
                && self.go_without(&why, page, &mut receiver).await.is_none()
            {
                return;
            }
        }
    }

    fn count(&self, pages: usize, is_behind: bool) {
        self.written.send_modify(|written| {
            written.count += pages as u64;
            written.is_behind = is_behind;
        });
    }

    async fn publish(&self, page: &Page) -> Result<(), String> {
        let messages = messages(page);
        let sent = messages.iter().map(|(subject, body)| send(&self.context, subject, HeaderMap::new(), body.clone()));
        let acks = timeout(PATIENCE, join_all(sent)).await.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        acks.into_iter().try_for_each(|ack| ack.map(drop).map_err(|error| error.to_string()))
    }

    /// Work goes on without it until it takes what could not be written. None if the worker stops.
    async fn go_without(&self, why: &str, failed: Page, receiver: &mut mpsc::UnboundedReceiver<Page>) -> Option<()> {
        self.health.set(JOURNAL, Part::Down(format!("a failover of Postgres might lose commits: {why}")));
        let mut kept = KeptPages::default();
        kept.push(failed);
        while !kept.pages.is_empty() {
            self.keep_meanwhile(sleep(AGAIN), receiver, &mut kept).await?;
            let empty = Page::default();
            if self.keep_meanwhile(self.publish(&empty), receiver, &mut kept).await?.is_err() {
                continue;
            }
            while !kept.pages.is_empty() {
                let page = kept.take();
                if let Err(why) = self.keep_meanwhile(self.publish(&page), receiver, &mut kept).await? {
                    // Kept again, one that is never taken would be in the way of all that follow.
                    tracing::warn!("a page of the journal is given up: {why}");
                    break;
                }
            }
        }
        self.count(0, false);
        self.health.set(JOURNAL, Part::Up);
        Some(())
    }

    /// No acknowledgement waits for what comes meanwhile. None if the worker stops.
    async fn keep_meanwhile<T>(
        &self,
        end: impl Future<Output = T>,
        receiver: &mut mpsc::UnboundedReceiver<Page>,
        kept: &mut KeptPages,
    ) -> Option<T> {
        let mut end = pin!(end);
        loop {
            select! {
                ended = &mut end => return Some(ended),
                page = receiver.recv() => {
                    kept.push(page?);
                    self.count(1, true);
                }
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
