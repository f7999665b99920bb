//! One SMTP server: connecting, authentication, and one transaction (RFC 5321 §3.3), each with a time limit.

use std::{error::Error as _, fmt::Display, future::Future, io, sync::Arc, time::Duration};

use lettre::{
    Address,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, TlsParameters},
        commands::{Data, Mail, Rcpt, Rset},
        extension::{ClientId, Extension, MailBodyParameter, MailParameter},
        response::Response,
    },
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    SmtpServer,
    answer::{Reply, Step, Trouble},
    lines::Lines,
    pool::Pool,
    settings::Security,
};
use crate::channels::SettingsError;

/// Limit for connecting, TLS and authentication.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// A firewall that forgot a kept connection drops everything.
const RESET_TIMEOUT: Duration = Duration::from_secs(3);

/// Both send the password itself: only over TLS, or to this machine.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

pub struct Outgoing<'a> {
    pub from: &'a Address,
    pub to: &'a Address,
    /// The message (RFC 5322), with CRLF line ends.
    pub message: &'a str,
}

pub struct Server {
    name: String,
    host: String,
    port: u16,
    tls: Tls,
    credentials: Option<Credentials>,
    hello: ClientId,
    limit: Duration,
    pool: Arc<Pool>,
}

enum Tls {
    FirstByte(TlsParameters),
    Upgraded(TlsParameters),
    None,
}

impl Server {
    /// Connects to nothing. `limit` bounds one mail.
    pub fn new(
        server: &SmtpServer,
        name: String,
        roots: Option<&Certificate>,
        limit: Duration,
    ) -> Result<Self, SettingsError> {
        let parameters = || {
            let mut builder = TlsParameters::builder(server.host.clone());
            if let Some(roots) = roots {
                builder = builder.add_root_certificate(roots.clone());
            }
            let expected = "should name a PEM file of root certificates, but holds one that cannot be used";
            builder.build().map_err(|_| SettingsError::new("SMTP_CA_FILE", expected))
        };
        let tls = match server.security {
            Security::Tls => Tls::FirstByte(parameters()?),
            Security::StartTls => Tls::Upgraded(parameters()?),
            Security::None => Tls::None,
        };
        Ok(Self {
            name,
            host: server.host.clone(),
            port: server.port,
            tls,
            credentials: server.user.clone().map(|(name, password)| Credentials::new(name, password)),
            hello: ClientId::default(),
            limit,
            pool: Arc::default(),
        })
    }

    /// The host, with its port if two servers share it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn send(&self, mail: &Outgoing<'_>) -> Result<String, Trouble> {
        let until = Instant::now() + self.limit;
        let mut connection = self.connection(until).await?;
        let sent = transact(&mut connection, mail, until).await;
        // An unanswered command would shift the replies to the next mail.
        if sent.as_ref().err().is_none_or(Trouble::leaves_the_connection) {
            self.pool.put(connection);
        }
        sent
    }

    pub async fn reach(&self, limit: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + limit;
        let mut connection = self.open(until).await?;
        let _ = timeout_at(until, connection.quit()).await;
        Ok(())
    }

    async fn connection(&self, until: Instant) -> Result<AsyncSmtpConnection, Trouble> {
        if let Some(mut connection) = self.pool.take() {
            let patience = until.min(Instant::now() + RESET_TIMEOUT);
            // Also clears the state after a refused recipient.
            if ask(&mut connection, Step::Connect, patience, Rset, &[250]).await.is_ok() {
                return Ok(connection);
            }
            // The server restarted, or a firewall dropped us: the others are dead too.
            self.pool.clear();
        }
        self.open(until).await
    }

    async fn open(&self, until: Instant) -> Result<AsyncSmtpConnection, Trouble> {
        let until = until.min(Instant::now() + OPEN_TIMEOUT);
        let mut connection = within(Step::Connect, until, self.greeted()).await?;
        if let Some(credentials) = &self.credentials {
            let signed_in =
                async { connection.auth(&MECHANISMS, credentials).await.map_err(|error| trouble(Step::Auth, &error)) };
            expect(Step::Auth, within(Step::Auth, until, signed_in).await?, &[235])?;
        }
        Ok(connection)
    }

    async fn greeted(&self) -> Result<AsyncSmtpConnection, Trouble> {
        let failed = |error: Error| trouble(Step::Connect, &error);
        let (place, hello) = ((self.host.as_str(), self.port), &self.hello);
        match &self.tls {
            Tls::FirstByte(tls) => {
                AsyncSmtpConnection::connect_tokio1(place, None, hello, Some(tls.clone()), None).await.map_err(failed)
            }
            Tls::Upgraded(tls) => {
                let stream = TcpStream::connect(place).await.map_err(|error| not_connected(&error))?;
                let stream = Box::new(Lines::new(stream));
                let mut connection =
                    AsyncSmtpConnection::connect_with_transport(stream, hello).await.map_err(failed)?;
                if !connection.can_starttls() {
                    return Err(Trouble::Lost {
                        step: Step::Connect,
                        why: "the server does not offer STARTTLS".into(),
                    });
                }
                connection.starttls(tls.clone(), hello).await.map_err(failed)?;
                Ok(connection)
            }
            Tls::None => AsyncSmtpConnection::connect_tokio1(place, None, hello, None, None).await.map_err(failed),
        }
    }
}

async fn transact(
    connection: &mut AsyncSmtpConnection,
    mail: &Outgoing<'_>,
    until: Instant,
) -> Result<String, Trouble> {
    let mut parameters = Vec::new();
    if !mail.to.user().is_ascii() {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(Trouble::NoSmtpUtf8);
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    // Only an internationalised address makes a message non-ASCII. A server with SMTPUTF8 also has 8BITMIME (RFC 6531
    // §3.1).
    if !mail.message.is_ascii() {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    ask(connection, Step::Mail, until, Mail::new(Some(mail.from.clone()), parameters), &[250]).await?;
    ask(connection, Step::Rcpt, until, Rcpt::new(mail.to.clone(), Vec::new()), &[250, 251]).await?;
    // Catches a shifted reply: no other command gets 354.
    ask(connection, Step::Data, until, Data, &[354]).await?;
    let response = ask(connection, Step::Text, until, on_the_way(mail.message), &[250]).await?;
    Ok(response.message().collect::<Vec<_>>().join(" "))
}

/// Doubles dots and appends the final one (RFC 5321 §4.5.2), for one write. lettre sends the final dot separately,
/// which waits 40 ms for an acknowledgement (Nagle's algorithm).
fn on_the_way(message: &str) -> String {
    let mut text = String::with_capacity(message.len() + 64);
    for line in message.split_inclusive("\r\n") {
        if line.starts_with('.') {
            text.push('.');
        }
        text.push_str(line);
    }
    if !text.ends_with("\r\n") {
        text.push_str("\r\n");
    }
    text.push_str(".\r\n");
    text
}

async fn ask(
    connection: &mut AsyncSmtpConnection,
    step: Step,
    until: Instant,
    command: impl Display,
    expected: &[u16],
) -> Result<Response, Trouble> {
    let answered = async { connection.command(command).await.map_err(|error| trouble(step, &error)) };
    expect(step, within(step, until, answered).await?, expected)
}

async fn within<T>(step: Step, until: Instant, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    timeout_at(until, work).await.unwrap_or(Err(Trouble::Silent { step }))
}

fn expect(step: Step, response: Response, expected: &[u16]) -> Result<Response, Trouble> {
    if expected.contains(&u16::from(response.code())) {
        return Ok(response);
    }
    Err(Trouble::Lost { step, why: "the server's replies are out of order".into() })
}

/// Without lettre's text, which may hold an address.
fn trouble(step: Step, error: &Error) -> Trouble {
    if let Some(code) = error.status() {
        let text = error.source().map(ToString::to_string).unwrap_or_default();
        return Trouble::Refused { step, reply: Reply::read(code.into(), &text) };
    }
    let why = if error.is_response() {
        "the connection broke, or a reply was not SMTP".into()
    } else if error.is_client() {
        "the server offers neither AUTH PLAIN nor AUTH LOGIN".into()
    } else {
        match innermost(error) {
            Some(cause) => format!("no connection: {cause}"),
            None => "no connection".into(),
        }
    };
    Trouble::Lost { step, why }
}

fn not_connected(error: &io::Error) -> Trouble {
    Trouble::Lost { step: Step::Connect, why: format!("no connection: {error}") }
}

/// The innermost text, if it is short and can't hold an address.
fn innermost(error: &Error) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    Some(cause.to_string()).filter(|text| text.len() <= 120 && !text.contains('@') && !text.contains("//"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_message_can_end_it() {
        for (message, expected) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("", "\r\n.\r\n"),
            (".\r\n..b\r\nc.\r\n", "..\r\n...b\r\nc.\r\n.\r\n"),
            ("a\r\n.", "a\r\n..\r\n.\r\n"),
        ] {
            assert_eq!(on_the_way(message), expected);
        }
    }
}
