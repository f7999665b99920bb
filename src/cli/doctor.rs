//! `carebell doctor`

use super::{failed::Failed, output::Format};
use crate::{
    clock::Clock,
    config::Source,
    doctor::{Check, Egress, Producer, examine, examine_producer, summary},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Skip push services, mail servers and providers
    #[arg(long)]
    offline: bool,
    /// Try instead what this producer must not be able to do: a .creds file, or user:password. Changes nothing
    #[arg(long, value_name = "CREDS")]
    producer: Option<String>,
    /// The producer's inbox prefix
    #[arg(long, value_name = "PREFIX", default_value = "_INBOX_app", requires = "producer")]
    producer_inbox: String,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(source: &Source, args: &Args) -> Result<(), Failed> {
    let egress = if args.offline { Egress::Offline } else { Egress::All };
    let checks = match &args.producer {
        None => examine(source, &Clock::system(), egress).await,
        Some(credentials) => {
            let (credentials, inbox_prefix) = (credentials.clone(), args.producer_inbox.clone());
            examine_producer(source, &Producer { credentials, inbox_prefix }).await
        }
    };
    let lines: Vec<String> = checks.iter().map(ToString::to_string).collect();
    args.format.print(&checks.iter().map(Check::to_json).collect(), &lines.join("\n"))?;
    if checks.iter().any(Check::is_failure) {
        return Err(Failed(summary(&checks)));
    }
    Ok(())
}
