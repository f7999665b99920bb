//! `deliver.email`: outcomes of mail, through the whole pipeline.

use std::time::Duration;

use carebell::{
    dev::smtp_server::{Behaviour, Protection, ReceivedMail, SmtpServer, Step},
    store::LedgerLine,
};
use chrono::TimeDelta;
use mail_parser::MessageParser;
use serde_json::{Value, json};

use crate::support::{LIMIT, PATIENT, QUICK, Worker, World, utc_now};

struct Mail {
    world: World,
    server: SmtpServer,
    variables: Vec<(String, String)>,
}

impl Mail {
    async fn new(protection: Protection) -> Self {
        Self::with(protection, QUICK).await
    }

    async fn with(protection: Protection, overrides: &str) -> Self {
        let server = SmtpServer::start(protection, Some(("ops", "s3cret"))).await.unwrap();
        Self::of(server, overrides).await
    }

    async fn of(server: SmtpServer, overrides: &str) -> Self {
        let world = World::with_overrides(overrides).await;
        let ca_file = world.directory.path().join("mail-server.pem");
        std::fs::write(&ca_file, server.ca_pem()).unwrap();
        let variables = [
            ("SMTP_URL", server.url()),
            ("SMTP_FROM", "\"Care, Bell & Söhne\" <care@example.org>".into()),
            ("SMTP_CA_FILE", ca_file.display().to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Self { world, server, variables }
    }

    fn worker(&self) -> Worker {
        let variables: Vec<_> = self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Worker::with(&self.world, &variables)
    }

    async fn publish(&self, job_id: &str, addresses: &[&str], more: Value) {
        let recipients: Vec<_> = addresses.iter().map(|address| json!({ "email": address })).collect();
        let mut body = json!({ "recipients": recipients, "title": "Hello" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.world.publish_json("jobs.notification.critical", job_id, &body).await;
    }

    /// Mails Ana and returns her ledger line.
    async fn mail_to_ana(&self, job_id: &str) -> LedgerLine {
        self.publish(job_id, &["ana@example.org"], json!({})).await;
        self.world.ledger(job_id).await.remove(0)
    }

    /// Checks that the channel violated no protocol rule.
    async fn ends_well(self, worker: Worker) {
        self.world.queues_are_empty().await;
        assert_eq!(self.server.violations(), [""; 0]);
        worker.stop().await;
    }
}

fn ended(line: &LedgerLine) -> (&str, Option<&str>, i32) {
    (line.state.as_str(), line.reason.as_deref(), line.attempts)
}

fn message_id(mail: &ReceivedMail) -> String {
    MessageParser::new().parse(&mail.message).unwrap().message_id().unwrap().to_owned()
}

#[tokio::test]
async fn accepted_is_sent() {
    for protection in [Protection::Tls, Protection::StartTls] {
        let mail = Mail::new(protection).await;
        let worker = mail.worker();
        let body = "Rose takes <b>500 mg</b> & water\nat 9:00\n.\n\"Danke\" 💊";
        let title = "Für Ana: Metformin & Käsekuchen um neun Uhr\r\nBcc: eve@example.org\u{1}\r\n\r\n<script>";
        let more = json!({ "title": title, "body": body, "url": "/medications?id=m1&x=\"y\"" });
        mail.publish("hello", &["ana@example.org"], more).await;
        let line = mail.world.ledger("hello").await.remove(0);
        assert_eq!(ended(&line), ("sent", None, 0), "{protection:?}: {line:?}");
        assert_eq!((line.channel.as_str(), line.answer.as_deref()), ("email", Some("250")));

        let received = mail.server.received().remove(0);
        assert_eq!((received.from.as_str(), received.user.as_deref()), ("care@example.org", Some("ops")));
        assert_eq!(received.to, ["ana@example.org"], "a title adds no recipients");
        let parsed = MessageParser::new().parse(&received.message).unwrap();
        let one_line = "Für Ana: Metformin & Käsekuchen um neun Uhr Bcc: eve@example.org <script>";
        assert_eq!(parsed.subject(), Some(one_line));
        assert!(parsed.bcc().is_none() && parsed.cc().is_none());
        let from = parsed.from().unwrap().first().unwrap();
        assert_eq!((from.name(), from.address()), (Some("Care, Bell & Söhne"), Some("care@example.org")));
        assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("ana@example.org"));
        assert_eq!(parsed.message_id(), Some(format!("{}@example.org", line.id).as_str()));
        assert_eq!(parsed.date().unwrap().to_timestamp(), line.created_at.timestamp());
        assert_eq!(parsed.header("Auto-Submitted").unwrap().as_text(), Some("auto-generated"));
        assert_eq!((parsed.text_body_count(), parsed.html_body_count(), parsed.attachment_count()), (1, 1, 0));

        let text = parsed.body_text(0).unwrap().replace("\r\n", "\n");
        let target = "https://app.example.org/medications?id=m1&x=%22y%22";
        assert_eq!(
            text,
            format!("{one_line}\n\n{body}\n\nOpen: {target}\n\nThis message was sent automatically."),
            "the text"
        );
        let html = parsed.body_html(0).unwrap();
        assert!(html.contains("Rose takes &lt;b&gt;500 mg&lt;"), "{html}");
        assert!(html.contains(" &amp; water<br>at 9:00<br>.<br>&quot;Danke&quot; 💊</p>"), "{html}");
        assert!(html.contains("&lt;script&gt;</h1>") && !html.contains("<script"), "{html}");
        mail.ends_well(worker).await;
    }
}

#[tokio::test]
async fn greylisting_is_given_its_minutes() {
    let mail = Mail::new(Protection::Tls).await;
    let worker = mail.worker();
    mail.server.behave(Behaviour::answer(Step::Rcpt, "450 4.7.1 <ana@example.org>: Greylisted"));
    let since = utc_now();
    mail.publish("hello", &["ana@example.org"], json!({})).await;
    let held = async || {
        let mut lines = mail.world.store.ledger_of("hello").await.unwrap();
        lines.pop().filter(|line| line.state == "held")
    };
    let line = mail.world.eventually("it waits", held).await;
    assert_eq!(ended(&line), ("held", Some("retry"), 1), "{line:?}");
    assert!(line.held_until.unwrap() >= since + TimeDelta::minutes(5), "{line:?}");
    assert!(line.held_until.unwrap() < line.not_after, "a later attempt is still in time");
    worker.stop().await;
}

#[tokio::test]
async fn a_refusal_for_now_burns_one_attempt() {
    let mail = Mail::new(Protection::Tls).await;
    let worker = mail.worker();
    mail.server.behave(Behaviour::answer(Step::Rcpt, "452 4.3.1 <ana@example.org>: Insufficient storage"));
    assert_eq!(ended(&mail.mail_to_ana("hello").await), ("sent", None, 1));
    assert_eq!((mail.server.counts().transactions, mail.server.counts().accepted), (2, 1));
    mail.ends_well(worker).await;

    // If the refusal lasts, it makes a dead letter whose error omits the address.
    let mail = Mail::new(Protection::Tls).await;
    let worker = mail.worker();
    let full = Behaviour::answer(Step::Rcpt, "452 4.3.1 <ana@example.org>: Insufficient storage");
    mail.server.behave_always(Some(full));
    assert_eq!(ended(&mail.mail_to_ana("hello").await), ("dead", Some("exhausted"), 3));
    let (subject, headers, _) = mail.world.dead_letters_once(1).await.remove(0);
    assert!(subject.starts_with("dead.deliver.email.DELIVERIES."), "{subject}");
    let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
    assert_eq!(error, "localhost: the server answered 452 4.3.1 to RCPT TO");
    mail.ends_well(worker).await;
}

#[tokio::test]
async fn a_refused_recipient_has_bounced_and_is_no_dead_letter() {
    let mail = Mail::new(Protection::StartTls).await;
    let worker = mail.worker();
    mail.server.refuse("gone@example.org", "550 5.1.1 <gone@example.org>: User unknown");
    mail.publish("hello", &["ana@example.org", "gone@example.org"], json!({})).await;
    let mut ledger = mail.world.ledger("hello").await;
    ledger.sort_by(|one, other| one.state.cmp(&other.state));
    assert_eq!(ended(&ledger[0]), ("failed", Some("bounced"), 0));
    assert_eq!(ledger[0].answer.as_deref(), Some("550 5.1.1"));
    assert_eq!(ended(&ledger[1]), ("sent", None, 0), "the other has it");
    let transactions = mail.server.counts().transactions;
    mail.publish("again", &["gone@example.org"], json!({})).await;
    let again = mail.world.ledger("again").await.remove(0);
    assert_eq!(ended(&again), ("failed", Some("address_gone"), 0), "it is marked");
    assert_eq!(mail.server.counts().transactions, transactions, "the server is not asked again");
    assert!(mail.world.dead_letters().await.is_empty());
    mail.ends_well(worker).await;
}

#[tokio::test]
async fn a_refused_mail_is_a_dead_letter_at_once() {
    let mail = Mail::new(Protection::Tls).await;
    let worker = mail.worker();
    mail.server.behave(Behaviour::answer(Step::Message, "554 5.7.1 Hello looks like spam"));
    assert_eq!(ended(&mail.mail_to_ana("hello").await), ("dead", Some("permanent"), 1));
    let (_, headers, _) = mail.world.dead_letters_once(1).await.remove(0);
    let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
    assert_eq!(error, "localhost: the server answered 554 5.7.1 to the message");
    mail.ends_well(worker).await;
}

#[tokio::test]
async fn a_dropped_connection_and_a_lost_answer_are_sent_again_as_the_same_mail() {
    for (behaviour, copies) in
        [(Behaviour::Close(Step::Rcpt), 1), (Behaviour::Close(Step::Message), 1), (Behaviour::AcceptAndClose, 2)]
    {
        let mail = Mail::new(Protection::Tls).await;
        let worker = mail.worker();
        mail.server.behave(behaviour.clone());
        let line = mail.mail_to_ana("hello").await;
        assert_eq!(ended(&line), ("sent", None, 1), "{behaviour:?}");
        let received = mail.server.received();
        assert_eq!(received.len(), copies, "{behaviour:?}");
        for one in &received {
            assert_eq!(message_id(one), format!("{}@example.org", line.id));
            assert_eq!(one.message, received[0].message, "the same to the byte");
        }
        mail.ends_well(worker).await;
    }
}

#[tokio::test]
async fn an_outage_parks_mails_without_burning_attempts() {
    let refused = Mail::with(Protection::Tls, PATIENT).await;
    let busy = Mail::with(Protection::StartTls, PATIENT).await;
    busy.server.behave_always(Some(Behaviour::answer(Step::Greeting, "421 4.3.2 Shutting down")));
    for (mut mail, is_stopped) in [(refused, true), (busy, false)] {
        mail.world = mail.world.at_pace(5);
        if is_stopped {
            mail.server.stop().await;
        }
        // Ten failures open the breaker. The first nine burn attempts, since no outage is known yet.
        let worker = mail.worker();
        let first: Vec<String> = (0..12).map(|number| format!("first-{number}@example.org")).collect();
        mail.publish("first", &first.iter().map(String::as_str).collect::<Vec<_>>(), json!({})).await;
        mail.world
            .eventually("a delivery waits for the server", async || {
                let waits = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'provider_down'";
                (mail.world.count(waits).await > 0).then_some(())
            })
            .await;
        mail.publish("behind", &["ana@example.org", "ben@example.org"], json!({})).await;
        if is_stopped {
            mail.server.start_again().await.unwrap();
        } else {
            mail.server.behave_always(None);
        }
        for line in mail.world.ledger("behind").await {
            assert_eq!(ended(&line), ("sent", None, 0), "an outage burns no attempt");
        }
        for line in mail.world.ledger("first").await {
            assert_eq!(line.state, "sent", "nothing is lost: {line:?}");
        }
        assert_eq!(mail.server.received().len(), 14, "and nothing doubled");
        mail.ends_well(worker).await;
    }
}

#[tokio::test]
async fn the_second_server_takes_over_and_the_first_comes_back() {
    let first = SmtpServer::start(Protection::Tls, Some(("ops", "s3cret"))).await.unwrap();
    let second = SmtpServer::start(Protection::StartTls, None).await.unwrap();
    let mut mail = Mail::of(first, PATIENT).await;
    mail.world = mail.world.at_pace(5);
    let roots = [mail.server.ca_pem(), second.ca_pem()].concat();
    std::fs::write(&mail.variables[2].1, roots).unwrap();
    mail.variables[0].1 = format!("{},{}", mail.server.url(), second.url());
    mail.server.stop().await;
    let worker = mail.worker();
    let many: Vec<String> = (0..20).map(|number| format!("first-{number}@example.org")).collect();
    mail.publish("first", &many.iter().map(String::as_str).collect::<Vec<_>>(), json!({})).await;
    second.wait_for(10, LIMIT).await.unwrap();
    assert_eq!(mail.server.received(), []);

    mail.server.start_again().await.unwrap();
    let mut number = 0;
    mail.world
        .eventually("the first server gets mails again", async || {
            number += 1;
            assert_eq!(mail.mail_to_ana(&format!("back-{number}")).await.state, "sent");
            (!mail.server.received().is_empty()).then_some(())
        })
        .await;
    for line in mail.world.ledger("first").await {
        assert_eq!(line.state, "sent", "{line:?}");
    }
    let ids: std::collections::BTreeSet<String> =
        mail.server.received().iter().chain(&second.received()).map(message_id).collect();
    assert_eq!(ids.len(), 20 + number, "each of them once");
    assert_eq!(mail.server.received().len() + second.received().len(), ids.len());
    let providers = "SELECT count(DISTINCT provider) FROM deliveries WHERE provider LIKE 'localhost:%'";
    assert_eq!(mail.world.count(providers).await, 2, "the ledger names the server");
    assert_eq!(second.violations(), [""; 0]);
    mail.ends_well(worker).await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let mail = Mail::new(Protection::Tls).await;
    let worker = mail.worker();
    mail.server.behave(Behaviour::AcceptAndHang);
    let since = tokio::time::Instant::now();
    let line = mail.mail_to_ana("hello").await;
    assert_eq!(ended(&line), ("sent", None, 1));
    let took = since.elapsed();
    assert!((Duration::from_secs(12)..Duration::from_secs(90)).contains(&took), "before the job times out: {took:?}");
    assert_eq!(mail.server.received().len(), 2);
    mail.ends_well(worker).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_of_and_not_shown() {
    let mut mail = Mail::new(Protection::Tls).await;
    mail.variables[0].1 = mail.server.url_of(Some(("ops", "wr0ng")));
    let worker = mail.worker();
    let line = mail.mail_to_ana("hello").await;
    assert_eq!(ended(&line), ("dead", Some("exhausted"), 3));
    let expected = "localhost: the server answered 535 5.7.8 to AUTH: the user or the password of SMTP_URL is wrong";
    assert_eq!(line.answer.as_deref(), Some(expected));
    assert_eq!(mail.server.counts().transactions, 0);
    mail.ends_well(worker).await;
}

#[tokio::test]
async fn without_a_server_it_is_on_record_that_there_is_no_channel() {
    let mail = Mail::new(Protection::Tls).await;
    let worker = Worker::start(&mail.world);
    mail.publish("hello", &["ana@example.org"], json!({})).await;
    assert_eq!(mail.world.ended("hello").await.0, "done");
    let failed =
        "SELECT count(*) FROM deliveries WHERE channel = 'email' AND state = 'failed' AND reason = 'no_channel'";
    assert_eq!(mail.world.count(failed).await, 1);
    mail.ends_well(worker).await;
}
