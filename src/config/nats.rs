use std::{borrow::Cow, fmt, path::PathBuf};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    error::{ConfigError, error},
    source::Source,
};
use crate::host::is_this_machine;

/// Default prefix. Most users may subscribe to the usual `_INBOX`, and could read a worker's jobs there.
pub const INBOX_PREFIX: &str = "_INBOX_carebell";

/// Credentials in a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsUser {
    /// A user.
    Password {
        /// Name.
        name: String,
        /// Password.
        password: String,
    },
    /// A token.
    Token(String),
}

/// Settings of the NATS connection.
#[derive(Clone)]
pub struct NatsConfig {
    /// Server URLs, without user and password.
    pub servers: Vec<String>,
    /// User named in the URLs.
    pub user: Option<NatsUser>,
    /// Credentials file.
    pub creds: Option<PathBuf>,
    /// CA certificates beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Subject prefix for replies and jobs.
    pub inbox_prefix: String,
    /// Whether the connection must be encrypted: off this machine, unless each URL ends with `?tls=none`.
    pub requires_tls: bool,
    /// Whether the URLs do without encryption off this machine.
    pub is_exposed: bool,
    /// Whether only the servers of the URLs are connected to: one on this machine may tell of others, to which nothing may
    /// go unencrypted.
    pub is_local: bool,
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Source {
    /// Settings of the NATS connection.
    ///
    /// # Errors
    /// The first malformed variable.
    pub fn nats(&self) -> Result<NatsConfig, ConfigError> {
        let urls = self.get("NATS_URL").unwrap_or("nats://localhost:4222");
        let parsed: Option<Vec<Server>> = urls.split(',').map(Server::parse).collect();
        let parsed = parsed.ok_or_else(|| error("NATS_URL", "is malformed"))?;
        let mut users: Vec<NatsUser> = parsed.iter().filter_map(|server| server.user.clone()).collect();
        users.dedup();
        if users.len() > 1 {
            return Err(error("NATS_URL", "names more than one user"));
        }
        // The client moves between them, and to others that they tell of.
        let requires_tls = parsed.iter().any(|server| server.tls == Tls::Required);
        if requires_tls && parsed.iter().any(|server| server.tls == Tls::None) {
            return Err(error("NATS_URL", "names servers with and without `?tls=none`"));
        }
        Ok(NatsConfig {
            requires_tls,
            is_local: parsed.iter().all(|server| server.is_here),
            is_exposed: parsed.iter().any(|server| server.tls == Tls::None && !server.is_here),
            servers: parsed.into_iter().map(|server| server.url).collect(),
            user: users.pop(),
            creds: self.path("NATS_CREDS")?,
            ca_file: self.path("NATS_CA_FILE")?,
            inbox_prefix: self.parse_with("NATS_INBOX_PREFIX", inbox_prefix)?.unwrap_or_else(|| INBOX_PREFIX.into()),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tls {
    Required,
    /// On this machine, if the server offers it.
    Offered,
    /// If the server insists.
    None,
}

/// One URL of `NATS_URL`.
struct Server {
    /// Without user, password and query.
    url: String,
    user: Option<NatsUser>,
    tls: Tls,
    is_here: bool,
}

impl Server {
    /// Reads a URL, perhaps without scheme.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("nats://{text}")) };
        let mut url = url.ok().filter(|url| ["nats", "tls"].contains(&url.scheme()))?;
        let is_here = is_this_machine(url.host_str()?);
        let tls = match (url.scheme(), url.query()) {
            ("nats", Some("tls=none")) => Tls::None,
            ("nats", None) if is_here => Tls::Offered,
            (_, None) => Tls::Required,
            _ => return None,
        };
        let decoded = |part: &str| percent_decode_str(part).decode_utf8().ok().map(Cow::into_owned);
        let user = match (url.username(), url.password()) {
            ("", None) => None,
            (token, None) => Some(NatsUser::Token(decoded(token)?)),
            (name, Some(password)) => Some(NatsUser::Password { name: decoded(name)?, password: decoded(password)? }),
        };
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_query(None);
        Some(Self { url: url.to_string(), user, tls, is_here })
    }
}

/// A subject prefix without wildcards and empty tokens.
fn inbox_prefix(text: &str) -> Option<String> {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    text.split('.').all(is_word).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_taken_out_of_the_urls() {
        let nats = |url: &str| Source::of([("NATS_URL".to_owned(), url.to_owned())]).nats().unwrap();
        let both = nats("nats://worker:p%40ss@one:4222, tls://worker:p%40ss@two,three:4223");
        assert_eq!(both.servers, ["nats://one:4222", "tls://two", "nats://three:4223"]);
        assert_eq!(both.user, Some(NatsUser::Password { name: "worker".into(), password: "p@ss".into() }));
        assert_eq!(nats("token@one").user, Some(NatsUser::Token("token".into())));
        assert!(!format!("{both:?}").contains("p@ss"), "{both:?}");
    }

    #[test]
    fn encryption_is_required_off_this_machine_unless_said_otherwise() {
        let nats = |url: &str| Source::of([("NATS_URL".to_owned(), url.to_owned())]).nats();
        for (url, requires_tls, is_exposed) in [
            ("nats://localhost", false, false),
            ("nats://127.0.0.1:4222,[::1]:4223", false, false),
            ("tls://127.0.0.1:4222", true, false),
            ("nats://127.0.0.1:4222?tls=none", false, false),
            ("nats://nats:4222", true, false),
            ("10.0.0.1", true, false),
            ("nats://0.0.0.0:4222", true, false),
            ("nats://localhost.example", true, false),
            ("nats://localhost,nats://two", true, false),
            ("nats://one?tls=none,two:4222?tls=none", false, true),
            ("nats://localhost,nats://two?tls=none", false, true),
        ] {
            let nats = nats(url).unwrap();
            assert_eq!((nats.requires_tls, nats.is_exposed), (requires_tls, is_exposed), "{url}");
            assert!(!nats.servers.concat().contains('?'));
        }
        for url in ["nats://one,nats://two?tls=none", "tls://one?tls=none", "nats://one?tls=off", "nats://"] {
            assert!(nats(url).is_err(), "{url}");
        }
    }
}
