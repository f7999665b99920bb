use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    super::{actor::actor, connect, failed::Failed, output::Format, print::print},
    words::{in_words, local, table},
};
use crate::{
    clock::{Clock, Random},
    config::Source,
    health::Health,
    nats,
    scheduler::{Scheduler, timing::Timing},
    show,
    store::{AuditEntry, ScheduleRow, Store},
};

/// Instants shown of a schedule.
const SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// Its name
    name: String,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn list(source: &Source, owner: Option<&str>, json: bool) -> Result<(), Failed> {
    let schedules = open(source).await?.schedules(owner).await?;
    let text =
        if json { format!("{}\n", schedules.iter().map(show::schedule).collect::<Value>()) } else { table(&schedules) };
    print(&text)?;
    Ok(())
}

pub(super) async fn show(source: &Source, name: &str, json: bool) -> Result<(), Failed> {
    let row = find(&open(source).await?, name).await?;
    let upcoming: Vec<_> = match Timing::read(&row.spec) {
        Ok(timing) if !row.spec.paused => timing.following(row.next).take(SHOWN).collect(),
        _ => Vec::new(),
    };
    let text = if json {
        let mut whole = show::schedule(&row);
        whole["upcoming"] = upcoming.iter().map(|at| local(*at, &row.spec.zone)).collect();
        format!("{whole}\n")
    } else {
        in_words(&row, &upcoming)
    };
    print(&text)?;
    Ok(())
}

pub(super) async fn pause(source: &Source, named: Named, paused: bool) -> Result<(), Failed> {
    let (store, clock) = (open(source).await?, Clock::system());
    let row = find(&store, &named.name).await?;
    if row.spec.paused == paused {
        let text = format!("schedule {} is already {}", named.name, if paused { "paused" } else { "active" });
        return Ok(named
            .format
            .print(&json!({ "schedule": named.name, "paused": paused, "changed": false }), &text)?);
    }
    let now = clock.now();
    // Instants during a pause were not wanted, so not missed.
    let next = if paused { row.next } else { Timing::read(&row.spec)?.next_from(now) };
    let act = act(if paused { "schedule.paused" } else { "schedule.resumed" }, &named.name, named.by, now);
    if !store.pause_schedule(&named.name, paused, next, &act).await? {
        return Err(gone(&named.name));
    }
    let text = match next.at {
        _ if paused => format!("schedule {} is paused", named.name),
        Some(at) => format!("schedule {} is resumed; next at {}", named.name, local(at, &row.spec.zone)),
        None => format!("schedule {} is resumed, but has no instants left", named.name),
    };
    let next = next.at.filter(|_| !paused);
    let json = json!({ "schedule": named.name, "paused": paused, "changed": true, "next": next });
    Ok(named.format.print(&json, &text)?)
}

pub(super) async fn delete(source: &Source, named: Named) -> Result<(), Failed> {
    let store = open(source).await?;
    let act = act("schedule.deleted", &named.name, named.by, Clock::system().now());
    if !store.delete_schedule(&named.name, &act).await? {
        return Err(gone(&named.name));
    }
    let text = format!("schedule {} is deleted", named.name);
    Ok(named.format.print(&json!({ "schedule": named.name, "deleted": true }), &text)?)
}

pub(super) async fn run_now(source: &Source, named: Named) -> Result<(), Failed> {
    let (store, clock, health) = (open(source).await?, Clock::system(), Health::new());
    let row = find(&store, &named.name).await?;
    let producer = nats::jetstream(&nats::connect(&source.nats()?, &health).await?);
    let now = clock.now();
    let unique = Random::system().uuid(now).to_string();
    let mut act = act("schedule.run_now", &named.name, named.by, now);
    let scheduler = Scheduler::new(store.clone(), producer, clock, health);
    let job_id = Scheduler::run_now_id(&row, &unique);
    act.job_id = Some(job_id.clone());
    act.root_id = Some(job_id.clone());
    // Recorded first: a repeated command publishes a second job, which the log must show.
    store.record_audit(&[act]).await?;
    let published = scheduler.run_now(&row, &job_id).await;
    published.map_err(|why| format!("{why} (job {job_id} may be published nevertheless; see `carebell jobs show`)"))?;
    let text = format!("published job {job_id}");
    Ok(named.format.print(&json!({ "schedule": named.name, "job_id": job_id }), &text)?)
}

pub(super) async fn open(source: &Source) -> Result<Store, Failed> {
    connect::store(source, 2).await
}

async fn find(store: &Store, name: &str) -> Result<ScheduleRow, Failed> {
    store.schedule(name).await?.ok_or_else(|| gone(name))
}

fn gone(name: &str) -> Failed {
    Failed(format!("there is no schedule {name:?}; `carebell schedules list` shows all"))
}

pub(super) fn act(action: &str, name: &str, by: Option<String>, at: DateTime<Utc>) -> AuditEntry {
    let detail = json!({ "schedule": name });
    AuditEntry { at, actor: actor(by), action: action.to_owned(), job_id: None, root_id: None, detail }
}
