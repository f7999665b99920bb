//! `carebell keys generate`

use clap::Subcommand;
use serde_json::json;

use super::{failed::Failed, output::Format};
use crate::channels::web_push;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a VAPID key pair, printed as environment variables
    Generate {
        #[command(flatten)]
        format: Format,
    },
}

pub(super) fn run(command: &Command) -> Result<(), Failed> {
    let Command::Generate { format } = command;
    let keys = web_push::generate_keys().map_err(|_| "the system provides no randomness for keys")?;
    let text = format!("VAPID_PUBLIC_KEY={}\nVAPID_PRIVATE_KEY={}", keys.public, keys.private);
    Ok(format.print(&json!({ "publicKey": keys.public, "privateKey": keys.private }), &text)?)
}
