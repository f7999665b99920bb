//! `carebell streams check` and `apply`

use crate::cli::print::note;
use std::{fs, path::PathBuf, time::Duration};

use clap::Subcommand;
use serde_json::json;

use super::{connect, failed::Failed, output::Format};
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
        #[command(flatten)]
        format: Format,
    },
    /// Create missing streams and consumers, and update others; deletes nothing
    Apply {
        /// Directory with stream files, instead of the built-in ones
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// How long to wait for a new cluster: for its leader, and for a node for each replica; 0 does not wait
        #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION", default_value = "60s")]
        wait: Duration,
        #[command(flatten)]
        format: Format,
    },
    /// Move what version 0.2 has waiting in SCHEDULED and JOBS, and remove SCHEDULED; run it once, after `apply`, with the
    /// old workers stopped
    Upgrade {
        #[command(flatten)]
        format: Format,
    },
}

pub(super) async fn run(source: &Source, command: &Command) -> Result<(), Failed> {
    match command {
        Command::Check { dir, format } => check(source, dir.as_ref(), *format).await,
        Command::Apply { dir, wait, format } => apply(source, dir.as_ref(), *wait, *format).await,
        Command::Upgrade { format } => move_what_waits(source, *format).await,
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

async fn apply(source: &Source, dir: Option<&PathBuf>, wait: Duration, format: Format) -> Result<(), Failed> {
    let streams = read(source, dir)?;
    let context = connect::jetstream(source).await?;
    let tell = |why: &ServerError| note!("waiting up to {}: {why}", humantime::format_duration(wait));
    let applied = streams.apply_within(&context, wait, tell).await?;
    let lines: Vec<String> = applied.iter().map(|name| format!("{name}: applied")).collect();
    Ok(format.print(&json!({ "applied": applied }), &lines.join("\n"))?)
}

async fn check(source: &Source, dir: Option<&PathBuf>, format: Format) -> Result<(), Failed> {
    let streams = read(source, dir)?;
    let context = connect::jetstream(source).await?;
    let differences = streams.check(&context).await?;
    let list = differences
        .iter()
        .map(|d| json!({ "place": d.place, "field": d.field, "wanted": d.wanted, "found": d.found }))
        .collect();
    let mut lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        lines.push("streams and consumers match the files".to_owned());
    }
    format.print(&list, &lines.join("\n"))?;
    match differences.len() {
        0 => Ok(()),
        count => {
            let same = dir.map(|dir| format!(" --dir {}", dir.display())).unwrap_or_default();
            Err(Failed(format!("{count} differences; `carebell streams apply{same}` applies the files")))
        }
    }
}

async fn move_what_waits(source: &Source, format: Format) -> Result<(), Failed> {
    let context = connect::jetstream(source).await?;
    let Some(moved) = upgrade(&context).await? else {
        return Ok(format.print(&json!({ "stream": false }), "there is no stream SCHEDULED: nothing to move")?);
    };
    let left = match moved.left {
        0 => "removed the stream SCHEDULED".to_owned(),
        left => format!("{left} messages of SCHEDULED are no delayed jobs and stay: look, then remove the stream"),
    };
    let json = json!({ "stream": true, "delayed": moved.delayed, "own": moved.own, "left": moved.left });
    let text = format!("moved {} delayed jobs, and {} of Carebell's own\n{left}", moved.delayed, moved.own);
    Ok(format.print(&json, &text)?)
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
