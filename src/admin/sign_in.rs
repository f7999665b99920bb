//! Proofs of who sent a request: a token, or the cookie of a session.

use std::{net::IpAddr, sync::PoisonError};

use axum::http::{HeaderMap, header};
use chrono::TimeDelta;

use super::{
    access::{Role, Viewer, Way},
    problem::Problem,
    secret,
    state::Admin,
};
use crate::{http::listener::Peer, store::SessionRow};

/// An idle session ends.
pub const IDLE: TimeDelta = TimeDelta::minutes(60);

/// Any session ends.
pub const LONGEST: TimeDelta = TimeDelta::hours(12);

/// The name for whoever uses `ADMIN_TOKEN`.
const BOOTSTRAP: &str = "ADMIN_TOKEN";

/// Whose token it is.
pub struct Owner {
    name: String,
    role: Role,
    token_id: Option<String>,
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
        let Some(cookie) = self.cookie(headers) else { return Ok(None) };
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
            return Ok(Owner { name: BOOTSTRAP.to_owned(), role: Role::Admin, token_id: None });
        }
        let row = self.store.token_in_use(&hash, now).await?;
        let owner =
            row.and_then(|row| Some(Owner { role: Role::parse(&row.role)?, name: row.name, token_id: Some(row.id) }));
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
            return Ok(Owner { name: BOOTSTRAP.to_owned(), role: Role::Admin, token_id: None });
        }
        self.failures.add(address, now);
        Err(Problem::unauthorized())
    }

    /// Opens a session, and returns its cookie.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn open_session(&self, owner: Owner) -> Result<String, Problem> {
        let now = self.clock.now();
        let cookie = secret::draw().map_err(|why| Problem::unavailable("the session", why))?;
        let row = SessionRow {
            token_id: owner.token_id,
            name: owner.name,
            role: owner.role.name().to_owned(),
            ends_at: now + LONGEST,
        };
        self.store.open_session(&secret::hash(&cookie), &row, now).await?;
        Ok(self.set_cookie(&cookie, LONGEST.num_seconds()))
    }

    /// Ends the session of these headers, and returns a cookie that replaces its own.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn end_session(&self, headers: &HeaderMap) -> Result<String, Problem> {
        if let Some(cookie) = self.cookie(headers) {
            self.store.end_session(&secret::hash(&cookie)).await?;
        }
        Ok(self.set_cookie("", 0))
    }

    /// A cookie of this name cannot be set by another host of the domain, and goes by TLS only. Without TLS, as on this
    /// machine, browsers refuse the prefix.
    fn cookie_name(&self) -> &'static str {
        if self.is_secure { "__Host-carebell" } else { "carebell" }
    }

    fn set_cookie(&self, value: &str, seconds: i64) -> String {
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!("{}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}", self.cookie_name())
    }

    fn cookie(&self, headers: &HeaderMap) -> Option<String> {
        let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = pairs.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, value)| *name == self.cookie_name() && !value.is_empty()).map(|(_, value)| value.to_owned())
    }

    /// Of the client, as a trusted proxy says, else of the other end.
    fn address(&self, headers: &HeaderMap, peer: Option<Peer>) -> Option<IpAddr> {
        let Peer(peer) = peer?;
        if !self.trusted_proxies.contains(&peer) {
            return Some(peer);
        }
        // A proxy appends the address that it saw; what is before it may be anybody's word.
        let line = headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        line.and_then(|line| line.rsplit(',').next()?.trim().parse().ok()).or(Some(peer))
    }
}
