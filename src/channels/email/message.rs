//! Writes a mail as plain text and HTML (RFC 2046 §5.1.4).
//!
//! Every send of a delivery has the same date and `Message-ID`, so mail programs show duplicates once.

use std::time::{Duration, SystemTime};

use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType, Date, HeaderName, HeaderValue, MessageId, Subject},
    },
};
use minijinja::{AutoEscape, Environment, context, syntax::SyntaxConfig};
use url::Url;

use crate::{channels::Parcel, text};

const TEXT: &str = "message.txt";
const HTML: &str = "message.html";

const LONGEST_SUBJECT: usize = 200;

/// Quoted-printable never contains `=_` (RFC 2045 §6.7), so no text can end its part.
const BOUNDARY: &str = "=_carebell";

#[derive(Clone, Copy)]
struct Words {
    open: &'static str,
    automatic: &'static str,
}

const ENGLISH: Words = Words { open: "Open", automatic: "This message was sent automatically." };

const OTHERS: [(&str, Words); 3] = [
    ("de", Words { open: "Öffnen", automatic: "Diese Nachricht wurde automatisch verschickt." }),
    ("es", Words { open: "Abrir", automatic: "Este mensaje se ha enviado automáticamente." }),
    ("fr", Words { open: "Ouvrir", automatic: "Ce message a été envoyé automatiquement." }),
];

pub struct Writer {
    from: Mailbox,
    app_url: Option<Url>,
    templates: Environment<'static>,
}

impl Writer {
    /// Fails only if a template is malformed, which a test excludes.
    pub fn new(from: Mailbox, app_url: Option<Url>) -> Result<Self, minijinja::Error> {
        let mut templates = Environment::new();
        templates.set_auto_escape_callback(|name| if name == HTML { AutoEscape::Html } else { AutoEscape::None });
        templates.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        templates.add_template(TEXT, include_str!("message.txt"))?;
        templates.add_template(HTML, include_str!("message.html"))?;
        Ok(Self { from, app_url, templates })
    }

    pub fn from(&self) -> &Address {
        &self.from.email
    }

    /// Fails only if a template is broken. The error repeats no text.
    pub fn write(&self, parcel: &Parcel<'_>, to: &Address) -> Result<String, String> {
        let content = parcel.content;
        let (title, body) = (one_line(&content.title), lines(&content.body));
        let language = language(parcel.locale);
        let link = content.url.as_deref().and_then(|url| self.link(url));
        let Words { open, automatic } = words(&language);
        let values = context! { title => title.as_str(), body, link, language, open, automatic };
        let filled = |template| {
            let text = self.templates.get_template(template).and_then(|template| template.render(&values));
            text.map_err(|error| format!("the template {template} cannot be rendered: {}", error.kind()))
        };
        let parts = MultiPart::alternative()
            .boundary(BOUNDARY)
            .singlepart(part(ContentType::TEXT_PLAIN, filled(TEXT)?))
            .singlepart(part(ContentType::TEXT_HTML, filled(HTML)?));
        let submitted = HeaderName::new_from_ascii_str("Auto-Submitted");
        // Otherwise the builder reads the addresses from the headers, and takes no quoted ones.
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()]);
        let message = Message::builder()
            .envelope(envelope.map_err(|_| "the mail has no envelope".to_owned())?)
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .header(Subject::from(text::shorten(&title, LONGEST_SUBJECT)))
            .header(Date::new(date(parcel)))
            .header(MessageId::from(format!("<{}@{}>", parcel.id, self.from.email.domain())))
            // RFC 3834 §5: suppresses out-of-office replies.
            .raw_header(HeaderValue::new(submitted, "auto-generated".into()))
            .multipart(parts)
            .map_err(|_| "the mail lacks a sender or a recipient".to_owned())?;
        String::from_utf8(message.formatted()).map_err(|_| "the mail is not valid UTF-8".to_owned())
    }

    fn link(&self, url: &str) -> Option<String> {
        let target = match &self.app_url {
            Some(base) => base.join(url),
            None => Url::parse(url),
        };
        target.ok().filter(|target| matches!(target.scheme(), "http" | "https")).map(String::from)
    }
}

fn part(content_type: ContentType, text: String) -> SinglePart {
    let encoding = ContentTransferEncoding::QuotedPrintable;
    // Quoted-printable can encode any text.
    let body = Body::new_with_encoding(text, encoding).unwrap_or_else(Body::new);
    SinglePart::builder().header(content_type).body(body)
}

/// One line, without sequences that look like an encoded word (RFC 2047 §2).
fn one_line(title: &str) -> String {
    let line: String = title.chars().map(|c| if breaks(c) { ' ' } else { c }).collect();
    let line = line.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if line.contains("=?") && line.contains("?=") { line.replace("=?", "= ?") } else { line }
}

/// LF line ends, and no control characters except tabs.
fn lines(body: &str) -> String {
    let body = body.replace("\r\n", "\n");
    let lines: String = body
        .chars()
        .filter_map(|c| match c {
            '\t' => Some(c),
            '\n' | '\r' | '\u{2028}' | '\u{2029}' => Some('\n'),
            c => (!c.is_control()).then_some(c),
        })
        .collect();
    lines.trim_matches('\n').to_owned()
}

fn breaks(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Date of planning, up to 9999.
fn date(parcel: &Parcel<'_>) -> SystemTime {
    const LAST: u64 = 253_402_300_799;
    let seconds = u64::try_from(parcel.created_at.timestamp()).unwrap_or(0).min(LAST);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// BCP 47 tag of `users.locale` (`de_AT` or `de-AT`); empty if invalid.
fn language(locale: &str) -> String {
    let tag = locale.trim().split('.').next().unwrap_or_default().replace('_', "-");
    let is_tag = tag.len() <= 35
        && tag
            .split('-')
            .all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    if is_tag { tag } else { String::new() }
}

fn words(language: &str) -> Words {
    let primary = language.split('-').next().unwrap_or_default().to_ascii_lowercase();
    OTHERS.iter().find(|(code, _)| *code == primary).map_or(ENGLISH, |(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;
    use serde_json::Map;

    use super::*;
    use crate::{channels::Address as To, kind::Lane, plan::Content};

    const ID: &str = "01a2031e-6537-7f51-af3e-446df51adbb2";

    fn content(title: &str, body: &str, url: Option<&str>) -> Content {
        Content {
            locale: String::new(),
            kind: "GENERAL".into(),
            title: title.into(),
            body: body.into(),
            url: url.map(str::to_owned),
            data: Map::new(),
            tag: None,
        }
    }

    fn parcel<'a>(content: &'a Content, locale: &'a str) -> Parcel<'a> {
        Parcel {
            id: ID,
            root_id: "root",
            address: To::Plain("ana@example.org"),
            content,
            locale,
            lane: Lane::Normal,
            created_at: "2026-10-25T00:30:00.123Z".parse().unwrap(),
            ttl: Duration::from_mins(10),
        }
    }

    fn writer(from: &str, app_url: Option<&str>) -> Writer {
        let settings = super::super::Settings::parse("smtps://mail.example.org", from).unwrap();
        Writer::new(settings.from, app_url.map(|url| url.parse().unwrap())).unwrap()
    }

    fn written(content: &Content, locale: &str) -> String {
        let writer = writer("Carebell <care@example.org>", Some("https://app.example.org/"));
        writer.write(&parcel(content, locale), &"ana@example.org".parse().unwrap()).unwrap()
    }

    fn read(message: &str) -> (String, String, String) {
        let mail = MessageParser::new().parse(message.as_bytes()).unwrap();
        assert_eq!((mail.parts.len(), mail.text_body_count(), mail.html_body_count()), (3, 1, 1), "{message}");
        assert_eq!(mail.attachment_count(), 0, "{message}");
        assert_eq!(mail.part(0).unwrap().content_type().unwrap().subtype(), Some("alternative"));
        let subject = mail.subject().unwrap_or_default().to_owned();
        (subject, mail.body_text(0).unwrap().into_owned(), mail.body_html(0).unwrap().into_owned())
    }

    #[test]
    fn a_mail_has_the_headers_it_should() {
        let message = written(&content("Aspirin", "100 mg", None), "");
        let head = message.split("\r\n\r\n").next().unwrap();
        let expected = [
            "From: Carebell <care@example.org>",
            "To: ana@example.org",
            "Subject: Aspirin",
            "Date: Sun, 25 Oct 2026 00:30:00 +0000",
            "Message-ID: <01a2031e-6537-7f51-af3e-446df51adbb2@example.org>",
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            "Content-Type: multipart/alternative; boundary=\"=_carebell\"",
        ];
        assert_eq!(head.split("\r\n").collect::<Vec<_>>(), expected);
        assert_eq!(message, written(&content("Aspirin", "100 mg", None), ""), "the same each time");
    }

    #[test]
    fn both_parts_say_the_same() {
        let content = content("Tea & cake <now>", "Line one\r\nLine two\n\n\"Ünïcödé\" 💊", Some("/visits?id=3&x=\"<"));
        let (subject, text, html) = read(&written(&content, "de_AT"));
        assert_eq!(subject, "Tea & cake <now>");
        let link = "https://app.example.org/visits?id=3&x=%22%3C";
        let expected = format!(
            "Tea & cake <now>\n\nLine one\nLine two\n\n\"Ünïcödé\" 💊\n\nÖffnen: {link}\n\n\
             Diese Nachricht wurde automatisch verschickt."
        );
        assert_eq!(text.replace("\r\n", "\n"), expected);
        assert!(html.contains("<html lang=\"de-AT\">"), "{html}");
        assert!(html.contains(">Tea &amp; cake &lt;now&gt;</h1>"), "{html}");
        assert!(html.contains(">Line one<br>Line two<br><br>&quot;Ünïcödé&quot; 💊</p>"), "{html}");
        assert!(html.contains(">Öffnen</a>"), "{html}");
        let href = html.split("href=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(href.replace("&#x2f;", "/").replace("&amp;", "&"), link);
        assert!(!html.contains("src=") && !html.contains("url("), "nothing is fetched: {html}");
    }

    #[test]
    fn a_link_leads_to_the_web_or_is_left_out() {
        let to = "ana@example.org".parse().unwrap();
        for (app_url, url, expected) in [
            (Some("https://app.example.org/care/"), "/a", Some("https://app.example.org/a")),
            (Some("https://app.example.org"), "https://other.example/a", Some("https://other.example/a")),
            (None, "https://other.example/a", Some("https://other.example/a")),
            (None, "/a", None),
            (Some("https://app.example.org"), "javascript:alert(1)", None),
        ] {
            let content = content("t", "", Some(url));
            let message = writer("care@example.org", app_url).write(&parcel(&content, "en"), &to).unwrap();
            let (_, text, html) = read(&message);
            let found = text.split("Open: ").nth(1).map(|rest| rest.lines().next().unwrap());
            assert_eq!(found, expected, "{url}");
            assert_eq!(html.contains("href="), expected.is_some());
        }
    }

    #[test]
    fn the_frame_speaks_the_language_of_the_person() {
        for (locale, open, lang) in [
            ("de", "Öffnen", Some("de")),
            ("es-MX", "Abrir", Some("es-MX")),
            ("FR", "Ouvrir", Some("FR")),
            ("it", "Open", Some("it")),
            ("en_GB.UTF-8", "Open", Some("en-GB")),
            ("", "Open", None),
            ("\"><script>", "Open", None),
        ] {
            let (_, text, html) = read(&written(&content("t", "b", Some("/a")), locale));
            assert!(text.contains(&format!("{open}: https://")), "{locale}: {text}");
            let tag = lang.map_or("<html>".to_owned(), |lang| format!("<html lang=\"{lang}\">"));
            assert!(html.contains(&tag), "{locale}: {html}");
        }
    }

    #[test]
    fn no_header_can_be_put_into_a_title_or_a_name() {
        let title = "Hello\r\nBcc: eve@example.org\r\n\r\n<p>\u{0}\u{85}\u{2028}X-Evil: 1";
        let message = written(&content(title, "", None), "");
        let mail = MessageParser::new().parse(message.as_bytes()).unwrap();
        assert!(mail.bcc().is_none() && mail.header("X-Evil").is_none(), "{message}");
        assert_eq!(mail.subject(), Some("Hello Bcc: eve@example.org <p> X-Evil: 1"));
        assert_eq!(one_line("=?utf-8?b?RXZpbA==?="), "= ?utf-8?b?RXZpbA== ?=");
        assert_eq!(one_line("Is 1+1=? a riddle"), "Is 1+1=? a riddle");

        let to = "ana@example.org".parse().unwrap();
        for name in ["Care, Bell; <x@y.example>", "Pflege Österreich & Söhne", "a\\b\"c", "=?utf-8?q?Evil?="] {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            let writer = writer(&format!("\"{quoted}\" <care@example.org>"), None);
            let message = writer.write(&parcel(&content("t", "", None), ""), &to).unwrap();
            let mail = MessageParser::new().parse(message.as_bytes()).unwrap();
            let from = mail.from().unwrap().first().unwrap();
            assert_eq!(mail.from().unwrap().iter().count(), 1);
            assert_eq!(from.address(), Some("care@example.org"), "{name}");
            if !name.contains("=?") {
                assert_eq!(from.name(), Some(name));
            }
        }
    }

    #[test]
    fn a_long_title_is_cut() {
        let (subject, text, _) = read(&written(&content(&"ü".repeat(5000), "", None), ""));
        assert_eq!(subject.chars().count(), LONGEST_SUBJECT);
        assert!(subject.ends_with('…'));
        assert!(text.contains(&"ü".repeat(5000)), "the mail itself has all of it");
    }

    proptest! {
        #[test]
        fn no_text_can_break_the_message(
            title in "\\PC{1,80}|[\\x00-\\x7f]{1,300}|(=\\?|\\?=|utf-8|q|b|\\?| |\r\n|--=_carebell){1,9}",
            body in "\\PC{0,300}|[\\x00-\\x7f]{0,1500}|(--=_carebell(--)?\r\n|\\.\r\n|\\.|From |\r|\n|=){0,9}",
            locale in "[a-zA-Z_.<>\"-]{0,12}",
        ) {
            let message = written(&content(&title, &body, None), &locale);
            prop_assert!(message.is_ascii());
            for line in message.split("\r\n") {
                prop_assert!(line.len() <= 998 && !line.contains(['\r', '\n', '\0']), "{:?}", line);
            }
            let (subject, text, html) = read(&message);
            let (title, body) = (one_line(&title), lines(&body));
            prop_assert_eq!(subject, text::shorten(&title, LONGEST_SUBJECT));
            let expected = match (title.as_str(), body.as_str()) {
                (title, "") => format!("{title}\n\n"),
                (title, body) => format!("{title}\n\n{body}\n\n"),
            };
            prop_assert!(text.replace("\r\n", "\n").starts_with(&expected), "{:?}\n{:?}", text, expected);
            prop_assert_eq!(html.matches("</h1>").count(), 1);
            prop_assert!(html.trim_end().ends_with("</html>"));
        }
    }
}
