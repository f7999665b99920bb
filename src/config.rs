//! Configuration: read once from the environment and a TOML file, checked whole, typed from then on.
//!
//! The environment wins. In the file a key is the variable's name in lower case (`nats_url = "nats://…"`).

mod gateway;
mod otel;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use url::Url;

pub use self::otel::OTEL_VARIABLES;
use crate::{
    channels::{
        SettingsError, email, gateway as providers,
        outbound::AllowedHost,
        web_push::{self, KeyPair},
        webhook,
    },
    checkpoint::Step,
    streams::Adjustments,
};

/// Every variable that is read, with what it should look like. The README's table is checked against this list.
pub const VARIABLES: &[(&str, &str)] = &[
    ("NATS_URL", "nats://host:4222 or tls://user:password@host:4222, separated by commas"),
    ("NATS_CREDS", "the path of a .creds file"),
    ("NATS_CA_FILE", "the path of a PEM file of roots"),
    ("NATS_INBOX_PREFIX", "words of A-Z a-z 0-9 _ - with dots between them, such as _INBOX_carebell"),
    ("STREAMS_REPLICAS", "1, 3 or 5"),
    ("QUEUE_OVERRIDES", "durable.key=value, separated by commas, for example *.backoff=fixed 1s"),
    ("DATABASE_URL", "postgres://user:password@host:5432/database"),
    ("DATABASE_CONNECTIONS", "a number from 2 to 200"),
    ("APP_URL", "https://app.example.org"),
    ("VAPID_PUBLIC_KEY", "as `carebell keys generate` writes it"),
    ("VAPID_PRIVATE_KEY", "as `carebell keys generate` writes it"),
    ("VAPID_SUBJECT", "mailto:ops@example.org or an https URL"),
    ("WEB_PUSH_ALLOWED_HOSTS", "host or host:port, separated by commas"),
    ("WEB_PUSH_CA_FILE", "the path of a PEM file of roots"),
    (
        "SMTP_URL",
        "smtps://user:password@host:465 or smtp://user:password@host:587 (STARTTLS), or two separated by a comma",
    ),
    ("SMTP_FROM", "Carebell <care@example.org>"),
    ("SMTP_CA_FILE", "the path of a PEM file of roots"),
    ("WEBHOOK_ALLOWED_HOSTS", "host or host:port, separated by commas"),
    ("WEBHOOK_CA_FILE", "the path of a PEM file of roots"),
    ("SMS_PROVIDER_URL", "https://AccountSid:AuthToken@api.twilio.com"),
    ("SMS_FROM", "+4366012345678, a short code, up to 11 letters and digits, or MG…"),
    ("SMS_FALLBACK_URL", "https://AccountSid:AuthToken@host"),
    ("SMS_FALLBACK_FROM", "as SMS_FROM"),
    ("SMS_AFTER_UNKNOWN", "stop or send_again"),
    ("WHATSAPP_PROVIDER_URL", "https://AccountSid:AuthToken@api.twilio.com"),
    ("WHATSAPP_FROM", "+4366012345678 or MG…"),
    ("WHATSAPP_FALLBACK_URL", "https://AccountSid:AuthToken@host"),
    ("WHATSAPP_FALLBACK_FROM", "as WHATSAPP_FROM"),
    ("WHATSAPP_AFTER_UNKNOWN", "stop or send_again"),
    ("VOICE_PROVIDER_URL", "https://AccountSid:AuthToken@api.twilio.com"),
    ("VOICE_FROM", "+4366012345678"),
    ("VOICE_FALLBACK_URL", "https://AccountSid:AuthToken@host"),
    ("VOICE_FALLBACK_FROM", "as VOICE_FROM"),
    ("VOICE_AFTER_UNKNOWN", "stop or send_again"),
    ("PROVIDER_CA_FILE", "the path of a PEM file of roots"),
    ("PUBLIC_URL", "https://carebell.example.org, without user, query and fragment (http only for this machine)"),
    ("PUBLIC_PORT", "a port, or 0 for any that is free"),
    ("TEMPLATES_DIR", "the path of a directory of templates, <locale>/<name>.txt"),
    ("HEALTH_PORT", "a port, or 0 for any that is free"),
    ("DRAIN_TIMEOUT", "a duration such as 25s"),
    ("START_TIMEOUT", "a duration such as 60s"),
    ("LOG_LEVEL", "error, warn, info, debug or trace, or directives such as info,carebell=debug"),
    ("LOG_FORMAT", "text or json"),
    ("CAREBELL_ABORT_AT", "the name of a checkpoint; only builds with debug assertions read it"),
    ("CAREBELL_PACE", "a number from 1 to 100; only builds with debug assertions read it"),
];

/// Where nothing else is set. Not the clients' usual `_INBOX`: whoever may subscribe to that, as most users may, could
/// read the jobs that a worker of the same account is handed.
pub const INBOX_PREFIX: &str = "_INBOX_carebell";

/// A value that is missing or malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The variable.
    pub variable: String,
    /// What is wrong with it and what it should look like. Never the value: it may be a secret.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.problem)
    }
}

impl std::error::Error for ConfigError {}

/// Where values come from: the environment, then the file.
#[derive(Clone, Default)]
pub struct Source {
    environment: HashMap<String, String>,
    file: HashMap<String, String>,
}

/// A user and their password; a token, where there is none.
pub type NatsUser = (String, Option<String>);

/// How to reach NATS.
#[derive(Clone)]
pub struct NatsConfig {
    /// The URLs of the servers, without user and password.
    pub servers: Vec<String>,
    /// Whom the URLs named.
    pub user: Option<NatsUser>,
    /// A credentials file.
    pub creds: Option<PathBuf>,
    /// Roots beside the system's.
    pub ca_file: Option<PathBuf>,
    /// What the subjects begin with under which answers and jobs are received.
    pub inbox_prefix: String,
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// What a worker is configured with.
#[derive(Clone)]
pub struct Config {
    /// NATS.
    pub nats: NatsConfig,
    /// What differs from `streams/`.
    pub adjustments: Adjustments,
    /// Postgres. Holds a password.
    pub database_url: String,
    /// The most connections to it.
    pub database_connections: u32,
    /// Web Push, where there are keys.
    pub web_push: Option<web_push::Settings>,
    /// E-mail, where there is a server for it.
    pub email: Option<email::Settings>,
    /// Webhooks.
    pub webhook: webhook::Settings,
    /// The channels that send through HTTP providers, as far as they have one: texts, `WhatsApp`, calls.
    pub gateways: Vec<providers::Settings>,
    /// Where providers' status callbacks are received, where they are; 0 = any port that is free.
    pub public_port: Option<u16>,
    /// Templates beside the built-in ones.
    pub templates_dir: Option<PathBuf>,
    /// Where health is served; 0 = any port that is free.
    pub health_port: u16,
    /// How long a worker that stops waits for its jobs.
    pub drain_timeout: Duration,
    /// How long a worker that starts waits for its servers.
    pub start_timeout: Duration,
    /// For tests of crashes.
    pub abort_at: Option<Step>,
    /// For tests: fixed waits are divided by it ([`Clock::paced`](crate::clock::Clock::paced)). Defaults to 1.
    pub pace: u32,
    /// What the worker does.
    pub duties: BTreeSet<Duty>,
}

/// A part of what a worker does, which may be another process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Pulls and runs jobs, and publishes what lost workers had planned.
    Pipeline,
    /// Publishes what is due by itself.
    Scheduler,
    /// Makes dead letters of what nobody will ever run again.
    DeadLetters,
}

impl Duty {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pipeline, Self::Scheduler, Self::DeadLetters];

    /// As `carebell run --only` takes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Scheduler => "scheduler",
            Self::DeadLetters => "dead-letters",
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|duty| duty.name() == text)
    }
}

/// The variables that stand alone.
struct Limits {
    database_connections: u32,
    health_port: u16,
    drain_timeout: Duration,
    start_timeout: Duration,
    abort_at: Option<Step>,
    pace: u32,
}

/// How logs are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter directives.
    pub level: String,
    /// JSON, one object a line, in place of text.
    pub json: bool,
}

impl Source {
    /// The process's environment, and a TOML file if one is named.
    ///
    /// # Errors
    /// If the file cannot be read or holds an unknown key.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let file = file.map(read_file).transpose()?.unwrap_or_default();
        Ok(Self { environment, file })
    }

    /// Given values only, for tests and `carebell dev`.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { environment: values.into_iter().collect(), file: HashMap::new() }
    }

    /// A value that is set and not empty.
    fn get(&self, variable: &str) -> Option<&str> {
        debug_assert!(known().any(|(known, _)| *known == variable), "VARIABLES lacks {variable}");
        let value = self.environment.get(variable).or_else(|| self.file.get(&variable.to_ascii_lowercase()));
        value.map(String::as_str).map(str::trim).filter(|value| !value.is_empty())
    }

    fn require(&self, variable: &str) -> Result<&str, ConfigError> {
        self.get(variable).ok_or_else(|| error(variable, "is not set"))
    }

    fn parse<T: FromStr>(&self, variable: &str, default: T) -> Result<T, ConfigError> {
        self.parse_with(variable, |text| text.parse().ok()).map(|value| value.unwrap_or(default))
    }

    fn parse_with<T>(&self, variable: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.get(variable) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| error(variable, "is malformed"))
    }

    /// How to reach NATS.
    ///
    /// # Errors
    /// The first variable that is malformed.
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

    /// What differs from `streams/`.
    ///
    /// # Errors
    /// The first variable that is malformed.
    pub fn adjustments(&self) -> Result<Adjustments, ConfigError> {
        let replicas =
            self.parse_with("STREAMS_REPLICAS", |text| text.parse().ok().filter(|n| [1, 3, 5].contains(n)))?;
        let overrides = self.parse_with("QUEUE_OVERRIDES", |text| text.split(',').map(parse_override).collect())?;
        Ok(Adjustments { replicas: replicas.unwrap_or(1), overrides: overrides.unwrap_or_default() })
    }

    /// The URL of the database. Holds a password.
    ///
    /// # Errors
    /// If it is missing or no URL of Postgres.
    pub fn database_url(&self) -> Result<String, ConfigError> {
        let url = self.require("DATABASE_URL")?;
        let scheme = Url::parse(url).map(|url| url.scheme().to_owned()).unwrap_or_default();
        if !["postgres", "postgresql"].contains(&scheme.as_str()) {
            return Err(error("DATABASE_URL", "is malformed"));
        }
        Ok(url.to_owned())
    }

    /// How logs are written; `level` where nothing is set.
    ///
    /// # Errors
    /// The first variable that is malformed.
    pub fn log(&self, level: &str) -> Result<LogConfig, ConfigError> {
        let level = self.get("LOG_LEVEL").unwrap_or(level).to_owned();
        if tracing_subscriber::EnvFilter::try_new(&level).is_err() {
            return Err(error("LOG_LEVEL", "is malformed"));
        }
        let json = self.parse_with("LOG_FORMAT", |text| match text {
            "text" => Some(false),
            "json" => Some(true),
            _ => None,
        })?;
        Ok(LogConfig { level, json: json.unwrap_or(false) })
    }

    /// Web Push, where there are keys. That the keys are a pair, only the channel sees.
    ///
    /// # Errors
    /// The first variable that is missing or malformed.
    pub fn web_push(&self) -> Result<Option<web_push::Settings>, ConfigError> {
        let keys = match (self.get("VAPID_PUBLIC_KEY"), self.get("VAPID_PRIVATE_KEY")) {
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(error("VAPID_PRIVATE_KEY", "is not set, but VAPID_PUBLIC_KEY is")),
            (None, Some(_)) => return Err(error("VAPID_PUBLIC_KEY", "is not set, but VAPID_PRIVATE_KEY is")),
            (Some(public), Some(private)) => KeyPair { public: public.into(), private: private.into() },
        };
        let mut settings = web_push::Settings::new(keys, self.require("VAPID_SUBJECT")?);
        settings.allowed_hosts = self.hosts("WEB_PUSH_ALLOWED_HOSTS")?;
        settings.ca_file = self.path("WEB_PUSH_CA_FILE")?;
        settings.app_url = self.app_url()?;
        Ok(Some(settings))
    }

    /// E-mail, where there is a server for it.
    ///
    /// # Errors
    /// The first variable that is missing or malformed.
    pub fn email(&self) -> Result<Option<email::Settings>, ConfigError> {
        let (urls, from) = match (self.get("SMTP_URL"), self.get("SMTP_FROM")) {
            (None, _) => return Ok(None),
            (Some(_), None) => return Err(error("SMTP_FROM", "is not set, but SMTP_URL is")),
            (Some(urls), Some(from)) => (urls, from),
        };
        let mut settings = email::Settings::parse(urls, from).map_err(from_channel)?;
        settings.ca_file = self.path("SMTP_CA_FILE")?;
        settings.app_url = self.app_url()?;
        Ok(Some(settings))
    }

    /// Webhooks, which need nothing to be set.
    ///
    /// # Errors
    /// The first variable that is malformed.
    pub fn webhook(&self) -> Result<webhook::Settings, ConfigError> {
        Ok(webhook::Settings {
            allowed_hosts: self.hosts("WEBHOOK_ALLOWED_HOSTS")?,
            ca_file: self.path("WEBHOOK_CA_FILE")?,
            app_url: self.app_url()?,
        })
    }

    fn hosts(&self, variable: &'static str) -> Result<Vec<AllowedHost>, ConfigError> {
        AllowedHost::list(variable, self.get(variable).unwrap_or_default()).map_err(from_channel)
    }

    fn app_url(&self) -> Result<Option<Url>, ConfigError> {
        self.parse_with("APP_URL", |text| Url::parse(text).ok())
    }

    /// Where templates beside the built-in ones are. What is in it, `templates` says.
    ///
    /// # Errors
    /// If there is no such directory.
    pub fn templates_dir(&self) -> Result<Option<PathBuf>, ConfigError> {
        match self.get("TEMPLATES_DIR").map(PathBuf::from) {
            Some(path) if !path.is_dir() => Err(error("TEMPLATES_DIR", "names a directory that is not there")),
            path => Ok(path),
        }
    }

    /// What is wrong, the first of each group of variables, where [`Config::from_source`] stops at the first of all.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let parts = [
            self.nats().err(),
            self.adjustments().err(),
            self.database_url().err(),
            self.web_push().err(),
            self.webhook().err(),
            self.gateways().err(),
            self.public_port().err(),
            self.email().err(),
            self.templates_dir().err(),
            self.limits().err(),
            self.log("info").err(),
            self.traces().err(),
        ];
        let mut problems: Vec<ConfigError> = parts.into_iter().flatten().collect();
        // Web Push and e-mail both read APP_URL.
        problems.dedup();
        problems
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let connections = self
            .parse_with("DATABASE_CONNECTIONS", |text| text.parse().ok().filter(|number| (2..=200).contains(number)))?;
        Ok(Limits {
            database_connections: connections.unwrap_or(10),
            health_port: self.parse("HEALTH_PORT", 3002)?,
            drain_timeout: self.duration("DRAIN_TIMEOUT", Duration::from_secs(25))?,
            start_timeout: self.duration("START_TIMEOUT", Duration::from_mins(1))?,
            abort_at: if cfg!(debug_assertions) { self.parse_with("CAREBELL_ABORT_AT", Step::parse)? } else { None },
            pace: if cfg!(debug_assertions) { self.pace()? } else { 1 },
        })
    }

    fn pace(&self) -> Result<u32, ConfigError> {
        let pace =
            self.parse_with("CAREBELL_PACE", |text| text.parse().ok().filter(|pace| (1..=100).contains(pace)))?;
        Ok(pace.unwrap_or(1))
    }

    fn path(&self, variable: &str) -> Result<Option<PathBuf>, ConfigError> {
        match self.get(variable).map(PathBuf::from) {
            Some(path) if !path.is_file() => Err(error(variable, "names a file that is not there")),
            path => Ok(path),
        }
    }

    fn duration(&self, variable: &str, default: Duration) -> Result<Duration, ConfigError> {
        Ok(self.parse_with(variable, |text| humantime::parse_duration(text).ok())?.unwrap_or(default))
    }
}

impl Config {
    /// Checks everything a worker needs.
    ///
    /// # Errors
    /// The first variable that is missing or malformed.
    pub fn from_source(source: &Source) -> Result<Self, ConfigError> {
        let limits = source.limits()?;
        Ok(Self {
            nats: source.nats()?,
            adjustments: source.adjustments()?,
            database_url: source.database_url()?,
            database_connections: limits.database_connections,
            web_push: source.web_push()?,
            email: source.email()?,
            webhook: source.webhook()?,
            gateways: source.gateways()?,
            public_port: source.public_port()?,
            templates_dir: source.templates_dir()?,
            health_port: limits.health_port,
            drain_timeout: limits.drain_timeout,
            start_timeout: limits.start_timeout,
            abort_at: limits.abort_at,
            pace: limits.pace,
            duties: Duty::ALL.into(),
        })
    }
}

/// A setting that the channel itself found wrong.
#[expect(clippy::needless_pass_by_value, reason = "it is used as `map_err(from_channel)`")]
pub(crate) fn from_channel(problem: SettingsError) -> ConfigError {
    let text = problem.to_string();
    let variable = problem.variable();
    let variable = variable.to_owned();
    let problem = text.strip_prefix(variable.as_str()).unwrap_or(&text).trim_start().to_owned();
    ConfigError { variable, problem }
}

/// The program's own variables, and those of OpenTelemetry.
fn known() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    VARIABLES.iter().chain(OTEL_VARIABLES)
}

fn error(variable: &str, what: &str) -> ConfigError {
    let expected = known().find(|(name, _)| *name == variable).map_or("", |(_, expected)| expected);
    ConfigError { variable: variable.into(), problem: format!("{what}; expected {expected}") }
}

/// A URL of a NATS server, which may leave the scheme out, and the user in it: name and password, or a token.
fn nats_server(text: &str) -> Option<(String, Option<NatsUser>)> {
    let text = text.trim();
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("nats://{text}")) };
    let mut url = url.ok().filter(|url| ["nats", "tls"].contains(&url.scheme()) && url.has_host())?;
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().ok().map(Cow::into_owned);
    let user = match (url.username(), url.password()) {
        ("", None) => None,
        (name, None) => Some((decoded(name)?, None)),
        (name, Some(password)) => Some((decoded(name)?, Some(decoded(password)?))),
    };
    url.set_username("").ok()?;
    url.set_password(None).ok()?;
    Some((url.to_string(), user))
}

/// What a subject may begin with: no wildcards, and no word that is empty.
fn inbox_prefix(text: &str) -> Option<String> {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    text.split('.').all(is_word).then(|| text.to_owned())
}

/// `durable.key=value`
fn parse_override(text: &str) -> Option<(String, String, String)> {
    let (place, value) = text.trim().split_once('=')?;
    let (durable, key) = place.trim().split_once('.')?;
    Some((durable.into(), key.into(), value.trim().into()))
}

fn read_file(path: &Path) -> Result<HashMap<String, String>, ConfigError> {
    let problem = |problem: String| ConfigError { variable: format!("--config {}", path.display()), problem };
    let text = std::fs::read_to_string(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // The error's own text quotes the line, which may hold a secret.
        let at = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        problem(format!("is not TOML: {} in line {at}", error.message()))
    })?;
    let mut values = HashMap::new();
    for (key, value) in table {
        if !known().any(|(name, _)| name.to_ascii_lowercase() == key) {
            return Err(problem(format!("holds the unknown key `{key}`")));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            _ => return Err(problem(format!("must hold a string or a number at `{key}`"))),
        };
        values.insert(key, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let base = [("DATABASE_URL", "postgres://carebell:secret@db/carebell")];
        Config::from_source(&Source::of(
            base.iter().chain(change).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        ))
    }

    #[test]
    fn the_database_is_all_that_is_required() {
        let config = config(&[]).unwrap();
        assert_eq!(config.nats.servers, ["nats://localhost:4222"]);
        assert_eq!(config.nats.inbox_prefix, "_INBOX_carebell");
        assert_eq!(config.health_port, 3002);
        assert!(config.web_push.is_none());
        let error = Config::from_source(&Source::default()).err().unwrap().to_string();
        assert_eq!(error, "DATABASE_URL is not set; expected postgres://user:password@host:5432/database");
    }

    #[test]
    fn each_mistake_names_its_variable_and_hides_its_value() {
        let mistakes = [
            ("NATS_URL", "http://secret"),
            ("NATS_URL", "nats://a:secret@one,nats://b:secret@two"),
            ("DATABASE_URL", "mysql://secret"),
            ("DATABASE_URL", "secret"),
            ("DATABASE_CONNECTIONS", "1"),
            ("STREAMS_REPLICAS", "2"),
            ("QUEUE_OVERRIDES", "secret"),
            ("HEALTH_PORT", "70000"),
            ("DRAIN_TIMEOUT", "secret"),
            ("LOG_FORMAT", "secret"),
            ("NATS_CREDS", "/no/such/secret"),
            ("NATS_INBOX_PREFIX", "secret.>"),
            ("NATS_INBOX_PREFIX", "secret."),
            ("TEMPLATES_DIR", "/no/such/secret"),
            ("CAREBELL_ABORT_AT", "secret"),
            ("CAREBELL_PACE", "0"),
        ];
        for (variable, value) in mistakes {
            let source = Source::of(
                [("DATABASE_URL", "postgres://db/x"), (variable, value)].map(|(a, b)| (a.to_owned(), b.to_owned())),
            );
            let error = Config::from_source(&source).err().or(source.log("info").err());
            let text = error.unwrap_or_else(|| panic!("{variable}={value} is accepted")).to_string();
            assert!(text.starts_with(variable) && !text.contains("secret"), "{text}");
            let problems: Vec<_> = source.problems().into_iter().map(|problem| problem.to_string()).collect();
            assert_eq!(problems, [text]);
        }
        let error = config(&[("VAPID_PUBLIC_KEY", "x")]).err().unwrap();
        assert_eq!(error.variable, "VAPID_PRIVATE_KEY");
        let smtp = ("SMTP_URL", "smtps://ops:secret@mail.example.org");
        let error = config(&[smtp]).err().unwrap().to_string();
        assert_eq!(error, "SMTP_FROM is not set, but SMTP_URL is; expected Carebell <care@example.org>");
        let wrong = [
            ("SMTP_URL", "smtps://ops:secret@mail.example.org/secret"),
            ("SMTP_FROM", "secret"),
            ("SMTP_CA_FILE", "/no/such/secret"),
            ("APP_URL", "secret"),
        ];
        for (variable, value) in wrong {
            let from = ("SMTP_FROM", "care@example.org");
            let text = config(&[smtp, from, (variable, value)]).err().unwrap().to_string();
            assert!(text.starts_with(variable) && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_user_is_taken_out_of_the_urls() {
        let nats = |url| config(&[("NATS_URL", url)]).unwrap().nats;
        let both = nats("nats://worker:p%40ss@one:4222, tls://worker:p%40ss@two,three:4223");
        assert_eq!(both.servers, ["nats://one:4222", "tls://two", "nats://three:4223"]);
        assert_eq!(both.user, Some(("worker".into(), Some("p@ss".into()))));
        assert_eq!(nats("token@one").user, Some(("token".into(), None)));
        assert!(!format!("{both:?}").contains("p@ss"), "{both:?}");
    }

    #[test]
    fn overrides_are_read_in_order() {
        let config = config(&[("QUEUE_OVERRIDES", "*.ack_wait=2s, reminder_medication.backoff=fixed 10ms")]).unwrap();
        let expected = [("*", "ack_wait", "2s"), ("reminder_medication", "backoff", "fixed 10ms")];
        let expected: Vec<_> = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).into();
        assert_eq!(config.adjustments.overrides, expected);
    }

    #[test]
    fn the_file_fills_in_what_the_environment_does_not_say() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "health_port = 4000\nlog_format = \"json\"\n").unwrap();
        let mut source = Source::read(Some(file.path())).unwrap();
        source.environment = HashMap::from([("LOG_FORMAT".into(), "text".into())]);
        assert_eq!(source.parse("HEALTH_PORT", 3002), Ok(4000));
        assert!(!source.log("info").unwrap().json);

        std::fs::write(file.path(), "helth_port = 4000\n").unwrap();
        assert!(Source::read(Some(file.path())).err().unwrap().problem.contains("helth_port"));
        std::fs::write(file.path(), "database_url = postgres://secret\n").unwrap();
        let error = Source::read(Some(file.path())).err().unwrap().to_string();
        assert!(error.contains("line 1") && !error.contains("secret"), "{error}");
    }
}
