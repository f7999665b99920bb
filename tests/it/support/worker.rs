//! Workers: in this process, or as the program itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use carebell::{
    channels::{Channels, Sender, breaker::BreakerPolicy},
    clock::{Clock, Random},
    config::{Config, Duty, Source},
    dev::{
        guard::{Guarded, Program, StopSignal},
        trail::{Line, Log},
    },
    effects::Effects,
    health::Health,
    pipeline::{Parts, Pipeline, Registry},
    streams::Streams,
    templates::Templates,
    worker::{self, WorkerError},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{LIMIT, World};

/// A worker in this process.
pub struct Worker {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    /// Starts one with the world's variables.
    pub fn start(world: &World) -> Self {
        Self::with(world, &[])
    }

    /// Starts one with further variables.
    pub fn with(world: &World, more: &[(&str, &str)]) -> Self {
        Self::of(world, more, &[Duty::Pipeline, Duty::DeadLetters, Duty::Scheduler])
    }

    /// Starts one that publishes nothing by itself: for tests of what becomes of the jobs that they publish, whose care
    /// tables a scheduler would read too.
    pub fn without_scheduler(world: &World) -> Self {
        Self::of(world, &[], &[Duty::Pipeline, Duty::DeadLetters])
    }

    fn of(world: &World, more: &[(&str, &str)], duties: &[Duty]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut environment = world.environment();
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut config = Config::from_source(&Source::of(environment)).unwrap();
        config.duties = duties.iter().copied().collect();
        let stop = CancellationToken::new();
        let task = tokio::spawn(worker::run(config, stop.clone()));
        Self { stop, task }
    }

    /// Stops it in good order.
    pub async fn stop(self) {
        self.stop.cancel();
        timeout(LIMIT, self.task).await.expect("a worker stops in time").unwrap().unwrap();
    }
}

/// The program itself, in a process of its own.
pub struct Process {
    guarded: Guarded,
    log_file: PathBuf,
    log: Log,
    lines: Vec<Line>,
}

impl Process {
    /// `carebell run` with the world's variables and some more.
    pub fn worker(world: &World, more: &[(&str, &str)]) -> Self {
        let mut environment = world.environment();
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self::start(&["run"], &environment, world.directory.path())
    }

    pub fn start(args: &[&str], environment: &BTreeMap<String, String>, directory: &Path) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let log_file: PathBuf = directory.join(format!("process-{number}.log"));
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let guarded = Guarded::spawn(&Program {
            path: Path::new(env!("CARGO_BIN_EXE_carebell")),
            args: args.iter().map(Into::into).collect(),
            directory,
            environment: &environment,
            user: None,
            log: &log_file,
            stop: StopSignal::Terminate,
        })
        .unwrap();
        Self { guarded, log: Log::open(&log_file).unwrap(), log_file, lines: Vec::new() }
    }

    /// What it writes its log to.
    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// Whether it has ended, by itself or not.
    pub fn has_ended(&mut self) -> bool {
        self.guarded.ended().is_some()
    }

    /// Waits for it to end.
    pub async fn ended(&mut self) -> ExitStatus {
        timeout(LIMIT, self.guarded.wait()).await.unwrap_or_else(|_| panic!("it goes on:\n{}", self.guarded.output()))
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        let pid = self.guarded.pid().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.ended().await
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.guarded.kill().await;
    }

    /// The most memory that it has had, in kB.
    pub fn peak_memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.guarded.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Its memory that is not swapped out, in bytes.
    pub fn resident(&self) -> usize {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.guarded.pid())).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// Everything it has written.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log_file).unwrap()).into_owned()
    }

    /// Whether it has written this.
    pub fn says(&self, text: &str) -> bool {
        self.output().contains(text)
    }

    /// Waits for a line of its log that answers.
    pub async fn line<T>(&mut self, what: &str, find: impl Fn(&Line) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            self.lines.extend(self.log.new_lines());
            if let Some(found) = self.lines.iter().find_map(&find) {
                return found;
            }
            assert!(since.elapsed() < LIMIT, "no line says that {what}:\n{}", self.output());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&mut self) {
        self.line("it is ready", |line| line.is_ready().then_some(())).await;
    }

    /// Status and body of one of its health endpoints.
    pub async fn get(&mut self, path: &str) -> (u16, String) {
        let port = self.line("health is served", Line::health_port).await;
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// A pipeline of kinds of the test's own, on the world's servers.
pub struct Custom {
    pipeline: Pipeline,
}

impl Custom {
    pub fn start(world: &World, registry: Registry) -> Self {
        Self::at(world, registry, Clock::system())
    }

    /// The same by a clock of the test's own. What the server stamps is still by its own.
    pub fn at(world: &World, registry: Registry, clock: Clock) -> Self {
        Self::sending(world, registry, clock, Vec::new())
    }

    /// The same with channels.
    pub fn sending(world: &World, registry: Registry, clock: Clock, senders: Vec<Arc<dyn Sender>>) -> Self {
        let (health, random) = (Health::new(), Random::system());
        let effects = Effects::start(&world.store, world.context.clone(), clock.clone(), &health);
        let streams = Streams::embedded(&super::adjustments(&world.overrides)).unwrap();
        let context = world.context.clone();
        let channels = Channels::new(senders, BreakerPolicy::default(), clock.clone(), health.metrics());
        let templates = Templates::load(None).unwrap();
        let parts = Parts { registry, streams, context, effects, channels, templates, clock, random, health };
        Self { pipeline: Pipeline::start(&parts).unwrap() }
    }

    pub async fn stop(self) {
        self.pipeline.drain(LIMIT).await;
    }
}
