//! Workers, and the kernel's figures on processes.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use carebell::{
    clock::Clock,
    dev::guard::{Guarded, Program, StopSignal},
};
use tokio::time::sleep;

pub struct Worker {
    process: Guarded,
    /// From its start.
    pub ready_after: Duration,
    /// Microseconds since 1970.
    pub ready_at: i64,
    /// CPU seconds until ready.
    pub cpu_at_ready: f64,
}

impl Worker {
    /// Starts a worker and returns when it is ready.
    pub async fn start(environment: BTreeMap<&str, &str>, directory: &Path, log: &Path) -> Self {
        let environment: Vec<(&str, &str)> = environment.into_iter().collect();
        let started = Instant::now();
        let mut process = Guarded::spawn(&Program {
            path: Path::new(env!("CARGO_BIN_EXE_carebell")),
            args: vec!["run".into()],
            directory,
            environment: &environment,
            user: None,
            log,
            stop: StopSignal::Terminate,
        })
        .unwrap();
        // This is the last line of its start.
        while !fs::read_to_string(log).unwrap_or_default().contains("\"ready\"") {
            assert!(process.ended().is_none(), "the worker has ended:\n{}", process.output());
            sleep(Duration::from_millis(2)).await;
        }
        let cpu_at_ready = cpu(process.pid());
        let ready_at = Clock::system().now().timestamp_micros();
        Self { process, ready_after: started.elapsed(), ready_at, cpu_at_ready }
    }

    pub fn cpu(&self) -> f64 {
        cpu(self.process.pid())
    }

    /// Peak memory in MB.
    pub fn peak_rss_mb(&self) -> f64 {
        status(self.process.pid(), "VmHWM:") * 1.024 / 1000.0
    }

    /// Memory in MB.
    pub fn rss_mb(&self) -> f64 {
        status(self.process.pid(), "VmRSS:") * 1.024 / 1000.0
    }

    /// Voluntary context switches of its threads.
    pub fn wake_ups(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.pid())).unwrap().flatten();
        let switches = tasks.filter_map(|task| {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        switches.sum()
    }

    pub async fn stop(mut self) {
        self.process.stop().await;
    }
}

/// User and system time of a process, in seconds.
pub fn cpu(pid: u32) -> f64 {
    ticks(pid, &[11, 12])
}

/// The same with all its children, including ended ones.
pub fn family_cpu(pid: u32) -> f64 {
    ticks(pid, &[11, 12, 13, 14]) + children(pid).into_iter().map(cpu).sum::<f64>()
}

/// CPU seconds of all processes.
pub fn machine_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // Idle and iowait are left out. Guests are in user and nice.
    [0, 1, 2, 5, 6, 7].iter().filter_map(|index| fields.get(*index)).sum::<f64>() / 100.0
}

/// Sum of fields of `/proc/<pid>/stat` after the name. A tick is 10 ms.
fn ticks(pid: u32, fields: &[usize]) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The name may contain blanks.
    let all: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let tick = |index: &usize| all.get(*index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    fields.iter().map(tick).sum::<f64>() / 100.0
}

/// A line of `/proc/<pid>/status`, in KiB.
fn status(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
}

fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
