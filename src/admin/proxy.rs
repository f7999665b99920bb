//! Sign-in by a proxy in front of the console, which says by headers who signed in there.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{HeaderMap, HeaderName};

use super::{
    access::{Viewer, Way},
    problem::Problem,
};
use crate::config::ProxyConfig;

/// Begins the names of people who sign in so, in the audit log: no header can pretend to be a token.
const PREFIX: &str = "proxy:";

/// Characters of a name.
const LONGEST_NAME: usize = 100;

/// Sign-in by a trusted proxy.
pub struct Proxy {
    settings: ProxyConfig,
    /// Whether the log has a header that came from elsewhere.
    told: AtomicBool,
}

impl Proxy {
    /// With these headers.
    #[must_use]
    pub fn new(settings: ProxyConfig) -> Self {
        Self { settings, told: AtomicBool::new(false) }
    }

    /// Whoever signed in at the proxy that sent these headers; `None` if they name nobody, or come from elsewhere.
    ///
    /// # Errors
    /// Headers that are ambiguous, or somebody without a role.
    pub fn viewer(&self, headers: &HeaderMap, is_trusted: bool) -> Result<Option<Viewer>, Problem> {
        let ProxyConfig { user, groups, roles } = &self.settings;
        if !headers.contains_key(user) && !headers.contains_key(groups) {
            return Ok(None);
        }
        if !is_trusted {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{user} or {groups} came from an address that ADMIN_TRUSTED_PROXIES does not list: such headers \
                     are ignored"
                );
            }
            return Ok(None);
        }
        let Some(name) = only(headers, user)?.filter(|name| !name.is_empty()) else { return Ok(None) };
        if name.chars().count() > LONGEST_NAME {
            return Err(Problem::field(user.as_str(), format!("expected at most {LONGEST_NAME} characters")));
        }
        let named = only(headers, groups)?.unwrap_or_default();
        let role = roles.best(named.split([',', '|']).map(str::trim)).ok_or_else(|| {
            Problem::no_role(format!(
                "the proxy knows you, and you have no role here: its header {groups} has nothing that \
                 ADMIN_PROXY_ROLES maps to one"
            ))
        })?;
        Ok(Some(Viewer { name: format!("{PREFIX}{name}"), role, way: Way::Proxy }))
    }
}

/// The value of a header that must not come twice: of two, one may be the browser's own.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::field(name.as_str(), "expected once: the proxy must remove what browsers send"));
    }
    let text = std::str::from_utf8(value.as_bytes()).ok().filter(|text| !text.contains(char::is_control));
    text.map(|text| Some(text.trim())).ok_or_else(|| Problem::field(name.as_str(), "expected text in UTF-8"))
}
