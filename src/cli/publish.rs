//! `carebell publish`

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use clap::ArgGroup;

use super::Failed;
use crate::{
    clock::{Clock, Random},
    config::Source,
    effects::submit::{Submission, submit},
    health::Health,
    jobs,
    kind::{Kind, Lane, Stage},
    nats,
    pipeline::Form,
};

/// Of the JOBS stream; a body over it would be refused by the server without a word of why.
const LARGEST_BODY: usize = 512 * 1024 - 4096;

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("due").args(["delay", "at"]))]
pub(super) struct Args {
    /// For example reminder.medication or notification
    kind: String,
    /// The job as canonical protobuf JSON
    #[arg(long, value_name = "JSON")]
    json: String,
    /// Run it this much later, for example 5m
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    delay: Option<Duration>,
    /// Run it at this instant, for example 2027-03-01T09:00:00Z
    #[arg(long, value_name = "RFC 3339")]
    at: Option<DateTime<Utc>>,
    /// Do not run it after this instant
    #[arg(long, value_name = "RFC 3339")]
    not_after: Option<DateTime<Utc>>,
    /// The job's id: published again under the same id, it has no second effect [default: a new one]
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// critical, normal or bulk, for kinds that have lanes
    #[arg(long, default_value = "normal", value_parser = parse_lane)]
    lane: Lane,
}

pub(super) async fn run(source: &Source, args: Args) -> Result<(), Failed> {
    let (clock, random) = (Clock::system(), Random::system());
    let kind = known_kind(&args.kind)?;
    let body = Bytes::from(args.json);
    if body.len() > LARGEST_BODY {
        return Err(Failed(format!("the job is {} bytes; at most {LARGEST_BODY} are taken", body.len())));
    }
    let decoder = jobs::registry().decoder(kind).ok_or("the kind has no decoder")?;
    decoder.decode(&body, Form::Json).map_err(Failed)?;
    let job_id = args.job_id.unwrap_or_else(|| random.uuid(clock.now()).to_string());
    check_job_id(&job_id)?;
    let delayed = args.delay.and_then(|delay| TimeDelta::from_std(delay).ok()).map(|delay| clock.now() + delay);
    let submission = Submission {
        subject: kind.subject(args.lane),
        job_id: job_id.clone(),
        body,
        content_type: "application/json",
        not_after: args.not_after,
        at: args.at.or(delayed),
    };
    let client = nats::connect(&source.nats()?, &Health::new()).await?;
    let done = submit(&nats::jetstream(&client), submission).await.map_err(Failed)?;
    let again = if done.duplicate { ", which was there already" } else { "" };
    println!("published {kind} as job {job_id} to {} ({} #{}{again})", done.subject, done.stream, done.sequence);
    Ok(())
}

fn known_kind(name: &str) -> Result<Kind, Failed> {
    let registry = jobs::registry();
    let mut open = registry.kinds().iter().filter(|kind| kind.stage != Stage::Delivery);
    open.clone().find(|kind| kind.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = open.by_ref().map(|kind| kind.name).collect();
        Failed(format!("there is no kind {name:?}; there are {}", names.join(", ")))
    })
}

/// As `contract` says, and fit to be the end of a subject.
fn check_job_id(id: &str) -> Result<(), Failed> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_:.-".contains(c);
    let token = !id.starts_with('.') && !id.ends_with('.') && !id.contains("..");
    if (1..=128).contains(&id.len()) && id.chars().all(allowed) && token {
        return Ok(());
    }
    Err(Failed(
        "--job-id must be 1 to 128 of the characters A-Z a-z 0-9 _ : . - with no empty part between dots".into(),
    ))
}

fn parse_lane(text: &str) -> Result<Lane, String> {
    Lane::parse(text).ok_or_else(|| "expected critical, normal or bulk".into())
}
