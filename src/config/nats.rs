use std::{borrow::Cow, fmt, path::PathBuf};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{
    error::{ConfigError, error},
    source::Source,
};

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
        let mut servers = Vec::new();
        let mut users = Vec::new();
        for url in urls.split(',') {
            let (server, user) = nats_server(url).ok_or_else(|| error("NATS_URL", "is malformed"))?;
            servers.push(server);
            users.extend(user);
        }
        users.dedup();
        if users.len() > 1 {
            return Err(error("NATS_URL", "names more than one user"));
        }
        Ok(NatsConfig {
            servers,
            user: users.pop(),
            creds: self.path("NATS_CREDS")?,
            ca_file: self.path("NATS_CA_FILE")?,
            inbox_prefix: self.parse_with("NATS_INBOX_PREFIX", inbox_prefix)?.unwrap_or_else(|| INBOX_PREFIX.into()),
        })
    }
}

/// Splits a NATS URL, perhaps without scheme, into server and user or token.
fn nats_server(text: &str) -> Option<(String, Option<NatsUser>)> {
    let text = text.trim();
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("nats://{text}")) };
    let mut url = url.ok().filter(|url| ["nats", "tls"].contains(&url.scheme()) && url.has_host())?;
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().ok().map(Cow::into_owned);
    let user = match (url.username(), url.password()) {
        ("", None) => None,
        (token, None) => Some(NatsUser::Token(decoded(token)?)),
        (name, Some(password)) => Some(NatsUser::Password { name: decoded(name)?, password: decoded(password)? }),
    };
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some((url.to_string(), user))
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
}
