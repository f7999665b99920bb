//! What the system says about this process.

use std::fs;

/// Ticks per second in `/proc`, the same on all current machines.
const TICKS: f64 = 100.0;

/// Resource use of this process. Linux only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// Processor time in seconds.
    pub cpu: f64,
    /// Resident memory in bytes.
    pub resident: f64,
    /// Address space in bytes.
    pub size: f64,
    /// Start, in seconds since 1970.
    pub start: f64,
    /// Open file descriptors, if known.
    pub files: Option<f64>,
}

/// The name of this machine or pod; empty if it is unknown. Linux only.
#[must_use]
pub fn host() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

/// Reads four files in `/proc`.
#[must_use]
pub fn look() -> Option<Process> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{file}")).ok();
    let files = fs::read_dir("/proc/self/fd").ok().and_then(|files| u32::try_from(files.count()).ok()).map(f64::from);
    parse(&read("self/stat")?, &read("self/status")?, &read("stat")?, files)
}

fn parse(stat: &str, status: &str, system: &str, files: Option<f64>) -> Option<Process> {
    // The second field, the program's name in brackets, may contain blanks.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // proc_pid_stat(5) counts from 1: utime is 14, stime 15, starttime 22. `fields` starts with 3.
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
    };
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Process {
        cpu: ticks(14)? + ticks(15)?,
        resident: kilobytes("VmRSS:")?,
        size: kilobytes("VmSize:")?,
        start: boot + ticks(22)?,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_is_passed_over() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 9 0 1200 0 0";
        let status = "Name:\ta\nVmSize:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let found = parse(stat, status, "cpu 1 2\nbtime 1700000000\n", Some(9.0)).unwrap();
        let wanted =
            Process { cpu: 3.0, resident: 1_048_576.0, size: 2_097_152.0, start: 1_700_000_012.0, files: Some(9.0) };
        assert_eq!(found, wanted);
        assert_eq!(parse("7 (a", status, "", None), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_can_be_seen() {
        let found = look().unwrap();
        assert!(found.resident > 1e5 && found.start > 1.7e9 && found.files > Some(2.0), "{found:?}");
    }
}
