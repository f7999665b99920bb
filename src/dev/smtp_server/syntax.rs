//! Rules for commands (RFC 5321 §4.1) and messages (RFC 5322 §2).

use super::state::ReceivedMail;

/// With CRLF (RFC 5321 §4.5.3.1.6).
const LONGEST_LINE: usize = 1000;

/// Required headers, each once (RFC 5322 §3.6, RFC 2045 §4).
const HEADERS: [&str; 7] = ["from", "to", "subject", "date", "message-id", "mime-version", "content-type"];

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Ehlo,
    StartTls,
    Auth { mechanism: String, initial: Option<String> },
    Mail { from: String, parameters: Vec<String> },
    Rcpt(String),
    Data,
    Rset,
    Noop,
    Quit,
}

impl Command {
    /// Parses a line. Fails with the broken rule.
    pub fn read(line: &str) -> Result<Self, String> {
        let (verb, rest) = line.split_once(' ').map_or((line, None), |(verb, rest)| (verb, Some(rest)));
        let verb = verb.to_ascii_uppercase();
        match (verb.as_str(), rest) {
            ("EHLO", Some(name)) if is_name(name) => Ok(Self::Ehlo),
            ("STARTTLS", None) => Ok(Self::StartTls),
            ("AUTH", Some(rest)) => {
                let mut words = rest.split(' ');
                let mechanism = words.next().unwrap_or_default().to_ascii_uppercase();
                let initial = words.next().map(str::to_owned);
                if words.next().is_some() {
                    Err("AUTH has too many words".into())
                } else {
                    Ok(Self::Auth { mechanism, initial })
                }
            }
            ("MAIL", Some(rest)) => {
                let (from, parameters) = path(rest, "FROM:")?;
                let known = |word: &String| ["SMTPUTF8", "BODY=8BITMIME", "BODY=7BIT"].contains(&word.as_str());
                match parameters.iter().find(|word| !known(word)) {
                    Some(_) => Err("MAIL FROM has a parameter that was not offered".into()),
                    None => Ok(Self::Mail { from, parameters }),
                }
            }
            ("RCPT", Some(rest)) => match path(rest, "TO:")? {
                (to, parameters) if parameters.is_empty() && !to.is_empty() => Ok(Self::Rcpt(to)),
                _ => Err("RCPT TO has parameters, or no address".into()),
            },
            ("DATA", None) => Ok(Self::Data),
            ("RSET", None) => Ok(Self::Rset),
            ("NOOP", None) => Ok(Self::Noop),
            ("QUIT", None) => Ok(Self::Quit),
            (verb, _) => Err(format!("{} is not a command, or its arguments are wrong", verb.escape_default())),
        }
    }
}

/// `FROM:<ana@example.org> SMTPUTF8`
fn path(rest: &str, word: &str) -> Result<(String, Vec<String>), String> {
    let broken = || format!("{word} is not followed by <an address> and parameters");
    let (found, path) = rest.split_at_checked(word.len()).ok_or_else(broken)?;
    let inner = path.strip_prefix('<').filter(|_| found.eq_ignore_ascii_case(word)).ok_or_else(broken)?;
    let (address, parameters) = inner.rsplit_once('>').ok_or_else(broken)?;
    let is_address = address.is_empty()
        || (address.len() <= 254
            && address
                .rsplit_once('@')
                .is_some_and(|(user, domain)| !user.is_empty() && is_user(user) && is_name(domain))
            && !address.contains(char::is_control));
    if !is_address || !(parameters.is_empty() || parameters.starts_with(' ')) {
        return Err(broken());
    }
    Ok((address.to_owned(), parameters.split_ascii_whitespace().map(str::to_owned).collect()))
}

/// A local part: a dot-string, or any other in quotes (RFC 5321 §4.1.2).
fn is_user(user: &str) -> bool {
    let is_quoted = user.len() > 2 && user.starts_with('"') && user.ends_with('"');
    is_quoted || !user.chars().any(|c| c.is_whitespace() || "<>\"".contains(c))
}

/// A domain or address literal; IDNs have an ASCII form.
fn is_name(name: &str) -> bool {
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte) || (inner.is_some() && byte == b':');
    let name = inner.unwrap_or(name);
    !name.is_empty() && name.len() <= 255 && name.bytes().all(allowed)
}

/// Removes dot stuffing. Fails with the broken rule.
pub fn unstuff(lines: &[u8]) -> Result<Vec<u8>, String> {
    let mut message = Vec::with_capacity(lines.len());
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let Some(inner) = line.strip_suffix(b"\r\n") else { return Err("a line does not end in CRLF".into()) };
        if inner.contains(&b'\r') || inner.contains(&0) {
            return Err("a line holds a bare CR or a NUL".into());
        }
        if line.len() > LONGEST_LINE {
            return Err(format!("a line has {} bytes", line.len()));
        }
        match inner {
            // A real server would end the message here.
            b"." => return Err("a lone dot is not doubled".into()),
            [b'.', rest @ ..] if rest.first() != Some(&b'.') => return Err("a dot at the start is not doubled".into()),
            _ => message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line)),
        }
    }
    Ok(message)
}

/// Checks a message against its envelope.
pub fn check(mail: &ReceivedMail) -> Result<(), String> {
    let text = std::str::from_utf8(&mail.message).map_err(|_| "the message is not UTF-8")?;
    let has = |parameter: &str| mail.parameters.iter().any(|given| given == parameter);
    if !text.is_ascii() && !has("BODY=8BITMIME") {
        return Err("the message is not ASCII, and BODY=8BITMIME was not said".into());
    }
    let (head, _) = text.split_once("\r\n\r\n").ok_or("there is no empty line after the headers")?;
    if !head.is_ascii() && !has("SMTPUTF8") {
        return Err("a header is not ASCII, and SMTPUTF8 was not said".into());
    }
    let mut names: Vec<String> = Vec::new();
    for line in head.split("\r\n") {
        if line.starts_with([' ', '\t']) {
            if names.is_empty() || line.trim().is_empty() {
                return Err("a folded line is empty, or continues nothing".into());
            }
            continue;
        }
        let (name, _) = line.split_once(':').ok_or("a header has no colon")?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a header's name is malformed".into());
        }
        names.push(name.to_ascii_lowercase());
    }
    for header in HEADERS {
        let count = names.iter().filter(|name| *name == header).count();
        if count != 1 {
            return Err(format!("the header {header} occurs {count} times"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_strictly() {
        let mail = |from: &str, parameters: &[&str]| {
            Ok(Command::Mail { from: from.into(), parameters: parameters.iter().map(ToString::to_string).collect() })
        };
        assert_eq!(Command::read("EHLO [127.0.0.1]"), Ok(Command::Ehlo));
        assert_eq!(Command::read("mail from:<a@b.example>"), mail("a@b.example", &[]));
        assert_eq!(Command::read("MAIL FROM:<a@b.example> SMTPUTF8"), mail("a@b.example", &["SMTPUTF8"]));
        assert_eq!(Command::read("RCPT TO:<jürgen@b.example>"), Ok(Command::Rcpt("jürgen@b.example".into())));
        for line in [
            "",
            "EHLO",
            "EHLO a b",
            "MAIL FROM: <a@b.example>",
            "MAIL FROM:a@b.example",
            "MAIL FROM:<a@b>x",
            "MAIL FROM:<a@b.example> SIZE=1",
            "RCPT TO:<>",
            "RCPT TO:<a>",
            "RCPT TO:<a b@c.example>",
            "RCPT TO:<a@b.example> NOTIFY=NEVER",
            "DATA now",
            "HELO a",
            "AUTH PLAIN a b",
            "AUTH",
        ] {
            assert!(Command::read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn dots_are_taken_out_and_broken_lines_found() {
        assert_eq!(unstuff(b"a\r\n..b\r\n...\r\n").unwrap(), b"a\r\n.b\r\n..\r\n");
        for lines in [&b"a\n"[..], b"a\rb\r\n", b".a\r\n", b".\r\n", b"a\0\r\n", b"a", &[b'x'; 1001]] {
            assert!(unstuff(lines).is_err(), "{lines:?}");
        }
    }
}
