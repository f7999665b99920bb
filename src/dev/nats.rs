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

/// A nats-server on a free port of the loopback interface, with its `JetStream` store in a directory of the caller's.
/// It ends when this is dropped, and when this process ends in any way.
#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    directory: PathBuf,
    port: u16,
    jetstream: bool,
    server: Guarded,
}

impl NatsServer {
    /// Starts `program` with all its files in `dir` (one server for each directory); returns when it answers.
    ///
    /// # Errors
    /// When it does not come up; the text has the end of its log.
    pub async fn start(program: &Path, dir: &Path) -> Result<Self, DevError> {
        Self::start_with(program, dir, "").await
    }

    /// The same, with more lines for its configuration file: permissions, TLS, a monitoring port. Address, port and
    /// store are set on the command line and win. The greeting must be in clear, so not `handshake_first`.
    ///
    /// # Errors
    /// When it does not come up, for example because of what the lines say.
    pub async fn start_with(program: &Path, dir: &Path, extra_config: &str) -> Result<Self, DevError> {
        if !extra_config.is_empty() {
            let config = dir.join("nats.conf");
            fs::write(&config, extra_config).map_err(DevError::file("write", &config))?;
        }
        Self::launched(program, dir, true).await
    }

    /// Starts `program` as an installation that has forgotten to turn `JetStream` on.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_without_jetstream(program: &Path, dir: &Path) -> Result<Self, DevError> {
        Self::launched(program, dir, false).await
    }

    async fn launched(program: &Path, dir: &Path, jetstream: bool) -> Result<Self, DevError> {
        let ports = dir.join("ports");
        fs::create_dir_all(&ports).map_err(DevError::file("make", &ports))?;
        let (server, port) = launch(program, dir, None, jetstream).await?;
        Ok(Self { program: program.to_owned(), directory: dir.to_owned(), port, jetstream, server })
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill) (stops it first if it runs): same port, same
    /// store, same configuration.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_again(&mut self) -> Result<(), DevError> {
        self.server.stop().await;
        let since = Instant::now();
        loop {
            match launch(&self.program, &self.directory, Some(self.port), self.jetstream).await {
                Ok((server, _)) => {
                    self.server = server;
                    return Ok(());
                }
                // While it was down, the system may have lent its port to an outgoing connection of some process.
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

    /// The same for its whole life, across restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, a new one after a restart.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Ends it in good order and waits until it is gone.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Ends it by SIGKILL, as in a crash, and waits until it is gone.
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
    // -1: the system chooses a free one. A port that we looked up could be taken by the time the server binds it.
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

/// The port that this very process listens on, by the file it writes then: `{"nats":["nats://127.0.0.1:4222"]}`. A file
/// found half written does not parse, and is read again.
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
