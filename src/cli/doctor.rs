//! `carebell doctor`

use crate::cli::print::say;
use serde_json::Value;

use super::failed::Failed;
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
    /// Print one JSON array
    #[arg(long)]
    json: bool,
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
    if args.json {
        say!("{}", checks.iter().map(Check::to_json).collect::<Value>());
    } else {
        for check in &checks {
            say!("{check}");
        }
    }
    if checks.iter().any(Check::is_failure) {
        return Err(Failed(summary(&checks)));
    }
    Ok(())
}
