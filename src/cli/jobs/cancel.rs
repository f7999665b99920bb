//! `carebell jobs cancel`.

use serde_json::json;

use super::super::{actor::actor, connect, failed::Failed, output::Format, print::note};
use crate::{
    clock::Clock,
    config::Source,
    dead_letter::{Filter, Letters, remove_last},
    effects::park,
    meta::{IntakePosition, is_any_id, scoped},
    store::{AuditEntry, Cancellation, Store, WaitingRun},
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

enum Cancelled {
    /// It was delayed. Where its message waits.
    Delayed(IntakePosition),
    Waiting(Cancellation),
}

pub(super) async fn cancel(source: &Source, args: &Args) -> Result<(), Failed> {
    let id = scoped(args.application.as_deref().unwrap_or_default(), &args.id);
    check_id(&id)?;
    let store = connect::store(source, 2).await?;
    let cancelled = either(source, &store, &id, args).await;
    store.close().await;
    match cancelled? {
        Cancelled::Delayed(position) => {
            args.format.print(&json!({ "job_id": id, "cancelled": true }), &format!("job {id} is cancelled"))?;
            let context = connect::jetstream(source).await;
            let removed =
                async { remove_last(&context?, park::STREAM, &park::delayed_subject(&position)).await.map_err(Failed) };
            if let Err(Failed(why)) = removed.await {
                note!("note: its message stays parked until it is due, to no effect: {why}");
            }
            Ok(())
        }
        Cancelled::Waiting(done) => tell(&id, &done, args.format),
    }
}

async fn either(source: &Source, store: &Store, id: &str, args: &Args) -> Result<Cancelled, Failed> {
    let mut act = AuditEntry {
        at: Clock::system().now(),
        actor: actor(args.by.clone()),
        action: "job.cancelled".into(),
        job_id: Some(id.to_owned()),
        root_id: Some(id.to_owned()),
        detail: json!({}),
    };
    if let Some(position) = store.cancel_delayed(id, act.at).await? {
        let recorded = store.record_audit(&[act]).await;
        recorded.map_err(|error| format!("job {id} is cancelled, but the audit log lacks it: {error}"))?;
        return Ok(Cancelled::Delayed(position));
    }
    let way = store.trail_of(id).await?;
    let root = way.as_ref().map_or_else(|| id.to_owned(), |way| way.root_id.clone());
    let run = way.as_ref().and_then(|way| way.runs.iter().find(|run| run.job_id == root));
    act.root_id = Some(root.clone());
    // NATS tells of jobs that are not on record, and whether a dead one was redriven.
    let (mut waits, mut revived) = (false, false);
    if run.is_none_or(|run| run.state == "dead") {
        let context = connect::jetstream(source).await?;
        let mut letter = None;
        let filter = Filter { job_ids: vec![root.clone()], ..Filter::default() };
        Letters::open(&context).await?.each(&filter, |found| letter = Some(found.number)).await?;
        if let Some(letter) = letter {
            return Err(Failed(format!(
                "job {root} is dead: `carebell dead-letters discard {letter}` keeps it from being redriven"
            )));
        }
        let (found, longer) = Streams::embedded(&source.adjustments()?)?.find(&context, &root).await?;
        waits = !found.is_empty() || !longer.is_empty();
        revived = waits;
        if !waits && way.is_none() {
            return Err(Failed(format!(
                "there is no job {id:?}: it is not delayed, no stream has it, and it is not on record. Either the id is \
                 wrong, or its records are pruned"
            )));
        }
    }
    let done = store.cancel_waiting(&WaitingRun::root(&root), waits, revived, &act).await?;
    Ok(Cancelled::Waiting(done))
}

fn tell(id: &str, done: &Cancellation, format: Format) -> Result<(), Failed> {
    let Cancellation { deliveries, sending, sent, root, .. } = done;
    let mut rest = Vec::new();
    if *sending > 0 {
        rest.push(format!("{sending} of its deliveries are being sent now"));
    }
    if *sent > 0 {
        rest.push(format!("{sent} were sent before"));
    }
    if !done.is_any() {
        let rest = rest.join(", ");
        return Err(Failed(match root {
            _ if *sending > 0 => format!("job {id} is running: {rest}"),
            Some((state, Some(reason))) => format!("job {id} has ended before: {state} ({reason})"),
            Some((state, None)) if rest.is_empty() => format!("job {id} has already run: {state}"),
            Some((state, None)) => format!("job {id} has already run: {state}, {rest}"),
            None => format!("job {id} has nothing left to cancel; `carebell jobs show {id}` tells what became of it"),
        }));
    }
    let mut text = format!("job {id} is cancelled");
    if *deliveries > 0 {
        text = format!("{text}, with {deliveries} of its deliveries that had not begun");
    }
    if !rest.is_empty() {
        text = format!("{text}; {}", rest.join(", "));
    }
    let json = json!({
        "job_id": id, "cancelled": true, "deliveries": deliveries, "being_sent": sending, "sent_before": sent,
    });
    Ok(format.print(&json, &text)?)
}

pub(super) fn check_id(id: &str) -> Result<(), Failed> {
    // Ids of children are longer.
    if !is_any_id(id) {
        return Err(Failed(format!("{id:?} is not a job id: allowed are A-Z a-z 0-9 _ : . - ~")));
    }
    Ok(())
}
