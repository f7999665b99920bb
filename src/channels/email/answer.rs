//! Judges replies of a mail server (RFC 5321 §4.2, RFC 3463).
//!
//! Only the code, the enhanced code and the command are kept: texts may repeat the address or subject.

use std::{fmt, time::Duration};

use crate::channels::Answer;

/// `deliveries.reason` of an address that doesn't exist.
pub const BOUNCED: &str = "bounced";

/// Most greylisting takes five minutes.
const GREYLISTED: Duration = Duration::from_mins(5);

const LONGEST_ID: usize = 64;

/// Words in a reply without an enhanced code that exonerate the recipient. A server that refuses to relay also answers
/// 550, and must not have all addresses marked.
const NOT_ABOUT_THE_ADDRESS: [&str; 16] = [
    "relay",
    "auth",
    "denied",
    "permitted",
    "allowed",
    "policy",
    "policies",
    "spam",
    "block",
    "listed",
    "reputation",
    "sender",
    "spf",
    "dkim",
    "dmarc",
    "helo",
];

/// Words that blame the recipient. Without one, the fault may be ours.
const NO_SUCH_ADDRESS: [&str; 11] = [
    "unknown",
    "no such",
    "not exist",
    "doesn't exist",
    "not found",
    "unavailable",
    "invalid",
    "disabled",
    "no mailbox",
    "does not have",
    "not local",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connecting, EHLO, STARTTLS.
    Connect,
    Auth,
    Mail,
    Rcpt,
    Data,
    Text,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "the greeting",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Text => "the message",
        })
    }
}

/// A refusal, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 4yz or 5yz.
    code: u16,
    /// Enhanced code (RFC 2034), if it agrees with the code.
    enhanced: Option<(u16, u16)>,
    /// Not about the recipient.
    elsewhere: bool,
    /// Says that the mailbox doesn't exist.
    names_the_mailbox: bool,
}

impl Reply {
    pub fn read(code: u16, text: &str) -> Self {
        let lower = text.to_lowercase();
        Self {
            code,
            enhanced: enhanced(code, text),
            elsewhere: NOT_ABOUT_THE_ADDRESS.iter().any(|word| lower.contains(word)),
            names_the_mailbox: NO_SUCH_ADDRESS.iter().any(|words| lower.contains(words)),
        }
    }

    /// Authentication is required or failed (RFC 4954 §6; RFC 3207 §4 for 530).
    const fn wants_another_user(self) -> bool {
        matches!(self.code, 530 | 534 | 535 | 538)
    }

    /// Whether the mailbox doesn't exist, so that its address is marked. When in doubt, no.
    fn means_no_such_address(self, step: Step) -> bool {
        match (self.code, self.enhanced) {
            // X.1.7 and X.1.8 concern the sender's address, X.1.9 the route.
            (400..500, _) | (_, Some((1, 7..=9))) => false,
            // Some servers mean the sender's address.
            (_, Some((1, 0))) if !self.names_the_mailbox || self.elsewhere => false,
            (_, Some((1, _))) => matches!(step, Step::Rcpt | Step::Data | Step::Text),
            // The recipient's domain accepts no mail (RFC 7504).
            (556, None) => step == Step::Rcpt,
            (550 | 551 | 553, None) => step == Step::Rcpt && self.names_the_mailbox && !self.elsewhere,
            _ => false,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.enhanced.map_or(Ok(()), |(subject, detail)| write!(f, " {}.{subject}.{detail}", self.code / 100))
    }
}

/// Subject and detail of the enhanced code at the start of a reply.
fn enhanced(code: u16, text: &str) -> Option<(u16, u16)> {
    let mut parts = text.split_whitespace().next()?.split('.');
    let mut number = || {
        let part = parts.next()?;
        let is_number = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { part.parse::<u16>().ok() } else { None }
    };
    let (class, subject, detail) = (number()?, number()?, number()?);
    (class == code / 100 && parts.next().is_none()).then_some((subject, detail))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Refused {
        step: Step,
        reply: Reply,
    },
    Lost {
        step: Step,
        why: String,
    },
    Silent {
        step: Step,
    },
    /// The address needs SMTPUTF8 (RFC 6531), which the server lacks.
    NoSmtpUtf8,
}

impl Trouble {
    /// Whether the connection is reusable.
    pub fn leaves_the_connection(&self) -> bool {
        match self {
            Self::Refused { step: Step::Connect | Step::Auth, .. } | Self::Lost { .. } | Self::Silent { .. } => false,
            Self::Refused { reply, .. } => reply.code != 421,
            Self::NoSmtpUtf8 => true,
        }
    }

    pub fn in_short(&self) -> String {
        match self {
            Self::Refused { step, reply } => refused(*step, *reply),
            Self::Lost { why, .. } => why.clone(),
            Self::Silent { step } => format!("no answer in time to {step}"),
            Self::NoSmtpUtf8 => "the server does not take addresses in this script (SMTPUTF8)".into(),
        }
    }

    /// The answer to a refusal, for good, of an address that few servers take. Marked only if the server means the
    /// address; never a dead letter.
    pub fn of_unusual_recipient(&self) -> Option<Answer> {
        let Self::Refused { step: Step::Rcpt, reply } = self else { return None };
        if !(500..600).contains(&reply.code) || reply.wants_another_user() || reply.code == 552 {
            return None;
        }
        let means_the_address =
            matches!((reply.code, reply.enhanced), (500 | 501 | 553, None) | (_, Some((1, 0..=6) | (5, 2 | 4))));
        let (answer, reason) = (reply.to_string(), "invalid_address");
        Some(if means_the_address { Answer::Gone { answer, reason } } else { Answer::Refused { why: answer, reason } })
    }

    pub fn judge(self) -> Answer {
        let why = self.in_short();
        match self {
            Self::Refused { step, reply } => judge(step, reply, why),
            // Even after the final dot, when the mail may have been accepted: a resent mail has the same Message-ID, so
            // it is shown once. Hence an outage burns no attempt.
            Self::Lost { .. } => Answer::Down { why, after: None, timed_out: false },
            Self::Silent { .. } => Answer::Down { why, after: None, timed_out: true },
            Self::NoSmtpUtf8 => Answer::Refused { why, reason: "no_smtputf8" },
        }
    }
}

fn judge(step: Step, reply: Reply, why: String) -> Answer {
    if reply.means_no_such_address(step) {
        return Answer::Gone { answer: reply.to_string(), reason: BOUNCED };
    }
    let down = |why| Answer::Down { why, after: None, timed_out: false };
    match (step, reply.code) {
        // Affects every mail. A changed password is ours to fix, so deliveries wait for the breaker.
        (Step::Connect | Step::Auth, _) | (_, 421) => down(why),
        _ if reply.wants_another_user() => down(why),
        // This mail's own fault: too large, or an unknown parameter.
        (Step::Mail, 552 | 555) => Answer::Permanent { why },
        // A refused sender affects every mail too.
        (Step::Mail, _) => down(why),
        // Probably greylisting: an immediate retry would burn an attempt.
        (Step::Rcpt, 450 | 451) => Answer::Retry { why, after: Some(GREYLISTED) },
        (_, 400..500) => Answer::Retry { why, after: None },
        _ => Answer::Permanent { why },
    }
}

fn refused(step: Step, reply: Reply) -> String {
    let whose = match (step, reply.code) {
        (Step::Auth, 500..600) => ": the user or the password of SMTP_URL is wrong",
        _ if reply.wants_another_user() => ": SMTP_URL has to name a user and a password",
        (Step::Mail, 500..600) if !matches!(reply.code, 552 | 555) => ": the sender of SMTP_FROM is not accepted",
        _ => "",
    };
    format!("the server answered {reply} to {step}{whose}")
}

pub fn accepted(text: &str) -> Answer {
    Answer::Accepted { answer: "250".into(), provider_id: queue_id(text) }
}

/// The server's queue id: `2.0.0 Ok: queued as 4XyZ`, `OK id=1tA-0`, `Ok 010201`. Only plausible ids are taken.
fn queue_id(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let behind = |word: &str| lower.find(word).map(|at| &text[at + word.len()..]);
    let alone = || lower.strip_prefix("ok ").filter(|id| id.len() >= 16).map(|_| &text[3..]);
    let rest = behind("queued as ").or_else(|| behind(" id=")).or_else(alone)?;
    let id = rest.split_whitespace().next()?.trim_end_matches(['.', ',', ';', ')']);
    let is_id = id.len() <= LONGEST_ID
        && id.bytes().any(|byte| byte.is_ascii_digit())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(step: Step, code: u16, text: &str) -> Answer {
        Trouble::Refused { step, reply: Reply::read(code, text) }.judge()
    }

    fn class(step: Step, code: u16, text: &str) -> &'static str {
        match answer(step, code, text) {
            Answer::Down { timed_out: false, after: None, .. } => "down",
            Answer::Retry { after: None, .. } => "retry",
            Answer::Retry { after: Some(GREYLISTED), .. } => "later",
            Answer::Permanent { .. } => "permanent",
            Answer::Gone { reason: BOUNCED, .. } => "gone",
            other => panic!("{code} {text}: {other:?}"),
        }
    }

    #[test]
    fn every_class_of_answer_is_judged() {
        use Step::{Auth, Connect, Data, Mail, Rcpt, Text};
        let cases = [
            (Connect, 421, "4.3.2 Service shutting down", "down"),
            (Connect, 554, "No SMTP service here", "down"),
            (Connect, 454, "4.7.0 TLS not available", "down"),
            (Auth, 454, "4.7.0 Temporary authentication failure", "down"),
            (Auth, 535, "5.7.8 Error: authentication failed", "down"),
            (Auth, 534, "5.7.9 Please log in with your web browser", "down"),
            (Mail, 530, "5.7.0 Authentication required", "down"),
            (Rcpt, 530, "5.7.0 Must issue a STARTTLS command first", "down"),
            (Mail, 553, "5.7.1 <care@example.org>: Sender address rejected: not owned by user", "down"),
            (Mail, 550, "sender rejected", "down"),
            (Mail, 550, "5.1.8 Bad sender address", "down"),
            (Mail, 550, "5.1.0 Address rejected", "down"),
            (Mail, 452, "4.3.1 Insufficient system storage", "down"),
            (Mail, 552, "5.3.4 Message size exceeds fixed limit", "permanent"),
            (Mail, 555, "5.5.4 Unsupported option", "permanent"),
            (Rcpt, 450, "4.7.1 Greylisted, see http://postgrey/", "later"),
            (Rcpt, 451, "4.7.1 Try again later", "later"),
            (Rcpt, 452, "4.5.3 Too many recipients", "retry"),
            (Rcpt, 450, "4.1.1 unverified address", "later"),
            (Data, 451, "4.3.0 Temporary lookup failure", "retry"),
            (Text, 452, "4.2.2 Over quota", "retry"),
            (Text, 432, "4.3.2 Concurrent connections limit exceeded", "retry"),
            (Mail, 421, "4.4.2 Timeout", "down"),
            (Rcpt, 421, "4.7.0 Too many connections", "down"),
            (Text, 421, "4.3.0 Closing", "down"),
            (Rcpt, 550, "5.1.1 <ana@example.org>: Recipient address rejected: User unknown", "gone"),
            (Rcpt, 550, "5.1.10 NULL MX", "gone"),
            (Rcpt, 550, "5.1.0 <ana@example.org>: User unknown", "gone"),
            (Rcpt, 551, "5.1.6 User has moved", "gone"),
            (Rcpt, 553, "5.1.3 Bad recipient address syntax", "gone"),
            (Rcpt, 501, "5.1.3 Bad recipient address syntax", "gone"),
            (Rcpt, 550, "No such user here", "gone"),
            (Rcpt, 550, "", "permanent"),
            (Rcpt, 551, "User not local", "gone"),
            (Rcpt, 553, "mailbox name invalid", "gone"),
            (Rcpt, 556, "the domain takes no mail", "gone"),
            (Text, 550, "5.1.1 User unknown", "gone"),
            (Rcpt, 550, "5.7.1 Relaying denied", "permanent"),
            (Rcpt, 550, "relay not permitted", "permanent"),
            (Rcpt, 550, "Access denied", "permanent"),
            (Rcpt, 550, "5.1.0 Address rejected", "permanent"),
            (Rcpt, 550, "5.1.0 <care@example.org> sender rejected", "permanent"),
            (Text, 550, "5.1.0 Sender address invalid", "permanent"),
            (Rcpt, 550, "5.1.8 Sender address rejected: Domain not found", "permanent"),
            (Rcpt, 554, "5.7.1 Relay access denied", "permanent"),
            (Rcpt, 552, "5.2.2 Mailbox full", "permanent"),
            (Rcpt, 550, "5.2.1 Mailbox disabled", "permanent"),
            (Rcpt, 501, "syntax error", "permanent"),
            (Data, 503, "5.5.1 Bad sequence of commands", "permanent"),
            (Data, 554, "no valid recipients", "permanent"),
            (Text, 550, "message content rejected", "permanent"),
            (Text, 554, "5.7.1 Spam", "permanent"),
            (Text, 552, "5.3.4 Message too big", "permanent"),
            (Text, 535, "5.7.8 Authentication expired", "down"),
        ];
        for (step, code, text, expected) in cases {
            assert_eq!(class(step, code, text), expected, "{step}: {code} {text}");
        }
    }

    #[test]
    fn a_lost_connection_and_silence_are_the_servers() {
        for step in [Step::Connect, Step::Rcpt, Step::Text] {
            let lost = Trouble::Lost { step, why: "no connection: refused".into() }.judge();
            assert_eq!(lost, Answer::Down { why: "no connection: refused".into(), after: None, timed_out: false });
            assert!(matches!(Trouble::Silent { step }.judge(), Answer::Down { timed_out: true, .. }));
        }
        assert!(matches!(Trouble::NoSmtpUtf8.judge(), Answer::Refused { reason: "no_smtputf8", .. }));
    }

    /// A refusal of `"a b"@example.org` or `user@[127.0.0.1]` is no dead letter, and marks only what the server means.
    #[test]
    fn an_unusual_address_is_marked_if_the_server_means_the_address() {
        let class = |code, text| {
            let trouble = Trouble::Refused { step: Step::Rcpt, reply: Reply::read(code, text) };
            match trouble.of_unusual_recipient() {
                Some(Answer::Gone { reason: "invalid_address", .. }) => "marked",
                Some(Answer::Refused { reason: "invalid_address", .. }) => "failed",
                None => "usual",
                other => panic!("{code} {text}: {other:?}"),
            }
        };
        for (code, text, expected) in [
            (501, "syntax error", "marked"),
            (500, "5.5.2 what?", "marked"),
            (553, "5.1.3 Bad recipient address syntax", "marked"),
            (554, "5.7.1 Relay access denied", "failed"),
            (550, "no", "failed"),
            (530, "5.7.0 Authentication required", "usual"),
            (552, "5.2.2 mailbox full", "usual"),
            (450, "4.7.1 greylisted", "usual"),
            (501, "5.1.7 Bad sender address", "failed"),
        ] {
            assert_eq!(class(code, text), expected, "{code} {text}");
        }
    }

    #[test]
    fn only_a_connection_whose_commands_are_all_answered_is_kept() {
        let refused = |step, code| Trouble::Refused { step, reply: Reply::read(code, "") };
        assert!(refused(Step::Rcpt, 550).leaves_the_connection());
        assert!(refused(Step::Text, 451).leaves_the_connection());
        assert!(!refused(Step::Rcpt, 421).leaves_the_connection());
        assert!(!refused(Step::Auth, 535).leaves_the_connection());
        assert!(!Trouble::Silent { step: Step::Text }.leaves_the_connection());
        assert!(!Trouble::Lost { step: Step::Mail, why: String::new() }.leaves_the_connection());
    }

    #[test]
    fn texts_say_what_to_mend_and_keep_nothing_of_the_servers() {
        let why = |step, code, text| Trouble::Refused { step, reply: Reply::read(code, text) }.in_short();
        assert_eq!(
            why(Step::Auth, 535, "5.7.8 bad password for ops"),
            "the server answered 535 5.7.8 to AUTH: the user or the password of SMTP_URL is wrong"
        );
        assert_eq!(
            why(Step::Mail, 553, "<care@example.org> no"),
            "the server answered 553 to MAIL FROM: the sender of SMTP_FROM is not accepted"
        );
        assert_eq!(why(Step::Rcpt, 450, "4.7.1 wait, ana"), "the server answered 450 4.7.1 to RCPT TO");
        assert!(matches!(answer(Step::Rcpt, 550, "5.1.1 ana"), Answer::Gone { answer, .. } if answer == "550 5.1.1"));
    }

    #[test]
    fn only_what_looks_like_a_queue_id_is_one() {
        let ses = "0102018f5d3a7c10-9d8c7b6a-5f4e-4d3c-2b1a-0f9e8d7c6b5a-000000";
        let cases = [
            ("2.0.0 Ok: queued as 4XyZ12abc", Some("4XyZ12abc")),
            ("2.0.0 Ok: queued as 4XyZ12abc.", Some("4XyZ12abc")),
            ("OK id=1tABCd-000000001-Xy9z", Some("1tABCd-000000001-Xy9z")),
            (&format!("Ok {ses}"), Some(ses)),
            ("2.0.0 Message accepted for delivery", None),
            ("Ok: queued as <ana@example.org>", None),
            ("queued as ", None),
            ("queued as aaaa", None),
            ("Ok 12", None),
            ("Ok thanks_very_much_indeed", None),
            (&format!("queued as {}", "1".repeat(65)), None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(queue_id(text).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_refusal_has_a_class_and_no_text_of_the_server_is_kept(code in 400_u16..600, text in "\\PC{0,60}") {
            for step in [Step::Connect, Step::Auth, Step::Mail, Step::Rcpt, Step::Data, Step::Text] {
                let marked = format!("{text} ana@example.org");
                let shown = format!("{:?}", answer(step, code, &marked));
                prop_assert!(!shown.contains("ana@") && shown.contains(&code.to_string()), "{}", shown);
                if code < 500 {
                    prop_assert!(["down", "retry", "later"].contains(&class(step, code, &marked)), "{}", shown);
                }
            }
        }
    }
}
