//! `queues pause` and `queues resume`.

use chrono::{DateTime, Utc};
use serde_json::json;

use super::super::{actor::actor, connect, failed::Failed, output::Format};
use crate::{
    acts::HeldUp,
    clock::Clock,
    config::Source,
    jobs,
    kind::Kind,
    near::nearest,
    pauses::{ALL, Pause, Scope},
    plan::Channel,
    store::{AuditEntry, Store},
    streams::Streams,
    text::instant,
};

/// Names listed in an error.
const SHOWN: usize = 60;

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// A queue of `queues list`, a kind for all of its lanes, or * for all queues
    queue: Option<String>,
    #[arg(long, value_name = "NAME", help = "Instead, a channel: web_push, email, sms, whatsapp, voice or webhook")]
    channel: Option<String>,
    /// Instead, a provider, as in `/health` and in the ledger: a push service, a mail server, a gateway
    #[arg(long, value_name = "HOST")]
    provider: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
    /// When it ends by itself: after a while (2h, 30m) or at an instant (RFC 3339). Otherwise it has to be resumed
    #[arg(long, value_name = "WHILE|INSTANT")]
    until: Option<String>,
    /// Why, for the colleagues: shown in `queues list` and kept in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    which: Which,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Which {
    fn asked(&self) -> (Scope, &str) {
        match self {
            Self { channel: Some(name), .. } => match Channel::parse(name) {
                Some(channel) => (Scope::Channel, channel.name()),
                None => (Scope::Channel, name),
            },
            Self { provider: Some(name), .. } => (Scope::Provider, name),
            Self { queue, .. } => (Scope::Queue, queue.as_deref().unwrap_or_default()),
        }
    }

    /// The sort and name of what is to be paused. A kind without lanes is its queue.
    fn existing(&self, source: &Source, streams: &Streams) -> Result<(Scope, String), Failed> {
        let (scope, asked) = self.asked();
        let kinds = jobs::registry();
        if let Some(kind) = kinds.kinds().iter().find(|kind| kind.name == asked && kind.lanes.is_empty())
            && scope == Scope::Queue
        {
            return Ok((scope, kind.queues()[0].durable()));
        }
        let known = match scope {
            Scope::Queue => queues(streams, kinds.kinds()),
            Scope::Channel => Channel::ALL.map(|channel| channel.name().to_owned()).to_vec(),
            Scope::Provider => source.providers(),
        };
        if known.iter().any(|name| name == asked) {
            return Ok((scope, asked.to_owned()));
        }
        let near = nearest(asked, known.iter().map(String::as_str));
        Err(unknown(scope, asked, near, &known, scope == Scope::Provider))
    }
}

fn queues(streams: &Streams, kinds: &[Kind]) -> Vec<String> {
    let mut names: Vec<String> = vec![ALL.to_owned()];
    let declared = streams.consumers().iter().filter(|consumer| consumer.is_queue());
    names.extend(declared.map(|consumer| consumer.durable().to_owned()));
    names.extend(kinds.iter().filter(|kind| !kind.lanes.is_empty()).map(|kind| kind.name.to_owned()));
    names.sort_unstable();
    names.dedup();
    names
}

fn unknown(scope: Scope, asked: &str, near: Option<&str>, known: &[String], settings: bool) -> Failed {
    let what = scope.name();
    let meant = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let hint = if settings { ". Run this with the worker's settings, which name its providers" } else { "" };
    let names = known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    Failed(format!("there is no {what} {asked:?}{meant} (expected one of: {names}){hint}"))
}

pub(super) async fn pause(source: &Source, args: &Args) -> Result<(), Failed> {
    let now = Clock::system().now();
    let until = args.until.as_deref().map(|text| end(text, now)).transpose()?;
    if args.reason.trim().is_empty() {
        return Err(Failed("--reason is empty: say why, for the colleagues".into()));
    }
    let streams = Streams::embedded(&source.adjustments()?)?;
    let (scope, name) = args.which.existing(source, &streams)?;
    let pause = Pause { scope, name, reason: args.reason.clone(), actor: actor(args.by.clone()), since: now, until };
    let store = connect::store(source, 1).await?;
    let act = entry(&pause, "paused", now, json!({ "name": pause.name, "reason": pause.reason, "until": until }));
    store.pause(&pause, &act).await?;
    store.close().await;
    let end = until.map_or_else(|| "until it is resumed".to_owned(), |until| format!("until {}", instant(until)));
    let context = connect::jetstream(source).await.map_err(|failed| failed.0);
    let held_up = HeldUp::by(context.as_ref().map_err(Clone::clone), &streams, &pause).await;
    let (scope, name, waiting) = (scope.name(), &pause.name, held_up.in_words(until));
    let json = json!({
        "scope": scope, "name": name, "paused": true, "until": until, "waiting": waiting,
        "held_up": held_up.to_json(until),
    });
    Ok(args.format.print(&json, &format!("{scope} {name} is paused {end}\n{waiting}"))?)
}

pub(super) async fn resume(source: &Source, args: &ResumeArgs) -> Result<(), Failed> {
    let (scope, asked) = args.which.asked();
    let now = Clock::system().now();
    let store = connect::store(source, 1).await?;
    let resumed = resume_one(&store, scope, asked, args, now).await;
    store.close().await;
    let name = resumed?;
    let (scope, text) = (scope.name(), format!("{} {name} is resumed", scope.name()));
    Ok(args.format.print(&json!({ "scope": scope, "name": name, "paused": false }), &text)?)
}

async fn resume_one(
    store: &Store,
    scope: Scope,
    asked: &str,
    args: &ResumeArgs,
    now: DateTime<Utc>,
) -> Result<String, Failed> {
    let paused: Vec<Pause> = store.pauses(now).await?.into_iter().filter(|pause| pause.scope == scope).collect();
    let kinds = jobs::registry();
    let is_meant = |pause: &&Pause| {
        let of_kind = kinds.kinds().iter().find(|kind| kind.name == asked && kind.lanes.is_empty());
        pause.name == asked || of_kind.is_some_and(|kind| kind.queues()[0].durable() == pause.name)
    };
    let Some(pause) = paused.iter().find(is_meant) else {
        let names: Vec<&str> = paused.iter().map(|pause| pause.name.as_str()).collect();
        let meant = nearest(asked, names.iter().copied()).map(|near| format!("; did you mean {near}?"));
        let all = if names.is_empty() { "none is".to_owned() } else { format!("paused: {}", names.join(", ")) };
        let what = scope.name();
        return Err(Failed(format!("{what} {asked:?} is not paused ({all}){}", meant.unwrap_or_default())));
    };
    let detail = json!({ "name": pause.name, "reason": args.reason, "since": pause.since });
    let act = AuditEntry { actor: actor(args.by.clone()), ..entry(pause, "resumed", now, detail) };
    if !store.resume(scope, &pause.name, &act).await? {
        return Err(Failed(format!("{} {} is not paused: somebody was faster", scope.name(), pause.name)));
    }
    Ok(pause.name.clone())
}

fn entry(pause: &Pause, done: &str, at: DateTime<Utc>, detail: serde_json::Value) -> AuditEntry {
    let action = format!("{}.{done}", pause.scope.name());
    AuditEntry { at, actor: pause.actor.clone(), action, job_id: None, root_id: None, detail }
}

/// After a while, or at an instant.
fn end(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Failed> {
    let after = humantime::parse_duration(text)
        .ok()
        .and_then(|wait| now.checked_add_signed(chrono::TimeDelta::from_std(wait).ok()?));
    let at = || DateTime::parse_from_rfc3339(text).ok().map(|at| at.to_utc());
    match after.or_else(at) {
        Some(end) if end > now => Ok(end),
        Some(end) => Err(Failed(format!("--until {} has passed", instant(end)))),
        None => Err(Failed(format!(
            "--until is {text:?}; expected a while such as 2h or 30m, or an instant such as 2026-03-07T09:00:00Z"
        ))),
    }
}
