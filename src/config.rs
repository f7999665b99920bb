//! Configuration from the environment and a TOML file, typed.
//!
//! The environment wins. Keys in the file are variable names in lower case (`nats_url = "nats://…"`).

mod admin;
mod document_stores;
mod error;
mod gateway;
mod http_gateway;
mod named_providers;
mod nats;
mod otel;
mod sign_in;
mod source;
mod variables;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use url::Url;

use self::error::error;
pub(crate) use self::error::from_channel;
pub use self::{
    admin::AdminConfig,
    error::ConfigError,
    http_gateway::GatewayConfig,
    nats::{INBOX_PREFIX, NatsConfig, NatsUser},
    sign_in::{OIDC_CALLBACK, OidcConfig, ProxyConfig},
    source::Source,
    variables::{OTEL_VARIABLES, VARIABLES},
};
use crate::{
    channels::{
        email, gateway as providers,
        outbound::AllowedHost,
        web_push::{self, KeyPair},
        webhook,
    },
    checkpoint::Step,
    documents,
    schedule::ZoneData,
    store::Database,
    streams::{Adjustments, Application, Override},
};

/// Settings of a worker.
#[derive(Clone)]
pub struct Config {
    /// NATS.
    pub nats: NatsConfig,
    /// Deviations from `streams/`.
    pub adjustments: Adjustments,
    /// Postgres.
    pub database: Database,
    /// Limit of database connections.
    pub database_connections: u32,
    /// Limit of jobs that run at the same time; `None` without one.
    pub max_concurrency: Option<usize>,
    /// Web Push, if there are keys.
    pub web_push: Option<web_push::Settings>,
    /// E-mail, if there is a server.
    pub email: Option<email::Settings>,
    /// Webhooks.
    pub webhook: webhook::Settings,
    /// Channels with an HTTP provider: text messages, `WhatsApp`, calls.
    pub gateways: Vec<providers::Settings>,
    /// Document stores.
    pub documents: documents::Settings,
    /// Port for status callbacks, if received; 0 for any free one.
    pub public_port: Option<u16>,
    /// Templates beside the built-in ones.
    pub templates_dir: Option<PathBuf>,
    /// The rules of time zones.
    pub zones: &'static ZoneData,
    /// Port of the health endpoints; 0 for any free one.
    pub health_port: u16,
    /// Wait for jobs when stopping.
    pub drain_timeout: Duration,
    /// Wait for servers when starting.
    pub start_timeout: Duration,
    /// Checkpoint to abort at, in crash tests.
    pub abort_at: Option<Step>,
    /// Divides fixed waits in tests ([`Clock::paced`](crate::clock::Clock::paced)). Defaults to 1.
    pub pace: u32,
    /// The console, if the worker serves it.
    pub admin: Option<AdminConfig>,
    /// Duties of the worker.
    pub duties: BTreeSet<Duty>,
}

/// A duty of a worker; processes may share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Duty {
    /// Pulls and runs jobs, and publishes what lost workers left.
    Pipeline,
    /// Publishes schedules and reminders that are due.
    Scheduler,
    /// Makes dead letters of messages that can never run.
    DeadLetters,
    /// Serves the console and its API.
    Admin,
}

impl Duty {
    /// All duties.
    pub const ALL: [Self; 4] = [Self::Pipeline, Self::Scheduler, Self::DeadLetters, Self::Admin];

    /// Those without `--only`. The console needs more permissions, so no worker serves it unasked.
    pub const USUAL: [Self; 3] = [Self::Pipeline, Self::Scheduler, Self::DeadLetters];

    /// As in `carebell run --only`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Scheduler => "scheduler",
            Self::DeadLetters => "dead-letters",
            Self::Admin => "admin",
        }
    }

    /// Parses the name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|duty| duty.name() == text)
    }
}

struct Limits {
    max_concurrency: Option<usize>,
    database_connections: u32,
    health_port: u16,
    drain_timeout: Duration,
    start_timeout: Duration,
    abort_at: Option<Step>,
    pace: u32,
}

/// Log settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Filter directives.
    pub level: String,
    /// One JSON object per line instead of text.
    pub json: bool,
}

impl Source {
    /// Deviations from `streams/`.
    ///
    /// # Errors
    /// The first malformed variable.
    pub fn adjustments(&self) -> Result<Adjustments, ConfigError> {
        let replicas =
            self.parse_with("STREAMS_REPLICAS", |text| text.parse().ok().filter(|n| [1, 3, 5].contains(n)))?;
        let overrides = self.parse_with("QUEUE_OVERRIDES", |text| text.split(',').map(parse_override).collect())?;
        let applications = self.parse_with("APPLICATIONS", |text| text.split(',').map(Application::parse).collect())?;
        Ok(Adjustments {
            replicas: replicas.unwrap_or(1),
            overrides: overrides.unwrap_or_default(),
            applications: applications.unwrap_or_default(),
        })
    }

    /// The database, not connected yet.
    ///
    /// # Errors
    /// A malformed `DATABASE_URL` or `DATABASE_SCHEMA`, or none.
    pub fn database(&self) -> Result<Database, ConfigError> {
        let database = Database::parse(self.require("DATABASE_URL")?);
        let database = database.map_err(|problem| error("DATABASE_URL", &problem.to_string()))?;
        match self.get("DATABASE_SCHEMA") {
            Some(name) => database.in_schema(name).ok_or_else(|| error("DATABASE_SCHEMA", "is malformed")),
            None => Ok(database),
        }
    }

    /// Log settings, with this default level.
    ///
    /// # Errors
    /// The first malformed variable.
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

    /// Web Push, if there are keys. The channel checks the pair.
    ///
    /// # Errors
    /// The first missing or malformed variable.
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

    /// E-mail, if there is a server.
    ///
    /// # Errors
    /// The first missing or malformed variable.
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

    /// Webhooks, which work without settings.
    ///
    /// # Errors
    /// The first malformed variable.
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

    /// Directory of more templates.
    ///
    /// # Errors
    /// The directory does not exist.
    pub fn templates_dir(&self) -> Result<Option<PathBuf>, ConfigError> {
        match self.get("TEMPLATES_DIR").map(PathBuf::from) {
            Some(path) if !path.is_dir() => Err(error("TEMPLATES_DIR", "names a directory that does not exist")),
            path => Ok(path),
        }
    }

    /// Directory of time zones.
    ///
    /// # Errors
    /// It does not exist, or does not tell its version.
    pub fn zoneinfo_dir(&self) -> Result<Option<PathBuf>, ConfigError> {
        match self.get("ZONEINFO_DIR").map(PathBuf::from) {
            Some(path) if !path.is_dir() => Err(error("ZONEINFO_DIR", "names a directory that does not exist")),
            Some(path) if ZoneData::of(&path).is_none() => {
                Err(error("ZONEINFO_DIR", "names a directory without a version (tzdata.zi or +VERSION)"))
            }
            path => Ok(path),
        }
    }

    /// The first problem of each group of variables.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let parts = [
            self.nats().err(),
            self.adjustments().err(),
            self.database().err(),
            self.web_push().err(),
            self.webhook().err(),
            self.gateways().err(),
            self.documents().err(),
            self.public_port().err(),
            self.email().err(),
            self.templates_dir().err(),
            self.zoneinfo_dir().err(),
            self.limits().err(),
            self.admin().err(),
            self.log("info").err(),
            self.traces().err(),
        ];
        let mut problems: Vec<ConfigError> = parts.into_iter().flatten().collect();
        // Web Push and e-mail both read APP_URL.
        problems.dedup();
        problems
    }

    /// Limit of database connections.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn database_connections(&self) -> Result<u32, ConfigError> {
        let connections = self
            .parse_with("DATABASE_CONNECTIONS", |text| text.parse().ok().filter(|number| (2..=200).contains(number)))?;
        Ok(connections.unwrap_or(10))
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        Ok(Limits {
            max_concurrency: self
                .parse_with("MAX_CONCURRENCY", |text| text.parse().ok().filter(|most| (1..=100_000).contains(most)))?,
            database_connections: self.database_connections()?,
            health_port: self.parse("HEALTH_PORT", 3002)?,
            drain_timeout: self.duration("DRAIN_TIMEOUT", Duration::from_secs(25))?,
            start_timeout: self.duration("START_TIMEOUT", Duration::from_mins(1))?,
            abort_at: if cfg!(debug_assertions) { self.parse_with("CAREBELL_ABORT_AT", Step::parse)? } else { None },
            pace: if cfg!(debug_assertions) { self.pace()? } else { 1 },
        })
    }
}

impl Config {
    /// Checks everything that a worker needs.
    ///
    /// # Errors
    /// The first missing or malformed variable.
    pub fn from_source(source: &Source) -> Result<Self, ConfigError> {
        let limits = source.limits()?;
        Ok(Self {
            nats: source.nats()?,
            adjustments: source.adjustments()?,
            database: source.database()?,
            database_connections: limits.database_connections,
            max_concurrency: limits.max_concurrency,
            web_push: source.web_push()?,
            email: source.email()?,
            webhook: source.webhook()?,
            gateways: source.gateways()?,
            documents: source.documents()?,
            public_port: source.public_port()?,
            templates_dir: source.templates_dir()?,
            zones: ZoneData::use_newest(source.zoneinfo_dir()?.as_deref()),
            health_port: limits.health_port,
            drain_timeout: limits.drain_timeout,
            start_timeout: limits.start_timeout,
            abort_at: limits.abort_at,
            pace: limits.pace,
            admin: None,
            duties: Duty::USUAL.into(),
        })
    }
}

/// `durable.key=value`
fn parse_override(text: &str) -> Option<Override> {
    let (place, value) = text.trim().split_once('=')?;
    let (durable, key) = place.trim().rsplit_once('.')?;
    Some(Override { durable: durable.into(), key: key.into(), value: value.trim().into() })
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
            ("DATABASE_URL", "postgres://db/x?sslpassword=secret"),
            ("DATABASE_CONNECTIONS", "1"),
            ("MAX_CONCURRENCY", "0"),
            ("STREAMS_REPLICAS", "2"),
            ("QUEUE_OVERRIDES", "secret"),
            ("HEALTH_PORT", "70000"),
            ("DRAIN_TIMEOUT", "secret"),
            ("LOG_FORMAT", "secret"),
            ("NATS_CREDS", "/no/such/secret"),
            ("NATS_INBOX_PREFIX", "secret.>"),
            ("NATS_INBOX_PREFIX", "secret."),
            ("TEMPLATES_DIR", "/no/such/secret"),
            ("ZONEINFO_DIR", "/no/such/secret"),
            ("ZONEINFO_DIR", "/proc"),
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
    fn overrides_are_read_in_order() {
        let config = config(&[("QUEUE_OVERRIDES", "*.ack_wait=2s, reminder_medication.backoff=fixed 10ms")]).unwrap();
        let expected = [("*", "ack_wait", "2s"), ("reminder_medication", "backoff", "fixed 10ms")];
        let expected = expected.map(|(durable, key, value)| Override {
            durable: durable.into(),
            key: key.into(),
            value: value.into(),
        });
        assert_eq!(config.adjustments.overrides, expected);
    }
}
