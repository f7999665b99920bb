//! `carebell doctor`

use serde_json::Value;

use super::failed::Failed;
use crate::{
    clock::Clock,
    config::Source,
    doctor::{Check, Egress, examine, summary},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Skip push services, mail servers and providers
    #[arg(long)]
    offline: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(source: &Source, args: &Args) -> Result<(), Failed> {
    let egress = if args.offline { Egress::Offline } else { Egress::All };
    let checks = examine(source, &Clock::system(), egress).await;
    if args.json {
        println!("{}", checks.iter().map(Check::to_json).collect::<Value>());
    } else {
        for check in &checks {
            println!("{check}");
        }
    }
    if checks.iter().any(Check::is_failure) {
        return Err(Failed(summary(&checks)));
    }
    Ok(())
}
