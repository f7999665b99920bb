//! Group commit: asks that arrive during a statement share the next one.
//!
//! Groups of writes wait for a lost database. A group refused for its data is split until only the offender fails.

use std::{future::Future, ops::Range, sync::Arc, time::Duration};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::{
    select,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::{health::Health, retry::DoublingWait, store::StoreError, telemetry::metrics::GroupMetrics};

/// The waits after a missing answer.
const WAIT: DoublingWait = DoublingWait::new(Duration::from_millis(100), Duration::from_secs(5));

/// How long a statement may take before it is repeated.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Within this time of the database's return, all that waited for it is written: a statement's timeout, the longest wait,
/// and some more.
pub const LONGEST_WAIT: Duration = Duration::from_secs(25);

/// The most asks of about one row each, such as deliveries, in a statement.
pub const GROUP: usize = 200;

/// The most jobs of the first two stages in a statement. Larger batches make database and workers alternate instead of
/// overlap.
pub const JOBS: usize = 50;

/// A round trip for each of which statements take more asks, and one more is under way.
const FAR: Duration = Duration::from_millis(10);

/// The most steps of this kind.
const FARTHEST: usize = 4;

/// How many asks a statement takes, and how many statements are under way. A far database answers seldom, however few
/// asks there are: one statement at a time would leave it idle.
fn sizes(limit: usize, round_trip: Duration) -> (usize, usize) {
    let steps = round_trip.as_millis() / FAR.as_millis();
    let steps = usize::try_from(steps).unwrap_or(FARTHEST).min(FARTHEST);
    (limit * (1 + steps), 1 + steps)
}

/// A statement that answers many asks at once.
pub trait Batch: Send + Sync + 'static {
    /// One ask.
    type Ask: Send + Sync + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// The name in metrics.
    const NAME: &'static str;

    /// Whether asks wait for a lost database. Otherwise they are refused.
    const WAITS: bool = true;

    /// Whether it writes. An answered read says little: a standby answers too.
    const WRITES: bool = true;

    /// The pause after a statement, for asks whose answers nobody awaits.
    const REST: Duration = Duration::ZERO;

    /// To the database and back.
    fn round_trip(&self) -> Duration {
        Duration::ZERO
    }

    /// Answers all asks in order, or none. Must be idempotent: asks are repeated if the answer is lost.
    fn run(&self, asks: &[Self::Ask]) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;

    /// Hears of the answers before anybody else.
    fn keep(&self, _asks: &[Self::Ask], _answers: &[Self::Answer]) {}
}

/// Makes a [`Batch`] of one function of the store.
macro_rules! batch {
    ($name:ident($label:literal $(, $constant:ident = $value:expr)*): $ask:ty => $answer:ty, $function:ident) => {
        struct $name($crate::store::Store);

        impl $crate::group::Batch for $name {
            type Ask = $ask;
            type Answer = $answer;

            const NAME: &'static str = $label;
            $(const $constant: $crate::group::batch!(@ $constant) = $value;)*

            fn round_trip(&self) -> ::std::time::Duration {
                self.0.round_trip()
            }

            async fn run(&self, asks: &[$ask]) -> Result<Vec<$answer>, $crate::store::StoreError> {
                self.0.$function(asks).await
            }
        }
    };
    (@ WAITS) => { bool };
    (@ WRITES) => { bool };
    (@ REST) => { ::std::time::Duration };
}
pub(crate) use batch;

/// Why one ask was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The database refuses its data.
    Data(String),
    /// The database gave an unexpected answer.
    Fault(String),
    /// The database is away. Groups of writes wait instead.
    Unavailable(String),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Data(why) => Self::Data(why),
            StoreError::Fault(why) => Self::Fault(why),
            StoreError::Unavailable(_) | StoreError::Busy(_) => Self::Unavailable(error.to_string()),
        }
    }
}

type Waiting<B> = (<B as Batch>::Ask, oneshot::Sender<Result<<B as Batch>::Answer, Refused>>);

/// A handle to a batch's task.
#[derive(Debug)]
pub struct Group<B: Batch> {
    asks: mpsc::Sender<Waiting<B>>,
}

impl<B: Batch> Clone for Group<B> {
    fn clone(&self) -> Self {
        Self { asks: self.asks.clone() }
    }
}

impl<B: Batch> Group<B> {
    /// Starts the task. A statement has at most `limit` asks, unless the database is far.
    #[must_use]
    pub fn start(batch: B, limit: usize, health: Arc<Health>) -> Self {
        let metrics = health.metrics().group(B::NAME);
        let (asks, mut receiver) = mpsc::channel::<Waiting<B>>(2 * limit * (1 + FARTHEST));
        tokio::spawn(async move {
            let mut waiting = Vec::with_capacity(limit);
            let mut under_way = FuturesUnordered::new();
            loop {
                let (limit, statements) = sizes(limit, batch.round_trip());
                select! {
                    biased;
                    Some(()) = under_way.next() => {}
                    count = receiver.recv_many(&mut waiting, limit), if under_way.len() < statements => {
                        if count == 0 {
                            break;
                        }
                        let asked = answer(&batch, &health, &metrics, waiting.drain(..).unzip());
                        under_way.push(async move {
                            asked.await;
                            if count < limit && !B::REST.is_zero() {
                                sleep(B::REST).await;
                            }
                        });
                    }
                }
            }
            while under_way.next().await.is_some() {}
        });
        Self { asks }
    }

    /// Asks, and waits for the answer. Drop the future to give up.
    ///
    /// # Errors
    /// If this ask is refused.
    pub async fn ask(&self, ask: B::Ask) -> Result<B::Answer, Refused> {
        let (reply, answer) = oneshot::channel();
        let stopped = || Refused::Fault("the worker is stopping".into());
        self.asks.send((ask, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Asks without waiting. The ask is lost if the database is away or the worker stops.
    pub async fn tell(&self, ask: B::Ask) {
        let (reply, _) = oneshot::channel();
        let _ = self.asks.send((ask, reply)).await;
    }
}

type Replies<B> = Vec<oneshot::Sender<Result<<B as Batch>::Answer, Refused>>>;

async fn answer<B: Batch>(
    batch: &B,
    health: &Health,
    metrics: &GroupMetrics,
    (asks, replies): (Vec<B::Ask>, Replies<B>),
) {
    let mut replies: Vec<_> = replies.into_iter().map(Some).collect();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    ranges.push(0..asks.len());
    let mut wait = WAIT;
    while let Some(range) = ranges.pop() {
        let run = timeout(STATEMENT_TIMEOUT, batch.run(&asks[range.clone()]));
        let silent = |_| Err(StoreError::Unavailable(format!("no answer within {STATEMENT_TIMEOUT:?}")));
        let result = run.await.unwrap_or_else(silent);
        match result {
            Ok(answers) => {
                if B::WRITES {
                    health.database_answers();
                }
                metrics.answered(range.len());
                wait.reset();
                batch.keep(&asks[range.clone()], &answers);
                for (reply, answer) in replies[range].iter_mut().zip(answers) {
                    send(reply, Ok(answer));
                }
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::Busy(_))) => {
                if matches!(error, StoreError::Unavailable(_)) {
                    health.database_fails(&error.to_string());
                }
                if !B::WAITS {
                    for reply in &mut replies[range] {
                        send(reply, Err(error.clone().into()));
                    }
                    continue;
                }
                if replies[range.clone()].iter().flatten().all(oneshot::Sender::is_closed) {
                    continue;
                }
                wait.pass().await;
                ranges.push(range);
            }
            Err(_) if range.len() > 1 => {
                let middle = range.start + range.len() / 2;
                ranges.extend([middle..range.end, range.start..middle]);
            }
            Err(error) => send(&mut replies[range.start], Err(error.into())),
        }
    }
}

/// Answers an ask. Its sender may have given up.
fn send<A>(reply: &mut Option<oneshot::Sender<Result<A, Refused>>>, answer: Result<A, Refused>) {
    if let Some(reply) = reply.take() {
        let _ = reply.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{FutureExt, future::join_all};

    use super::*;

    /// Squares numbers, refuses negative ones, and is away `away` times.
    #[derive(Default)]
    struct Squares {
        away: Mutex<u32>,
        sizes: Arc<Mutex<Vec<usize>>>,
    }

    impl Batch for Squares {
        type Ask = i64;
        type Answer = i64;

        const NAME: &'static str = "squares";

        async fn run(&self, asks: &[i64]) -> Result<Vec<i64>, StoreError> {
            tokio::task::yield_now().await;
            let mut away = self.away.lock().unwrap();
            if *away > 0 {
                *away -= 1;
                return Err(StoreError::Unavailable("gone".into()));
            }
            self.sizes.lock().unwrap().push(asks.len());
            if asks.iter().any(|ask| *ask < 0) {
                return Err(StoreError::Data("negative".into()));
            }
            Ok(asks.iter().map(|ask| ask * ask).collect())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn asks_share_a_statement_and_wait_for_the_database() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let batch = Squares { away: Mutex::new(3), sizes: Arc::clone(&sizes) };
        let health = Health::new();
        let group = Group::start(batch, 100, Arc::clone(&health));
        let answers = join_all((0..50).map(|ask| group.ask(ask))).await;
        assert_eq!(answers, (0..50).map(|ask| Ok(ask * ask)).collect::<Vec<_>>());
        assert!(sizes.lock().unwrap().len() < 5, "fifty asks, a few statements: {:?}", sizes.lock().unwrap());
    }

    /// As [`Squares`], without waiting.
    struct Roots(Squares);

    impl Batch for Roots {
        type Ask = i64;
        type Answer = i64;

        const NAME: &'static str = "roots";
        const WAITS: bool = false;

        async fn run(&self, asks: &[i64]) -> Result<Vec<i64>, StoreError> {
            self.0.run(asks).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_do_not_wait_are_told_that_the_database_is_away() {
        let health = Health::new();
        let group =
            Group::start(Roots(Squares { away: Mutex::new(1), ..Squares::default() }), 100, Arc::clone(&health));
        let told = join_all((0..50).map(|ask| group.ask(ask))).await;
        assert!(told.iter().all(|told| matches!(told, Err(Refused::Unavailable(_)))), "{told:?}");
        assert!(health.database_up().now_or_never().is_none(), "the worker knows it");
        assert_eq!(group.ask(7).await, Ok(49), "and the next may have an answer");
    }

    #[tokio::test]
    async fn what_is_told_is_done_though_nobody_waits() {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let group = Group::start(Squares { sizes: Arc::clone(&sizes), ..Squares::default() }, 100, Health::new());
        group.tell(3).await;
        // Runs after the first.
        group.ask(4).await.unwrap();
        assert_eq!(sizes.lock().unwrap().iter().sum::<usize>(), 2);
    }

    #[test]
    fn a_far_database_gets_more_at_a_time() {
        let sizes = |millis| sizes(50, Duration::from_millis(millis));
        assert_eq!([0, 9].map(sizes), [(50, 1); 2]);
        assert_eq!([10, 25].map(sizes), [(100, 2), (150, 3)]);
        assert_eq!([50, 100_000].map(sizes), [(250, 5); 2]);
    }

    #[tokio::test]
    async fn only_the_offender_fails() {
        let group = Group::start(Squares::default(), 100, Health::new());
        let answers = join_all((0..50).map(|ask| group.ask(if ask == 17 { -1 } else { ask }))).await;
        for (ask, answer) in (0..).zip(answers) {
            let expected = if ask == 17 { Err(Refused::Data("negative".into())) } else { Ok(ask * ask) };
            assert_eq!(answer, expected);
        }
    }
}
