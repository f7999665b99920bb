//! The place of Carebell's tables: a server, a database and a schema.

use std::{fmt, path::Path};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::host::is_this_machine;

/// Server, database and schema. Its `Debug` and errors omit the URL: it may hold a password.
#[derive(Clone)]
pub struct Database {
    pub(super) options: PgConnectOptions,
    pub(super) schema: String,
    pub(super) is_exposed: bool,
}

/// Why a URL is refused. Never holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseProblem {
    /// Not a URL of Postgres.
    #[error("is malformed")]
    Malformed,
    /// The client would ignore it, and log its value.
    #[error("has the unknown parameter `{0}`")]
    Unknown(String),
    /// A parameter with a value that the client cannot read.
    #[error("has a malformed `{0}`{1}")]
    Parameter(&'static str, &'static str),
    /// More than one host, or a choice among several.
    #[error(
        "{0}, but Carebell connects to one: give it a name or an address that always leads to the primary, such as that \
         of a proxy or a Kubernetes service"
    )]
    SeveralHosts(&'static str),
}

impl Database {
    /// The schema unless another is named.
    pub const SCHEMA: &str = "carebell";

    /// Reads a URL. Off this machine, TLS is required unless it has `sslmode=disable`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, DatabaseProblem> {
        let url = Url::parse(text).map_err(|error| match error {
            _ if names_several_hosts(text) => DatabaseProblem::SeveralHosts("names several hosts"),
            url::ParseError::InvalidPort => DatabaseProblem::Parameter("port", ""),
            _ => DatabaseProblem::Malformed,
        })?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(DatabaseProblem::Malformed);
        }
        if url.host_str().is_some_and(|host| host.contains(',')) {
            return Err(DatabaseProblem::SeveralHosts("names several hosts"));
        }
        for (name, value) in url.query_pairs() {
            check_parameter(&name, &value)?;
        }
        let options: PgConnectOptions = text.parse().map_err(|_| DatabaseProblem::Malformed)?;
        Ok(Self::with(with_plain_address(options), says_no_tls(&url)))
    }

    fn with(options: PgConnectOptions, says_no_tls: bool) -> Self {
        // A host that begins with a slash is the directory of a socket.
        let host = options.get_host();
        let is_here = options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host);
        let mode = match options.get_ssl_mode() {
            // Whoever does without says so in the URL, and not in PGSSLMODE.
            PgSslMode::Disable if !is_here && !says_no_tls => PgSslMode::Require,
            // These two would take what an attacker in between says.
            PgSslMode::Allow | PgSslMode::Prefer if !is_here => PgSslMode::Require,
            mode => mode,
        };
        let is_exposed = !is_here && matches!(mode, PgSslMode::Disable);
        let options = options.ssl_mode(mode).application_name("carebell");
        Self { options, schema: Self::SCHEMA.to_owned(), is_exposed }
    }

    /// With another schema: a-z, digits and `_`, at most 63, and no name of Postgres's own. None if it is none.
    #[must_use]
    pub fn in_schema(self, name: &str) -> Option<Self> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let begins_well = name.starts_with(|first: char| !first.is_ascii_digit()) && !name.starts_with("pg_");
        let is_name = is_plain && begins_well && name.len() <= 63 && name != "information_schema";
        is_name.then(|| Self { schema: name.to_owned(), ..self })
    }

    /// Puts the schema first. Care tables are found in it, or by the search path of the role, the database or the URL.
    pub(super) fn search_path(&self) -> String {
        let schema = &self.schema;
        format!(
            "SELECT set_config('search_path', concat_ws(', ', '{schema}', nullif(current_setting('search_path'), '')), \
             false)"
        )
    }

    /// Host and port, or the socket's directory, for messages.
    #[must_use]
    pub fn server(&self) -> String {
        let (host, port) = (self.options.get_host(), self.options.get_port());
        match self.options.get_socket() {
            Some(socket) => format!("the socket in {}", socket.display()),
            None if host.starts_with('/') => format!("the socket in {host}"),
            None if host.contains(':') => format!("[{host}]:{port}"),
            None => format!("{host}:{port}"),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// The client's own values, which it reports without the name, or only when it connects.
fn check_parameter(name: &str, value: &str) -> Result<(), DatabaseProblem> {
    let malformed =
        |is_well: bool, name, forms| if is_well { Ok(()) } else { Err(DatabaseProblem::Parameter(name, forms)) };
    let file = |name| malformed(Path::new(value).is_file(), name, ": there is no such file");
    match name {
        "sslmode" | "ssl-mode" => malformed(
            value.parse::<PgSslMode>().is_ok(),
            "sslmode",
            " (disable, allow, prefer, require, verify-ca or verify-full)",
        ),
        "host" | "hostaddr" | "port" if value.contains(',') => {
            Err(DatabaseProblem::SeveralHosts("names several hosts"))
        }
        "port" => malformed(value.parse::<u16>().is_ok_and(|port| port > 0), "port", ""),
        "hostaddr" => malformed(value.parse::<std::net::IpAddr>().is_ok(), "hostaddr", ""),
        "statement-cache-capacity" => malformed(value.parse::<usize>().is_ok(), "statement-cache-capacity", ""),
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" => file("sslrootcert"),
        "sslcert" | "ssl-cert" => file("sslcert"),
        "sslkey" | "ssl-key" => file("sslkey"),
        "target_session_attrs" | "load_balance_hosts" => {
            Err(DatabaseProblem::SeveralHosts("chooses among several hosts"))
        }
        "host" | "dbname" | "user" | "password" | "application_name" | "options" => Ok(()),
        _ if name.starts_with("options[") && name.ends_with(']') => Ok(()),
        _ => {
            let name = name.chars().filter(char::is_ascii_graphic).take(40).collect();
            Err(DatabaseProblem::Unknown(name))
        }
    }
}

/// `postgres://one:5432,two:5432/care`, which is no URL.
fn names_several_hosts(text: &str) -> bool {
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    hosts.contains(',')
}

/// An IPv6 address without the brackets that it has in a URL, which no resolver takes.
fn with_plain_address(options: PgConnectOptions) -> PgConnectOptions {
    let bare = options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(ToOwned::to_owned);
    match bare {
        Some(host) => options.host(&host),
        None => options,
    }
}

fn says_no_tls(url: &Url) -> bool {
    url.query_pairs().any(|(name, value)| ["sslmode", "ssl-mode"].contains(&name.as_ref()) && value == "disable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_says_is_read_or_refused_by_name() {
        let well = [
            ("postgres://a:secret@db.example/care", "db.example:5432"),
            ("postgresql://[::1]:5433/care", "[::1]:5433"),
            ("postgres://a@db/care?sslmode=verify-full&port=6000&options[search_path]=app", "db:6000"),
            ("postgres://%2Frun%2Fpostgresql/care", "the socket in /run/postgresql"),
            ("postgres:///care?host=/run/postgresql", "the socket in /run/postgresql"),
        ];
        for (url, server) in well {
            assert_eq!(Database::parse(url).unwrap().server(), server, "{url}");
        }
        let refused = [
            ("mysql://a:secret@db/care", "is malformed"),
            ("postgres://a:secret@db:abc/care", "malformed `port`"),
            ("postgres://a:secret@db/care?port=abc", "malformed `port`"),
            ("postgres://a:secret@db/care?port=0", "malformed `port`"),
            ("postgres://a:secret@db/care?sslmode=bogus", "`sslmode` (disable, allow"),
            ("postgres://a:secret@db/care?sslrootcert=/secret", "`sslrootcert`: there is no such file"),
            ("postgres://a:secret@db/care?hostaddr=secret", "`hostaddr`"),
            ("postgres://a:secret@db/care?sslpassword=secret", "unknown parameter `sslpassword`"),
            ("postgres://a:secret@db/care?target_session_attrs=read-write", "chooses among several hosts"),
            ("postgres://a:secret@one,two/care", "names several hosts"),
            ("postgres://a:secret@one:5432,two:5432/care", "names several hosts"),
            ("postgres:///care?host=one,two", "names several hosts"),
        ];
        for (url, expected) in refused {
            let problem = Database::parse(url).unwrap_err().to_string();
            assert!(problem.contains(expected) && !problem.contains("secret"), "{url}: {problem}");
        }
    }

    #[test]
    fn tls_is_required_off_this_machine() {
        let cases = [
            ("postgres://db/care", "require", false),
            ("postgres://db/care?sslmode=prefer", "require", false),
            ("postgres://db/care?sslmode=disable", "disable", true),
            ("postgres://[2001:db8::1]/care", "require", false),
            ("postgres://[::1]/care?sslmode=disable", "disable", false),
            ("postgres://127.0.0.1/care?sslmode=prefer", "prefer", false),
        ];
        for (url, mode, is_exposed) in cases {
            let database = Database::parse(url).unwrap();
            let wanted: PgSslMode = mode.parse().unwrap();
            let found = database.options.get_ssl_mode();
            assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&wanted), "{url}");
            assert_eq!(database.is_exposed, is_exposed, "{url}");
        }
    }

    #[test]
    fn a_schema_has_a_plain_name() {
        let of = |name: &str| Database::parse("postgres://localhost/care").unwrap().in_schema(name);
        for name in ["carebell", "public", "_care2"] {
            assert_eq!(of(name).unwrap().schema, name);
        }
        for name in ["", "Care", "2care", "a b", "a\"b", "pg_care", "information_schema", "ä", &"a".repeat(64)] {
            assert!(of(name).is_none(), "{name}");
        }
    }
}
