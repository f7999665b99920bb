//! The command line, a file a command. Results go to standard output, logs and errors to standard error.

mod dead_letters;
mod dev;
mod doctor;
mod jobs;
mod keys;
mod migrate;
mod publish;
mod queues;
mod run;
mod schedules;
mod streams;

use std::{fmt::Display, os::unix::fs::MetadataExt, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{config::Source, telemetry};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    about = "Reminder and notification jobs over NATS JetStream: nothing lost, nothing doubled, every outcome visible"
)]
pub struct Cli {
    /// A TOML file with settings; the environment wins over it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try the whole product: private servers, a demo family, the worker, a local push service
    Dev(dev::Args),
    /// Run the worker: pipeline, scheduler, dead-letter handler, health
    Run(run::Args),
    /// Publish a job
    Publish(publish::Args),
    /// Create or update the database schema
    Migrate(migrate::Args),
    /// Compare streams and consumers with the server, or bring them there
    #[command(subcommand)]
    Streams(streams::Command),
    /// What became of a job, and taking back one that is delayed
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// The queues: how each behaves, and what waits in it
    #[command(subcommand)]
    Queues(queues::Command),
    /// Jobs that failed for good: look at them, send them back, throw them away
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Schedules, and when they are due
    #[command(subcommand)]
    Schedules(schedules::Command),
    /// VAPID keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Check configuration, servers, permissions, clocks and the way to push services; exit 1 if anything fails
    Doctor(doctor::Args),
}

/// What a command that fails says before the process exits with 1.
#[derive(Debug)]
struct Failed(String);

impl<E: Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Runs a command; answers the process's exit code.
pub async fn main(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why)) => {
            eprintln!("carebell: {why}");
            ExitCode::FAILURE
        }
    }
}

/// How long the last spans may take.
const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

async fn dispatch(cli: Cli) -> Result<(), Failed> {
    // Whichever part comes first would choose another provider than the rest, and panic.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let source = Source::read(cli.config.as_deref())?;
    // Commands answer on standard output; their logs are for when something goes wrong.
    let level = if matches!(cli.command, Command::Run(_)) { "info" } else { "warn" };
    match source.log(level) {
        Ok(log) => telemetry::init(&log),
        // It tells of all that is wrong, this included.
        Err(_) if matches!(cli.command, Command::Doctor(_)) => {}
        Err(problem) => return Err(problem.into()),
    }
    if let Command::Run(_) | Command::Publish(_) | Command::DeadLetters(_) = cli.command {
        telemetry::traces::init(&source.traces()?)?;
    }
    let done = run(cli.command, &source).await;
    telemetry::traces::close(TRACES_TIMEOUT).await;
    done
}

async fn run(command: Command, source: &Source) -> Result<(), Failed> {
    match command {
        Command::Dev(args) => Box::pin(dev::run(&args, stop_signal()?)).await,
        Command::Run(args) => Box::pin(run::run(source, &args, stop_signal()?)).await,
        Command::Publish(args) => publish::run(source, args).await,
        Command::Migrate(args) => migrate::run(source, &args).await,
        Command::Streams(command) => streams::run(source, &command).await,
        Command::Jobs(command) => jobs::run(source, &command).await,
        Command::Queues(command) => queues::run(source, &command).await,
        Command::DeadLetters(command) => Box::pin(dead_letters::run(source, command)).await,
        Command::Schedules(command) => Box::pin(schedules::run(source, command)).await,
        Command::Keys(command) => keys::run(&command),
        Command::Doctor(args) => Box::pin(doctor::run(source, &args)).await,
    }
}

/// Whose act it is where nobody says so: in a container there may be no name.
fn actor(said: Option<String>) -> String {
    said.filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let uid = std::fs::metadata("/proc/self").map(|process| process.uid().to_string());
        format!("uid {}", uid.unwrap_or_else(|_| "unknown".into()))
    })
}

/// Cancelled by SIGTERM or SIGINT. A second SIGINT ends the process at once.
fn stop_signal() -> Result<CancellationToken, Failed> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
        interrupt.recv().await;
        std::process::exit(130);
    });
    Ok(stop)
}
