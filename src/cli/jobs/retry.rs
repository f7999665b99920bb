//! `carebell jobs retry`.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    super::{actor::actor, connect, failed::Failed, output::Format, print::note},
    cancel::check_id,
};
use crate::{
    acts::{Acting, Prospect, Retried, Way},
    clock::Clock,
    config::Source,
    meta::scoped,
    streams::Streams,
    text::{instant, visible},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's id, or the id of a job that followed from it
    id: String,
    /// Its application, if several are kept apart
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Only say what would become of it
    #[arg(long)]
    dry_run: bool,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn retry(source: &Source, args: &Args) -> Result<(), Failed> {
    let id = scoped(args.application.as_deref().unwrap_or_default(), &args.id);
    check_id(&id)?;
    let (streams, clock, actor) = (Streams::embedded(&source.adjustments()?)?, Clock::system(), actor(args.by.clone()));
    let context = connect::jetstream(source).await?;
    let store = connect::store(source, 4).await?;
    let acting = Acting { store: &store, context: Ok(&context), streams: &streams, clock: &clock, actor: &actor };
    if args.dry_run {
        let prospects = acting.foresee(&id).await;
        store.close().await;
        let prospects = prospects?;
        let json = json!({ "job_id": id, "would_retry": prospects.iter().map(Prospect::to_json).collect::<Vec<_>>() });
        return Ok(args.format.print(&json, &foreseen(&prospects))?);
    }
    let retried = acting.retry(&id).await;
    store.close().await;
    let retried = retried?;
    for (job, why) in &retried.refused {
        note!("{job}: {}", visible(why));
    }
    args.format.print(&retried.to_json(&id), &in_words(&id, &retried))?;
    match retried.refused.len() {
        0 => Ok(()),
        some => Err(Failed(format!("{some} could not be retried"))),
    }
}

fn foreseen(prospects: &[Prospect]) -> String {
    let mut text = String::new();
    for Prospect { job_id, way, prediction, until } in prospects {
        let how = match way {
            Way::Redrive(Some(number)) => format!("dead letter {number} would be redriven"),
            Way::Redrive(None) => "its dead letter would be redriven".to_owned(),
            Way::Wake => {
                format!("parked{}", until.map_or_else(String::new, |until| format!(" until {}", instant(until))))
            }
        };
        let _ = writeln!(text, "{job_id}: {how}; {}", prediction.sentence());
    }
    text.trim_end().to_owned()
}

fn in_words(id: &str, Retried { redriven, woken, .. }: &Retried) -> String {
    let mut done = Vec::new();
    if !redriven.is_empty() {
        done.push(format!("{} redriven", redriven.len()));
    }
    if !woken.is_empty() {
        done.push(format!("{} woken", woken.len()));
    }
    format!("job {id} is tried again: {}", done.join(", "))
}
