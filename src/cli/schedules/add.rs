use crate::cli::print::{note, say};
use std::time::Duration;

use serde_json::json;

use super::{
    super::{failed::Failed, kinds::parse_lane, output::Output},
    manage::{act, open},
    parse::{parse_fold, parse_gap},
    words::local,
};
use crate::{
    clock::{Clock, Random},
    config::Source,
    drafts::{Draft, Planned, Property, Wrong},
    kind::Lane,
    schedule::{Fold, Gap},
    store::Replace,
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
    let draft = draft(&args)?;
    let before = if args.replace { store.schedule(&draft.name).await? } else { None };
    let Planned { spec, next, timing, drops_due } =
        draft.plan(before.as_ref(), now).map_err(|wrong| in_words(&wrong))?;
    if drops_due {
        note!("note: unpublished instants of the old expression are dropped");
    }
    let act = act(if args.replace { "schedule.replaced" } else { "schedule.added" }, &spec.name, args.by, now);
    let id = Random::system().uuid(now).to_string();
    if !store.save_schedule(&id, &spec, next, Replace::of(args.replace), &act).await? {
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

fn draft(args: &Add) -> Result<Draft, Failed> {
    Ok(Draft {
        name: args.name.clone(),
        expression: args.cron.clone(),
        zone: args.tz.clone(),
        kind: args.kind.clone(),
        lane: args.lane.map(|lane| lane.name().to_owned()),
        payload: args.json.clone(),
        gap: args.gap.name().to_owned(),
        fold: args.fold.name().to_owned(),
        missed: args.missed.clone(),
        missed_limit: args.missed_limit,
        missed_seconds: whole_seconds("--missed-window", args.missed_window)?,
        jitter_seconds: whole_seconds("--jitter", args.jitter)?,
        expiry_seconds: args.expires.map(|expires| whole_seconds("--expires", expires)).transpose()?,
        start: args.start.clone(),
        end: args.end.clone(),
        owner: args.owner.clone(),
        paused: args.paused,
    })
}

fn whole_seconds(option: &str, duration: Duration) -> Result<i64, Failed> {
    let seconds = i64::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0);
    seconds.ok_or_else(|| Failed(format!("{option}: expected whole seconds")))
}

/// Names the option that is wrong, where its value alone does not.
fn in_words(Wrong { property, why }: &Wrong) -> Failed {
    let option = match property {
        Property::Start => return Failed(format!("--start {why}")),
        Property::End => return Failed(format!("--end {why}")),
        Property::MissedLimit => "--missed-limit: ",
        Property::MissedWindow => "--missed-window: ",
        Property::Jitter => "--jitter: ",
        Property::Expiry => "--expires: ",
        Property::Gap => "--gap: ",
        Property::Fold => "--fold: ",
        Property::Missed => "--missed: ",
        Property::Owner => "--owner: ",
        Property::Name
        | Property::Expression
        | Property::Zone
        | Property::Kind
        | Property::Lane
        | Property::Payload => "",
    };
    Failed(format!("{option}{why}"))
}
