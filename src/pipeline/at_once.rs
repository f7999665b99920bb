//! The short way of a push: the worker that plans it sends it, where it has a place free.
//!
//! The commit that plans them, a notification's or a reminder's (`together.rs`), writes these deliveries as claimed,
//! and no message is published for them. The job's own message is acknowledged only when each is done or has its
//! message after all, so that whoever has it next after a crash publishes what is missing. Nothing else differs: the
//! same places, the same work, the same records. What fails, waits or takes long goes on by its message, as all
//! deliveries of other channels do from the beginning.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    join,
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    consumer::LARGEST_PULL,
    message::{Form, Place},
    run::Runner,
    settle::Fate,
    together::{Planned, Together},
};
use crate::{
    checkpoint::{self, Step},
    effects::{CarriedOut, Effects, Refused, park, publish},
    job::Meta,
    kind::{Lane, Queue},
    plan::{self, Channel, Content, JobOutcome, Plan, Reason},
    policy::Wishes,
    reads::Recipients,
    store::{Child, Claim, Committed, NO_MESSAGE},
    telemetry::traces::{self, Arrival},
};

/// How long a notification waits for its pushes. One that takes longer gets its message: a slow push service must not
/// hold up notifications.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long places are waited for, and for how many pushes of one notification. Where a push service is slow, no more than
/// that is lost by it.
const WAIT: Duration = Duration::from_millis(100);
const MOST_WAITED_FOR: u32 = 16;

/// What was read of the recipients before a commit counts for so long: a database that was away may have changed since.
const FRESH: TimeDelta = TimeDelta::seconds(5);

/// The queues of Web Push in this process.
#[derive(Default)]
pub struct ShortWay {
    queues: HashMap<Lane, Direct>,
    together: Together,
    jobs: TaskTracker,
    /// The notifications whose pushes are under way: of the same one that is delivered twice, the second leaves them be.
    under_way: Arc<Mutex<HashSet<String>>>,
}

/// One of them.
pub struct Direct {
    /// The queue.
    pub queue: Queue,
    /// Its stream.
    pub stream: String,
    /// Runs its jobs.
    pub runner: Arc<Runner>,
    /// Its places, which it shares with what is pulled.
    pub places: Arc<Semaphore>,
}

impl Direct {
    /// So many places, or as many as there are. A family's are waited for: while pushes are sent faster than places become
    /// free, that is for some milliseconds, and costs less than messages that would wait for the same places.
    async fn places(&self, wanted: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = u32::try_from(wanted.min(self.runner.policy.concurrency)).unwrap_or(u32::MAX);
        if wanted <= MOST_WAITED_FOR
            && let Ok(places) = timeout(WAIT, Arc::clone(&self.places).acquire_many_owned(wanted)).await
        {
            return places.ok();
        }
        let free = u32::try_from(self.places.available_permits()).unwrap_or(u32::MAX).min(wanted);
        Arc::clone(&self.places).try_acquire_many_owned(free).ok()
    }
}

/// A push with a place to be sent in.
struct Ticket {
    lane: Lane,
    place: OwnedSemaphorePermit,
    claim: Box<Claim>,
}

impl ShortWay {
    /// For these queues; pushes are run as jobs of `jobs`.
    #[must_use]
    pub fn new(queues: impl IntoIterator<Item = Direct>, together: Together, jobs: TaskTracker) -> Self {
        let queues = queues.into_iter().filter_map(|direct| Some((direct.queue.lane?, direct)));
        Self { queues: queues.collect(), together, jobs, under_way: Arc::default() }
    }

    /// What runs the jobs of a queue whose pushes are sent at once too, and the places that they share.
    pub fn shares(&self, queue: Queue) -> Option<(Arc<Runner>, Arc<Semaphore>)> {
        let direct = self.queues.get(&queue.lane?).filter(|direct| direct.queue == queue)?;
        Some((Arc::clone(&direct.runner), Arc::clone(&direct.places)))
    }

    /// The most messages that a queue is pulled for at once. A pull holds the places for its messages while it waits for
    /// them: where pushes are sent at once, it leaves them most.
    pub fn largest_pull(&self, queue: Queue) -> usize {
        match self.shares(queue) {
            Some((runner, _)) => (runner.policy.concurrency / 8).max(1),
            None => LARGEST_PULL,
        }
    }

    /// Carries out the plan of a reminder together with that of its notification, or of a notification, and sends of its
    /// pushes as many as there are places. What it goes by was read at `read` or later. Answers also how many were sent, where
    /// that is to be said of this very job.
    pub async fn carry_out(
        &self,
        runner: &Runner,
        meta: &Meta,
        not_after: DateTime<Utc>,
        mut plan: Plan,
        (read, recipients): (DateTime<Utc>, Recipients),
    ) -> Result<(Committed, Option<usize>), Refused> {
        let effects = &runner.effects;
        let mut planned = self.together.plan(meta, not_after, &plan, recipients).await;
        let is_together = planned.is_some();
        let (of, sends) = match &mut planned {
            Some(planned) => (&planned.meta, &mut planned.plan),
            None => (meta, &mut plan),
        };
        let at_once = std::mem::take(&mut sends.at_once);
        let turn = if at_once.is_empty() { None } else { self.begin(&of.job_id) };
        if turn.is_none() && !is_together {
            return Ok((effects.carry_out(meta, not_after, plan).await?, None));
        }
        let tickets = match &turn {
            Some(_) => self.tickets(of, sends, at_once, read).await,
            None => HashMap::new(),
        };
        let job_id = of.job_id.clone();
        let wanted = turn.as_ref().map(|_| tickets.keys().cloned().collect());
        let (next, ending) = planned.map(Planned::split).unzip();
        let CarriedOut { committed, followed, claimed, others } =
            effects.carry_out_at_once(meta, not_after, plan, next, wanted).await?;
        let mut sent = None;
        if !claimed.is_empty() && runner.clock.now() - read > FRESH {
            drop(tickets);
            effects.give_up_at_once(&job_id, &[claimed, others].concat()).await?;
        } else if let Some(turn) = turn.filter(|_| !claimed.is_empty()) {
            // Beside each other: what cannot be published now must not hold up what can be sent.
            let published = publish::children(effects.context(), &others);
            let (in_time, ()) = join!(self.send(effects, tickets, &claimed, turn), published);
            sent = Some(in_time);
            effects.note_published(&job_id).await;
        } else {
            drop(tickets);
            effects.publish(&job_id, &others).await;
        }
        if let Some(ending) = ending {
            ending.committed(committed, followed, sent.take());
        }
        Ok((committed, sent))
    }

    /// Sends what is claimed, and waits for that. Answers how many were sent.
    async fn send(
        &self,
        effects: &Effects,
        mut tickets: HashMap<String, Ticket>,
        claimed: &[Child],
        turn: Turn,
    ) -> usize {
        let turn = Arc::new(turn);
        let mut under_way = FuturesUnordered::new();
        for child in claimed {
            if let Some(ticket) = tickets.remove(&child.job_id) {
                let started = self.start(ticket, child.clone(), Arc::clone(&turn));
                under_way.push(started.map(move |went| (child, went)));
            }
        }
        // Their places are others'.
        drop(tickets);
        // What is not in time has its message, which finds it being sent, and looks again.
        let mut messages: HashSet<&str> = claimed.iter().map(|child| child.job_id.as_str()).collect();
        let mut sent = 0;
        let in_time = async {
            while let Some((child, went)) = under_way.next().await {
                // A task that ended without a word needs it too.
                if let Ok(Went::Well | Went::Otherwise) = went {
                    messages.remove(child.job_id.as_str());
                }
                sent += usize::from(went == Ok(Went::Well));
            }
        };
        let _ = timeout(PATIENCE, in_time).await;
        let left: Vec<Child> = claimed.iter().filter(|child| messages.contains(&*child.job_id)).cloned().collect();
        if !left.is_empty() {
            publish::children(effects.context(), &left).await;
        }
        sent
    }

    /// None where the same notification is under way already.
    fn begin(&self, job_id: &str) -> Option<Turn> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = under_way.insert(job_id.to_owned());
        is_first.then(|| Turn { under_way: Arc::clone(&self.under_way), job_id: job_id.to_owned() })
    }

    /// The pushes that have a place, by the ids of their deliveries.
    async fn tickets(
        &self,
        meta: &Meta,
        plan: &Plan,
        mut at_once: HashMap<String, plan::AtOnce>,
        now: DateTime<Utc>,
    ) -> HashMap<String, Ticket> {
        // All deliveries of a notification are in its lane.
        let lane = Channel::WebPush.kind().lane_for(meta.lane);
        let Some((lane, direct)) = lane.and_then(|lane| Some((lane, self.queues.get(&lane)?))) else {
            return HashMap::new();
        };
        let mut places = direct.places(at_once.len()).await;
        let mut tickets = HashMap::with_capacity(at_once.len());
        let contents: Vec<Arc<Content>> = plan.contents.iter().cloned().map(Arc::new).collect();
        for delivery in &plan.deliveries {
            let Some(known) = at_once.remove(&delivery.id) else { continue };
            let content = contents.iter().find(|content| content.locale == delivery.locale);
            let Some(content) = content else { continue };
            let Some(place) = places.as_mut().and_then(|places| places.split(1)) else { break };
            let claim = Box::new(Claim {
                id: delivery.id.clone(),
                root_id: meta.root_id.clone(),
                user_id: delivery.user_id.clone(),
                address: delivery.address.clone(),
                lane: delivery.lane,
                attempts: 0,
                claims: 1,
                created_at: now,
                content: Arc::clone(content),
                subscription: Some(known.subscription),
                webhook: None,
                is_theirs: true,
                named: delivery.named,
                unsettled: false,
                preferences: known.preferences,
                locale: known.locale,
            });
            tickets.insert(delivery.id.clone(), Ticket { lane, place, claim });
        }
        tickets
    }

    /// Sends one, in a task of its own. Until then it is its notification's turn.
    fn start(&self, ticket: Ticket, child: Child, turn: Arc<Turn>) -> oneshot::Receiver<Went> {
        let (done, is_done) = oneshot::channel();
        let Some(direct) = self.queues.get(&ticket.lane) else { return is_done };
        let (runner, queue, stream) = (Arc::clone(&direct.runner), direct.queue, direct.stream.clone());
        let Ticket { place, claim, .. } = ticket;
        self.jobs.spawn(Box::pin(async move {
            let went = runner.run_at_once(queue, stream, claim, child).await;
            drop((place, turn));
            // Whoever waited has published its message meanwhile.
            let _ = done.send(went);
        }));
        is_done
    }
}

/// How it went with a push that had no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Went {
    /// It was sent.
    Well,
    /// It was not, or waits: that is on record, and has a line of its own in the log.
    Otherwise,
    /// It has to have its message.
    ByMessage,
}

/// A notification whose pushes are under way.
struct Turn {
    under_way: Arc<Mutex<HashSet<String>>>,
    job_id: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.job_id);
    }
}

impl Runner {
    /// Runs a delivery that is claimed and has no message.
    async fn run_at_once(&self, queue: Queue, stream: String, claim: Box<Claim>, child: Child) -> Went {
        let started = Instant::now();
        checkpoint::reached(Step::Claimed);
        self.metrics.begun(Some(Duration::ZERO));
        let place = Place { stream, sequence: NO_MESSAGE, delivered: 1, published: claim.created_at };
        let body = Bytes::from(child.body.clone());
        let arrival = Arrival {
            queue,
            ids: Some((&child.job_id, &child.root_id)),
            stream: &place.stream,
            sequence: place.sequence,
            delivered: place.delivered,
            published: place.published,
            size: body.len(),
        };
        let (mut span, trace) = traces::process(&arrival, child.trace.as_deref());
        let meta = Meta {
            job_id: child.job_id.clone(),
            root_id: child.root_id.clone(),
            kind: queue.kind,
            lane: queue.lane.unwrap_or(Lane::Critical),
            stream: place.stream.clone(),
            sequence: place.sequence,
            delivered: place.delivered,
            published: place.published,
            resumed: false,
            not_after: Some(child.not_after),
            trace: trace.or_else(|| child.trace.clone()),
            wishes: Wishes::default(),
        };
        // Its own claim's message, made by this program.
        let Ok(job) = self.decoder.decode(&body, Form::Protobuf) else { return Went::ByMessage };
        let ran = async { self.attempt_admitted(&meta, job, &mut span, (0, Some(claim), place.published)).await };
        let ending = tokio::select! {
            biased;
            ran = ran => ran,
            () = self.deadline.cancelled() => Ok(self.release(Ok(&meta)).await),
        };
        let Ok(ending) = ending else {
            self.release(Ok(&meta)).await;
            return Went::ByMessage;
        };
        self.end(&mut span, &ending);
        if let Fate::Dead(_) = ending.fate {
            // It is on record as dead, and is told of and buried when its message comes: a dead letter says where it was.
            return Went::ByMessage;
        }
        Self::log(queue, &place, Some(&meta), span.attempt, &ending, started.elapsed());
        self.metrics.ended(ending.outcome, started.elapsed(), ending.reason.map(Reason::name), ending.attempts);
        let until = match ending.fate {
            Fate::Done if ending.outcome == JobOutcome::Done => return Went::Well,
            Fate::Done | Fate::Leave => return Went::Otherwise,
            // For another worker.
            Fate::Release | Fate::Dead(_) => return Went::ByMessage,
            Fate::Retry(wait) => self.clock.now() + TimeDelta::from_std(wait).unwrap_or(TimeDelta::MAX),
            Fate::Park { until, .. } => until,
        };
        let mut headers = HeaderMap::new();
        publish::set_trace(&mut headers, child.trace.as_deref());
        let context = self.effects.context();
        let parked = park::park(context, &meta, child.not_after, &child.subject, Some(&headers), body, until).await;
        if parked == park::Parked::Yes { Went::Otherwise } else { Went::ByMessage }
    }
}
