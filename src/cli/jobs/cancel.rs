//! `carebell jobs cancel`.

use super::super::{actor::actor, connect, failed::Failed, output::Format, print::note};
use crate::{
    acts::{Acting, Ended, rest},
    clock::Clock,
    config::Source,
    meta::{is_any_id, scoped},
    store::Cancellation,
    streams::Streams,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's id, or the id of a job that followed from it
    id: String,
    /// Its application, if several are kept apart
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn cancel(source: &Source, args: &Args) -> Result<(), Failed> {
    let id = scoped(args.application.as_deref().unwrap_or_default(), &args.id);
    check_id(&id)?;
    let (streams, clock, actor) = (Streams::embedded(&source.adjustments()?)?, Clock::system(), actor(args.by.clone()));
    let store = connect::store(source, 2).await?;
    // A delayed job can be cancelled without it.
    let context = connect::jetstream(source).await.map_err(|Failed(why)| why);
    let acting = Acting {
        store: &store,
        context: context.as_ref().map_err(String::as_str),
        streams: &streams,
        clock: &clock,
        actor: &actor,
    };
    let ended = acting.cancel(&id, None).await;
    store.close().await;
    let ended = ended?;
    let text = match &ended {
        Ended::Waiting(done) if !done.is_any() => {
            return Err(Failed(format!("job {id} is running: {}", rest(done))));
        }
        Ended::Asked => format!(
            "job {id} may be under way: it ends before its next attempt, or when its endpoint stops; `carebell jobs show` tells"
        ),
        Ended::Waiting(done) => in_words(&id, done),
        Ended::Delayed(_) | Ended::Discarded(_) => format!("job {id} is cancelled"),
    };
    args.format.print(&ended.to_json(&id), &text)?;
    if let Ended::Delayed(Some(why)) = ended {
        note!("note: its message stays parked until it is due, to no effect: {why}");
    }
    Ok(())
}

fn in_words(id: &str, done: &Cancellation) -> String {
    let mut text = format!("job {id} is cancelled");
    if done.deliveries > 0 {
        text = format!("{text}, with {} of its deliveries that had not begun", done.deliveries);
    }
    match rest(done) {
        rest if rest.is_empty() => text,
        rest => format!("{text}; {rest}"),
    }
}

pub(super) fn check_id(id: &str) -> Result<(), Failed> {
    // Ids of children are longer.
    if !is_any_id(id) {
        return Err(Failed(format!("{id:?} is not a job id: allowed are A-Z a-z 0-9 _ : . - ~")));
    }
    Ok(())
}
