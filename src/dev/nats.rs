//! A private nats-server with `JetStream`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};

use super::{
    guard::{Guarded, Program, StopSignal},
    programs::DevError,
};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A nats-server on a free loopback port. It ends when dropped or with this process.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    jetstream: bool,
    server: Guarded,
}

impl NatsServer {
    /// Starts `program` with its files in `dir`, one server per directory. Returns once it answers.
    ///
    /// # Errors
    /// If it does not start, with the end of its log.
    pub async fn start(program: &Path, dir: &Path) -> Result<Self, DevError> {
        Self::start_with(program, dir, "").await
    }

    /// With more configuration lines, such as permissions, TLS or a monitoring port. `handshake_first` is not
    /// supported.
    ///
    /// # Errors
    /// If it does not start, for example because of the lines.
    pub async fn start_with(program: &Path, dir: &Path, extra_config: &str) -> Result<Self, DevError> {
        if !extra_config.is_empty() {
            let config = dir.join("nats.conf");
            fs::write(&config, extra_config).map_err(DevError::file("write", &config))?;
        }
        Self::launched(program, dir, true).await
    }

    /// Starts `program` without `JetStream`.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start_without_jetstream(program: &Path, dir: &Path) -> Result<Self, DevError> {
        Self::launched(program, dir, false).await
    }

    async fn launched(program: &Path, dir: &Path, jetstream: bool) -> Result<Self, DevError> {
        let ports = dir.join("ports");
        fs::create_dir_all(&ports).map_err(DevError::file("make", &ports))?;
        let (server, port) = launch(program, dir, None, jetstream).await?;
        Ok(Self { program: program.to_owned(), directory: dir.to_owned(), port, jetstream, server })
    }

    /// Restarts it, or starts it if stopped, with the same port, store and configuration.
    ///
    /// # Errors
    /// Like [`start`](Self::start).
    pub async fn start_again(&mut self) -> Result<(), DevError> {
        self.server.stop().await;
        let since = Instant::now();
        loop {
            match launch(&self.program, &self.directory, Some(self.port), self.jetstream).await {
                Ok((server, _)) => {
                    self.server = server;
                    return Ok(());
                }
                // Meanwhile the system may have lent the port to an outgoing connection.
                Err(DevError::Start { tail, .. })
                    if tail.contains("address already in use") && since.elapsed() < READY_WITHIN => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `nats://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port, also after restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id, which changes with restarts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Stops it gracefully and waits.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Kills it, like a crash, and waits.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }
}

async fn launch(
    program: &Path,
    directory: &Path,
    port: Option<u16>,
    jetstream: bool,
) -> Result<(Guarded, u16), DevError> {
    let ports = directory.join("ports");
    let mut args: Vec<OsString> = vec!["-a".into(), "127.0.0.1".into(), "-p".into()];
    // -1: the system chooses. A port found free here might be taken meanwhile.
    args.push(port.map_or("-1".to_owned(), |port| port.to_string()).into());
    let config = directory.join("nats.conf");
    if config.exists() {
        args.extend(["-c".into(), config.into()]);
    }
    if jetstream {
        args.extend(["-js".into(), "-sd".into(), directory.join("store").into()]);
    }
    args.extend(["--ports_file_dir".into(), ports.clone().into()]);
    let log = directory.join("nats.log");
    let mut server = Guarded::spawn(&Program {
        path: program,
        args,
        directory,
        environment: &[],
        user: None,
        log: &log,
        stop: StopSignal::Terminate,
    })?;

    let since = Instant::now();
    loop {
        if let Some(status) = server.ended() {
            return Err(server.failure("nats-server", format!("it ended ({status})")));
        }
        if let Some(port) = listening_port(&ports, server.pid())
            && greets(port).await
        {
            return Ok((server, port));
        }
        if since.elapsed() > READY_WITHIN {
            return Err(server.failure("nats-server", format!("it did not answer within {READY_WITHIN:?}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// From a file of this process: `{"nats":["nats://127.0.0.1:4222"]}`. A half-written file does not parse and is read
/// again.
fn listening_port(ports: &Path, pid: u32) -> Option<u16> {
    let ending = format!("_{pid}.ports");
    let mut files = fs::read_dir(ports).ok()?.flatten();
    let file = files.find(|entry| entry.file_name().to_string_lossy().ends_with(&ending))?;
    let content: serde_json::Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
    content["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

async fn greets(port: u16) -> bool {
    let greeting = async {
        let mut line = String::new();
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, std::io::Error>(line.starts_with("INFO "))
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), greeting).await, Ok(Ok(true)))
}
