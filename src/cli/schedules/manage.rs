//! Schedules that are saved: add, list, show, pause, resume, delete, run now.

use std::{fmt::Write as _, io::Write as _, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{
    super::{
        Failed, actor,
        publish::{open_kind, parse_lane},
    },
    parse_fold, parse_from, parse_gap,
};
use crate::{
    clock::{Clock, Random},
    config::Source,
    health::Health,
    jobs,
    kind::Lane,
    nats,
    pipeline::Form,
    schedule::{self, Fold, Gap},
    scheduler::{
        Scheduler,
        timing::{LONGEST_JITTER, LONGEST_WINDOW, Timing},
    },
    store::{AuditEntry, NextInstant, ScheduleRow, ScheduleSpec, Store},
};

/// Instants that are shown of a schedule.
const SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Add {
    /// Its name, which the ids of its jobs are made of: 1 to 64 of A-Z a-z 0-9 _ . -
    name: String,
    /// When: "0 9 * * 1-5", six fields with seconds in front, @daily and its siblings, or "@every 90m"
    #[arg(long, value_name = "EXPR")]
    cron: String,
    /// An IANA time zone, for example Europe/London
    #[arg(long, value_name = "ZONE")]
    tz: String,
    /// The kind of job that it publishes, for example notification
    #[arg(long)]
    kind: String,
    /// The job, as canonical protobuf JSON
    #[arg(long, value_name = "JSON")]
    json: String,
    /// critical, normal or bulk, for kinds that have lanes [default: normal]
    #[arg(long, value_parser = parse_lane)]
    lane: Option<Lane>,
    /// A time that the clock skips: shift (to the first instant after the gap) or skip
    #[arg(long, value_parser = parse_gap, default_value = "shift", value_name = "RULE")]
    gap: Gap,
    /// A time that the clock shows twice: first, second or both
    #[arg(long, value_parser = parse_fold, default_value = "first", value_name = "RULE")]
    fold: Fold,
    /// Instants that were missed while nothing ran: skip, latest (made up once) or all (up to --missed-limit)
    #[arg(long, default_value = "latest", value_parser = ["skip", "latest", "all"], value_name = "RULE")]
    missed: String,
    /// The most instants that `--missed all` makes up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "COUNT")]
    missed_limit: i32,
    /// What is later than this is not made up
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    missed_window: Duration,
    /// Publish up to this much later, so that many schedules of one instant spread
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    jitter: Duration,
    /// How long after its instant a job is of use [default: what its kind says]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    expires: Option<Duration>,
    /// No instant before this: a date (its midnight in the zone) or an instant in RFC 3339. Intervals (@every) are counted
    /// from it [default: now]
    #[arg(long, value_name = "DATE|RFC 3339")]
    start: Option<String>,
    /// No instant from this on
    #[arg(long, value_name = "DATE|RFC 3339")]
    end: Option<String>,
    /// What it belongs to, for example medication:metformin
    #[arg(long)]
    owner: Option<String>,
    /// Save it at rest
    #[arg(long)]
    paused: bool,
    /// Change the one that has this name
    #[arg(long)]
    replace: bool,
    /// Who does it, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Named {
    /// Its name
    name: String,
    /// Who does it, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
}

pub(super) async fn add(source: &Source, args: Box<Add>) -> Result<(), Failed> {
    let (store, clock) = (open(source)?, Clock::system());
    let now = clock.now();
    let mut spec = spec(&args, now)?;
    let before = if args.replace { store.schedule(&spec.name).await? } else { None };
    let kept = before.as_ref().and_then(|before| keep(&mut spec, before, args.start.is_some()));
    let timing = Timing::read(&spec)?;
    let next = kept.unwrap_or_else(|| timing.next_from(now));
    if kept.is_none() && before.is_some_and(|before| before.next.due.is_some_and(|due| due <= now)) {
        eprintln!("note: what was due by its old expression, and not published yet, is left out");
    }
    if next.at.is_none() {
        return Err(Failed("it would never be due: no instant is left between --start and --end".into()));
    }
    let act = act(if args.replace { "schedule.replaced" } else { "schedule.added" }, &spec.name, args.by, now);
    let id = Random::system().uuid(now).to_string();
    if !store.save_schedule(&id, &spec, next, args.replace, &act).await? {
        return Err(Failed(format!("there is a schedule {:?} already; --replace changes it", spec.name)));
    }
    println!("schedule {} is saved{}", spec.name, if spec.paused { ", at rest" } else { "" });
    for at in following(&timing, next).take(3) {
        println!("  {}", local(at, &spec.zone));
    }
    Ok(())
}

/// What a change keeps that does not speak of it: the rest of a schedule that was paused, the anchor of an interval, and
/// with the same expression also where it stands, so that nothing that is due is left out.
fn keep(spec: &mut ScheduleSpec, before: &ScheduleRow, has_start: bool) -> Option<NextInstant> {
    let old = &before.spec;
    spec.paused |= old.paused;
    let same = |a: &ScheduleSpec, b: &ScheduleSpec| {
        (&a.expression, &a.zone, &a.gap, &a.fold, a.jitter_seconds, a.ends_at)
            == (&b.expression, &b.zone, &b.gap, &b.fold, b.jitter_seconds, b.ends_at)
    };
    if has_start || !same(spec, old) {
        return None;
    }
    spec.starts_at = old.starts_at;
    Some(before.next)
}

fn spec(args: &Add, now: DateTime<Utc>) -> Result<ScheduleSpec, Failed> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !(1..=64).contains(&args.name.len()) || !args.name.chars().all(allowed) {
        return Err(Failed("the name must be 1 to 64 of the characters A-Z a-z 0-9 _ . -".into()));
    }
    let zone = schedule::zone(&args.tz)?;
    let starts_at = args.start.as_deref().map(|text| parse_from("--start", text, zone)).transpose()?;
    let ends_at = args.end.as_deref().map(|text| parse_from("--end", text, zone)).transpose()?;
    let jitter_seconds = whole_seconds("--jitter", args.jitter, 0, LONGEST_JITTER)?;
    let missed_seconds = whole_seconds("--missed-window", args.missed_window, 1, LONGEST_WINDOW)?;
    let expires = args.expires.map(|expires| whole_seconds("--expires", expires, 1, LONGEST_WINDOW)).transpose()?;
    if expires.is_some_and(|expires| expires <= jitter_seconds) {
        return Err(Failed(
            "--expires must be longer than --jitter: its jobs would have expired when they are published".into(),
        ));
    }
    let (kind, lane, payload) = job(args)?;
    Ok(ScheduleSpec {
        name: args.name.clone(),
        kind,
        lane,
        payload,
        expression: schedule::Expression::parse(&args.cron)?.to_string(),
        zone: zone.name().to_owned(),
        gap: args.gap.name().to_owned(),
        fold: args.fold.name().to_owned(),
        missed: args.missed.clone(),
        missed_limit: args.missed_limit,
        missed_seconds,
        jitter_seconds,
        expiry_seconds: expires,
        starts_at: starts_at.unwrap_or(now),
        ends_at,
        paused: args.paused,
        owner: args.owner.clone(),
    })
}

/// A duration that is a whole number of seconds within these bounds.
fn whole_seconds(option: &str, duration: Duration, least: i64, most: i64) -> Result<i64, Failed> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    if duration.subsec_nanos() == 0 && (least..=most).contains(&seconds) {
        return Ok(seconds);
    }
    let most = humantime::format_duration(Duration::from_secs(most.unsigned_abs()));
    Err(Failed(format!("{option} must be whole seconds, from {least}s to {most}")))
}

/// Refuses what no worker could run, as `carebell publish` does.
fn job(args: &Add) -> Result<(String, Option<String>, Value), Failed> {
    let registry = jobs::registry();
    let kind = open_kind(&registry, &args.kind).map_err(Failed)?;
    let lane = match (kind.lanes.is_empty(), args.lane) {
        (true, None) => None,
        (true, Some(_)) => return Err(Failed(format!("{kind} has no lanes: leave --lane out"))),
        (false, lane) => Some(lane.unwrap_or(Lane::Normal).name().to_owned()),
    };
    let decoder = registry.decoder(kind).ok_or("the kind has no decoder")?;
    decoder.decode(&Bytes::copy_from_slice(args.json.as_bytes()), Form::Json).map_err(Failed)?;
    Ok((kind.name.to_owned(), lane, serde_json::from_str(&args.json)?))
}

pub(super) async fn list(source: &Source, owner: Option<&str>, json: bool) -> Result<(), Failed> {
    let schedules = open(source)?.schedules(owner).await?;
    let text = if json { format!("{}\n", schedules.iter().map(to_json).collect::<Value>()) } else { table(&schedules) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

pub(super) async fn show(source: &Source, name: &str, json: bool) -> Result<(), Failed> {
    let row = find(&open(source)?, name).await?;
    let upcoming: Vec<_> = match Timing::read(&row.spec) {
        Ok(timing) if !row.spec.paused => following(&timing, row.next).take(SHOWN).collect(),
        _ => Vec::new(),
    };
    let text = if json {
        let mut whole = to_json(&row);
        whole["upcoming"] = upcoming.iter().map(|at| local(*at, &row.spec.zone)).collect();
        format!("{whole}\n")
    } else {
        in_words(&row, &upcoming)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

pub(super) async fn pause(source: &Source, named: Named, paused: bool) -> Result<(), Failed> {
    let (store, clock) = (open(source)?, Clock::system());
    let row = find(&store, &named.name).await?;
    if row.spec.paused == paused {
        println!("schedule {} {} already", named.name, if paused { "rests" } else { "goes on" });
        return Ok(());
    }
    let now = clock.now();
    // What was due while it rested was not missed: it was not meant.
    let next = if paused { row.next } else { Timing::read(&row.spec)?.next_from(now) };
    let act = act(if paused { "schedule.paused" } else { "schedule.resumed" }, &named.name, named.by, now);
    if !store.pause_schedule(&named.name, paused, next, &act).await? {
        return Err(gone(&named.name));
    }
    match next.at {
        _ if paused => println!("schedule {} rests", named.name),
        Some(at) => println!("schedule {} goes on; next at {}", named.name, local(at, &row.spec.zone)),
        None => println!("schedule {} goes on, and no instant is left", named.name),
    }
    Ok(())
}

pub(super) async fn delete(source: &Source, named: Named) -> Result<(), Failed> {
    let store = open(source)?;
    let act = act("schedule.deleted", &named.name, named.by, Clock::system().now());
    if !store.delete_schedule(&named.name, &act).await? {
        return Err(gone(&named.name));
    }
    println!("schedule {} is deleted", named.name);
    Ok(())
}

pub(super) async fn run_now(source: &Source, named: Named) -> Result<(), Failed> {
    let (store, clock, health) = (open(source)?, Clock::system(), Health::new());
    let row = find(&store, &named.name).await?;
    let producer = nats::jetstream(&nats::connect(&source.nats()?, &health).await?);
    let now = clock.now();
    let unique = Random::system().uuid(now).to_string();
    let mut act = act("schedule.run_now", &named.name, named.by, now);
    let scheduler = Scheduler::new(store.clone(), producer, clock, health);
    let job_id = Scheduler::run_now_id(&row, &unique);
    act.job_id = Some(job_id.clone());
    act.root_id = Some(job_id.clone());
    // Written down first: who repeats the command after an error publishes a second job, and must be able to see that.
    store.record_audit(&[act]).await?;
    let published = scheduler.run_now(&row, &job_id).await;
    published.map_err(|why| {
        format!("{why} (job {job_id}, which may be published all the same: `carebell jobs show` tells)")
    })?;
    println!("published job {job_id}");
    Ok(())
}

fn open(source: &Source) -> Result<Store, Failed> {
    Ok(Store::new(&source.database_url()?, 2)?)
}

async fn find(store: &Store, name: &str) -> Result<ScheduleRow, Failed> {
    store.schedule(name).await?.ok_or_else(|| gone(name))
}

fn gone(name: &str) -> Failed {
    Failed(format!("there is no schedule {name:?}; `carebell schedules list` shows all"))
}

fn act(action: &str, name: &str, by: Option<String>, at: DateTime<Utc>) -> AuditEntry {
    let detail = json!({ "schedule": name });
    AuditEntry { at, actor: actor(by), action: action.to_owned(), job_id: None, root_id: None, detail }
}

/// The instants from the next one on.
fn following(timing: &Timing, next: NextInstant) -> impl Iterator<Item = DateTime<Utc>> {
    std::iter::successors(next.at, |at| timing.next_from(*at + chrono::TimeDelta::nanoseconds(1)).at)
}

fn to_json(row: &ScheduleRow) -> Value {
    let spec = &row.spec;
    json!({
        "name": spec.name, "kind": spec.kind, "lane": spec.lane, "payload": spec.payload,
        "expression": spec.expression, "zone": spec.zone, "gap": spec.gap, "fold": spec.fold,
        "missed": spec.missed, "missed_limit": spec.missed_limit, "missed_window_s": spec.missed_seconds,
        "jitter_s": spec.jitter_seconds, "expires_s": spec.expiry_seconds,
        "starts_at": spec.starts_at, "ends_at": spec.ends_at, "paused": spec.paused, "owner": spec.owner,
        "next_at": row.next.at, "due_at": row.next.due, "last_at": row.last_at, "last_job_id": row.last_job_id,
        "fired": row.fired, "missed_count": row.missed_count, "last_note": row.last_note,
        "created_at": row.created.at, "created_by": row.created.by,
        "changed_at": row.changed.at, "changed_by": row.changed.by,
    })
}

/// Writing to a String does not fail, so its results are not looked at.
fn table(schedules: &[ScheduleRow]) -> String {
    if schedules.is_empty() {
        return "no schedules\n".to_owned();
    }
    let widest = |column: fn(&ScheduleRow) -> &str| {
        schedules.iter().map(|row| column(row).chars().count()).max().unwrap_or(0).clamp(4, 40)
    };
    let (names, kinds) = (widest(|row| &row.spec.name), widest(|row| &row.spec.kind));
    let (expressions, zones) = (widest(|row| &row.spec.expression), widest(|row| &row.spec.zone));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<names$}  {:<kinds$}  {:<expressions$}  {:<zones$}  {:<25}  {:>6}  {:>6}",
        "name", "kind", "when", "zone", "next", "fired", "missed"
    );
    for row in schedules {
        let ScheduleSpec { name, kind, expression, zone, paused, .. } = &row.spec;
        let next = match row.next.at {
            _ if *paused => "rests".to_owned(),
            None => "none is left".to_owned(),
            Some(at) => local(at, zone),
        };
        let (fired, missed) = (row.fired, row.missed_count);
        let _ = writeln!(
            text,
            "{name:<names$}  {kind:<kinds$}  {expression:<expressions$}  {zone:<zones$}  {next:<25}  {fired:>6}  {missed:>6}"
        );
    }
    text
}

fn in_words(row: &ScheduleRow, upcoming: &[DateTime<Utc>]) -> String {
    let spec = &row.spec;
    let mut text = format!("schedule {}\n", spec.name);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    let with_lane = spec.lane.as_ref().map(|lane| format!(", lane {lane}")).unwrap_or_default();
    line("publishes", format!("{}{with_lane}: {}", spec.kind, spec.payload));
    line(
        "when",
        format!("{} in {}; lost times {}, repeated times {}", spec.expression, spec.zone, spec.gap, spec.fold),
    );
    let seconds = |seconds: i64| humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
    let limit = if spec.missed == "all" { format!(" up to {}", spec.missed_limit) } else { String::new() };
    let window = if spec.missed == "skip" {
        String::new()
    } else {
        format!(", not later than {}", seconds(spec.missed_seconds))
    };
    line("missed", format!("{}{limit}{window}", spec.missed));
    if spec.jitter_seconds > 0 {
        line("jitter", format!("up to {}", seconds(spec.jitter_seconds)));
    }
    if let Some(expiry) = spec.expiry_seconds {
        line("expires", format!("{} after its instant", seconds(expiry)));
    }
    line("from", local(spec.starts_at, &spec.zone));
    if let Some(end) = spec.ends_at {
        line("until", local(end, &spec.zone));
    }
    if let Some(owner) = &spec.owner {
        line("owner", owner.clone());
    }
    line("fired", format!("{}, and {} missed", row.fired, row.missed_count));
    if let Some((at, job)) = row.last_at.zip(row.last_job_id.as_ref()) {
        line("last", format!("{}, job {job}", local(at, &spec.zone)));
    }
    if let Some(note) = &row.last_note {
        line("note", note.clone());
    }
    line("made", format!("{} by {}", instant(row.created.at), row.created.by));
    line("changed", format!("{} by {}", instant(row.changed.at), row.changed.by));
    if let Some(due) = row.next.due.filter(|due| !spec.paused && Some(*due) != row.next.at) {
        line("due", format!("{}, its jitter included", local(due, &spec.zone)));
    }
    match (spec.paused, upcoming) {
        (true, _) => line("next", "it rests".into()),
        (false, []) => line("next", "none is left".into()),
        (false, [first, more @ ..]) => {
            line("next", local(*first, &spec.zone));
            for at in more {
                line("", local(*at, &spec.zone));
            }
        }
    }
    text
}

/// An instant as the clock of a zone shows it.
fn local(at: DateTime<Utc>, zone: &str) -> String {
    match schedule::zone(zone) {
        Ok(zone) => at.with_timezone(&zone).to_rfc3339_opts(SecondsFormat::AutoSi, false),
        Err(_) => instant(at),
    }
}

fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
