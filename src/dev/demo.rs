//! `carebell dev`: a family of four, a due dose, a worker that can be killed, and receivers that verify and print what
//! arrives.

mod console;
mod error;
pub(super) mod gateway;
mod jobs;
mod outage;
pub(super) mod receivers;
mod screen;
mod summary;
mod worker;

use std::{fmt::Write as _, fs, time::Duration};

use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use self::{
    console::DemoConsole,
    error::DemoError,
    gateway::DemoGateway,
    jobs::Dose,
    receivers::{DELIVERIES, MEMBERS, Receivers, doubled},
    screen::{Screen, Step},
    worker::DemoWorker,
};
pub use self::{outage::Outage, summary::Summary};
use super::{Servers, trace_receiver::TraceReceiver};
use crate::{
    clock::Clock,
    config::Source,
    doctor::{self, CheckResult, Egress},
    health::Health,
    nats,
    store::{Database, Store},
    streams::{Adjustments, Override, Streams},
    telemetry::traces,
};

const NEXT_EVERY: Duration = Duration::from_secs(30);

/// The one deviation from the defaults: quick retries of texts, to show an outage to its end.
const SOONER: (&str, &str, &str) = ("deliver_sms_normal", "backoff", "fixed 5s");

/// Time limit of `--once`.
const PATIENCE: Duration = Duration::from_mins(1);

/// Until the log has the lines of what has arrived.
const LAST_LINES: Duration = Duration::from_millis(100);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The delayed reminder's wait, its run, and that of its notification.
const REMINDER_RUNS: usize = 3;

/// Batch delay of spans in milliseconds.
const SPANS_AFTER: &str = "100";

const TRACE_PATIENCE: Duration = Duration::from_secs(15);

/// The running demo.
pub struct Demo {
    worker: DemoWorker,
    context: async_nats::jetstream::Context,
    store: Store,
    receivers: Receivers,
    traces: TraceReceiver,
    clock: Clock,
    screen: Screen,
    /// Whether a provider was reported as down.
    breaker_told: bool,
    servers: Servers,
}

impl Demo {
    /// Starts servers, family, receivers and worker. With `quiet`, progress goes to standard error.
    ///
    /// # Errors
    /// Names what did not start, and why.
    pub async fn start(quiet: bool) -> Result<Self, DemoError> {
        let clock = Clock::system();
        let started = clock.now();
        let say = |text: &str| eprintln!("{text}");
        let servers = Servers::start(say).await?;
        let database_url = servers.postgres.url("postgres");
        let store = Store::new(&Database::parse(&database_url)?, 4);
        store.create_care_tables().await?;
        store.migrate().await?;
        let config = Source::of([("NATS_URL".to_owned(), servers.nats.url())]).nats()?;
        let client = nats::connect(&config, &Health::new()).await?;
        let context = nats::jetstream(&client);
        let (durable, key, value) = SOONER;
        let overrides = vec![Override { durable: durable.into(), key: key.into(), value: value.into() }];
        Streams::embedded(&Adjustments { overrides, ..Adjustments::default() })?.apply(&context).await?;

        let receivers = Receivers::start(clock.clone()).await?;
        store.seed_demo(&receivers.subscribe()).await?;
        let mut environment = vec![
            ("NATS_URL", servers.nats.url()),
            ("DATABASE_URL", database_url),
            ("QUEUE_OVERRIDES", format!("{durable}.{key}={value}")),
            ("APP_URL", "https://app.example.org".to_owned()),
            ("HEALTH_PORT", "0".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("LOG_LEVEL", "info".to_owned()),
        ];
        environment.extend(receivers.environment(servers.directory.path())?);
        let traces = TraceReceiver::start().await?;
        environment.extend([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", traces.endpoint()),
            ("OTEL_BSP_SCHEDULE_DELAY", SPANS_AFTER.to_owned()),
        ]);
        let values = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        traces::init(&Source::of(values).traces()?)?;
        let worker = DemoWorker::start(servers.directory.path(), environment)?;
        let screen = Screen::new(started, quiet);
        let demo = Self { worker, context, store, receivers, traces, clock, screen, breaker_told: false, servers };
        demo.introduce();
        demo.examine().await;
        Ok(demo)
    }

    async fn examine(&self) {
        let values = self.worker.environment().iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let checks = doctor::examine(&Source::of(values), &self.clock, Egress::Named).await;
        self.say("doctor", &doctor::summary(&checks));
        for check in checks.iter().filter(|check| !matches!(check.outcome, CheckResult::Ok(_))) {
            self.say("doctor", &check.to_string());
        }
    }

    /// Publishes one dose and prints its progress until all has arrived.
    ///
    /// # Errors
    /// After a minute, or when `stop` is cancelled.
    pub async fn once(&mut self, stop: &CancellationToken) -> Result<Summary, DemoError> {
        let begun = Instant::now();
        let Dose { job_id, due, .. } = self.publish_dose(1).await?;
        let mut look = interval(LOOK_EVERY);
        while !self.has_arrived(&job_id).await {
            if stop.run_until_cancelled(look.tick()).await.is_none() {
                return Err("stopped before the reminder had arrived".into());
            }
            self.show_news().await?;
            if begun.elapsed() > PATIENCE {
                return Err(self.explain(&job_id).await.into());
            }
        }
        let elapsed_ms = begun.elapsed().as_millis();
        self.show_news().await?;
        // The worker's last lines follow what arrived.
        sleep(LAST_LINES).await;
        self.show_news().await?;
        self.show_trace(&job_id).await;
        let arrivals = self.receivers.arrivals();
        let received = self.receivers.push.received();
        let totals = self.store.totals_of(&job_id).await?;
        let last = received.iter().map(|push| push.received).max().unwrap_or(due);
        Ok(Summary {
            reminders: 1,
            inbox_rows: totals.inbox_rows,
            pushes_sent: totals.pushes_sent,
            pushes_decrypted: received.len(),
            duplicates: doubled(&received),
            mails: arrivals.mails,
            texts: arrivals.texts,
            webhooks: arrivals.hooks,
            elapsed_ms,
            due_to_last_push_ms: (last - due).num_milliseconds(),
        })
    }

    /// Publishes a dose every half minute, prints progress and restarts killed workers.
    ///
    /// # Errors
    /// If a server is lost.
    pub async fn keep_running(&mut self, stop: &CancellationToken) -> Result<(), DemoError> {
        jobs::save_schedule(&self.store, self.clock.now()).await?;
        let console = DemoConsole::start(self.worker.environment(), &self.context)?;
        let gateway =
            DemoGateway::start(self.worker.environment(), &self.store, &self.context, self.clock.clone()).await?;
        self.invite(&console, &gateway);
        let mut look = interval(LOOK_EVERY);
        let mut next_dose = Instant::now() + NEXT_EVERY;
        let mut dose = 2;
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            self.show_news().await?;
            if Instant::now() >= next_dose {
                self.publish_dose(dose).await?;
                dose += 1;
                next_dose = Instant::now() + NEXT_EVERY;
            }
        }
        Ok(())
    }

    /// Stops the worker gracefully and prints its last steps.
    pub async fn stop(mut self) {
        self.worker.stop().await;
        self.show_steps().await;
        self.screen.show_all();
        self.store.close().await;
    }

    async fn publish_dose(&self, number: usize) -> Result<Dose, DemoError> {
        let dose = jobs::publish_dose(&self.context, self.clock.now(), number).await?;
        let text = format!("{} for {} to {}", dose.job_id, dose.due.format("%H:%M:%S%.3f"), dose.subject);
        self.say("published", &text);
        Ok(dose)
    }

    async fn show_trace(&self, job_id: &str) {
        let since = Instant::now();
        while since.elapsed() < TRACE_PATIENCE {
            if let Some(tree) = self.traces.tree(job_id, REMINDER_RUNS + DELIVERIES) {
                self.say("trace", "each span with its start and duration, below its parent");
                self.screen.show(tree.trim_end());
                return;
            }
            sleep(LOOK_EVERY).await;
        }
        self.say("trace", "is incomplete");
    }

    async fn has_arrived(&self, job_id: &str) -> bool {
        let arrivals = self.receivers.arrivals();
        if arrivals.pushes < MEMBERS || [arrivals.mails, arrivals.texts, arrivals.hooks].contains(&0) {
            return false;
        }
        let totals = self.store.totals_of(job_id).await.unwrap_or_default();
        usize::try_from(totals.ended).is_ok_and(|ended| ended >= DELIVERIES)
    }

    async fn show_news(&mut self) -> Result<(), DemoError> {
        self.show_steps().await;
        if let Some(status) = self.worker.restart_if_ended()? {
            self.say("worker", &format!("has ended ({status}); starting another"));
        }
        Ok(())
    }

    /// Prints new steps in chronological order.
    async fn show_steps(&mut self) {
        let mut steps = Vec::new();
        for line in self.worker.new_lines() {
            let at = line.at().unwrap_or_else(|| self.clock.now());
            if let Some(port) = line.health_port() {
                let text = format!("health on http://127.0.0.1:{port}/health, process {}", self.worker.pid());
                steps.push(Step { at, who: "worker".into(), what: text });
            }
            if let Some(port) = line.public_port().and_then(|port| u16::try_from(port).ok()) {
                self.receivers.worker_listens_at(port);
            }
            self.breaker_told |= line.tells_of_a_provider_that_is_down();
            if line.is_ready() {
                steps.push(Step { at, who: "worker".into(), what: "ready".into() });
            }
            steps.extend(line.step().map(|(who, what)| Step { at, who, what }));
        }
        steps.extend(self.receivers.news().await);
        for step in steps {
            self.screen.say(step);
        }
        self.screen.show_settled(self.clock.now());
    }

    /// Why the reminder has not arrived.
    async fn explain(&self, job_id: &str) -> String {
        let mut text = format!("the reminder {job_id} has not arrived within {PATIENCE:?}.");
        let runs = self.store.runs_of(job_id).await.unwrap_or_default();
        if runs.is_empty() {
            text.push_str(" No worker has recorded it.");
        }
        for run in runs {
            let why = run.last_error.or(run.reason).unwrap_or_default();
            let _ = write!(text, "\n  {}: {} {why}", run.kind, run.state);
        }
        for line in self.store.ledger_of(job_id).await.unwrap_or_default() {
            let why = line.answer.or(line.reason).unwrap_or_default();
            let _ = write!(text, "\n  {} to {}: {} {why}", line.channel, line.user_id, line.state);
        }
        for complaint in self.receivers.complaints() {
            let _ = write!(text, "\n  {complaint}");
        }
        let _ = write!(text, "\nThe worker's log ends with:\n{}", self.worker.output());
        text
    }

    fn introduce(&self) {
        let ready = format!(
            "nats-server and Postgres are up, {MEMBERS} family members subscribed; Ben also by mail, Chloe by text \
             message, Dan by webhook"
        );
        self.say("servers", &ready);
    }

    fn invite(&self, console: &DemoConsole, gateway: &DemoGateway) {
        let mut file = String::new();
        for (name, value) in self.worker.environment() {
            if !["HEALTH_PORT", "LOG_FORMAT", "LOG_LEVEL"].contains(name) {
                let _ = writeln!(file, "export {name}='{value}'");
            }
        }
        for (name, value) in console.environment().into_iter().chain(gateway.environment()) {
            let _ = writeln!(file, "export {name}='{value}'");
        }
        let path = self.servers.directory.path().join("env");
        let _ = fs::write(&path, file);
        self.screen.show(&format!(
            "\nEvery half minute another dose comes due, and a schedule fires every 20 s. Ctrl-C ends everything. Follow it in\n\
             a browser, by a way in that is good once:\n\
             \x20 {}\n\
             In another terminal:\n\
             \x20 kill -9 {}                    # the worker: nothing is lost, nothing doubled; its jobs come back after 30 s\n\
             \x20 . {}   # then publish a job of your own:\n\
             \x20 carebell publish notification --json '{{\"recipients\":[{{\"userId\":\"ana\"}}],\"title\":\"Hello\"}}'\n",
            console.way_in(),
            self.worker.pid(),
            path.display(),
        ));
    }

    fn say(&self, who: &str, what: &str) {
        self.screen.say(Step { at: self.clock.now(), who: who.to_owned(), what: what.to_owned() });
    }
}
