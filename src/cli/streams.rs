//! `carebell streams check` and `apply`

use std::{fs, path::PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::{connect, failed::Failed};
use crate::{config::Source, streams::Streams};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show differences between the server and `streams/`; exit 1 if any
    Check {
        /// Directory with stream files, instead of the built-in ones
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Create missing streams and consumers, and update others; deletes nothing
    Apply {
        /// Directory with stream files, instead of the built-in ones
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    let (Command::Check { dir, .. } | Command::Apply { dir }) = command;
    let adjustments = source.adjustments()?;
    let streams = match dir {
        None => Streams::embedded(&adjustments)?,
        Some(dir) => match files_in(dir)? {
            files if files.is_empty() => return Err(Failed(format!("--dir {}: holds no stream files", dir.display()))),
            files => Streams::read(files, &adjustments)?,
        },
    };
    let context = connect::jetstream(source).await?;
    match command {
        Command::Apply { .. } => {
            for name in streams.apply(&context).await? {
                println!("{name}: applied");
            }
            Ok(())
        }
        Command::Check { json, .. } => {
            let differences = streams.check(&context).await?;
            if *json {
                let list: Vec<_> = differences
                    .iter()
                    .map(|d| json!({ "place": d.place, "field": d.field, "wanted": d.wanted, "found": d.found }))
                    .collect();
                println!("{}", serde_json::Value::from(list));
            } else if differences.is_empty() {
                println!("streams and consumers match the files");
            } else {
                for difference in &differences {
                    println!("{difference}");
                }
            }
            match differences.len() {
                0 => Ok(()),
                count => {
                    let same = dir.as_ref().map(|dir| format!(" --dir {}", dir.display())).unwrap_or_default();
                    Err(Failed(format!("{count} differences; `carebell streams apply{same}` applies the files")))
                }
            }
        }
    }
}

fn files_in(dir: &PathBuf) -> Result<Vec<(String, String)>, Failed> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| format!("--dir {}: {error}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}
