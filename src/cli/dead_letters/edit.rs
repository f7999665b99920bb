//! Corrected bodies, from a file or an editor.

use crate::cli::print::note;
use std::{io::Write as _, path::Path};

use bytes::Bytes;
use serde_json::Value;

use super::super::failed::Failed;
use crate::{
    acts::predict::{decoder, form},
    dead_letter::{Letter, redrive::is_delivery},
    pipeline::Form,
};

/// The body as JSON, even if protobuf.
pub(super) fn to_json(letter: &Letter) -> Result<Value, String> {
    decoder(letter)?.to_json(&letter.body, form(letter))
}

/// From a file, or standard input for `-`.
pub(super) fn from_file(letter: &Letter, file: &Path) -> Result<Bytes, Failed> {
    let text =
        if file == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    let text = text.map_err(|error| format!("--body {}: {error}", file.display()))?;
    check(letter, text).map_err(|why| Failed(format!("--body {}: {why}", file.display())))
}

/// Opens the body in an editor, in a temporary file that only this user can read.
pub(super) async fn by_hand(letter: &Letter, editor: &str) -> Result<Bytes, Failed> {
    refuse_deliveries(letter)?;
    let before = match (to_json(letter), std::str::from_utf8(&letter.body)) {
        (Ok(body), _) => serde_json::to_string_pretty(&body)? + "\n",
        (Err(_), Ok(text)) if form(letter) == Form::Json || decoder(letter).is_err() => text.to_owned(),
        (Err(why), _) => {
            note!("note: {why}; the editor starts with an empty object");
            "{}\n".to_owned()
        }
    };
    let mut file = tempfile::Builder::new().prefix("carebell-").suffix(".json").tempfile()?;
    file.write_all(before.as_bytes())?;
    // Like git: the variable may hold arguments.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file.path())
        .status()
        .await?;
    if !status.success() {
        return Err(Failed(format!("the editor ended with {status}: nothing is redriven")));
    }
    let after = std::fs::read_to_string(file.path())?;
    if after == before {
        return Err(Failed("the body is unchanged: nothing is redriven. To redrive it unchanged, omit --edit".into()));
    }
    match check(letter, after) {
        Ok(body) => Ok(body),
        Err(why) => {
            let (_, kept) = file.keep()?;
            Err(Failed(format!("{why}; your text is kept in {} (remove it when done)", kept.display())))
        }
    }
}

/// Refuses bodies that no worker could run.
fn check(letter: &Letter, text: String) -> Result<Bytes, String> {
    refuse_deliveries(letter).map_err(|Failed(why)| why)?;
    let body = Bytes::from(text);
    match decoder(letter) {
        Ok(decoder) => decoder.decode(&body, Form::Json).map(|_| body),
        // A newer worker may know the kind.
        Err(_) => serde_json::from_slice::<Value>(&body).map(|_| body).map_err(|error| error.to_string()),
    }
}

fn refuse_deliveries(letter: &Letter) -> Result<(), Failed> {
    if is_delivery(letter) {
        return Err(Failed(format!(
            "the body of {} is only a ledger id, with nothing to correct. Redrive it unchanged, or publish a \
             notification with the right text",
            letter.kind
        )));
    }
    Ok(())
}
