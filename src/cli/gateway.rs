//! `carebell gateway`: the HTTP door for producers, and its tokens.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{actor::actor, connect, failed::Failed, output::Format};
use crate::{
    admin::{draw_secret, hash_secret},
    channels::{Channels, breaker::BreakerPolicy},
    checkpoint,
    clock::{Clock, Random},
    config::Source,
    doctor,
    gateway::{self, Parts},
    health::{Health, Phase},
    http, jobs,
    store::{AuditEntry, GatewayToken, Store},
    streams::Application,
    text::instant,
};

/// Half of them write the rows of jobs.
const CONNECTIONS: u32 = 8;

/// No statement may keep a producer waiting for longer.
const LONGEST_STATEMENT: Duration = Duration::from_secs(5);

/// The most characters of a token's name.
const LONGEST_NAME: usize = 64;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage tokens of applications
    #[command(subcommand)]
    Tokens(Tokens),
}

#[derive(Debug, Subcommand)]
enum Tokens {
    /// Make a token and print it once: only its hash is kept
    Add(Box<Add>),
    /// List tokens, newest first
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Refuse a token from a second from now on
    Revoke {
        /// Its name
        name: String,
        /// Your name, for the audit log
        #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The program that has it, for the audit log: 1 to 64 of A-Z a-z 0-9 _ . @ -
    #[arg(value_parser = parse_name)]
    name: String,
    /// Its application, where several are kept apart (APPLICATIONS)
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// What it may publish, for example notification,reminder.*
    #[arg(long, required = true, value_delimiter = ',', value_name = "KIND,…")]
    kinds: Vec<String>,
    /// Jobs a second, in each process of the gateway [default: no limit of its own]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..), value_name = "NUMBER")]
    rate: Option<i32>,
    /// How long it is good for, for example 90days [default: for ever]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    expires: Option<Duration>,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(source: &Source, args: Args, stop: CancellationToken) -> Result<(), Failed> {
    match args.command {
        None => serve(source, stop).await,
        Some(Command::Tokens(command)) => tokens(source, command).await,
    }
}

async fn serve(source: &Source, stop: CancellationToken) -> Result<(), Failed> {
    let config = source.http_gateway()?;
    if let Some(step) = config.abort_at {
        checkpoint::abort_at(step);
    }
    // Raises the limit too.
    doctor::at_start(&[doctor::descriptors(source)]).map_err(|(_, why)| Failed(why))?;
    let (health, clock) = (Health::new(), Clock::system());
    let store = Store::impatient(&source.database()?, CONNECTIONS, LONGEST_STATEMENT);
    let state = http::State {
        channels: Channels::new(Vec::new(), BreakerPolicy::default(), clock.clone(), health.metrics()),
        store: Arc::new(OnceLock::from(store.clone())),
        health: Arc::clone(&health),
    };
    let closing = CancellationToken::new();
    let address = http::serve(config.health_port, state, closing.clone())
        .map_err(|error| format!("HEALTH_PORT cannot be served: {error}"))?;
    tracing::info!(port = address.port(), "health is served");
    tokio::spawn(gateway::watch_database(store.clone(), Arc::clone(&health), closing.clone()));
    let nats = gateway::reach_nats(source.nats()?, Arc::clone(&health), closing.clone());
    let parts = Parts { store, nats, health: Arc::clone(&health), clock, config };
    let (address, served) =
        gateway::serve(parts, stop.clone()).map_err(|error| format!("GATEWAY_PORT cannot be served: {error}"))?;
    tracing::info!(port = address.port(), "the gateway is served");
    stop.cancelled().await;
    health.enter(Phase::Draining);
    let _ = served.await;
    closing.cancel();
    Ok(())
}

async fn tokens(source: &Source, command: Tokens) -> Result<(), Failed> {
    let store = connect::store(source, 2).await?;
    let now = Clock::system().now();
    match command {
        Tokens::Add(args) => {
            let applications = source.adjustments()?.applications;
            let application = application(&args, &applications)?;
            let expires_at = args.expires.map(|expires| after(now, expires)).transpose()?;
            let secret = draw_secret()?;
            let row = GatewayToken {
                id: Random::system().uuid(now).to_string(),
                name: args.name.clone(),
                application,
                kinds: args.kinds,
                rate: args.rate,
                created_at: now,
                created_by: actor(args.by),
                expires_at,
                revoked_at: None,
                last_used_at: None,
            };
            let act = act("gateway_token.added", &row.created_by, &row.name, now);
            if !store.add_gateway_token(&row, &hash_secret(&secret), &act).await? {
                let name = &row.name;
                return Err(Failed(format!("there is a token {name:?} already: revoke it, or choose another name")));
            }
            let mut json = to_json(&row);
            json["token"] = secret.as_str().into();
            Ok(args.format.print(&json, &secret)?)
        }
        Tokens::List { format } => {
            let rows = store.gateway_tokens().await?;
            let lines: Vec<String> = rows.iter().map(|row| in_words(row, now)).collect();
            let text = if lines.is_empty() { "there are no tokens".to_owned() } else { lines.join("\n") };
            Ok(format.print(&rows.iter().map(to_json).collect(), &text)?)
        }
        Tokens::Revoke { name, by, format } => {
            if !store.revoke_gateway_token(&name, &act("gateway_token.revoked", &actor(by), &name, now)).await? {
                return Err(Failed(format!("there is no token {name:?}; `carebell gateway tokens list` shows all")));
            }
            Ok(format.print(&json!({ "name": name, "revoked": true }), &format!("token {name} is revoked"))?)
        }
    }
}

/// The application of a new token, which may publish its kinds.
fn application(args: &Add, applications: &[Application]) -> Result<String, Failed> {
    let registry = jobs::registry();
    let published: Vec<&str> =
        registry.kinds().iter().filter(|kind| kind.is_published()).map(|kind| kind.name).collect();
    let found = match (&args.application, applications) {
        (None, []) => None,
        (Some(name), []) => {
            return Err(Failed(format!(
                "there is one application, and none is named {name}: set APPLICATIONS, or omit it"
            )));
        }
        (name, all) => {
            let names = || all.iter().map(|of| of.name.as_str()).collect::<Vec<_>>().join(", ");
            let found = name.as_ref().and_then(|name| all.iter().find(|of| of.name == *name));
            Some(found.ok_or_else(|| Failed(format!("--application must be one of {}", names())))?)
        }
    };
    let may_publish = |kind: &str| found.is_none_or(|of| of.may_publish(kind));
    for granted in &args.kinds {
        let of = Application { name: String::new(), kinds: vec![granted.clone()] };
        if !published.iter().any(|kind| of.may_publish(kind) && may_publish(kind)) {
            let all: Vec<&str> = published.iter().copied().filter(|kind| may_publish(kind)).collect();
            return Err(Failed(format!(
                "--kinds: {granted:?} is no kind that it may publish; there are {}",
                all.join(", ")
            )));
        }
    }
    Ok(found.map(|of| of.name.clone()).unwrap_or_default())
}

fn after(now: DateTime<Utc>, expires: Duration) -> Result<DateTime<Utc>, Failed> {
    let at = TimeDelta::from_std(expires).ok().and_then(|expires| now.checked_add_signed(expires));
    at.filter(|at| *at > now)
        .ok_or_else(|| Failed("--expires must be a span from 1s to some thousand years".to_owned()))
}

fn act(action: &str, by: &str, name: &str, at: DateTime<Utc>) -> AuditEntry {
    let detail = json!({ "token": name });
    AuditEntry { at, actor: by.to_owned(), action: action.to_owned(), job_id: None, root_id: None, detail }
}

fn to_json(row: &GatewayToken) -> Value {
    json!({
        "name": row.name,
        "application": row.application,
        "kinds": row.kinds,
        "rate": row.rate,
        "created_at": row.created_at,
        "created_by": row.created_by,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    })
}

fn in_words(row: &GatewayToken, now: DateTime<Utc>) -> String {
    let GatewayToken { name, application, kinds, .. } = row;
    let of = if application.is_empty() { String::new() } else { format!(" of {application}") };
    let rate = row.rate.map(|rate| format!(", {rate} jobs/s")).unwrap_or_default();
    let used = row.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", instant(at)));
    let state = match (row.revoked_at, row.expires_at) {
        (Some(at), _) => format!("revoked {}", instant(at)),
        (None, Some(at)) if at <= now => format!("expired {}", instant(at)),
        (None, Some(at)) => format!("good until {}", instant(at)),
        (None, None) => "good".to_owned(),
    };
    let kinds = kinds.join(" ");
    let made = format!("made {} by {}", instant(row.created_at), row.created_by);
    format!("{name}{of}: {kinds}{rate}, {state}, {used}; {made}")
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    let is_name = (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(is_plain);
    is_name.then(|| text.to_owned()).ok_or_else(|| format!("expected 1 to {LONGEST_NAME} of A-Z a-z 0-9 _ . @ -"))
}
