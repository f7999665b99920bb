//! `carebell tokens`: who may use the console and its API.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{actor::actor, connect, failed::Failed, output::Format};
use crate::{
    admin::{access::Role, draw_secret, hash_secret},
    clock::{Clock, Random},
    config::Source,
    store::{AuditEntry, TokenRow},
    text::instant,
};

/// The most characters of a token's name.
const LONGEST_NAME: usize = 64;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token and print it once: only its hash is kept
    Add {
        /// Whose it is, for the audit log: 1 to 64 of A-Z a-z 0-9 _ . @ -
        #[arg(value_parser = parse_name)]
        name: String,
        /// viewer (ids and states), coordinator (also people), operator (also acts) or admin (also tokens)
        #[arg(long, value_parser = parse_role, value_name = "ROLE")]
        role: Role,
        /// How long it is good for, for example 90days [default: for ever]
        #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
        expires: Option<Duration>,
        /// Your name, for the audit log
        #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// List tokens, newest first
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Refuse a token from now on, and end its sessions
    Revoke {
        /// Its name; oidc:… to end the sessions of somebody who signed in at a provider
        name: String,
        /// Your name, for the audit log
        #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

pub(super) async fn run(source: &Source, command: Command) -> Result<(), Failed> {
    let store = connect::store(source, 2).await?;
    let now = Clock::system().now();
    match command {
        Command::Add { name, role, expires, by, format } => {
            let expires_at = expires.map(|expires| after(now, expires)).transpose()?;
            let secret = draw_secret()?;
            let row = TokenRow {
                id: Random::system().uuid(now).to_string(),
                name: name.clone(),
                role: role.name().to_owned(),
                created_at: now,
                created_by: actor(by),
                expires_at,
                revoked_at: None,
                last_used_at: None,
            };
            let act = act("token.added", &row.created_by, &name, now);
            if !store.add_token(&row, &hash_secret(&secret), &act).await? {
                return Err(Failed(format!("there is a token {name:?} already: revoke it, or choose another name")));
            }
            Ok(format.print(
                &json!({ "name": name, "role": row.role, "token": secret, "expires_at": expires_at }),
                &secret,
            )?)
        }
        Command::List { format } => {
            let rows = store.tokens().await?;
            let lines: Vec<String> = rows.iter().map(|row| in_words(row, now)).collect();
            let text = if lines.is_empty() { "there are no tokens".to_owned() } else { lines.join("\n") };
            Ok(format.print(&rows.iter().map(to_json).collect(), &text)?)
        }
        Command::Revoke { name, by, format } => {
            if !store.revoke_token(&name, &act("token.revoked", &actor(by), &name, now)).await? {
                return Err(Failed(format!("there is no token {name:?}; `carebell tokens list` shows all")));
            }
            // No token has a colon in its name.
            let of_provider = name.contains(':');
            let done = if of_provider {
                format!("the sessions of {name} are ended")
            } else {
                format!("token {name} is revoked")
            };
            Ok(format.print(&json!({ "name": name, "revoked": true }), &done)?)
        }
    }
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

fn to_json(row: &TokenRow) -> Value {
    json!({
        "name": row.name,
        "role": row.role,
        "created_at": row.created_at,
        "created_by": row.created_by,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
    })
}

fn in_words(row: &TokenRow, now: DateTime<Utc>) -> String {
    let used = row.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", instant(at)));
    let state = match (row.revoked_at, row.expires_at) {
        (Some(at), _) => format!("revoked {}", instant(at)),
        (None, Some(at)) if at <= now => format!("expired {}", instant(at)),
        (None, Some(at)) => format!("good until {}", instant(at)),
        (None, None) => "good".to_owned(),
    };
    format!("{}: {}, {state}, {used}; made {} by {}", row.name, row.role, instant(row.created_at), row.created_by)
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "expected viewer, coordinator, operator or admin".to_owned())
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    let is_name = (1..=LONGEST_NAME).contains(&text.len()) && text.chars().all(is_plain);
    is_name.then(|| text.to_owned()).ok_or_else(|| format!("expected 1 to {LONGEST_NAME} of A-Z a-z 0-9 _ . @ -"))
}
