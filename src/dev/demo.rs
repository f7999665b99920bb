//! `carebell dev`: the whole product on a fresh machine. A family of four, a dose that comes due, a worker in a process
//! of its own (so that it can be killed), and receivers that check and show what arrives.

mod outage;
mod receivers;

use std::{fmt::Write as _, fs, io::Write as _, path::PathBuf, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

pub use self::outage::Outage;
use self::receivers::{DELIVERIES, MEMBERS, Receivers, doubled};
use super::{
    Servers,
    guard::{Guarded, Program, StopSignal},
    trace_receiver::TraceReceiver,
    trail::Log,
};
use crate::{
    clock::Clock,
    config::Source,
    doctor::{self, Egress, Outcome},
    effects::submit::{Submission, submit},
    health::Health,
    nats,
    scheduler::timing::Timing,
    store::{AuditEntry, ScheduleSpec, Store},
    streams::{Adjustments, Override, Streams},
    telemetry::traces,
};

/// How far ahead the first dose is scheduled, and how far apart the next ones are.
const DUE_IN: TimeDelta = TimeDelta::seconds(2);
const NEXT_EVERY: Duration = Duration::from_secs(30);

/// The one thing that is not as shipped: text messages that failed are tried again sooner, so that an outage can be
/// watched to its end.
const SOONER: (&str, &str, &str) = ("deliver_sms_normal", "backoff", "fixed 5s");

/// How long `--once` waits for what is to arrive.
const PATIENCE: Duration = Duration::from_mins(1);

/// A worker that ends sooner than this was not killed by a person; after so many in a row the demo gives up.
const QUICK_END: Duration = Duration::from_secs(1);
const MOST_QUICK_ENDS: u32 = 5;

/// The demo's own copy of this program, in its private directory.
const PROGRAM: &str = "carebell";

/// How often the log and the push service are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long spans wait for others, in milliseconds: shorter than anybody waits for the tree.
const SPANS_AFTER: &str = "100";

/// How long the reminder's trace is waited for, once all has arrived.
const TRACE_PATIENCE: Duration = Duration::from_secs(15);

/// What `--once` has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Reminders published.
    pub reminders: usize,
    /// Inbox rows written.
    pub inbox_rows: i64,
    /// Pushes that the ledger has as sent.
    pub pushes_sent: i64,
    /// Pushes that arrived and could be decrypted.
    pub pushes_decrypted: usize,
    /// Pushes that arrived more than once.
    pub duplicates: usize,
    /// Mails that arrived.
    pub mails: usize,
    /// Text messages that arrived.
    pub texts: usize,
    /// Webhook requests that arrived and could be verified.
    pub webhooks: usize,
    /// From the publish to the last push, in ms; the wait until the dose is due included.
    pub elapsed_ms: u128,
    /// From the due instant to the last push, in ms.
    pub due_to_last_push_ms: i64,
}

impl Summary {
    /// As one JSON object.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "reminders": self.reminders,
            "inbox_rows": self.inbox_rows,
            "pushes_sent": self.pushes_sent,
            "pushes_decrypted": self.pushes_decrypted,
            "duplicates": self.duplicates,
            "mails": self.mails,
            "texts": self.texts,
            "webhooks": self.webhooks,
            "elapsed_ms": self.elapsed_ms,
            "due_to_last_push_ms": self.due_to_last_push_ms,
        })
    }
}

/// The running demo.
pub struct Demo {
    worker: Guarded,
    worker_log: Log,
    log_file: PathBuf,
    environment: Vec<(&'static str, String)>,
    context: async_nats::jetstream::Context,
    store: Store,
    receivers: Receivers,
    traces: TraceReceiver,
    clock: Clock,
    worker_started: Instant,
    /// Workers in a row that ended soon after they were started.
    quick_ends: u32,
    /// Whether a provider was found down.
    breaker_told: bool,
    started: DateTime<Utc>,
    quiet: bool,
    servers: Servers,
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

impl Demo {
    /// Starts the servers, the schema, the streams, the family, the push service and the worker. `quiet` tells the way
    /// on standard error, so that standard output holds only a result.
    ///
    /// # Errors
    /// What did not start, and why.
    pub async fn start(quiet: bool) -> Result<Self, Problem> {
        let clock = Clock::system();
        let started = clock.now();
        let say = |text: &str| eprintln!("{text}");
        let servers = Servers::start(say).await?;
        let database_url = servers.postgres.url("postgres");
        let store = Store::new(&database_url, 4)?;
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
        let log_file = servers.directory.path().join("worker.log");
        // A copy, so that the program may be built anew while the demo runs.
        fs::copy(std::env::current_exe()?, servers.directory.path().join(PROGRAM))?;
        let worker = start_worker(&servers, &environment, &log_file)?;
        let worker_log = Log::open(&log_file)?;
        let mut demo = Self {
            worker,
            worker_log,
            log_file,
            environment,
            context,
            store,
            receivers,
            traces,
            clock,
            worker_started: Instant::now(),
            quick_ends: 0,
            breaker_told: false,
            started,
            quiet,
            servers,
        };
        demo.introduce();
        demo.examine().await;
        Ok(demo)
    }

    /// Shows that everything around the worker is as it should be, while it starts.
    async fn examine(&self) {
        let values = self.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let checks = doctor::examine(&Source::of(values), &self.clock, Egress::Named).await;
        self.say(self.clock.now(), "doctor", &doctor::summary(&checks));
        for check in checks.iter().filter(|check| !matches!(check.outcome, Outcome::Ok(_))) {
            self.say(self.clock.now(), "doctor", &check.to_string());
        }
    }

    /// Publishes one dose and shows its way until all that it is to come to has arrived.
    ///
    /// # Errors
    /// If it has not within a minute, or `stop` comes first.
    pub async fn once(&mut self, stop: &CancellationToken) -> Result<Summary, Problem> {
        let begun = Instant::now();
        let (job_id, due) = self.publish_dose(1).await?;
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
        self.show_news().await?;
        let elapsed_ms = begun.elapsed().as_millis();
        self.show_trace(&job_id).await;
        let came = self.receivers.came();
        let received = self.receivers.push.received();
        let totals = self.store.totals_of(&job_id).await?;
        let last = received.iter().map(|push| push.received).max().unwrap_or(due);
        Ok(Summary {
            reminders: 1,
            inbox_rows: totals.inbox_rows,
            pushes_sent: totals.pushes_sent,
            pushes_decrypted: received.len(),
            duplicates: doubled(&received),
            mails: came.mails,
            texts: came.texts,
            webhooks: came.hooks,
            elapsed_ms,
            due_to_last_push_ms: (last - due).num_milliseconds(),
        })
    }

    /// Publishes a dose every half minute, shows all that happens, and starts the worker again when it is killed, until
    /// `stop`.
    ///
    /// # Errors
    /// If a server is lost.
    pub async fn keep_running(&mut self, stop: &CancellationToken) -> Result<(), Problem> {
        self.save_schedule().await?;
        self.invite();
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

    /// Stops the worker as an operator would, and shows its last words. The servers go with `self`.
    pub async fn stop(mut self) {
        self.worker.stop().await;
        self.show_steps().await;
        self.store.close().await;
    }

    /// Shows the reminder's trace, as soon as the last of its spans is there.
    async fn show_trace(&self, job_id: &str) {
        let since = Instant::now();
        while since.elapsed() < TRACE_PATIENCE {
            // The reminder, its notification, and each delivery.
            if let Some(tree) = self.traces.tree(job_id, 2 + DELIVERIES) {
                self.say(
                    self.clock.now(),
                    "trace",
                    "what followed from what, how long after the first, and how long it took",
                );
                self.show(tree.trim_end());
                return;
            }
            sleep(LOOK_EVERY).await;
        }
        self.say(self.clock.now(), "trace", "is not whole");
    }

    async fn publish_dose(&self, number: usize) -> Result<(String, DateTime<Utc>), Problem> {
        let due = self.clock.now() + DUE_IN;
        let job_id = format!("dose-{number}");
        let scheduled = due.to_rfc3339_opts(SecondsFormat::Millis, true);
        let body = json!({ "medicationId": "metformin", "scheduledTime": scheduled, "reminderMinutes": 0 });
        let job = Submission {
            subject: "jobs.reminder.medication".into(),
            job_id: job_id.clone(),
            body: Bytes::from(body.to_string()),
            content_type: "application/json",
            not_after: None,
            at: Some(due),
        };
        let done = submit(&self.context, job).await.map_err(|error| error.to_string())?;
        let text = format!("{job_id} for {} to {}", due.format("%H:%M:%S%.3f"), done.subject);
        self.say(self.clock.now(), "published", &text);
        Ok((job_id, due))
    }

    /// What publishes itself, three times a minute, by the worker's own scheduler.
    async fn save_schedule(&self) -> Result<(), Problem> {
        let now = self.clock.now();
        let spec = ScheduleSpec {
            name: "tea".into(),
            kind: "notification".into(),
            lane: Some("normal".into()),
            payload: json!({ "recipients": [{ "userId": "ana" }], "title": "Tea is ready" }),
            expression: "*/20 * * * * *".into(),
            zone: "UTC".into(),
            gap: "shift".into(),
            fold: "first".into(),
            missed: "skip".into(),
            missed_limit: 1,
            missed_seconds: 60,
            jitter_seconds: 0,
            expiry_seconds: Some(60),
            starts_at: now,
            ends_at: None,
            paused: false,
            owner: None,
        };
        let next = Timing::read(&spec)?.next_from(now);
        let act = AuditEntry {
            at: now,
            actor: "carebell dev".into(),
            action: "schedule.added".into(),
            job_id: None,
            root_id: None,
            detail: json!({ "schedule": spec.name }),
        };
        self.store.save_schedule("tea", &spec, next, true, &act).await?;
        Ok(())
    }

    /// Whether the family has it all, and the ledger too.
    async fn has_arrived(&self, job_id: &str) -> bool {
        let came = self.receivers.came();
        if came.pushes < MEMBERS || [came.mails, came.texts, came.hooks].contains(&0) {
            return false;
        }
        let totals = self.store.totals_of(job_id).await.unwrap_or_default();
        usize::try_from(totals.ended).is_ok_and(|ended| ended >= DELIVERIES)
    }

    /// Shows what is new. A worker that was killed is started again.
    async fn show_news(&mut self) -> Result<(), Problem> {
        self.show_steps().await;
        let Some(status) = self.worker.ended() else { return Ok(()) };
        if self.worker_started.elapsed() < QUICK_END {
            self.quick_ends += 1;
        } else {
            self.quick_ends = 0;
        }
        if self.quick_ends >= MOST_QUICK_ENDS {
            let output = self.worker.output();
            return Err(format!("the worker ends at once, again and again. Its log ends with:\n{output}").into());
        }
        self.say(self.clock.now(), "worker", &format!("has ended ({status}); starting another"));
        self.worker = start_worker(&self.servers, &self.environment, &self.log_file)?;
        self.worker_started = Instant::now();
        Ok(())
    }

    /// What the worker and the receivers have done since the last look, in the order in which it happened.
    async fn show_steps(&mut self) {
        let mut steps = Vec::new();
        for line in self.worker_log.new_lines() {
            let at = line.at().unwrap_or_else(|| self.clock.now());
            if let Some(port) = line.health_port() {
                let text = format!("health on http://127.0.0.1:{port}/health, process {}", self.worker.pid());
                steps.push((at, "worker".to_owned(), text));
            }
            if let Some(port) = line.public_port().and_then(|port| u16::try_from(port).ok()) {
                self.receivers.worker_listens_at(port);
            }
            self.breaker_told |= line.tells_of_a_provider_that_is_down();
            if line.is_ready() {
                steps.push((at, "worker".to_owned(), "ready".to_owned()));
            }
            steps.extend(line.step().map(|(who, what)| (at, who, what)));
        }
        steps.extend(self.receivers.news().await);
        steps.sort_by_key(|(at, ..)| *at);
        for (at, who, what) in steps {
            self.say(at, &who, &what);
        }
    }

    /// Why the pushes have not arrived.
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

    fn introduce(&mut self) {
        let ready = format!(
            "nats-server and Postgres are up, {MEMBERS} family members subscribed; Ben by mail too, Chloe by text message, Dan by \
             webhook"
        );
        self.say(self.clock.now(), "servers", &ready);
    }

    fn invite(&self) {
        let mut file = String::new();
        for (name, value) in &self.environment {
            if !["HEALTH_PORT", "LOG_FORMAT", "LOG_LEVEL"].contains(name) {
                let _ = writeln!(file, "export {name}='{value}'");
            }
        }
        let path = self.servers.directory.path().join("env");
        let _ = fs::write(&path, file);
        println!(
            "\nEvery half minute another dose comes due, and a schedule fires every 20 s. Ctrl-C ends everything. In another\n\
             terminal:\n\
             \x20 kill -9 {}                    # the worker: nothing is lost, nothing doubled; its jobs come back after 30 s\n\
             \x20 . {}   # then publish a job of your own:\n\
             \x20 cargo run -q -- publish notification --json '{{\"recipients\":[{{\"userId\":\"ana\"}}],\"title\":\"Hello\"}}'\n",
            self.worker.pid(),
            path.display(),
        );
    }

    fn say(&self, at: DateTime<Utc>, who: &str, what: &str) {
        let since = (at - self.started).num_milliseconds();
        self.show(&format!("{:>4}.{:03} s  {who:<20}  {what}", since / 1000, (since % 1000).abs()));
    }

    fn show(&self, line: &str) {
        if self.quiet {
            eprintln!("{line}");
        } else {
            // A closed pipe (`carebell dev | head`) is no reason to panic; the next signal ends the process.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// The worker is this program, in a process of its own that ends with this one.
fn start_worker(
    servers: &Servers,
    environment: &[(&'static str, String)],
    log: &std::path::Path,
) -> Result<Guarded, Problem> {
    let program = servers.directory.path().join(PROGRAM);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ok(Guarded::spawn(&Program {
        path: &program,
        args: vec!["run".into()],
        directory: servers.directory.path(),
        environment: &environment,
        user: None,
        log,
        stop: StopSignal::Terminate,
    })?)
}
