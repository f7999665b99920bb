//! E-mail: one delivery is one mail to one address, by SMTP (RFC 5321) over TLS.
//!
//! `message.rs` writes the mail, `server.rs` hands it to a server of `SMTP_URL` over a connection from `pool.rs`, and
//! `answer.rs` judges the reply. A second server takes over while the first one's breaker is open. A resent mail is
//! identical to the byte.
//!
//! Addresses, subjects, texts, passwords and server texts (which may repeat them) never leave this module. Its errors
//! show codes, and it logs nothing.

mod answer;
mod lines;
mod message;
mod pool;
mod sender;
mod server;
mod settings;

use std::{fmt, fs, path::Path, time::Duration};

use futures::future::join_all;
use lettre::transport::smtp::client::Certificate;

pub use self::settings::{DEFAULT_TIMEOUT, Security, Settings, SmtpServer};
use self::{answer::Trouble, message::Writer, server::Server};
use super::SettingsError;

const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The channel. Create one per process: it owns its connections.
pub struct Email {
    writer: Writer,
    servers: Vec<Server>,
}

impl Email {
    /// Checks the settings and reads the roots. Connects to nothing.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        if settings.app_url.as_ref().is_some_and(|url| !matches!(url.scheme(), "http" | "https")) {
            return Err(SettingsError::new("APP_URL", "should be an http or https URL, as https://app.example.org"));
        }
        let roots = settings.ca_file.as_deref().map(roots).transpose()?;
        let hosts: Vec<&str> = settings.servers.iter().map(|server| server.host.as_str()).collect();
        let named = |server: &SmtpServer| {
            let alone = hosts.iter().filter(|host| **host == server.host).count() == 1;
            if alone { server.host.clone() } else { server.host_and_port() }
        };
        let servers = settings.servers.iter();
        let servers = servers
            .map(|server| Server::new(server, named(server), roots.as_ref(), settings.timeout))
            .collect::<Result<_, _>>()?;
        let writer = Writer::new(settings.from, settings.app_url).map_err(|error| {
            SettingsError::new("SMTP_URL", format!("cannot be used: a template of this program is broken: {error}"))
        })?;
        Ok(Self { writer, servers })
    }

    /// Checks each server without a mail. Returns names, with an error if unreachable.
    pub async fn reach(&self) -> Vec<(String, Option<String>)> {
        join_all(self.servers.iter().map(async |server| {
            let failed = server.reach(REACH_TIMEOUT).await.err();
            (server.name().to_owned(), failed.as_ref().map(Trouble::in_short))
        }))
        .await
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Email")
            .field("servers", &self.servers.iter().map(Server::name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

fn roots(file: &Path) -> Result<Certificate, SettingsError> {
    let error = |why: &str| {
        SettingsError::new(
            "SMTP_CA_FILE",
            format!("should name a PEM file of root certificates, but {} {why}", file.display()),
        )
    };
    let pem = fs::read(file).map_err(|_| error("cannot be read"))?;
    if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
        return Err(error("holds no certificate"));
    }
    Certificate::from_pem(&pem).map_err(|_| error("is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channels::Sender,
        streams::{Adjustments, Streams},
    };

    fn settings(urls: &str) -> Settings {
        Settings::parse(urls, "care@example.org").unwrap()
    }

    #[tokio::test]
    async fn servers_are_called_by_their_host_and_told_apart() {
        let names = |urls| Email::new(settings(urls)).unwrap().providers();
        assert_eq!(names("smtps://a:secret@one.example"), ["one.example"]);
        assert_eq!(names("smtps://one.example,smtp://two.example"), ["one.example", "two.example"]);
        assert_eq!(names("smtps://one.example,smtp://one.example"), ["one.example:465", "one.example:587"]);
        let shown = format!("{:?}", Email::new(settings("smtps://a:secret@one.example")).unwrap());
        assert_eq!(shown, "Email { servers: [\"one.example\"], .. }");
    }

    #[test]
    fn a_broken_setting_names_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, pem: Option<&str>| {
            let file = directory.path().join(name);
            if let Some(pem) = pem {
                fs::write(&file, pem).unwrap();
            }
            Email::new(Settings { ca_file: Some(file), ..settings("smtps://one.example") }).unwrap_err()
        };
        assert!(make("none.pem", None).to_string().contains("cannot be read"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for error in [make("empty.pem", Some("")), make("broken.pem", Some(broken))] {
            assert_eq!(error.variable(), "SMTP_CA_FILE", "{error}");
        }
        let app_url = Some("ftp://app.example".parse().unwrap());
        let error = Email::new(Settings { app_url, ..settings("smtps://one.example") }).unwrap_err();
        assert_eq!(error.variable(), "APP_URL");
    }

    #[test]
    fn a_mail_is_given_up_before_its_job_is() {
        let streams = Streams::embedded(&Adjustments::default()).unwrap();
        let queues: Vec<_> =
            streams.consumers().iter().filter(|consumer| consumer.durable().starts_with("deliver_email")).collect();
        assert_eq!(queues.len(), 2);
        for queue in queues {
            assert!(queue.policy.timeout > DEFAULT_TIMEOUT + Duration::from_secs(5), "{}", queue.durable());
        }
    }
}
