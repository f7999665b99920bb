//! `carebell keys generate`

use crate::cli::print::say;
use clap::Subcommand;

use super::failed::Failed;
use crate::channels::web_push;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a VAPID key pair, printed as environment variables
    Generate {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command) -> Result<(), Failed> {
    let Command::Generate { json } = command;
    let keys = web_push::generate_keys().map_err(|_| "the system provides no randomness for keys")?;
    if *json {
        say!("{}", serde_json::json!({ "publicKey": keys.public, "privateKey": keys.private }));
    } else {
        say!("VAPID_PUBLIC_KEY={}\nVAPID_PRIVATE_KEY={}", keys.public, keys.private);
    }
    Ok(())
}
