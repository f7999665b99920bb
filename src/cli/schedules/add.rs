use crate::cli::print::{note, say};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    super::{
        failed::Failed,
        kinds::{open_kind, parse_lane},
        output::Output,
    },
    manage::{act, open},
    parse::{parse_fold, parse_from, parse_gap},
    words::local,
};
use crate::{
    clock::{Clock, Random},
    config::Source,
    jobs,
    kind::Lane,
    pipeline::Form,
    schedule::{self, Fold, Gap},
    scheduler::timing::{LONGEST_JITTER, LONGEST_WINDOW, Timing},
    store::{NextInstant, ScheduleRow, ScheduleSpec},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Its name, part of its jobs' ids: 1 to 64 of A-Z a-z 0-9 _ . -
    name: String,
    /// When: "0 9 * * 1-5", six fields with seconds in front, @daily and the like, or "@every 90m"
    #[arg(long, value_name = "EXPR")]
    cron: String,
    /// IANA time zone, for example Europe/London
    #[arg(long, value_name = "ZONE")]
    tz: String,
    /// Kind of the job, for example notification
    #[arg(long)]
    kind: String,
    /// The job as canonical protobuf JSON
    #[arg(long, value_name = "JSON")]
    json: String,
    /// critical, normal or bulk, for kinds with lanes [default: normal]
    #[arg(long, value_parser = parse_lane)]
    lane: Option<Lane>,
    /// Rule for times that the clock skips: shift (to the first instant after the gap) or skip
    #[arg(long, value_parser = parse_gap, default_value = "shift", value_name = "RULE")]
    gap: Gap,
    /// Rule for times that the clock shows twice: first, second or both
    #[arg(long, value_parser = parse_fold, default_value = "first", value_name = "RULE")]
    fold: Fold,
    /// Instants missed during downtime: skip, latest (publish the last one) or all (up to --missed-limit)
    #[arg(long, default_value = "latest", value_parser = ["skip", "latest", "all"], value_name = "RULE")]
    missed: String,
    /// Limit of missed instants that `--missed all` publishes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..=1000), value_name = "COUNT")]
    missed_limit: i32,
    /// Do not publish missed instants older than this
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "DURATION")]
    missed_window: Duration,
    /// Delay each job by up to this much, to spread schedules of the same instant
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    jitter: Duration,
    /// Expiry of a job after its instant [default: the kind's]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    expires: Option<Duration>,
    /// No instant before this: a date (midnight in the zone) or an RFC 3339 instant. Intervals (@every) count from it
    /// [default: now]
    #[arg(long, value_name = "DATE|RFC 3339")]
    start: Option<String>,
    /// No instant at or after this
    #[arg(long, value_name = "DATE|RFC 3339")]
    end: Option<String>,
    /// Its owner, for example medication:metformin
    #[arg(long)]
    owner: Option<String>,
    /// Save it paused
    #[arg(long)]
    paused: bool,
    /// Replace the schedule of this name
    #[arg(long)]
    replace: bool,
    /// text or json: one JSON object
    #[arg(long, value_enum, default_value_t = Output::Text, value_name = "FORM")]
    output: Output,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
}

pub(super) async fn add(source: &Source, args: Box<Add>) -> Result<(), Failed> {
    let (store, clock) = (open(source).await?, Clock::system());
    let now = clock.now();
    let mut spec = spec(&args, now)?;
    let before = if args.replace { store.schedule(&spec.name).await? } else { None };
    let kept = before.as_ref().and_then(|before| keep(&mut spec, before, args.start.is_some()));
    let timing = Timing::read(&spec)?;
    let next = kept.unwrap_or_else(|| timing.next_from(now));
    if kept.is_none() && before.is_some_and(|before| before.next.due.is_some_and(|due| due <= now)) {
        note!("note: unpublished instants of the old expression are dropped");
    }
    if next.at.is_none() {
        return Err(Failed("it would never be due: there is no instant between --start and --end".into()));
    }
    let act = act(if args.replace { "schedule.replaced" } else { "schedule.added" }, &spec.name, args.by, now);
    let id = Random::system().uuid(now).to_string();
    if !store.save_schedule(&id, &spec, next, args.replace, &act).await? {
        return Err(Failed(format!("there already is a schedule {:?}; --replace changes it", spec.name)));
    }
    let upcoming: Vec<_> = timing.following(next).take(3).collect();
    if args.output == Output::Json {
        say!("{}", json!({ "name": spec.name, "paused": spec.paused, "replaced": args.replace, "next": upcoming }));
        return Ok(());
    }
    say!("schedule {} is saved{}", spec.name, if spec.paused { ", paused" } else { "" });
    for at in upcoming {
        say!("  {}", local(at, &spec.zone));
    }
    Ok(())
}

/// Properties that a replacement keeps: the pause, an interval's anchor and, with an unchanged expression, the next
/// instant, so that nothing due is skipped.
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
            "--expires must be longer than --jitter, or jobs would expire before they are published".into(),
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

fn whole_seconds(option: &str, duration: Duration, least: i64, most: i64) -> Result<i64, Failed> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    if duration.subsec_nanos() == 0 && (least..=most).contains(&seconds) {
        return Ok(seconds);
    }
    let most = humantime::format_duration(Duration::from_secs(most.unsigned_abs()));
    Err(Failed(format!("{option} must be whole seconds, from {least}s to {most}")))
}

/// Refuses jobs that no worker could run.
fn job(args: &Add) -> Result<(String, Option<String>, Value), Failed> {
    let registry = jobs::registry();
    let kind = open_kind(&registry, &args.kind).map_err(Failed)?;
    let lane = match (kind.lanes.is_empty(), args.lane) {
        (true, None) => None,
        (true, Some(_)) => return Err(Failed(format!("{kind} has no lanes: omit --lane"))),
        (false, lane) => Some(lane.unwrap_or(Lane::Normal).name().to_owned()),
    };
    let decoder = registry.decoder(kind).ok_or("the kind has no decoder")?;
    decoder.decode(&Bytes::copy_from_slice(args.json.as_bytes()), Form::Json).map_err(Failed)?;
    Ok((kind.name.to_owned(), lane, serde_json::from_str(&args.json)?))
}
