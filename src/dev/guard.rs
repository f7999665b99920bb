//! Child processes that never outlive this one, and directories that never outlive them.
//!
//! A parent that is killed cannot clean up, and the kernel's help (`PR_SET_PDEATHSIG`) needs unsafe code. So each server
//! runs under a small shell that reads from a pipe of which this process holds the only other end: however this process
//! ends, the pipe closes, and the shell stops the server.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::programs::DevError;

/// Arguments: the stop signal, then the program and its arguments. The first line on standard output is the program's
/// process id; the exit code is the program's. Input is one order: `kill`, or the end of the pipe, which means stop.
///
/// The pipe moves to descriptor 3 since a shell gives its background commands `/dev/null` to read, and the program does
/// not get it. The watching part ignores the signals that a supervisor may send to all processes it sees.
const WATCHDOG: &str = r#"
exec 3<&0
signal=$1
shift
"$@" </dev/null >&2 3<&- &
server=$!
echo "$server"
exec >/dev/null 2>&1
(
    trap '' HUP INT TERM
    tenths=50
    read -r order <&3
    if [ "$order" = kill ]; then tenths=0; else kill -s "$signal" "$server"; fi
    while [ "$tenths" -gt 0 ] && kill -0 "$server"; do sleep 0.1; tenths=$((tenths - 1)); done
    kill -s KILL "$server"
) &
watch=$!
wait "$server"
code=$?
kill -s KILL "$watch"
wait "$watch"
exit "$code"
"#;

/// The watchdog allows 5 s before it kills; past this, even that has not helped.
const GONE_WITHIN: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(2);

/// What to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// The program itself, an absolute path.
    pub path: &'a Path,
    /// Its arguments, without its own name.
    pub args: Vec<OsString>,
    /// The working directory, which `user` must be able to enter.
    pub directory: &'a Path,
    /// Added to this process's environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// As whom to run it; only root may name another.
    pub user: Option<User>,
    /// Receives standard output and error, after what is there.
    pub log: &'a Path,
    /// The signal that asks it to end.
    pub stop: StopSignal,
}

/// A user and group of the system, by number.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The number of its primary group.
    pub gid: u32,
}

/// The signal that a program takes as the order to end in good order.
#[derive(Clone, Copy, Debug)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT: what Postgres calls a fast shutdown (SIGTERM would wait for its clients).
    Interrupt,
}

/// A running program. When this is dropped, or the process that holds it ends in any way, the program gets its stop
/// signal, and SIGKILL 5 s later.
#[derive(Debug)]
pub struct Guarded {
    watchdog: Child,
    /// Closed when the program is to end.
    orders: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
    log_start: u64,
}

impl Guarded {
    /// Starts the program, in a process group of its own: Ctrl-C in the terminal reaches this process only, which then
    /// decides. Blocks for a millisecond or two, and needs no async runtime.
    ///
    /// # Errors
    /// When the log cannot be opened or the shell not be run. A program that cannot be run shows as one that has ended.
    pub fn spawn(program: &Program<'_>) -> Result<Self, DevError> {
        let log = File::options().create(true).append(true).open(program.log);
        let log = log.map_err(DevError::file("open the log", program.log))?;
        let log_start = log.metadata().map_err(DevError::file("read the log", program.log))?.len();
        let signal = match program.stop {
            StopSignal::Terminate => "TERM",
            StopSignal::Interrupt => "INT",
        };
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCHDOG, "watchdog", signal]).arg(program.path).args(&program.args);
        shell.envs(program.environment.iter().copied()).current_dir(program.directory).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        if let Some(user) = program.user {
            shell.uid(user.uid).gid(user.gid);
        }
        let failed = DevError::file("run", program.path);
        let mut watchdog = match shell.spawn() {
            Ok(watchdog) => watchdog,
            Err(why) => return Err(failed(why)),
        };
        let mut line = String::new();
        let answer = watchdog.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
        let Some(pid) = answer.and_then(|_| line.trim().parse().ok()) else {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
            return Err(failed(std::io::Error::other("/bin/sh did not start it")));
        };
        let orders = watchdog.stdin.take();
        Ok(Self { watchdog, orders, pid, log: program.log.to_owned(), log_start })
    }

    /// The process id of the program itself.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How the program ended, once it has (ended by signal N: code 128 + N).
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.watchdog.try_wait().ok().flatten()
    }

    /// Waits for the program to end by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the program in good order, by SIGKILL if that takes over 5 s, and waits until it is gone.
    pub async fn stop(&mut self) {
        drop(self.orders.take());
        let _ = tokio::time::timeout(GONE_WITHIN, self.wait()).await;
    }

    /// SIGKILL to the program itself, as in a crash, and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut orders) = self.orders.take() {
            let _ = orders.write_all(b"kill\n"); // refused only if the program has ended
        }
        let _ = tokio::time::timeout(GONE_WITHIN, self.wait()).await;
    }

    /// What it has written since it was started, or the last 16 KiB of that.
    #[must_use]
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut log) = File::open(&self.log) {
            let end = log.metadata().map_or(0, |log| log.len());
            let start = self.log_start.max(end.saturating_sub(16 * 1024));
            let _ = log.seek(SeekFrom::Start(start)).and_then(|_| log.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The error for a server that does not come up, with the end of its log.
    pub(super) fn failure(&self, server: &'static str, why: String) -> DevError {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n");
        DevError::Start { server, why, log: self.log.clone(), tail }
    }
}

impl Drop for Guarded {
    /// Waits until the program is gone (milliseconds, as a rule), so that its directory can be removed next.
    fn drop(&mut self) {
        drop(self.orders.take());
        let since = Instant::now();
        while self.ended().is_none() && since.elapsed() < GONE_WITHIN {
            std::thread::sleep(POLL);
        }
    }
}

/// Argument: the directory to remove when the pipe closes. If it is still there then, the process that made it did not
/// come to removing it: its servers are just being stopped and may still write, hence the patience.
const JANITOR: &str = r#"
read -r end
tries=80
while [ -e "$1" ] && [ "$tries" -gt 0 ]; do
    sleep 0.1
    rm -rf "$1" 2>/dev/null
    tries=$((tries - 1))
done
"#;

/// A directory for private servers, removed when this is dropped, and also when the process ends without dropping it:
/// killed, or holding it in a static.
#[derive(Debug)]
pub struct PrivateDir {
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
    janitor: Child,
}

impl PrivateDir {
    /// Absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        drop(self.directory.take());
        drop(self.janitor.stdin.take());
        if !self.path.exists() {
            let _ = self.janitor.wait(); // it has nothing to do and ends at once
        }
    }
}

/// Makes a directory in the system's temporary directory that every user can enter: a server that root starts as another
/// user has its own inside.
///
/// # Errors
/// When the temporary directory cannot be written to.
pub fn private_dir() -> Result<PrivateDir, DevError> {
    let system = std::env::temp_dir();
    let directory = tempfile::Builder::new().prefix("carebell-").tempdir_in(&system);
    let directory = directory.map_err(DevError::file("make a directory in", &system))?;
    let path = directory.path().to_owned();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, mode).map_err(DevError::file("open to other users", &path))?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", JANITOR, "janitor"]).arg(&path).current_dir("/").process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let janitor = shell.spawn().map_err(DevError::file("run", Path::new("/bin/sh")))?;
    Ok(PrivateDir { directory: Some(directory), path, janitor })
}
