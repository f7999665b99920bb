mod add;
mod manage;
mod parse;
mod preview;
mod words;

use clap::Subcommand;

use super::{failed::Failed, output::Format};
use crate::config::Source;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the next instants of an expression and the effect of daylight saving; needs no server
    Preview(preview::Preview),
    /// Save a schedule, which publishes a job at each of its instants
    Add(Box<add::Add>),
    /// List schedules and their next instants
    List {
        /// Only those of this owner, for example medication:metformin
        #[arg(long)]
        owner: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Show one schedule with its next instants
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        format: Format,
    },
    /// Pause a schedule
    Pause(manage::Named),
    /// Resume a schedule, from its next instant after now
    Resume(manage::Named),
    /// Delete a schedule. Jobs that it has published stay
    Delete(manage::Named),
    /// Publish its job now, in addition to its instants
    RunNow(manage::Named),
}

pub(super) async fn run(source: &Source, command: Command) -> Result<(), Failed> {
    match command {
        Command::Preview(args) => preview::preview(&args),
        Command::Add(args) => add::add(source, args).await,
        Command::List { owner, format } => manage::list(source, owner.as_deref(), format.is_json()).await,
        Command::Show { name, format } => manage::show(source, &name, format.is_json()).await,
        Command::Pause(named) => manage::pause(source, named, true).await,
        Command::Resume(named) => manage::pause(source, named, false).await,
        Command::Delete(named) => manage::delete(source, named).await,
        Command::RunNow(named) => manage::run_now(source, named).await,
    }
}
