//! The command line: one file per command. Results go to standard output, everything else to standard error.

mod actor;
mod admin;
mod completions;
mod connect;
mod dead_letters;
mod dev;
mod doctor;
mod examples;
mod explain;
mod failed;
mod gateway;
mod jobs;
mod keys;
mod kinds;
mod migrate;
mod operations;
mod output;
mod print;
mod publish;
mod queues;
mod run;
mod schedules;
mod signals;
mod streams;
mod testkit;
mod tokens;
mod workers;

use crate::cli::print::note;
use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{failed::Failed, signals::stop_signal};
use crate::{config::Source, schedule::ZoneData, telemetry, text::visible};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    about = "Reminder and notification jobs over NATS JetStream: nothing lost, nothing doubled, every outcome visible"
)]
pub struct Cli {
    /// TOML file with settings; environment variables override it
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Try the whole product: private servers, a demo family, a worker, a local push service
    Dev(dev::Args),
    /// Serve the tests of an application: private servers in memory, receivers, a clock that moves
    Testkit(testkit::Args),
    /// Run the worker: pipeline, scheduler, dead-letter handler, health endpoints
    Run(run::Args),
    /// Serve the console and its API
    Admin(admin::Args),
    /// Serve the HTTP door for producers, or manage its tokens
    Gateway(gateway::Args),
    /// Publish a job
    Publish(publish::Args),
    /// Create or update the database schema
    Migrate(migrate::Args),
    /// Compare streams and consumers with the server, or update them
    #[command(subcommand)]
    Streams(streams::Command),
    /// List jobs, show the history of one, retry it, or cancel it
    #[command(subcommand)]
    Jobs(jobs::Command),
    /// Say in one sentence why somebody was or was not told, and the facts behind it
    Explain(explain::Args),
    /// List the queues, their policies and their backlog, show one with its counts; pause, resume, empty
    #[command(subcommand)]
    Queues(queues::Command),
    /// List the workers, and the jobs that they run
    #[command(subcommand)]
    Workers(workers::Command),
    /// List, redrive or discard jobs that failed for good
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Act on all jobs that a filter finds: look at them, begin, follow, cancel
    #[command(subcommand)]
    Operations(operations::Command),
    /// Manage schedules, and preview their instants
    #[command(subcommand)]
    Schedules(schedules::Command),
    /// Manage tokens for the console and its API
    #[command(subcommand)]
    Tokens(tokens::Command),
    /// Make VAPID keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Check configuration, servers, permissions, clocks and push services; exit 1 on failure
    Doctor(doctor::Args),
    /// Print a script by which a shell completes these commands
    Completions(completions::Completions),
    /// Write these pages for `man`
    Manual(completions::Manual),
}

impl Cli {
    /// From the arguments of the process. Ends it with 2 if they are wrong, and after `--help` and `--version`.
    #[must_use]
    pub fn from_arguments() -> Self {
        Self::from_arg_matches(&grammar().get_matches()).unwrap_or_else(|error| error.exit())
    }
}

/// As shown by `--help`.
fn grammar() -> clap::Command {
    examples::add_to(Cli::command())
}

/// Runs a command and returns the exit code.
pub async fn main(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why)) => {
            note!("carebell: {}", visible(&why));
            ExitCode::FAILURE
        }
    }
}

const TRACES_TIMEOUT: Duration = Duration::from_secs(2);

async fn dispatch(cli: Cli) -> Result<(), Failed> {
    // Otherwise the first user of rustls might choose another provider, and the next panic.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let source = Source::read(cli.config.as_deref())?;
    // `doctor` and `run` report a wrong one.
    if let Ok(directory) = source.zoneinfo_dir() {
        ZoneData::use_newest(directory.as_deref());
    }
    // Commands print results; their logs are for problems.
    let level =
        if matches!(cli.command, Command::Run(_) | Command::Admin(_) | Command::Gateway(_)) { "info" } else { "warn" };
    match source.log(level) {
        Ok(log) => telemetry::init(&log),
        // `doctor` reports this problem too.
        Err(_) if matches!(cli.command, Command::Doctor(_)) => {}
        Err(problem) => return Err(problem.into()),
    }
    if let Command::Run(_) | Command::Gateway(_) | Command::Publish(_) | Command::DeadLetters(_) = cli.command {
        telemetry::traces::init(&source.traces()?)?;
    }
    let done = run(cli.command, &source).await;
    telemetry::traces::close(TRACES_TIMEOUT).await;
    done
}

async fn run(command: Command, source: &Source) -> Result<(), Failed> {
    match command {
        Command::Testkit(args) => Box::pin(testkit::run(&args, stop_signal()?)).await,
        Command::Dev(args) => Box::pin(dev::run(&args, stop_signal()?)).await,
        Command::Run(args) => Box::pin(run::run(source, &args, stop_signal()?)).await,
        Command::Admin(args) => Box::pin(admin::run(source, &args, stop_signal()?)).await,
        Command::Gateway(args) => Box::pin(gateway::run(source, args, stop_signal()?)).await,
        Command::Publish(args) => publish::run(source, args).await,
        Command::Migrate(args) => migrate::run(source, &args).await,
        Command::Streams(command) => streams::run(source, &command).await,
        Command::Jobs(command) => Box::pin(jobs::run(source, &command)).await,
        Command::Explain(args) => Box::pin(explain::run(source, args)).await,
        Command::Queues(command) => Box::pin(queues::run(source, &command)).await,
        Command::Workers(command) => workers::run(source, &command).await,
        Command::DeadLetters(command) => Box::pin(dead_letters::run(source, command)).await,
        Command::Operations(command) => Box::pin(operations::run(source, command)).await,
        Command::Schedules(command) => Box::pin(schedules::run(source, command)).await,
        Command::Tokens(command) => tokens::run(source, command).await,
        Command::Keys(command) => keys::run(&command),
        Command::Doctor(args) => Box::pin(doctor::run(source, &args)).await,
        Command::Completions(args) => completions::completions(&args, grammar()),
        Command::Manual(args) => completions::manual(&args, grammar()),
    }
}
