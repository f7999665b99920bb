//! Direct sends: the worker that plans a push sends it, if a permit is free.
//!
//! The commit writes such deliveries as claimed, without a message. The job's message is acknowledged only when each
//! push is finished or has its message, so that after a crash the redelivery publishes the missing ones. Permits, work
//! and records are the same. A push that fails, waits or takes long goes on by its message, as other channels'
//! deliveries do from the start.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::runner::Runner;
use crate::{
    kind::{Lane, Queue},
    meta::Meta,
    person::PushTarget,
    plan::{Channel, Content, Plan, PlannedDelivery},
    store::{Child, Claim},
};

/// How long a notification waits for its pushes. A slower push gets its message, so that a slow push service holds up
/// no notification.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a notification waits for permits. A slow push service costs no more time than this.
const PERMIT_WAIT: Duration = Duration::from_millis(100);

/// The most permits that a notification waits for.
const MOST_WAITED_FOR: u32 = 16;

/// The Web Push queues of this process.
#[derive(Default)]
pub struct DirectSends {
    queues: HashMap<Lane, Arc<Runner>>,
    jobs: TaskTracker,
    /// Notifications whose pushes are under way. A redelivery skips pushes already in flight.
    under_way: Arc<Mutex<HashSet<String>>>,
}

/// The pushes of one notification that may be sent directly.
pub struct Reserved {
    tickets: HashMap<String, Ticket>,
    under_way: UnderWay,
}

struct Ticket {
    runner: Arc<Runner>,
    claim: Box<Claim>,
    permit: OwnedSemaphorePermit,
}

/// The direct sends of one notification. While this lives, a redelivery skips them.
pub struct SentDirectly {
    /// How many pushes were sent.
    pub count: usize,
    /// The messages of the pushes that need one.
    pub need_message: Vec<Child>,
    _under_way: Arc<UnderWay>,
}

/// The end of a direct send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectEnd {
    /// The push was sent.
    Sent,
    /// Not sent, or waiting. It is on record, with its own log line.
    Recorded,
    /// It needs its message.
    NeedsMessage,
}

/// Marks a notification's pushes as under way until dropped.
pub struct UnderWay {
    all: Arc<Mutex<HashSet<String>>>,
    job_id: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job_id);
    }
}

impl Reserved {
    /// The deliveries that the commit is to claim.
    #[must_use]
    pub fn ids(&self) -> HashSet<String> {
        self.tickets.keys().cloned().collect()
    }

    /// Frees the permits. The notification counts as under way until the result is dropped.
    #[must_use]
    pub fn without_permits(self) -> UnderWay {
        self.under_way
    }
}

impl DirectSends {
    /// For these queues. Pushes run as tasks of `jobs`.
    #[must_use]
    pub fn new(queues: impl IntoIterator<Item = Arc<Runner>>, jobs: TaskTracker) -> Self {
        let queues = queues.into_iter().filter_map(|runner| Some((runner.queue.lane?, runner)));
        Self { queues: queues.collect(), jobs, under_way: Arc::default() }
    }

    /// The runner of a queue whose pushes may be sent directly. Pulled messages share its permits.
    #[must_use]
    pub fn runner(&self, queue: Queue) -> Option<&Arc<Runner>> {
        self.queues.get(&queue.lane?).filter(|runner| runner.queue == queue)
    }

    /// Reserves a plan's pushes as far as there are permits. `None` if there are none to reserve, or the notification
    /// is under way already. `read` is the earliest time any input was read.
    pub async fn reserve(&self, meta: &Meta, plan: &mut Plan, read: DateTime<Utc>) -> Option<Reserved> {
        let targets = std::mem::take(&mut plan.push_targets);
        if targets.is_empty() {
            return None;
        }
        let under_way = self.begin(&meta.job_id)?;
        Some(Reserved { tickets: self.tickets(meta, plan, targets, read).await, under_way })
    }

    fn begin(&self, job_id: &str) -> Option<UnderWay> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = under_way.insert(job_id.to_owned());
        is_first.then(|| UnderWay { all: Arc::clone(&self.under_way), job_id: job_id.to_owned() })
    }

    async fn tickets(
        &self,
        meta: &Meta,
        plan: &Plan,
        mut targets: HashMap<String, PushTarget>,
        now: DateTime<Utc>,
    ) -> HashMap<String, Ticket> {
        // All deliveries of a notification are in its lane.
        let lane = Channel::WebPush.kind().lane_for(meta.lane);
        let Some(runner) = lane.and_then(|lane| self.queues.get(&lane)) else { return HashMap::new() };
        if runner.is_paused() {
            return HashMap::new();
        }
        let mut permits = permits(runner, targets.len()).await;
        let mut tickets = HashMap::with_capacity(targets.len());
        let contents: Vec<Arc<Content>> = plan.contents.iter().cloned().map(Arc::new).collect();
        for delivery in &plan.deliveries {
            let Some(target) = targets.remove(&delivery.id) else { continue };
            let content = contents.iter().find(|content| content.locale == delivery.locale);
            let Some(content) = content else { continue };
            let Some(permit) = permits.as_mut().and_then(|permits| permits.split(1)) else { break };
            let claim = Box::new(claim(meta, delivery, content, target, now));
            tickets.insert(delivery.id.clone(), Ticket { runner: Arc::clone(runner), permit, claim });
        }
        tickets
    }

    /// Sends each claimed push by `send` in its own task, and waits a second for them. Frees permits of unclaimed
    /// pushes.
    pub async fn send(
        &self,
        reserved: Reserved,
        claimed: &[Child],
        send: fn(Arc<Runner>, Child, Box<Claim>) -> BoxFuture<'static, DirectEnd>,
    ) -> SentDirectly {
        let Reserved { mut tickets, under_way } = reserved;
        let under_way = Arc::new(under_way);
        let mut running = FuturesUnordered::new();
        for child in claimed {
            let Some(Ticket { runner, claim, permit }) = tickets.remove(&child.job_id) else { continue };
            let (done, is_done) = oneshot::channel();
            let under_way = Arc::clone(&under_way);
            let push = send(runner, child.clone(), claim);
            self.jobs.spawn(Box::pin(async move {
                let end = push.await;
                drop((permit, under_way));
                // The notification may have stopped waiting and published the message.
                let _ = done.send(end);
            }));
            running.push(is_done.map(move |end| (child, end)));
        }
        drop(tickets);
        // An unfinished push gets its message, which finds it in flight and looks again.
        let mut need_message: HashSet<&str> = claimed.iter().map(|child| child.job_id.as_str()).collect();
        let mut count = 0;
        let in_time = async {
            while let Some((child, end)) = running.next().await {
                // A task that ended without an answer needs its message too.
                if let Ok(DirectEnd::Sent | DirectEnd::Recorded) = end {
                    need_message.remove(child.job_id.as_str());
                }
                count += usize::from(end == Ok(DirectEnd::Sent));
            }
        };
        let _ = timeout(PATIENCE, in_time).await;
        let need_message = claimed.iter().filter(|child| need_message.contains(&*child.job_id)).cloned().collect();
        SentDirectly { count, need_message, _under_way: under_way }
    }
}

/// Waits for a family's permits: while pushes flow, that takes milliseconds and costs less than messages that wait for
/// the same permits.
async fn permits(runner: &Runner, wanted: usize) -> Option<OwnedSemaphorePermit> {
    let wanted = u32::try_from(wanted.min(runner.policy.concurrency)).unwrap_or(u32::MAX);
    if wanted <= MOST_WAITED_FOR
        && let Ok(permits) = timeout(PERMIT_WAIT, Arc::clone(&runner.permits).acquire_many_owned(wanted)).await
    {
        return permits.ok();
    }
    let free = u32::try_from(runner.permits.available_permits()).unwrap_or(u32::MAX).min(wanted);
    Arc::clone(&runner.permits).try_acquire_many_owned(free).ok()
}

fn claim(
    meta: &Meta,
    delivery: &PlannedDelivery,
    content: &Arc<Content>,
    target: PushTarget,
    now: DateTime<Utc>,
) -> Claim {
    Claim {
        id: delivery.id.clone(),
        root_id: meta.root_id.clone(),
        user_id: delivery.user_id.clone(),
        address: delivery.address.clone(),
        lane: delivery.lane,
        attempts: 0,
        claims: 1,
        created_at: now,
        content: Arc::clone(content),
        subscription: Some(target.subscription),
        webhook: None,
        is_theirs: true,
        named: delivery.named,
        unsettled: false,
        preferences: target.preferences,
        locale: target.locale,
    }
}
