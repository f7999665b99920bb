use std::{fmt, path::PathBuf, time::Duration};

use lettre::{Address, message::Mailbox};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::{channels::SettingsError, host::is_this_machine};

/// Default limit of one mail. Ends before the queues' timeout of 30 s, which would tell nothing about the server. (RFC
/// 5321 §4.5.3.2 recommends minutes, too long for a job.)
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(12);

const MOST_SERVERS: usize = 2;

/// Bytes (RFC 5321 §4.5.3.1.3).
const LONGEST_ADDRESS: usize = 254;

const LONGEST_NAME: usize = 100;

/// Settings of the e-mail channel. Errors name the variable to fix.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `SMTP_URL`: the server, and perhaps a fallback.
    pub servers: Vec<SmtpServer>,
    /// `SMTP_FROM`: the sender.
    pub from: Mailbox,
    /// `SMTP_CA_FILE`: PEM file of additional trusted roots.
    pub ca_file: Option<PathBuf>,
    /// `APP_URL`: base of relative links, which are left out without it.
    pub app_url: Option<Url>,
    /// Limit of one mail: connecting, authentication and all replies.
    pub timeout: Duration,
}

impl Settings {
    /// Reads `SMTP_URL` and `SMTP_FROM`. Defaults: the system's roots, no links, 12 s.
    pub fn parse(urls: &str, from: &str) -> Result<Self, SettingsError> {
        Ok(Self {
            servers: SmtpServer::list(urls)?,
            from: mailbox(from)?,
            ca_file: None,
            app_url: None,
            timeout: DEFAULT_TIMEOUT,
        })
    }
}

/// Encryption of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (RFC 8314 §3.3): `smtps://`.
    Tls,
    /// Mandatory STARTTLS (RFC 3207): `smtp://`.
    StartTls,
    /// None, only to this machine: `smtp://127.0.0.1?tls=none`.
    None,
}

impl Security {
    const fn default_port(self) -> u16 {
        match self {
            Self::Tls => 465,
            Self::StartTls => 587,
            Self::None => 25,
        }
    }
}

/// A mail server. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpServer {
    /// Name or IP address, which the certificate must match.
    pub host: String,
    /// Defaults to 465 for TLS, 587 for STARTTLS, 25 without either.
    pub port: u16,
    /// Encryption.
    pub security: Security,
    /// User name and password.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SmtpServer({}:{}, {:?})", self.host, self.port, self.security)
    }
}

impl SmtpServer {
    /// Reads `SMTP_URL`: one URL, or two separated by a comma. Errors never repeat it: it may hold a password.
    pub fn list(text: &str) -> Result<Vec<Self>, SettingsError> {
        let servers = text.split(',').map(|url| Self::parse(url.trim())).collect::<Result<Vec<_>, _>>()?;
        if servers.len() > MOST_SERVERS {
            return Err(wrong("names more than two servers"));
        }
        if servers.len() == MOST_SERVERS && servers[0].host_and_port() == servers[1].host_and_port() {
            return Err(wrong("names the same server twice"));
        }
        Ok(servers)
    }

    fn parse(text: &str) -> Result<Self, SettingsError> {
        let url = Url::parse(text).map_err(|_| wrong("is malformed"))?;
        let host = host(&url).ok_or_else(|| wrong("names no host"))?;
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(wrong("has more than a port after the host"));
        }
        let security = match (url.scheme(), url.query()) {
            ("smtps", None) => Security::Tls,
            ("smtp", None | Some("tls=required")) => Security::StartTls,
            ("smtp", Some("tls=none")) if is_this_machine(&host) => Security::None,
            ("smtp", Some("tls=none")) => {
                return Err(wrong("disables TLS for a host other than 127.0.0.1, [::1] or localhost"));
            }
            ("smtp" | "smtps", Some(_)) => return Err(wrong("has an unknown parameter")),
            _ => return Err(wrong("begins with neither smtps:// nor smtp://")),
        };
        let decoded = |part: &str| {
            let text = percent_decode_str(part).decode_utf8().ok()?.into_owned();
            // U+0000 separates name and password in AUTH PLAIN.
            (!text.contains('\0')).then_some(text)
        };
        let user = match (url.username(), url.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err(wrong("has a password without a user")),
            (_, None) => return Err(wrong("has a user without a password")),
            (name, Some(password)) => {
                let not_text = || wrong("has a user or password that is not valid text");
                Some((decoded(name).ok_or_else(not_text)?, decoded(password).ok_or_else(not_text)?))
            }
        };
        Ok(Self { port: url.port().unwrap_or(security.default_port()), host, security, user })
    }

    pub(super) fn host_and_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The host to connect to: an IPv6 address without brackets.
fn host(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(address.to_string()),
        // Not validated by `url`, which doesn't know the scheme.
        Host::Domain(name) => match Host::parse(name).ok()? {
            Host::Domain(name) => Some(name.trim_end_matches('.').to_owned()).filter(|name| !name.is_empty()),
            other => Some(other.to_string()),
        },
    }
}

fn wrong(what: &str) -> SettingsError {
    SettingsError::new(
        "SMTP_URL",
        format!(
            "{what}; expected smtps://user:password@host:465 or smtp://user:password@host:587 (STARTTLS), \
             percent-encoded, or two of them separated by a comma"
        ),
    )
}

/// Reads `SMTP_FROM`: `Carebell <care@example.org>`, or the address alone.
fn mailbox(text: &str) -> Result<Mailbox, SettingsError> {
    let wrong = |what: &str| SettingsError::new("SMTP_FROM", format!("{what}; expected Carebell <care@example.org>"));
    if text.chars().any(char::is_control) {
        return Err(wrong("holds a control character"));
    }
    let text = text.trim();
    let (name, at) = match text.strip_suffix('>').and_then(|inner| inner.rsplit_once('<')) {
        Some((name, at)) => (unquoted(name.trim()), at),
        None => (String::new(), text),
    };
    if name.chars().nth(LONGEST_NAME).is_some() {
        return Err(wrong("has a name of more than 100 characters"));
    }
    let address = address(at.trim()).map_err(|why| wrong(&format!("holds an address that {why}")))?;
    if !address.user().is_ascii() {
        // It would require SMTPUTF8 for every mail, which many servers lack.
        return Err(wrong("holds an address whose part before the @ is not ASCII"));
    }
    Ok(Mailbox::new(Some(name).filter(|name| !name.is_empty()), address))
}

/// `"Carebell, Inc."` → `Carebell, Inc.`
fn unquoted(name: &str) -> String {
    let Some(inner) = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) else { return name.to_owned() };
    inner.replace("\\\"", "\"").replace("\\\\", "\\")
}

/// Reads an address; an internationalised domain becomes ASCII (RFC 5891). The error ends a sentence without the
/// address.
pub(super) fn address(text: &str) -> Result<Address, &'static str> {
    if text.len() > LONGEST_ADDRESS {
        return Err("is longer than 254 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("holds a control character");
    }
    let (user, domain) = text.rsplit_once('@').ok_or("has no @")?;
    let domain = if domain.is_ascii() {
        domain.to_owned()
    } else {
        match Host::parse(domain) {
            Ok(Host::Domain(domain)) => domain,
            _ => return Err("has an invalid domain"),
        }
    };
    Address::new(user, domain).map_err(|error| match error {
        lettre::address::AddressError::InvalidUser => "has an invalid part before the @",
        _ => "has an invalid domain",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> SmtpServer {
        SmtpServer::list(url).unwrap_or_else(|error| panic!("{url}: {error}")).remove(0)
    }

    #[test]
    fn every_form_of_a_url_is_read() {
        let cases = [
            ("smtps://mail.example.org", "mail.example.org", 465, Security::Tls),
            ("smtps://Mail.Example.org.:10465/", "mail.example.org", 10465, Security::Tls),
            ("smtp://mail.example.org", "mail.example.org", 587, Security::StartTls),
            ("smtp://192.0.2.1:25?tls=required", "192.0.2.1", 25, Security::StartTls),
            ("smtps://[2001:db8::1]", "2001:db8::1", 465, Security::Tls),
            ("smtp://127.0.0.1:1025?tls=none", "127.0.0.1", 1025, Security::None),
            ("smtp://[::1]?tls=none", "::1", 25, Security::None),
            ("smtp://localhost?tls=none", "localhost", 25, Security::None),
        ];
        for (url, host, port, security) in cases {
            let expected = SmtpServer { host: host.into(), port, security, user: None };
            assert_eq!(server(url), expected, "{url}");
        }
        let user = server("smtps://ops%40example.org:p%40ss%2Cw%C3%B6rd@mail.example.org").user;
        assert_eq!(user, Some(("ops@example.org".into(), "p@ss,wörd".into())));
        let two = SmtpServer::list("smtps://one.example, smtp://two.example").unwrap();
        assert_eq!(
            two.iter().map(SmtpServer::host_and_port).collect::<Vec<_>>(),
            ["one.example:465", "two.example:587"]
        );
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_the_password() {
        let cases = [
            ("secret", "is malformed"),
            ("", "is malformed"),
            ("smtps://", "names no host"),
            ("smtps:secret", "names no host"),
            ("https://a:secret@mail.example.org", "begins with neither"),
            ("smtp://a:secret@mail.example.org?tls=none", "disables TLS"),
            ("smtp://a:secret@mail.example.org?tls=opportunistic", "unknown parameter"),
            ("smtps://a:secret@mail.example.org?tls=none", "unknown parameter"),
            ("smtps://a:secret@mail.example.org/ehlo", "more than a port"),
            ("smtps://a:secret#x@mail.example.org", "malformed"),
            ("smtps://a:secret/x@mail.example.org", "malformed"),
            ("smtps://secret@mail.example.org", "a user without a password"),
            ("smtps://:secret@mail.example.org", "a password without a user"),
            ("smtps://a:secret%FF@mail.example.org", "not valid text"),
            ("smtps://a:secret%00@mail.example.org", "not valid text"),
            ("smtps://a:b,secret@mail.example.org", ""),
            ("smtps://one,smtps://two,smtps://three", "more than two"),
            ("smtps://a:secret@one,smtps://b:secret@one:465", "the same server twice"),
            ("smtps://a:secret@one:99999", "malformed"),
        ];
        for (url, what) in cases {
            let error = SmtpServer::list(url).expect_err(url);
            let text = error.to_string();
            assert_eq!(error.variable(), "SMTP_URL");
            assert!(text.contains(what) && !text.contains("secret") && text.contains("smtps://user:"), "{url}: {text}");
        }
        let shown = format!("{:?}", server("smtps://ops:secret@mail.example.org"));
        assert_eq!(shown, "SmtpServer(mail.example.org:465, Tls)");
    }

    #[test]
    fn a_sender_has_an_address_and_perhaps_a_name() {
        let cases = [
            ("care@example.org", None, "care@example.org"),
            ("<care@example.org>", None, "care@example.org"),
            ("Carebell <care@example.org>", Some("Carebell"), "care@example.org"),
            ("\"Care, \\\"Bell\\\" & Co\" <care@example.org>", Some("Care, \"Bell\" & Co"), "care@example.org"),
            (
                "Pflege Österreich <pflege@österreich.example>",
                Some("Pflege Österreich"),
                "pflege@xn--sterreich-z7a.example",
            ),
        ];
        for (text, name, address) in cases {
            let from = mailbox(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((from.name.as_deref(), from.email.as_ref()), (name, address), "{text}");
        }
        let long = format!("{} <care@example.org>", "x".repeat(101));
        for text in [
            "",
            "care",
            "@",
            "care@",
            "a b@example.org",
            "Care\r\nBcc: x@example.org <care@example.org>",
            "Care <>",
            "größe@example.org",
            "Care <care@exa mple.org>",
            &long,
        ] {
            let error = mailbox(text).expect_err(text);
            assert!(error.variable() == "SMTP_FROM" && !error.to_string().contains("Bcc"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_are_ascii_where_they_can_be() {
        assert_eq!(address("ana@münchen.example").unwrap().to_string(), "ana@xn--mnchen-3ya.example");
        assert_eq!(address("jürgen@münchen.example").unwrap().to_string(), "jürgen@xn--mnchen-3ya.example");
        for text in
            ["ana", "ana@", "@b.example", "a@b@c.example", "ana@-.example", "a\u{7f}b@c.example", "ana@ü..example"]
        {
            let why = address(text).expect_err(text);
            assert!(!why.contains("example"), "{why}");
        }
    }
}
