//! E-mail against the strict mail server: each step, and every failure at it.

use std::{io::Write, time::Duration};

use carebell::{
    channels::{
        Address, Answer, Parcel, Sender,
        email::{Email, Settings},
    },
    dev::smtp_server::{Behaviour, Protection, ReceivedMail, SmtpServer, Step},
    kind::Lane,
    plan::Content,
};
use futures::future::join_all;
use mail_parser::{HeaderValue, MessageParser};
use tokio::time::Instant;

const USER: Option<(&str, &str)> = Some(("ops@example.org", "s3cr:t"));
const SOON: Duration = Duration::from_secs(10);

async fn server(protection: Protection) -> SmtpServer {
    SmtpServer::start(protection, Some(("ops", "s3cret"))).await.unwrap()
}

fn settings(urls: &str) -> Settings {
    Settings::parse(urls, "Carebell <care@example.org>").unwrap()
}

fn trusting(server: &SmtpServer, mut settings: Settings) -> Email {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(server.ca_pem().as_bytes()).unwrap();
    settings.ca_file = Some(file.path().to_owned());
    Email::new(settings).unwrap()
}

fn channel(server: &SmtpServer) -> Email {
    trusting(server, settings(&server.url()))
}

/// With a short timeout.
fn impatient(server: &SmtpServer) -> Email {
    trusting(server, Settings { timeout: Duration::from_secs(2), ..settings(&server.url()) })
}

async fn send_to(email: &Email, address: &str) -> Answer {
    let content = Content {
        locale: String::new(),
        kind: "GENERAL".into(),
        title: "Aspirin".into(),
        body: "100 mg\n.\n..\n.hidden".into(),
        url: None,
        data: serde_json::Map::new(),
        tag: None,
    };
    let parcel = Parcel {
        id: "01a2031e-6537-7f51-af3e-446df51adbb2",
        root_id: "root",
        address: Address::Plain(address),
        content: &content,
        locale: "",
        lane: Lane::Critical,
        created_at: "2026-10-25T00:30:00Z".parse().unwrap(),
        ttl: Duration::from_mins(10),
    };
    Sender::send(email, &parcel, 0).await
}

async fn send(email: &Email) -> Answer {
    send_to(email, "ana@example.org").await
}

fn accepted(id: &str) -> Answer {
    Answer::Accepted { answer: "250".into(), provider_id: Some(id.into()) }
}

fn why(answer: &Answer) -> &str {
    match answer {
        Answer::Down { why, .. }
        | Answer::Retry { why, .. }
        | Answer::Permanent { why }
        | Answer::Gone { answer: why, .. } => why,
        other => panic!("{other:?}"),
    }
}

fn is_down(answer: &Answer) -> bool {
    matches!(answer, Answer::Down { timed_out: false, .. })
}

fn is_silence(answer: &Answer) -> bool {
    matches!(answer, Answer::Down { timed_out: true, .. })
}

fn body(mail: &ReceivedMail) -> String {
    let parsed = MessageParser::new().parse(&mail.message).unwrap();
    parsed.body_text(0).unwrap().replace("\r\n", "\n")
}

#[tokio::test]
async fn a_mail_arrives_by_each_protection() {
    for protection in [Protection::Tls, Protection::StartTls, Protection::None] {
        let server = SmtpServer::start(protection, Some(("ops", "s3cret"))).await.unwrap();
        let email = channel(&server);
        assert_eq!(send(&email).await, accepted("Q0001"), "{protection:?}");
        let mail = server.received().remove(0);
        assert_eq!((mail.from.as_str(), mail.user.as_deref()), ("care@example.org", Some("ops")));
        assert_eq!(mail.to, ["ana@example.org"]);
        assert!(body(&mail).starts_with("Aspirin\n\n100 mg\n.\n..\n.hidden\n\n"), "dots survive: {}", body(&mail));
        assert_eq!(server.violations(), [""; 0], "{protection:?}");
    }
    let open = SmtpServer::start(Protection::Tls, None).await.unwrap();
    assert_eq!(send(&channel(&open)).await, accepted("Q0001"), "a server without authentication");
}

#[tokio::test]
async fn passwords_are_taken_as_they_are_encoded() {
    let server = SmtpServer::start(Protection::Tls, USER).await.unwrap();
    let url = server.url_of(Some(("ops%40example.org", "s3cr%3At")));
    assert_eq!(send(&trusting(&server, settings(&url))).await, accepted("Q0001"));
}

#[tokio::test]
async fn connections_are_kept_and_a_refusal_costs_none() {
    let server = server(Protection::Tls).await;
    let email = channel(&server);
    server.refuse("gone@example.org", "550 5.1.1 <gone@example.org>: User unknown");
    for (address, is_gone) in [("ana@example.org", false), ("gone@example.org", true), ("ben@example.org", false)] {
        let answer = send_to(&email, address).await;
        if is_gone {
            assert_eq!(answer, Answer::Gone { answer: "550 5.1.1".into(), reason: "bounced" });
        } else {
            assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
        }
    }
    server.behave(Behaviour::answer(Step::Message, "451 4.3.0 Try again"));
    assert_eq!(why(&send(&email).await), "the server answered 451 4.3.0 to the message");
    assert!(matches!(send(&email).await, Answer::Accepted { .. }));
    assert_eq!(server.counts().connections, 1, "one connection for all five");

    let answers = join_all((0..8).map(|_| send(&email))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Accepted { .. })), "{answers:?}");
    assert!(server.counts().connections <= 8, "eight at once need no more");
    assert_eq!(server.violations(), [""; 0]);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_replaced() {
    let mut server = server(Protection::StartTls).await;
    let email = channel(&server);
    assert_eq!(send(&email).await, accepted("Q0001"));
    server.start_again().await.unwrap();
    assert_eq!(send(&email).await, accepted("Q0002"), "no failure is seen");
    assert_eq!(server.counts().connections, 2);
}

#[tokio::test]
async fn every_refusal_has_its_class() {
    let server = server(Protection::Tls).await;
    let email = channel(&server);
    let cases = [
        (Step::Greeting, "421 4.3.2 Not now", "down", "421 4.3.2 to the greeting"),
        (Step::Greeting, "554 No service", "down", "554 to the greeting"),
        (Step::Auth, "454 4.7.0 Later", "down", "454 4.7.0 to AUTH"),
        (Step::Mail, "550 5.7.1 ops may not", "down", "SMTP_FROM is not accepted"),
        (Step::Mail, "421 4.4.2 Timeout", "down", "421 4.4.2 to MAIL FROM"),
        (Step::Rcpt, "450 4.7.1 Greylisted", "retry", "450 4.7.1 to RCPT TO"),
        (Step::Rcpt, "421 4.7.0 Too many", "down", "421 4.7.0 to RCPT TO"),
        (Step::Rcpt, "554 5.7.1 Relay access denied", "permanent", "554 5.7.1 to RCPT TO"),
        (Step::Data, "452 4.3.1 Full", "retry", "452 4.3.1 to DATA"),
        (Step::Message, "554 5.7.1 Spam", "permanent", "554 5.7.1 to the message"),
        (Step::Message, "421 4.3.0 Closing", "down", "421 4.3.0 to the message"),
    ];
    for (step, reply, class, text) in cases {
        // Failures before MAIL need a new connection.
        let fresh = channel(&server);
        let email = if matches!(step, Step::Greeting | Step::Auth) { &fresh } else { &email };
        server.behave(Behaviour::answer(step, reply));
        let answer = send(email).await;
        let found = match &answer {
            Answer::Down { timed_out: false, .. } => "down",
            Answer::Retry { .. } => "retry",
            Answer::Permanent { .. } => "permanent",
            other => panic!("{reply}: {other:?}"),
        };
        assert_eq!(found, class, "{reply}");
        assert!(why(&answer).contains(text), "{reply}: {}", why(&answer));
    }
    assert_eq!(server.received(), []);
    assert_eq!(server.violations(), [""; 0]);
    assert_eq!(send(&email).await, accepted("Q0001"));
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_at_each_step() {
    let server = server(Protection::StartTls).await;
    let email = impatient(&server);
    for step in [Step::Greeting, Step::Auth, Step::Mail, Step::Rcpt, Step::Data, Step::Message] {
        server.behave(Behaviour::Hang(step));
        let since = Instant::now();
        let answer = send(&email).await;
        assert!(is_silence(&answer), "{step:?}: {answer:?}");
        assert!((2..20).contains(&since.elapsed().as_secs()), "{step:?}: {:?}", since.elapsed());
    }
    // These connections are never reused: the next mail would read a late answer.
    server.behave(Behaviour::Slow { at: Step::Message, by: Duration::from_secs(3) });
    assert!(is_silence(&send(&email).await));
    let received = server.wait_for(1, SOON).await.unwrap().len();
    assert_eq!(send(&email).await, accepted("Q0002"), "after {received}");
    assert_eq!(server.violations(), [""; 0]);
}

#[tokio::test]
async fn a_connection_that_breaks_is_an_outage_at_each_step() {
    let server = server(Protection::Tls).await;
    let email = channel(&server);
    for step in [Step::Greeting, Step::Auth, Step::Mail, Step::Rcpt, Step::Data, Step::Message] {
        server.behave(Behaviour::Close(step));
        let answer = send(&email).await;
        assert!(is_down(&answer), "{step:?}: {answer:?}");
    }
    assert_eq!(server.received(), []);
    server.behave(Behaviour::AcceptAndClose);
    assert!(is_down(&send(&email).await));
    assert_eq!(send(&email).await, accepted("Q0002"));
    let mails = server.received();
    assert_eq!(mails[0].message, mails[1].message, "identical bytes, so clients show it once");
}

#[tokio::test]
async fn nothing_is_sent_where_it_could_be_read() {
    // This machine does not trust the certificate.
    let server = server(Protection::Tls).await;
    let answer = send(&Email::new(settings(&server.url())).unwrap()).await;
    assert!(is_down(&answer) && why(&answer).contains("certificate"), "{answer:?}");

    // STARTTLS is required, but not offered.
    let plain = SmtpServer::start(Protection::None, Some(("ops", "s3cret"))).await.unwrap();
    let url = plain.url().replace("?tls=none", "");
    let answer = send(&Email::new(settings(&url)).unwrap()).await;
    assert_eq!(why(&answer), "the server does not offer STARTTLS");

    // A man in the middle answers before TLS begins.
    let between = self::server(Protection::StartTls).await;
    let ok =
        ["250-localhost", "250 AUTH PLAIN", "235 2.7.0 Ok", "250 Ok", "250 Ok", "354 Go", "250 Ok: queued as EVE1"]
            .join("\r\n");
    between.behave(Behaviour::Inject(ok));
    let answer = send(&channel(&between)).await;
    assert!(is_down(&answer), "{answer:?}");
    for server in [server, plain, between] {
        assert_eq!((server.counts().transactions, server.received()), (0, vec![]));
    }
}

#[tokio::test]
async fn a_wrong_password_says_what_to_mend() {
    let server = server(Protection::Tls).await;
    let email = trusting(&server, settings(&server.url_of(Some(("ops", "wr0ng")))));
    let answer = send(&email).await;
    assert!(is_down(&answer), "not the mail's fault: {answer:?}");
    let expected = "the server answered 535 5.7.8 to AUTH: the user or the password of SMTP_URL is wrong";
    assert_eq!(why(&answer), expected);
    assert_eq!(email.reach().await, [("localhost".into(), Some(expected.into()))]);
    let none = trusting(&server, settings(&server.url_of(None)));
    assert!(why(&send(&none).await).contains("SMTP_URL has to name a user and a password"));
    assert_eq!(channel(&server).reach().await, [("localhost".into(), None)]);
    assert_eq!((server.received(), server.violations()), (vec![], vec![]));
}

#[tokio::test]
async fn addresses_of_other_scripts_and_broken_ones() {
    let server = server(Protection::Tls).await;
    let email = channel(&server);
    assert!(matches!(send_to(&email, "ana@münchen.example").await, Answer::Accepted { .. }));
    assert!(matches!(send_to(&email, "jürgen@münchen.example").await, Answer::Accepted { .. }));
    let mails = server.received();
    assert_eq!(mails[0].to, ["ana@xn--mnchen-3ya.example"]);
    assert_eq!(mails[0].parameters, [""; 0]);
    assert_eq!(mails[1].to, ["jürgen@xn--mnchen-3ya.example"]);
    assert_eq!(mails[1].parameters, ["SMTPUTF8", "BODY=8BITMIME"]);
    let parsed = MessageParser::new().parse(&mails[1].message).unwrap();
    let HeaderValue::Address(to) = parsed.header("To").unwrap() else { panic!("{parsed:?}") };
    assert_eq!(to.first().unwrap().address(), Some("jürgen@xn--mnchen-3ya.example"));

    for address in ["", "ana", "ana@", "a b@example.org", "ana@exa mple.org", "x>\r\nRCPT TO:<eve@example.org"] {
        let answer = send_to(&email, address).await;
        assert!(matches!(answer, Answer::Gone { reason: "invalid_address", .. }), "{address}: {answer:?}");
        assert!(why(&answer).starts_with("the address ") && !why(&answer).contains("example"), "{}", why(&answer));
    }
    assert_eq!((server.counts().transactions, server.violations()), (2, vec![]));
}
