//! One connection: its commands, and planned misbehaviour.

use std::{io, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    behaviour::{Behaviour, Step},
    state::{ReceivedMail, State},
    syntax::{self, Command},
};

/// With its CRLF (RFC 5321 §4.5.3.1.4), and for AUTH (RFC 4954 §4).
const LONGEST_COMMAND: usize = 512;
const LONGEST_AUTH: usize = 12_288;

/// Ours have a few kilobytes.
const LARGEST_MESSAGE: usize = 1024 * 1024;

/// Longer than any client waits.
const NEVER: Duration = Duration::from_hours(1);

pub struct Session<'a, S> {
    stream: S,
    state: &'a State,
    /// Bytes read but not consumed.
    buffer: Vec<u8>,
    /// Whether mail is accepted here, or only STARTTLS.
    secure: bool,
    greet: bool,
    greeted: bool,
    user: Option<String>,
    mail: Option<ReceivedMail>,
}

enum AfterCommand {
    GoOn,
    StartTls,
    Close,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Session<'a, S> {
    pub fn new(stream: S, state: &'a State, secure: bool) -> Self {
        Self { stream, state, buffer: Vec::new(), secure, greet: true, greeted: false, user: None, mail: None }
    }

    /// After STARTTLS there is no second greeting.
    pub fn without_greeting(self) -> Self {
        Self { greet: false, ..self }
    }

    /// Runs until the client leaves. Returns the stream if TLS is to begin.
    pub async fn run(mut self) -> io::Result<Option<S>> {
        if self.greet {
            if self.instead(Step::Greeting).await?.is_some() {
                return Ok(None);
            }
            self.say("220 localhost ESMTP").await?;
        }
        loop {
            let Some(line) = self.line(LONGEST_COMMAND).await? else { return Ok(None) };
            let next = match Command::read(&line) {
                Ok(command) => self.obey(command).await?,
                Err(violation) => self.refuse("500 5.5.2", &violation).await?,
            };
            match next {
                AfterCommand::GoOn => {}
                AfterCommand::Close => return Ok(None),
                AfterCommand::StartTls => return Ok(Some(self.stream)),
            }
        }
    }

    async fn obey(&mut self, command: Command) -> io::Result<AfterCommand> {
        match command {
            Command::Quit => {
                self.say("221 2.0.0 Bye").await?;
                Ok(AfterCommand::Close)
            }
            Command::Noop => self.say("250 2.0.0 Ok").await,
            Command::Ehlo => {
                self.greeted = true;
                self.mail = None;
                let more = match (self.secure, self.state.needs_a_user()) {
                    (false, _) => "250-STARTTLS\r\n",
                    (true, true) => "250-AUTH PLAIN LOGIN\r\n",
                    (true, false) => "",
                };
                self.say(&format!("250-localhost\r\n{more}250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES"))
                    .await
            }
            _ if !self.greeted => self.refuse("503 5.5.1", "a command before EHLO").await,
            Command::Rset => {
                self.mail = None;
                self.say("250 2.0.0 Ok").await
            }
            Command::StartTls if self.secure => self.refuse("503 5.5.1", "STARTTLS where it was not offered").await,
            Command::StartTls => self.start_tls().await,
            _ if !self.secure => self.refuse("530 5.7.0", "a mail or a password before STARTTLS").await,
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial).await,
            _ if self.state.needs_a_user() && self.user.is_none() => {
                self.say("530 5.7.0 Authentication required").await
            }
            Command::Mail { .. } if self.mail.is_some() => self.refuse("503 5.5.1", "MAIL inside a mail").await,
            Command::Mail { from, parameters } => {
                self.state.began();
                if !from.is_ascii() && !parameters.iter().any(|parameter| parameter == "SMTPUTF8") {
                    return self.refuse("553 5.6.7", "MAIL FROM is not ASCII, and SMTPUTF8 was not said").await;
                }
                let (user, queue_id) = (self.user.clone(), String::new());
                let mail = ReceivedMail { from, to: Vec::new(), parameters, message: Vec::new(), queue_id, user };
                self.go_on(Step::Mail, "250 2.1.0 Ok", |session| session.mail = Some(mail)).await
            }
            Command::Rcpt(to) => {
                let Some(mail) = &self.mail else { return self.refuse("503 5.5.1", "RCPT before MAIL").await };
                if !to.is_ascii() && !mail.parameters.iter().any(|parameter| parameter == "SMTPUTF8") {
                    return self.refuse("553 5.6.7", "RCPT TO is not ASCII, and SMTPUTF8 was not said").await;
                }
                if let Some(reply) = self.state.refusal_of(&to) {
                    return self.say(&reply).await;
                }
                let add = |session: &mut Self| session.mail.iter_mut().for_each(|mail| mail.to.push(to.clone()));
                self.go_on(Step::Rcpt, "250 2.1.5 Ok", add).await
            }
            Command::Data => {
                if self.mail.as_ref().is_none_or(|mail| mail.to.is_empty()) {
                    return self.refuse("503 5.5.1", "DATA before RCPT").await;
                }
                self.data().await
            }
        }
    }

    async fn start_tls(&mut self) -> io::Result<AfterCommand> {
        // Sent in the clear, so it must not count as sent inside TLS.
        if !self.buffer.is_empty() {
            return self.refuse("503 5.5.1", "data after STARTTLS").await;
        }
        if let Some(Behaviour::Inject(lines)) = self.state.planned(Step::StartTls) {
            self.say(&format!("220 2.0.0 Ready\r\n{lines}")).await?;
            return Ok(AfterCommand::StartTls);
        }
        self.say("220 2.0.0 Ready").await?;
        Ok(AfterCommand::StartTls)
    }

    async fn auth(&mut self, mechanism: &str, initial: Option<String>) -> io::Result<AfterCommand> {
        if self.user.is_some() || self.mail.is_some() {
            return self.refuse("503 5.5.1", "AUTH a second time, or inside a mail").await;
        }
        let decoded = |text: &str| STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let given = match (mechanism, initial) {
            ("PLAIN", Some(initial)) => decoded(&initial).and_then(|text| {
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                Some((parts.next()?, parts.next()?))
            }),
            ("LOGIN", None) => {
                self.say("334 VXNlcm5hbWU6").await?;
                let Some(name) = self.line(LONGEST_AUTH).await? else { return Ok(AfterCommand::Close) };
                self.say("334 UGFzc3dvcmQ6").await?;
                let Some(password) = self.line(LONGEST_AUTH).await? else { return Ok(AfterCommand::Close) };
                decoded(&name).zip(decoded(&password))
            }
            _ => return self.refuse("504 5.5.4", "AUTH by a mechanism that was not offered").await,
        };
        let Some((name, password)) = given else { return self.refuse("501 5.5.2", "malformed AUTH").await };
        if !self.state.lets_in(&name, &password) {
            return self.say("535 5.7.8 Error: authentication failed").await;
        }
        self.go_on(Step::Auth, "235 2.7.0 Authentication successful", |session| session.user = Some(name)).await
    }

    async fn data(&mut self) -> io::Result<AfterCommand> {
        if let Some(next) = self.instead(Step::Data).await? {
            return Ok(next);
        }
        self.say("354 End data with <CR><LF>.<CR><LF>").await?;
        let Some(lines) = self.until_dot().await? else { return Ok(AfterCommand::Close) };
        let Some(mut mail) = self.mail.take() else { return Ok(AfterCommand::Close) };
        let checked = syntax::unstuff(&lines).and_then(|message| {
            mail.message = message;
            syntax::check(&mail)
        });
        if let Err(violation) = checked {
            return self.refuse("554 5.6.0", &violation).await;
        }
        match self.state.planned(Step::Message) {
            Some(Behaviour::AcceptAndClose) => {
                self.state.accept(mail);
                return Ok(AfterCommand::Close);
            }
            Some(Behaviour::AcceptAndHang) => {
                self.state.accept(mail);
                tokio::time::sleep(NEVER).await;
                return Ok(AfterCommand::Close);
            }
            Some(other) => {
                if let Some(next) = self.meet(other).await? {
                    return Ok(next);
                }
            }
            None => {}
        }
        let id = self.state.accept(mail);
        self.say(&format!("250 2.0.0 Ok: queued as {id}")).await
    }

    /// Misbehaves as planned, or applies `then` and gives the usual answer.
    async fn go_on(&mut self, step: Step, reply: &str, then: impl FnOnce(&mut Self)) -> io::Result<AfterCommand> {
        if let Some(next) = self.instead(step).await? {
            return Ok(next);
        }
        then(self);
        self.say(reply).await
    }

    async fn instead(&mut self, step: Step) -> io::Result<Option<AfterCommand>> {
        match self.state.planned(step) {
            Some(planned) => self.meet(planned).await,
            None => Ok(None),
        }
    }

    /// `None` if the usual answer is still due.
    async fn meet(&mut self, behaviour: Behaviour) -> io::Result<Option<AfterCommand>> {
        match behaviour {
            Behaviour::Answer { reply, .. } => {
                let next = self.say(&reply).await?;
                Ok(Some(if reply.starts_with("421") { AfterCommand::Close } else { next }))
            }
            Behaviour::Slow { by, .. } => {
                tokio::time::sleep(by).await;
                Ok(None)
            }
            Behaviour::Hang(_) => {
                tokio::time::sleep(NEVER).await;
                Ok(Some(AfterCommand::Close))
            }
            Behaviour::Close(_) | Behaviour::AcceptAndClose | Behaviour::AcceptAndHang | Behaviour::Inject(_) => {
                Ok(Some(AfterCommand::Close))
            }
        }
    }

    async fn refuse(&mut self, code: &str, violation: &str) -> io::Result<AfterCommand> {
        self.state.violated(violation.to_owned());
        self.say(&format!("{code} {violation}")).await
    }

    async fn say(&mut self, reply: &str) -> io::Result<AfterCommand> {
        self.stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        self.stream.flush().await?;
        Ok(AfterCommand::GoOn)
    }

    /// Without CRLF; `None` if the client has left or broken the framing.
    async fn line(&mut self, longest: usize) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let inner = line.strip_suffix(b"\r\n").filter(|inner| !inner.contains(&b'\r') && line.len() <= longest);
                let text = inner.and_then(|inner| String::from_utf8(inner.to_vec()).ok());
                if text.is_none() {
                    self.refuse("500 5.5.2", "a command is too long, not text, or does not end in CRLF").await?;
                }
                return Ok(text);
            }
            if !self.more(longest).await? {
                return Ok(None);
            }
        }
    }

    /// A message without its final dot.
    async fn until_dot(&mut self) -> io::Result<Option<Vec<u8>>> {
        const END: &[u8] = b"\r\n.\r\n";
        loop {
            if let Some(end) = self.buffer.windows(END.len()).position(|window| window == END) {
                let mut lines: Vec<u8> = self.buffer.drain(..end + END.len()).collect();
                lines.truncate(end + 2);
                return Ok(Some(lines));
            }
            if !self.more(LARGEST_MESSAGE).await? {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self, most: usize) -> io::Result<bool> {
        if self.buffer.len() > most {
            self.refuse("552 5.3.4", "a line or a message is too long").await?;
            return Ok(false);
        }
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}
