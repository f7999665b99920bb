//! The storm publishes jobs of all kinds while workers, NATS and Postgres are killed and the push service misbehaves.
//! Afterwards every job must have ended as expected, and a fault must explain every repeated push.
//!
//! Shared by the tests and by `cargo bench --bench storm`.

pub mod clicks;
mod database;
pub mod doubles;
pub mod faults;
mod fleet;
pub mod history;
pub mod jobs;
pub mod judge;
mod publish;
pub mod recovery;
pub mod scene;
mod strike;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream;
use carebell::{dev::push_service::RejectedRequest, streams::Streams};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::{
    clicks::{Clicks, Somebody},
    database::Database,
    faults::{Fault, Target},
    fleet::Fleet,
    history::{Asked, History},
    jobs::Job,
    judge::{Sort, Verdict},
    publish::Published,
    recovery::Recovery,
    scene::{Browser, Scene},
    strike::{Nats, Victims},
};
use crate::support::{Cluster, World, adjustments};

/// Identifies the dead letter of a job whose id cannot be read.
pub const MARK: &str = "Storm-Job";

/// Short delays, and enough attempts to survive the push service's bad answers. A busy machine must not exceed
/// `ack_wait`: the judge doesn't know that fault.
const OVERRIDES: &str = "*.attempts=10,*.max_attempts=10,*.backoff=fixed 50ms,*.jitter=50%,*.timeout=5s";

/// Beside one server, where nothing else makes a job wait for long.
const SOON: &str = "*.ack_wait=6s";

/// The storm ends after this long without progress. Longer than a claim's lease and two sweeps.
const PATIENCE: Duration = Duration::from_secs(150);

/// The seed determines everything random except how the processes interleave.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub jobs: usize,
    pub kills: usize,
    pub seed: u64,
    pub workers: usize,
    /// Of publishing and kills.
    pub span: Duration,
    /// Longest downtime of a killed server; zero restarts it at once.
    pub outage: Duration,
    /// Percentage scheduled for later.
    pub scheduled: u32,
    pub victims: faults::Victims,
    /// NATS servers: one, or three that are one.
    pub nodes: usize,
    /// Of Postgres to its standby.
    pub failovers: usize,
    /// Whether commits do not wait for the standby.
    pub asynchronous: bool,
    /// Whether somebody uses the console meanwhile.
    pub clicks: bool,
    pub say: fn(&str),
}

#[derive(Debug)]
pub struct Report {
    pub settings: Settings,
    pub verdict: Verdict,
    pub faults: Vec<Fault>,
    pub recovery: Recovery,
    /// Including doubled ones.
    pub pushes: usize,
    pub rejected: Vec<RejectedRequest>,
    /// By the producer.
    pub published_again: usize,
    /// Of somebody at the console.
    pub clicks: Option<Clicks>,
    /// Workers that ended without a kill, or not in good order.
    pub bad_ends: Vec<usize>,
    /// From the last publish until no work was open.
    pub drain: Duration,
    pub took: Duration,
}

struct Storm {
    settings: Settings,
    world: World,
    cluster: Option<Cluster>,
    postgres: Database,
    fleet: Fleet,
    somebody: Option<Somebody>,
    scene: Scene,
    jobs: Arc<Vec<Job>>,
    rng: StdRng,
}

pub async fn run(settings: Settings) -> Report {
    let began = Instant::now();
    let mut storm = Storm::brew(settings).await;
    (settings.say)(&format!("{} jobs, {} kills, seed {}", settings.jobs, settings.kills, settings.seed));
    let (published, faults, clicks) = storm.blow().await;
    let since = Instant::now();
    storm.calm_down().await;
    let drain = since.elapsed();
    let bad_ends = storm.fleet.stop().await;
    let history = storm.history(&published, faults).await;
    Report {
        settings,
        verdict: judge::judge(&history),
        recovery: Recovery::of(&history),
        pushes: history.pushes.len(),
        faults: history.faults,
        rejected: storm.world.push.rejected(),
        published_again: published.again,
        clicks,
        bad_ends,
        drain,
        took: began.elapsed(),
    }
}

/// With all streams, as `carebell streams apply` makes them.
async fn join(cluster: &Cluster, overrides: &str) -> jetstream::Context {
    let context = cluster.any_context().await;
    cluster.has_a_leader(&context).await;
    let mut streams = adjustments(overrides);
    streams.replicas = cluster.size();
    Streams::embedded(&streams).unwrap().apply(&context).await.unwrap();
    cluster.is_whole(&context).await;
    context
}

impl Storm {
    async fn brew(settings: Settings) -> Self {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let postgres = Database::start(&settings).await;
        let overrides = if settings.nodes > 1 { OVERRIDES.to_owned() } else { format!("{OVERRIDES},{SOON}") };
        let mut world = World::on(postgres.url(), &overrides).await;
        let mut environment = world.environment();
        let mut cluster = None;
        if settings.nodes > 1 {
            let three = Cluster::start().await;
            environment.insert("NATS_URL".into(), three.urls());
            environment.insert("STREAMS_REPLICAS".into(), "3".into());
            world.context = join(&three, &overrides).await;
            cluster = Some(three);
        }
        let scene = Scene::draw(&mut rng);
        let jobs = jobs::draw(&scene, &settings, &mut rng);
        scene.set(&world).await;
        for (family, medication) in jobs.iter().filter_map(|job| job.shortage.as_ref()) {
            Scene::set_shortage(&world, *family, medication).await;
        }
        let servers: Vec<(&str, &str)> = ["NATS_URL", "STREAMS_REPLICAS"]
            .into_iter()
            .filter_map(|name| Some((name, &**environment.get(name)?)))
            .collect();
        let somebody = if settings.clicks { Some(Somebody::sit_down(&world, &servers).await) } else { None };
        let directory = world.directory.path().to_owned();
        let fleet = Fleet::start(environment, directory, settings.workers).await;
        let jobs = Arc::new(jobs);
        Self { settings, world, cluster, postgres, fleet, somebody, scene, jobs, rng }
    }

    async fn blow(&mut self) -> (Published, Vec<Fault>, Option<Clicks>) {
        let Settings { span, say, .. } = self.settings;
        let planned = faults::draw(&self.settings, &mut self.rng);
        let live = self.scene.browsers(Browser::Live);
        let ended = self.scene.browsers(Browser::Ended);
        let urls = self.cluster.as_ref().map_or_else(|| self.world.nats.url(), Cluster::urls);
        let context = publish::connect(&urls).await;
        let World { push, nats, context: seen, .. } = &mut self.world;
        let push = &*push;
        let start = Instant::now();
        let nats = match &mut self.cluster {
            Some(cluster) => Nats::Cluster(cluster, seen),
            None => Nats::One(nats),
        };
        let victims = Victims { nats, postgres: &mut self.postgres, fleet: &mut self.fleet };
        let clicking = async {
            let hand = StdRng::seed_from_u64(self.settings.seed);
            Some(self.somebody.as_ref()?.click(Arc::clone(&self.jobs), start, span, hand).await)
        };
        let (published, faults, (), (), clicks) = tokio::join!(
            publish::publish(context, Arc::clone(&self.jobs), start),
            strike::strike(&planned, start, victims, say),
            faults::blow(push, &live, start, span, &mut self.rng),
            faults::unsubscribe(push, &ended, start, span),
            clicking,
        );
        say(&format!("{:6.2} s: all is published", start.elapsed().as_secs_f64()));
        (published, faults, clicks)
    }

    /// Waits until no work is open, while there is progress.
    async fn calm_down(&self) {
        let mut last = None;
        let mut changed = Instant::now();
        let mut told = Instant::now();
        loop {
            let open = self.open_work().await;
            if open.as_ref().is_some_and(BTreeMap::is_empty) {
                return;
            }
            if open != last {
                changed = Instant::now();
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                (self.settings.say)(&format!("  still open: {open:?}"));
            }
            if changed.elapsed() > PATIENCE {
                (self.settings.say)(&format!("given up: {open:?}"));
                return;
            }
            last = open;
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Messages by stream, rows by table. `None` while a server doesn't answer.
    async fn open_work(&self) -> Option<BTreeMap<String, i64>> {
        let mut open = BTreeMap::new();
        for name in ["JOBS", "WORK", "DELIVERIES", "HOLD"] {
            let mut stream = self.world.context.get_stream(name).await.ok()?;
            let messages = stream.info().await.ok()?.state.messages;
            open.insert(name.to_owned(), i64::try_from(messages).unwrap());
        }
        let rows: (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM job_runs WHERE state = 'open' OR children_pending), \
                    (SELECT count(*) FROM deliveries WHERE state IN ('pending', 'held', 'sending'))",
        )
        .fetch_one(&self.world.db)
        .await
        .ok()?;
        open.insert("job_runs".to_owned(), rows.0);
        open.insert("deliveries".to_owned(), rows.1);
        open.retain(|_, count| *count > 0);
        Some(open)
    }

    async fn history(&self, published: &Published, faults: Vec<Fault>) -> History {
        let asked = self.jobs.iter().zip(&published.ready);
        let asked = asked.map(|(job, ready)| Asked {
            id: job.id.clone(),
            expected: job.expected.clone(),
            ready: *ready,
            scheduled: job.delay.is_some(),
        });
        let live = |browsers: &[(String, Browser)]| {
            let live = browsers.iter().filter(|(_, browser)| *browser == Browser::Live);
            live.map(|(name, _)| name.clone()).collect()
        };
        let live = self.scene.browsers.iter().map(|(user, browsers)| (user.clone(), live(browsers)));
        let mut history = History { jobs: asked.collect(), live: live.collect(), faults, ..History::default() };
        history.read(&self.world, &self.fleet.logs).await;
        history
    }
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.complaints().is_empty()
    }

    /// One line each.
    pub fn complaints(&self) -> Vec<String> {
        let findings = self.verdict.findings.iter().map(ToString::to_string);
        let rejected = self.rejected.iter().map(|request| format!("{request:?}"));
        let ended = self.bad_ends.iter().map(|worker| format!("worker {worker} ended badly"));
        let clicks = self.clicks.iter().flat_map(|clicks| clicks.odd.iter().map(|odd| format!("the console: {odd}")));
        findings.chain(rejected).chain(ended).chain(clicks).collect()
    }

    pub fn json(&self) -> Value {
        let Self { settings, verdict, recovery, .. } = self;
        let doubles = verdict.doubles;
        let hits = |of: fn(&Target) -> bool| self.faults.iter().filter(|fault| of(&fault.target)).count();
        json!({
            "jobs": settings.jobs,
            "nodes": settings.nodes,
            "kills": self.faults.len(),
            "node_kills": hits(|target| *target == Target::Nats),
            "worker_kills": hits(|target| matches!(target, Target::Worker(_))),
            "postgres_kills": hits(|target| *target == Target::Postgres),
            "failovers": settings.failovers,
            "asynchronous": settings.asynchronous,
            "lost": verdict.count(Sort::Lost),
            "doubled_inbox_rows": verdict.count(Sort::DoubledRow),
            "doubled_pushes": doubles.all,
            "explained_by_worker_kill": doubles.by_worker_kill,
            "explained_by_nats_outage": doubles.by_nats_outage,
            "explained_by_postgres_outage": doubles.by_postgres_outage,
            "unexplained_doubles": verdict.count(Sort::UnexplainedPush),
            "given_up": verdict.given_up,
            "pushes": self.pushes,
            "rejected_pushes": self.rejected.len(),
            "published_again": self.published_again,
            "workers_that_ended_badly": self.bad_ends,
            "clicks": self.clicks.as_ref().map(|clicks| clicks.answers),
            "clicks_while_a_server_is_away": self.clicks.as_ref().map(|clicks| clicks.unavailable),
            "slowest_click_ms": self.clicks.as_ref().map(|clicks| u64::try_from(clicks.slowest.as_millis()).unwrap()),
            "late_jobs": recovery.late(),
            "recovery_p99_ms": recovery.p99(),
            "recovery_max_ms": recovery.max(),
            "longest_recovery_ms": recovery.longest(),
            "longest_recovery_ms_worker": recovery.worker,
            "longest_recovery_ms_nats": recovery.nats,
            "longest_recovery_ms_postgres": recovery.postgres,
            "slowest_push_ms": recovery.slowest,
            "slowest_scheduled_push_ms": recovery.slowest_scheduled,
            "drain_ms": u64::try_from(self.drain.as_millis()).unwrap(),
            "took_ms": u64::try_from(self.took.as_millis()).unwrap(),
            "seed": settings.seed,
        })
    }
}
