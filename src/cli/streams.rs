//! `carebell streams check` and `apply`

use crate::cli::print::{note, say};
use std::{fs, path::PathBuf, time::Duration};

use clap::Subcommand;
use serde_json::json;

use super::{connect, failed::Failed};
use crate::{
    config::Source,
    streams::{ServerError, Streams, upgrade::upgrade},
};

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
        /// How long to wait for a new cluster: for its leader, and for a node for each replica; 0 does not wait
        #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", default_value = "60s")]
        wait: Duration,
    },
    /// Move what version 0.2 has waiting in SCHEDULED and JOBS, and remove SCHEDULED; run it once, after `apply`, with the
    /// old workers stopped
    Upgrade,
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    match command {
        Command::Check { dir, json } => check(source, dir.as_ref(), *json).await,
        Command::Apply { dir, wait } => apply(source, dir.as_ref(), *wait).await,
        Command::Upgrade => move_what_waits(source).await,
    }
}

fn read(source: &Source, dir: Option<&PathBuf>) -> Result<Streams, Failed> {
    let adjustments = source.adjustments()?;
    let Some(dir) = dir else { return Ok(Streams::embedded(&adjustments)?) };
    match files_in(dir)? {
        files if files.is_empty() => Err(Failed(format!("--dir {}: holds no stream files", dir.display()))),
        files => Ok(Streams::read(files, &adjustments)?),
    }
}

async fn apply(source: &Source, dir: Option<&PathBuf>, wait: Duration) -> Result<(), Failed> {
    let streams = read(source, dir)?;
    let context = connect::jetstream(source).await?;
    let tell = |why: &ServerError| note!("waiting up to {}: {why}", humantime::format_duration(wait));
    for name in streams.apply_within(&context, wait, tell).await? {
        say!("{name}: applied");
    }
    Ok(())
}

async fn check(source: &Source, dir: Option<&PathBuf>, json: bool) -> Result<(), Failed> {
    let streams = read(source, dir)?;
    let context = connect::jetstream(source).await?;
    let differences = streams.check(&context).await?;
    if json {
        let list: Vec<_> = differences
            .iter()
            .map(|d| json!({ "place": d.place, "field": d.field, "wanted": d.wanted, "found": d.found }))
            .collect();
        say!("{}", serde_json::Value::from(list));
    } else if differences.is_empty() {
        say!("streams and consumers match the files");
    } else {
        for difference in &differences {
            say!("{difference}");
        }
    }
    match differences.len() {
        0 => Ok(()),
        count => {
            let same = dir.map(|dir| format!(" --dir {}", dir.display())).unwrap_or_default();
            Err(Failed(format!("{count} differences; `carebell streams apply{same}` applies the files")))
        }
    }
}

async fn move_what_waits(source: &Source) -> Result<(), Failed> {
    let context = connect::jetstream(source).await?;
    let Some(moved) = upgrade(&context).await? else {
        say!("there is no stream SCHEDULED: nothing to move");
        return Ok(());
    };
    say!("moved {} delayed jobs, and {} of Carebell's own", moved.delayed, moved.own);
    match moved.left {
        0 => say!("removed the stream SCHEDULED"),
        left => say!("{left} messages of SCHEDULED are no delayed jobs and stay: look, then remove the stream"),
    }
    Ok(())
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
