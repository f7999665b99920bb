//! Child processes that never outlive this one, and directories that never outlive them.
//!
//! A killed parent cannot clean up, and `PR_SET_PDEATHSIG` needs unsafe code. So each server runs under a small shell
//! that reads from a pipe of this process. The pipe closes when the process ends in any way, and the shell stops the
//! server.

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

/// Arguments: the stop signal, the program, its arguments. Prints the program's process id and returns its exit code.
/// Input: `kill`, or end of file to stop.
///
/// The pipe moves to descriptor 3, because background commands of a shell read `/dev/null`. The watching part ignores
/// signals that a supervisor may send to all processes.
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

/// The watchdog kills after 5 s.
const GONE_WITHIN: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(2);

/// A program to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// Absolute path of the program.
    pub path: &'a Path,
    /// Arguments, without the program's name.
    pub args: Vec<OsString>,
    /// Working directory, accessible to `user`.
    pub directory: &'a Path,
    /// Additions to this process's environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// User to run as; only root may choose.
    pub user: Option<User>,
    /// File to append standard output and error to.
    pub log: &'a Path,
    /// Signal that asks the program to end.
    pub stop: StopSignal,
}

/// A system user and group.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
}

/// A program's signal for a graceful end.
#[derive(Clone, Copy, Debug)]
pub enum StopSignal {
    /// SIGTERM.
    Terminate,
    /// SIGINT: Postgres's fast shutdown. SIGTERM would wait for clients.
    Interrupt,
}

/// A running program. It gets its stop signal, and SIGKILL after 5 s, on drop or when the process ends.
#[derive(Debug)]
pub struct Guarded {
    watchdog: Child,
    orders: Option<ChildStdin>,
    pid: u32,
    log: PathBuf,
    log_start: u64,
}

impl Guarded {
    /// Starts the program in its own process group, so that Ctrl-C reaches only this process. Blocks for a millisecond
    /// or two.
    ///
    /// # Errors
    /// If log or shell fail. A program that cannot run looks ended.
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

    /// Process id of the program.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Exit status once ended (128 + N by signal N).
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.watchdog.try_wait().ok().flatten()
    }

    /// Waits for the program to end.
    pub async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops the program, by SIGKILL after 5 s, and waits for its end.
    pub async fn stop(&mut self) {
        drop(self.orders.take());
        let _ = tokio::time::timeout(GONE_WITHIN, self.wait()).await;
    }

    /// Kills the program, like a crash, and waits for its end.
    pub async fn kill(&mut self) {
        if let Some(mut orders) = self.orders.take() {
            let _ = orders.write_all(b"kill\n"); // fails only if the program has ended
        }
        let _ = tokio::time::timeout(GONE_WITHIN, self.wait()).await;
    }

    /// Output since the start, at most the last 16 KiB.
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

    /// Error for a failed start, with the end of the log.
    pub(super) fn failure(&self, server: &'static str, why: String) -> DevError {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n");
        DevError::Start { server, why, log: self.log.clone(), tail }
    }
}

impl Drop for Guarded {
    /// Waits for the end, so that the directory can be removed.
    fn drop(&mut self) {
        drop(self.orders.take());
        let since = Instant::now();
        while self.ended().is_none() && since.elapsed() < GONE_WITHIN {
            std::thread::sleep(POLL);
        }
    }
}

/// Argument: the directory to remove when the pipe closes. Retries, because stopping servers may still write.
const JANITOR: &str = r#"
read -r end
tries=80
while [ -e "$1" ] && [ "$tries" -gt 0 ]; do
    sleep 0.1
    rm -rf "$1" 2>/dev/null
    tries=$((tries - 1))
done
"#;

/// A directory for private servers, removed on drop or when the process ends in any way.
#[derive(Debug)]
pub struct PrivateDir {
    directory: Option<tempfile::TempDir>,
    path: PathBuf,
    janitor: Child,
}

impl PrivateDir {
    /// Absolute path.
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

/// A temporary directory that every user can enter: root starts servers as another user.
///
/// # Errors
/// If the temporary directory is not writable.
pub fn private_dir() -> Result<PrivateDir, DevError> {
    private_dir_in(&std::env::temp_dir())
}

/// As [`private_dir`], but not in the system's temporary directory.
///
/// # Errors
/// If `parent` is not writable.
pub fn private_dir_in(parent: &Path) -> Result<PrivateDir, DevError> {
    let directory = tempfile::Builder::new().prefix("carebell-").tempdir_in(parent);
    let directory = directory.map_err(DevError::file("make a directory in", parent))?;
    let path = directory.path().to_owned();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&path, mode).map_err(DevError::file("open to other users", &path))?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", JANITOR, "janitor"]).arg(&path).current_dir("/").process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let janitor = shell.spawn().map_err(DevError::file("run", Path::new("/bin/sh")))?;
    Ok(PrivateDir { directory: Some(directory), path, janitor })
}
