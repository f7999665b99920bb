//! The demo's worker: this program, in a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use tokio::time::Instant;

use super::error::DemoError;
use crate::dev::{
    guard::{Guarded, Program, StopSignal},
    programs::DevError,
    trail::{Line, Log},
};

/// A worker that ends sooner was not killed by hand. The demo gives up after so many in a row.
const QUICK_END: Duration = Duration::from_secs(1);
const MOST_QUICK_ENDS: u32 = 5;

const PROGRAM: &str = "carebell";

pub struct DemoWorker {
    process: Guarded,
    log: Log,
    files: Files,
    environment: Vec<(&'static str, String)>,
    started: Instant,
    /// Consecutive workers with a quick end.
    quick_ends: u32,
}

struct Files {
    directory: PathBuf,
    log: PathBuf,
}

impl DemoWorker {
    pub fn start(directory: &Path, environment: Vec<(&'static str, String)>) -> Result<Self, DemoError> {
        let files = Files { directory: directory.to_owned(), log: directory.join("worker.log") };
        // A rebuild must not disturb the demo.
        fs::copy(std::env::current_exe()?, directory.join(PROGRAM))?;
        let process = spawn(&files, &environment)?;
        let log = Log::open(&files.log)?;
        Ok(Self { process, log, files, environment, started: Instant::now(), quick_ends: 0 })
    }

    pub fn environment(&self) -> &[(&'static str, String)] {
        &self.environment
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn new_lines(&mut self) -> Vec<Line> {
        self.log.new_lines()
    }

    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Starts another worker if this one has ended; returns its status.
    pub fn restart_if_ended(&mut self) -> Result<Option<ExitStatus>, DemoError> {
        let Some(status) = self.process.ended() else { return Ok(None) };
        if self.started.elapsed() < QUICK_END {
            self.quick_ends += 1;
        } else {
            self.quick_ends = 0;
        }
        if self.quick_ends >= MOST_QUICK_ENDS {
            let output = self.output();
            return Err(format!("the worker keeps ending right after its start. Its log ends with:\n{output}").into());
        }
        self.process = spawn(&self.files, &self.environment)?;
        self.started = Instant::now();
        Ok(Some(status))
    }

    pub async fn stop(&mut self) {
        self.process.stop().await;
    }
}

fn spawn(files: &Files, environment: &[(&'static str, String)]) -> Result<Guarded, DevError> {
    let program = files.directory.join(PROGRAM);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Guarded::spawn(&Program {
        path: &program,
        args: vec!["run".into()],
        directory: &files.directory,
        environment: &environment,
        user: None,
        log: &files.log,
        stop: StopSignal::Terminate,
    })
}
