//! Workers in this process or in processes of their own, and the watch on them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
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
    documents::Documents,
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

/// A watched worker: waits for its work fail as soon as it has.
pub enum Watched {
    /// The error or panic that ended it.
    Task(Arc<OnceLock<String>>),
    Process {
        pid: u32,
        log_file: PathBuf,
        /// The test ended the process or asked about its end.
        end_is_expected: Arc<AtomicBool>,
    },
}

impl Watched {
    /// Kills and aborts at a checkpoint are the test's own doing and don't count.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Task(failure) => failure.get().cloned(),
            Self::Process { pid, log_file, end_is_expected } => {
                if end_is_expected.load(Ordering::Relaxed) || Path::new(&format!("/proc/{pid}")).exists() {
                    return None;
                }
                let log = std::fs::read_to_string(log_file).ok()?;
                log.lines().rev().find(|line| line.starts_with("carebell: ")).map(ToOwned::to_owned)
            }
        }
    }
}

pub struct Worker {
    stop: CancellationToken,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Worker {
    pub fn start(world: &World) -> Self {
        Self::with(world, &[])
    }

    pub fn with(world: &World, more: &[(&str, &str)]) -> Self {
        Self::of(world, more, &[Duty::Pipeline, Duty::DeadLetters, Duty::Scheduler])
    }

    /// A scheduler would publish reminders of its own from the care tables.
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
        let run = tokio::spawn(worker::run(config, stop.clone()));
        let failure = Arc::new(OnceLock::new());
        world.watch(Watched::Task(Arc::clone(&failure)));
        let task = tokio::spawn(async move {
            let ended = run.await.unwrap_or_else(|panic| Err(WorkerError::Start(panic.to_string())));
            if let Err(why) = &ended {
                let _ = failure.set(why.to_string());
            }
            ended
        });
        Self { stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        timeout(LIMIT, self.task).await.expect("a worker stops in time").unwrap().unwrap();
    }
}

/// The program itself.
pub struct Process {
    guarded: Guarded,
    log_file: PathBuf,
    log: Log,
    lines: Vec<Line>,
    end_is_expected: Arc<AtomicBool>,
}

impl Process {
    pub fn worker(world: &World, more: &[(&str, &str)]) -> Self {
        let mut environment = world.environment();
        environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let process = Self::start(&["run"], &environment, world.directory.path());
        world.watch(Watched::Process {
            pid: process.guarded.pid(),
            log_file: process.log_file.clone(),
            end_is_expected: Arc::clone(&process.end_is_expected),
        });
        process
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
        let log = Log::open(&log_file).unwrap();
        Self { guarded, log, log_file, lines: Vec::new(), end_is_expected: Arc::default() }
    }

    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    pub fn has_ended(&mut self) -> bool {
        self.end_is_expected.store(true, Ordering::Relaxed);
        self.guarded.ended().is_some()
    }

    pub async fn ended(&mut self) -> ExitStatus {
        self.end_is_expected.store(true, Ordering::Relaxed);
        timeout(LIMIT, self.guarded.wait()).await.unwrap_or_else(|_| panic!("it goes on:\n{}", self.guarded.output()))
    }

    /// Sends SIGTERM and waits.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.ended().await
    }

    /// It keeps its connections and does nothing.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.guarded.pid().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub async fn kill(&mut self) {
        self.end_is_expected.store(true, Ordering::Relaxed);
        self.guarded.kill().await;
    }

    pub fn peak_memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.guarded.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// In bytes.
    pub fn resident(&self) -> usize {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.guarded.pid())).unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    /// Its open files and connections.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.guarded.pid())).unwrap().count()
    }

    /// Resident memory, in KiB.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.guarded.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log_file).unwrap()).into_owned()
    }

    pub fn says(&self, text: &str) -> bool {
        self.output().contains(text)
    }

    /// Waits for a log line that `find` answers.
    pub async fn line<T>(&mut self, what: &str, find: impl Fn(&Line) -> Option<T>) -> T {
        let since = Instant::now();
        loop {
            // Asked first, so that lines written before the end are read.
            let is_over = self.guarded.ended().is_some() || since.elapsed() > LIMIT;
            self.lines.extend(self.log.new_lines());
            if let Some(found) = self.lines.iter().find_map(&find) {
                return found;
            }
            assert!(!is_over, "no line says that {what}:\n{}", self.output());
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn ready(&mut self) {
        self.line("it is ready", |line| line.is_ready().then_some(())).await;
    }

    pub async fn health_port(&mut self) -> u16 {
        self.line("health is served", Line::health_port).await.try_into().unwrap()
    }

    /// Status and body of a health endpoint.
    pub async fn get(&mut self, path: &str) -> (u16, String) {
        let port = self.health_port().await;
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// A pipeline with the test's own kinds.
pub struct Custom {
    pipeline: Pipeline,
}

impl Custom {
    pub fn start(world: &World, registry: Registry) -> Self {
        Self::at(world, registry, Clock::system())
    }

    /// With the test's own clock. Server stamps follow the system's.
    pub fn at(world: &World, registry: Registry, clock: Clock) -> Self {
        Self::sending(world, registry, clock, Vec::new())
    }

    pub fn sending(world: &World, registry: Registry, clock: Clock, senders: Vec<Arc<dyn Sender>>) -> Self {
        let (health, random) = (Health::new(), Random::system());
        let effects = Effects::start(&world.store, world.context.clone(), clock.clone(), &health);
        let streams = Streams::embedded(&super::adjustments(&world.overrides)).unwrap();
        let context = world.context.clone();
        let channels = Channels::new(senders, BreakerPolicy::default(), clock.clone(), health.metrics());
        let templates = Templates::load(None).unwrap();
        let documents = Documents::new(carebell::documents::Settings::default(), &clock).unwrap();
        let own_connections = None;
        let parts = Parts {
            registry,
            streams,
            context,
            own_connections,
            effects,
            channels,
            documents,
            templates,
            clock,
            random,
            health,
            max_concurrency: None,
        };
        Self { pipeline: Pipeline::start(&parts).unwrap() }
    }

    pub async fn stop(self) {
        self.pipeline.drain(LIMIT).await;
    }
}
