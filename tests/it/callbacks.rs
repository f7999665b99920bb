//! Providers' reports are verified, written once, and independent of order.

use std::{collections::BTreeMap, net::SocketAddr};

use carebell::{
    callbacks::{self, CallbackOutcome, Counts},
    channels::gateway::{Receiver, signature},
    clock::Clock,
    config::Source,
    dev::phone_service::{self, Report as Posted},
    plan::{Channel, Delivered, Receipt, Report, Undelivered},
    store::{Claimed, LedgerRecord, Noted, Reported, Store},
    telemetry::metrics::Metrics,
};
use tokio_util::sync::CancellationToken;

use crate::{
    records::{ask, attempt, death, entry_by, planned, receipt, store},
    support::{LIMIT, NUMBER, Phones, Process, World, utc_now},
};

const PUBLIC_URL: &str = "https://bell.example.org/carebell";

#[tokio::test]
async fn a_report_reaches_the_ledger_and_a_forgery_does_not() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let mut variables = phones.both("SMS");
    variables.extend([("PUBLIC_URL", PUBLIC_URL), ("PUBLIC_PORT", "0")].map(|(a, b)| (a.into(), b.into())));
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut worker = Process::worker(&world, &variables);
    let port = worker.line("callbacks are received", carebell::dev::trail::Line::public_port).await;
    phones.first.callbacks_go_to(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap())));

    world.text("news", 1).await;
    let text = phones.first.wait_for(1, LIMIT).await.unwrap().remove(0);
    let row = world.rows("news").await.remove(0);
    let url = format!("{PUBLIC_URL}/callbacks/sms/{}", row.id);
    assert_eq!(text.status_callback.as_deref(), Some(url.as_str()));
    assert_eq!(phones.first.report(&text, "sent", None).await.unwrap(), 204);
    assert_eq!(world.rows_now("news").await[0], row, "it was known to be sent");

    let forged = phones.first.report_signed_by("another", &text, "delivered", None).await.unwrap();
    assert_eq!((forged, &world.rows_now("news").await[0]), (403, &row));
    worker.line("it says so", |line| line.step().filter(|(_, text)| text.contains("not signed"))).await;

    for status in ["delivered", "delivered", "sent", "queued"] {
        assert_eq!(phones.first.report(&text, status, None).await.unwrap(), 204, "{status}");
        let after = world.rows_now("news").await.remove(0);
        assert_eq!(after.ended(), ("delivered", None, 0), "{status}");
        assert_eq!((&after.provider_id, &after.answer), (&row.provider_id, &row.answer), "{status}");
    }
    let metrics = worker.get("/metrics").await.1;
    for (fate, count) in [("noted", 1), ("known", 4), ("forged", 1), ("missing", 0), ("malformed", 0), ("lost", 0)] {
        let line = format!("\ncarebell_callbacks_total{{fate=\"{fate}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    let output = worker.output();
    assert!(!output.contains(&NUMBER[1..]) && !output.contains(phones.first.token()), "{output}");
    assert!(worker.terminate().await.success());
}

struct Scene {
    world: World,
    phones: Phones,
    text: phone_service::Received,
    address: SocketAddr,
    counts: std::sync::Arc<Counts>,
    _stop: tokio_util::sync::DropGuard,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let phones = Phones::start(&world).await;
        let mut variables = phones.both("SMS");
        variables.push(("PUBLIC_URL".into(), PUBLIC_URL.into()));
        let source = Source::of(variables.clone());
        let receiver = Receiver::new(source.public_url().unwrap().unwrap(), &source.gateways().unwrap());
        let stop = CancellationToken::new();
        let listening = callbacks::serve(
            0,
            Some(receiver),
            axum::Router::new(),
            world.store.clone(),
            Clock::system(),
            &Metrics::new(),
            stop.clone(),
        )
        .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], listening.address.port()));
        phones.first.callbacks_go_to(address);
        let worker = Phones::worker(&world, &variables, &[]);
        world.text("news", 1).await;
        world.rows("news").await;
        worker.stop().await;
        let text = phones.first.received().remove(0);
        Self { world, phones, text, address, counts: listening.counts, _stop: stop.drop_guard() }
    }

    async fn state(&self) -> (String, Option<String>) {
        let row = self.world.rows_now("news").await.remove(0);
        (row.state, row.reason)
    }

    /// Posts the first provider's report after `change`.
    async fn post(&self, change: impl Fn(&mut Posted)) -> u16 {
        let mut report = Posted::of(&self.text, "delivered", None).unwrap();
        change(&mut report);
        report.post(self.phones.first.token(), Some(self.address)).await.unwrap()
    }
}

#[tokio::test]
async fn what_is_not_right_is_refused_and_changes_nothing() {
    let scene = Scene::new().await;
    let sent = ("sent".to_owned(), None);
    let drop_field = |name: &'static str| move |report: &mut Posted| report.fields.retain(|(known, _)| known != name);
    assert_eq!(scene.post(drop_field("MessageSid")).await, 400);
    assert_eq!(scene.post(drop_field("MessageStatus")).await, 400);
    assert_eq!(scene.post(|report| report.fields[1].1 = "eaten".into()).await, 400);
    assert_eq!(scene.counts.of(CallbackOutcome::Malformed), 3);
    assert_eq!(scene.post(|report| report.url = report.url.replace("/sms/", "/voice/")).await, 404);
    assert_eq!(scene.post(|report| report.url = report.url.replace("/sms/", "/pigeon/")).await, 404);
    assert_eq!(scene.post(|report| report.url = format!("{PUBLIC_URL}/callbacks/sms/no-such-delivery")).await, 404);
    assert_eq!(scene.counts.of(CallbackOutcome::Missing), 1, "the signature was right");
    assert_eq!(scene.post(|report| report.url = format!("{PUBLIC_URL}/health")).await, 404);
    let long = |report: &mut Posted| report.fields.push(("Body".into(), "x".repeat(20_000)));
    assert_eq!(scene.post(long).await, 413);

    let token = scene.phones.first.token();
    let right = Posted::of(&scene.text, "delivered", None).unwrap();
    let signed = phone_service::signature(token, &right.url, &right.fields).unwrap();
    let elsewhere = Posted { url: format!("{PUBLIC_URL}/callbacks/sms/another"), ..right.clone() };
    let other = Posted { fields: Posted::of(&scene.text, "failed", None).unwrap().fields, ..right.clone() };
    let signature = [("X-Twilio-Signature", signed.as_str())];
    for (report, headers) in [
        (&right, &[][..]),
        (&right, &[("X-Twilio-Signature", "")][..]),
        (&right, &[("X-Twilio-Signature", "AAAA")][..]),
        (&elsewhere, &signature[..]),
        (&other, &signature[..]),
    ] {
        assert_eq!(report.post_with(headers, Some(scene.address)).await.unwrap(), 403, "{headers:?}");
    }
    assert_eq!(scene.counts.of(CallbackOutcome::Forged), 5);
    let as_json = [signature[0], ("Content-Type", "application/json")];
    assert_eq!(right.post_with(&as_json, Some(scene.address)).await.unwrap(), 400);
    assert_eq!(scene.state().await, sent, "unchanged by all of these");

    assert_eq!(right.post_with(&signature, Some(scene.address)).await.unwrap(), 204, "and the right one is right");
    assert_eq!((scene.state().await.0.as_str(), scene.counts.of(CallbackOutcome::Noted)), ("delivered", 1));
}

#[tokio::test]
async fn either_provider_of_the_channel_may_report_and_a_failure_keeps_its_code() {
    let scene = Scene::new().await;
    let report = Posted::of(&scene.text, "undelivered", Some(30_003)).unwrap();
    assert_eq!(report.post(scene.phones.second.token(), Some(scene.address)).await.unwrap(), 204);
    let row = scene.world.rows_now("news").await.remove(0);
    assert_eq!(row.ended(), ("failed", Some("undelivered"), 0));
    assert_eq!(row.answer.as_deref(), Some("undelivered, error 30003"));
    assert_eq!(row.provider, Some(scene.phones.first.name()), "the accepting provider stays on record");
    assert_eq!(scene.post(|report| report.fields[1].1 = "sent".into()).await, 204);
    assert_eq!(scene.state().await, ("failed".into(), Some("undelivered".into())), "a final state stays");
}

#[tokio::test]
async fn python_signs_the_same() {
    let program = "import base64, hashlib, hmac, sys, urllib.parse; \
                   token, url, form = sys.argv[1:]; \
                   fields = dict(urllib.parse.parse_qsl(form, keep_blank_values=True)); \
                   text = url + ''.join(name + fields[name] for name in sorted(fields)); \
                   print(base64.b64encode(hmac.new(token.encode(), text.encode(), hashlib.sha1).digest()).decode())";
    let fields = [("To", "+4366012345678"), ("MessageStatus", "sent"), ("Body", "Über & 1=1 +2"), ("Empty", "")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
    let url = format!("{PUBLIC_URL}/callbacks/sms/d1");
    let run = tokio::process::Command::new("python3").args(["-c", program, "s3cret", &url, &form]).output().await;
    let Ok(output) = run else { return eprintln!("there is no python3: its signature is not compared") };
    let theirs = String::from_utf8(output.stdout).unwrap();
    assert_eq!(theirs.trim(), signature("s3cret", &url, &fields));
    assert_eq!(theirs.trim(), phone_service::signature("s3cret", &url, &fields).unwrap());
}

fn reported(id: &str, report: Report) -> Reported {
    Reported {
        id: id.into(),
        channel: Channel::WebPush,
        report,
        provider: "p".into(),
        provider_id: "SM1".into(),
        words: "words".into(),
        now: utc_now(),
    }
}

async fn row(store: &Store, id: &str) -> (String, Option<String>) {
    sqlx::query_as("SELECT state, reason FROM deliveries WHERE id = $1").bind(id).fetch_one(store.pool()).await.unwrap()
}

#[derive(Clone, Debug)]
enum Event {
    Told(Report),
    Recorded(LedgerRecord),
}

fn orders(events: &[Event]) -> Vec<Vec<Event>> {
    if events.len() < 2 {
        return vec![events.to_vec()];
    }
    let mut all = Vec::new();
    for first in 0..events.len() {
        let mut rest = events.to_vec();
        let chosen = rest.remove(first);
        for mut order in orders(&rest) {
            order.insert(0, chosen.clone());
            all.push(order);
        }
    }
    all
}

/// The worker never loses its delivery, and a final state is never claimed again.
#[tokio::test]
async fn any_order_of_reports_and_record_ends_the_same() {
    let store = store().await;
    let records = [
        receipt(Delivered::Sent),
        receipt(Delivered::Unknown),
        receipt(Delivered::Failed),
        LedgerRecord::Verdict(attempt()),
        LedgerRecord::Verdict(death()),
        LedgerRecord::Expired("expired"),
    ];
    let failed = Report::Failed(Undelivered::Undelivered);
    let sets = [
        vec![Report::Underway],
        vec![failed],
        vec![Report::Underway, Report::Delivered],
        vec![failed, Report::Delivered],
    ];
    let mut number = 0;
    for record in &records {
        for reports in &sets {
            let mut events = vec![Event::Recorded(record.clone())];
            events.extend(reports.iter().copied().map(Event::Told));
            let mut ends: BTreeMap<(String, Option<String>), Vec<Vec<Event>>> = BTreeMap::new();
            for order in orders(&events) {
                number += 1;
                let id = format!("d{number}");
                store.commit(&[planned(&id)]).await.unwrap();
                let claimed = store.claim_deliveries(&[ask(&id, 1, 1, utc_now())]).await.unwrap().remove(0);
                assert!(matches!(claimed, Claimed::Taken(_)), "{claimed:?}");
                for event in &order {
                    match event {
                        Event::Told(report) => {
                            store.record_report(&reported(&id, *report)).await.unwrap();
                            let again = store.record_report(&reported(&id, *report)).await.unwrap();
                            assert_eq!(again, Noted::Known, "twice is once");
                        }
                        Event::Recorded(record) => {
                            let entry = entry_by("one", &id, 1, 1, record.clone(), utc_now());
                            assert_eq!(store.record_deliveries(&[entry]).await.unwrap(), [true], "{order:?}");
                        }
                    }
                }
                let again = store.claim_deliveries(&[ask(&id, 1, 2, utc_now())]).await.unwrap().remove(0);
                assert!(matches!(again, Claimed::Ended(_)), "{order:?}: {again:?}");
                ends.entry(row(&store, &id).await).or_default().push(order);
            }
            assert_eq!(ends.len(), 1, "{ends:#?}");
        }
    }
    assert_eq!(store.record_report(&reported("nobody", failed)).await.unwrap(), Noted::Missing);
}

#[tokio::test]
async fn that_quiet_hours_were_overridden_stays_on_record() {
    let store = store().await;
    let failed = Report::Failed(Undelivered::Undelivered);
    let overridden = Some("quiet_hours_overridden");
    let mut number = 0;
    for (answered, report, state, reason) in [
        (Delivered::Sent, None, "sent", overridden),
        (Delivered::Sent, Some(Report::Delivered), "delivered", overridden),
        (Delivered::Sent, Some(failed), "failed", Some("undelivered")),
        (Delivered::Unknown, None, "unknown", Some("no_answer")),
        (Delivered::Unknown, Some(Report::Delivered), "delivered", overridden),
        (Delivered::Failed, None, "failed", Some("invalid_number")),
    ] {
        let answers = match answered {
            Delivered::Sent => overridden,
            Delivered::Unknown => Some("no_answer"),
            Delivered::Failed => Some("invalid_number"),
        };
        let LedgerRecord::Receipt(plain) = receipt(answered) else { unreachable!() };
        let record = LedgerRecord::Receipt(Receipt { reason: answers, overrode_quiet_hours: true, ..plain });
        for reported_first in [false, true] {
            number += 1;
            let id = format!("d{number}");
            store.commit(&[planned(&id)]).await.unwrap();
            store.claim_deliveries(&[ask(&id, 1, 1, utc_now())]).await.unwrap();
            let mut steps = [Some(Event::Recorded(record.clone())), report.map(Event::Told)];
            if reported_first {
                steps.reverse();
            }
            for step in steps.into_iter().flatten() {
                match step {
                    Event::Told(report) => {
                        store.record_report(&reported(&id, report)).await.unwrap();
                    }
                    Event::Recorded(record) => {
                        let entry = entry_by("one", &id, 1, 1, record, utc_now());
                        assert_eq!(store.record_deliveries(&[entry]).await.unwrap(), [true]);
                    }
                }
            }
            let case = format!("{answered:?}, {report:?}, reported first: {reported_first}");
            assert_eq!(row(&store, &id).await, (state.into(), reason.map(ToOwned::to_owned)), "{case}");
            let stays: bool = sqlx::query_scalar("SELECT overrode_quiet_hours FROM deliveries WHERE id = $1")
                .bind(&id)
                .fetch_one(store.pool())
                .await
                .unwrap();
            assert!(stays, "{case}");
        }
    }
}

/// The report is committed while the worker's record waits for the row.
#[tokio::test]
async fn a_report_at_the_same_moment_takes_nothing_away_from_the_worker() {
    let store = store().await;
    store.commit(&[planned("d")]).await.unwrap();
    store.claim_deliveries(&[ask("d", 1, 1, utc_now())]).await.unwrap();
    let mut transaction = store.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM deliveries WHERE id = 'd' FOR UPDATE").execute(&mut *transaction).await.unwrap();
    let blocked = async |count: i64| {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(store.pool()).await.unwrap() < count {
            tokio::task::yield_now().await;
        }
    };
    let told = tokio::spawn({
        let store = store.clone();
        async move { store.record_report(&reported("d", Report::Delivered)).await.unwrap() }
    });
    blocked(1).await;
    let recorded = tokio::spawn({
        let store = store.clone();
        let entry = entry_by("one", "d", 1, 1, receipt(Delivered::Unknown), utc_now());
        async move { store.record_deliveries(&[entry]).await.unwrap() }
    });
    blocked(2).await;
    transaction.commit().await.unwrap();
    assert_eq!((told.await.unwrap(), recorded.await.unwrap()), (Noted::Changed("delivered"), vec![true]));
    assert_eq!(row(&store, "d").await, ("delivered".into(), None));
}

#[tokio::test]
async fn a_report_before_the_answer_is_not_lost() {
    let world = World::new().await;
    let phones = Phones::start(&world).await;
    let mut variables = phones.one("VOICE");
    variables.push(("PUBLIC_URL".into(), PUBLIC_URL.into()));
    let worker = Phones::worker(&world, &variables, &[]);
    let source = Source::of(variables.clone());
    let receiver = Receiver::new(source.public_url().unwrap().unwrap(), &source.gateways().unwrap());
    let stop = CancellationToken::new();
    let listening = callbacks::serve(
        0,
        Some(receiver),
        axum::Router::new(),
        world.store.clone(),
        Clock::system(),
        &Metrics::new(),
        stop.clone(),
    )
    .unwrap();
    phones.first.callbacks_go_to(SocketAddr::from(([127, 0, 0, 1], listening.address.port())));

    phones.first.behave(1, phone_service::Behaviour::Slow(std::time::Duration::from_secs(5)));
    world.deliver("d1", Channel::Voice, NUMBER, ("Now", "")).await;
    let call = phones.first.wait_for(1, LIMIT).await.unwrap().remove(0);
    assert_eq!(world.rows_now("job-d1").await[0].state, "sending");
    assert_eq!(phones.first.report(&call, "no-answer", None).await.unwrap(), 204);
    world.queues_are_empty().await;
    let row = world.rows_now("job-d1").await.remove(0);
    assert_eq!(row.ended(), ("failed", Some("no_answer"), 0));
    assert_eq!((row.provider_id, row.provider), (Some(call.sid), Some(phones.first.name())));
    assert!(world.dead_letters().await.is_empty());
    stop.cancel();
    listening.ended.await.unwrap();
    worker.stop().await;
}
