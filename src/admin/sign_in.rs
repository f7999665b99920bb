//! Proofs of who sent a request: a token, or the cookie of a session.

use std::{net::IpAddr, sync::PoisonError};

use axum::http::{HeaderMap, header};
use chrono::TimeDelta;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::{
    access::{Role, Viewer, Way},
    oidc::{Answer, Failed, Flow, Oidc},
    problem::Problem,
    secret,
    state::Admin,
};
use crate::{
    http::listener::Peer,
    store::{AuditEntry, SessionRow},
};

/// An idle session ends.
pub const IDLE: TimeDelta = TimeDelta::minutes(60);

/// Any session ends.
pub const LONGEST: TimeDelta = TimeDelta::hours(12);

/// A sign-in at a provider takes no longer.
const LONGEST_FLOW: TimeDelta = TimeDelta::minutes(10);

/// The name for whoever uses `ADMIN_TOKEN`.
const BOOTSTRAP: &str = "ADMIN_TOKEN";

/// Whoever signs in.
pub struct Owner {
    name: String,
    role: Role,
    token_id: Option<String>,
    /// For the audit log.
    proof: Value,
}

impl Owner {
    fn of_token(name: String, role: Role, token_id: Option<String>) -> Self {
        Self { name, role, token_id, proof: json!({ "by": "token", "role": role.name() }) }
    }
}

impl Admin {
    /// Whoever sent these headers; `None` if they do not say.
    ///
    /// # Errors
    /// A token that is not known, too many of these, or a database that is away.
    pub async fn viewer(&self, headers: &HeaderMap, peer: Option<Peer>) -> Result<Option<Viewer>, Problem> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let token = value.to_str().ok().and_then(|value| {
                let (scheme, token) = value.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
            });
            let owner = self.owner(token.unwrap_or_default(), headers, peer).await?;
            return Ok(Some(Viewer { name: owner.name, role: owner.role, way: Way::Token }));
        }
        // Before a cookie, which may be of somebody who used this browser before.
        if let Some(proxy) = &self.proxy
            && let Some(viewer) = proxy.viewer(headers, peer.is_some_and(|Peer(peer)| self.is_trusted(peer)))?
        {
            return Ok(Some(viewer));
        }
        let Some(cookie) = cookie(headers, self.session_cookie()) else { return Ok(None) };
        let session = self.store.session(&secret::hash(&cookie), IDLE, self.clock.now()).await?;
        let viewer = |session: SessionRow| {
            Some(Viewer { name: session.name, role: Role::parse(&session.role)?, way: Way::Session })
        };
        Ok(session.and_then(viewer))
    }

    /// Whose token this is. Failures count against the address that they come from.
    ///
    /// # Errors
    /// A token that is not known, too many of these, or a database that is away.
    pub async fn owner(&self, token: &str, headers: &HeaderMap, peer: Option<Peer>) -> Result<Owner, Problem> {
        let address = self.address(headers, peer);
        let now = self.clock.now();
        self.failures.check(address, now)?;
        let hash = secret::hash(token);
        if self.bootstrap.as_ref() == Some(&hash) {
            return Ok(Owner::of_token(BOOTSTRAP.to_owned(), Role::Admin, None));
        }
        let row = self.store.token_in_use(&hash, now).await?;
        let owner = row.and_then(|row| Some(Owner::of_token(row.name, Role::parse(&row.role)?, Some(row.id))));
        owner.ok_or_else(|| {
            self.failures.add(address, now);
            Problem::unauthorized()
        })
    }

    /// Takes the way in that is good once.
    ///
    /// # Errors
    /// If it is another, or was taken before.
    pub fn take_ticket(&self, ticket: &str, headers: &HeaderMap, peer: Option<Peer>) -> Result<Owner, Problem> {
        let (address, now) = (self.address(headers, peer), self.clock.now());
        self.failures.check(address, now)?;
        let mut known = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(&secret::hash(ticket)) {
            *known = None;
            return Ok(Owner::of_token(BOOTSTRAP.to_owned(), Role::Admin, None));
        }
        self.failures.add(address, now);
        Err(Problem::unauthorized())
    }

    /// Sends a browser to the provider: the address, and a cookie that goes with it. `next` is the page that it asked
    /// for.
    ///
    /// # Errors
    /// If there is no provider, or it is away.
    pub async fn begin_oidc(&self, next: &str) -> Result<(String, String), Problem> {
        let flow = Flow::begin().map_err(|why| Problem::unavailable("the sign-in", why))?;
        let address = self.oidc()?.begin(&flow).await.map_err(problem)?;
        let value = format!("{}.{}", flow.secret(), utf8_percent_encode(next, NON_ALPHANUMERIC));
        Ok((address, self.set_cookie(self.flow_cookie(), &value, LONGEST_FLOW.num_seconds())))
    }

    /// Whoever comes back from the provider, and the page that they asked for. Failures count against the address that
    /// they come from.
    ///
    /// # Errors
    /// If the answer proves nothing, is of somebody without a role, or the provider is away.
    pub async fn finish_oidc(
        &self,
        answer: &Answer,
        headers: &HeaderMap,
        peer: Option<Peer>,
    ) -> Result<(Owner, String), Problem> {
        let (address, now) = (self.address(headers, peer), self.clock.now());
        self.failures.check(address, now)?;
        let cookie = cookie(headers, self.flow_cookie());
        let begun = cookie.as_deref().and_then(|cookie| {
            let (secret, next) = cookie.split_once('.')?;
            Some((Flow::of(secret)?, percent_decode_str(next).decode_utf8().ok()?.into_owned()))
        });
        let finished = match begun {
            Some((flow, next)) => self.oidc()?.finish(&flow, answer).await.map(|person| (person, next)),
            None => Err(Failed::Refused("this browser began no sign-in, or too long ago: begin again".into())),
        };
        let (person, next) = finished.map_err(|failed| {
            tracing::warn!("a sign-in by OIDC fails: {failed}");
            if !matches!(failed, Failed::Away(_)) {
                self.failures.add(address, now);
            }
            problem(failed)
        })?;
        let proof = json!({ "by": "oidc", "role": person.role.name(), "subject": person.subject });
        Ok((Owner { name: person.name, role: person.role, token_id: None, proof }, next))
    }

    /// A cookie that replaces that of a sign-in on its way.
    #[must_use]
    pub fn end_flow(&self) -> String {
        self.set_cookie(self.flow_cookie(), "", 0)
    }

    fn oidc(&self) -> Result<&Oidc, Problem> {
        self.oidc.as_ref().ok_or_else(|| Problem::not_found("ADMIN_OIDC_ISSUER is not set"))
    }

    /// Opens a session, on record, and returns its cookie.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn open_session(&self, owner: Owner) -> Result<String, Problem> {
        let now = self.clock.now();
        let cookie = secret::draw().map_err(|why| Problem::unavailable("the session", why))?;
        let act = AuditEntry {
            at: now,
            actor: owner.name.clone(),
            action: "session.opened".into(),
            job_id: None,
            root_id: None,
            detail: owner.proof,
        };
        let row = SessionRow {
            token_id: owner.token_id,
            name: owner.name,
            role: owner.role.name().to_owned(),
            ends_at: now + LONGEST,
        };
        self.store.open_session(&secret::hash(&cookie), &row, &act).await?;
        Ok(self.set_cookie(self.session_cookie(), &cookie, LONGEST.num_seconds()))
    }

    /// Ends the session of these headers, and returns a cookie that replaces its own.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn end_session(&self, headers: &HeaderMap) -> Result<String, Problem> {
        if let Some(cookie) = cookie(headers, self.session_cookie()) {
            self.store.end_session(&secret::hash(&cookie)).await?;
        }
        Ok(self.set_cookie(self.session_cookie(), "", 0))
    }

    /// A cookie of this name cannot be set by another host of the domain, and goes by TLS only. Without TLS, as on this
    /// machine, browsers refuse the prefix.
    fn session_cookie(&self) -> &'static str {
        if self.is_secure { "__Host-carebell" } else { "carebell" }
    }

    /// Of a sign-in on its way.
    fn flow_cookie(&self) -> &'static str {
        if self.is_secure { "__Host-carebell_flow" } else { "carebell_flow" }
    }

    fn set_cookie(&self, name: &str, value: &str, seconds: i64) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    /// Of the client, as a trusted proxy says, else of the other end.
    fn address(&self, headers: &HeaderMap, peer: Option<Peer>) -> Option<IpAddr> {
        let Peer(peer) = peer?;
        if !self.is_trusted(peer) {
            return Some(peer);
        }
        // A proxy appends the address that it saw, perhaps as a header of its own; all before it may be anybody's word.
        let line = headers.get_all("x-forwarded-for").iter().next_back().and_then(|value| value.to_str().ok());
        line.and_then(|line| line.rsplit(',').next()?.trim().parse().ok()).or(Some(peer))
    }
}

fn problem(failed: Failed) -> Problem {
    match failed {
        Failed::Away(why) => Problem::unavailable("the sign-in provider", &why),
        Failed::Refused(why) => Problem::not_signed_in(why),
        Failed::NoRole(why) => Problem::no_role(why),
    }
}

/// A cookie that is not empty.
fn cookie(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, value)| *name == wanted && !value.is_empty()).map(|(_, value)| value.to_owned())
}
