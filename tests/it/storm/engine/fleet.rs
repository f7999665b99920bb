//! The workers of a storm, replaced as they are killed.

use std::{collections::BTreeMap, path::PathBuf};

use crate::support::Process;

/// The worker processes, told apart by their VAPID subjects.
pub struct Fleet {
    environment: BTreeMap<String, String>,
    directory: PathBuf,
    running: Vec<(usize, Process)>,
    /// By worker number.
    pub logs: Vec<PathBuf>,
}

impl Fleet {
    pub async fn start(environment: BTreeMap<String, String>, directory: PathBuf, count: usize) -> Self {
        let mut fleet = Self { environment, directory, running: Vec::new(), logs: Vec::new() };
        for _ in 0..count {
            let worker = fleet.launch();
            fleet.running.push(worker);
        }
        for (_, worker) in &mut fleet.running {
            worker.ready().await;
        }
        fleet
    }

    fn launch(&mut self) -> (usize, Process) {
        let number = self.logs.len();
        self.environment.insert("VAPID_SUBJECT".into(), subject(number));
        let worker = Process::start(&["run"], &self.environment, &self.directory);
        self.logs.push(worker.log_file().to_owned());
        (number, worker)
    }

    /// Replaces one at once.
    pub async fn kill(&mut self, which: usize) -> usize {
        let which = which % self.running.len();
        let (number, ref mut worker) = self.running[which];
        worker.kill().await;
        self.running[which] = self.launch();
        number
    }

    /// Answers the numbers of workers that failed or had already ended.
    pub async fn stop(&mut self) -> Vec<usize> {
        let mut bad = Vec::new();
        for (number, worker) in &mut self.running {
            if worker.has_ended() || worker.terminate().await.code() != Some(0) {
                bad.push(*number);
            }
        }
        bad
    }
}

pub fn subject(worker: usize) -> String {
    format!("mailto:worker-{worker}@example.org")
}

pub fn worker_of(subject: &str) -> Option<usize> {
    subject.strip_prefix("mailto:worker-")?.strip_suffix("@example.org")?.parse().ok()
}
