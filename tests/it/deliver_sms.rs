//! `deliver.sms`: effect of each provider answer, through the whole pipeline.

use std::time::Duration;

use carebell::{
    channels::{
        Address, Answer, Parcel, Sender,
        gateway::{Account, Settings},
        sms::{Sms, segments},
    },
    clock::Clock,
    config::Source,
    dev::phone_service::Behaviour,
    kind::Lane,
    plan::{Channel, Content},
};
use serde_json::{Map, json};

use crate::support::{LIMIT, NUMBER, PATIENT, Phones, QUICK, World, utc_now};

async fn world() -> (World, Phones) {
    with_phones(World::new().await).await
}

async fn with_phones(world: World) -> (World, Phones) {
    let phones = Phones::start(&world).await;
    (world, phones)
}

#[tokio::test]
async fn accepted_is_sent_and_the_providers_id_is_kept() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    world.text("news", 1).await;
    let row = world.rows("news").await.remove(0);
    assert_eq!(row.ended(), ("sent", None, 0));
    let text = &phones.first.received()[0];
    assert_eq!(row.provider.as_deref(), Some(phones.first.name().as_str()));
    assert_eq!(row.provider_id.as_deref(), Some(text.sid.as_str()));
    assert_eq!(row.answer.as_deref(), Some("201, 1 segment"));
    assert_eq!(text.body, "Visit moved\nTo Friday\nhttps://app.example.org/visits?id=3");
    assert_eq!((text.to.as_str(), text.from.as_str()), ("+43660123456780", "+43720123456"));
    assert_eq!((text.validity, text.status_callback.as_deref()), (None, None), "a day is longer than may be asked for");
    world.queues_are_empty().await;
    assert_eq!(phones.first.rejected(), []);
    worker.stop().await;
}

#[tokio::test]
async fn a_long_text_takes_no_more_than_four_segments_and_no_longer_than_it_is_of_use() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[("SMS_FROM", "Carebell")]);
    let body = json!({
        "recipients": [{ "phone": NUMBER }], "title": "Medication plan", "body": "Take it — “slowly”… ".repeat(100),
        "url": "/plan?id=1",
    });
    let not_after = (utc_now() + chrono::TimeDelta::minutes(30)).to_rfc3339();
    let headers =
        [("Carebell-Job-Id", "long"), ("Carebell-Not-After", &not_after), ("Content-Type", "application/json")];
    world.publish("jobs.notification.normal", &headers, body.to_string()).await;
    let row = world.rows("long").await.remove(0);
    assert_eq!((row.ended(), row.answer.as_deref()), (("sent", None, 0), Some("201, 4 segments")));
    let text = &phones.first.received()[0];
    assert_eq!(segments::count(&text.body), 4);
    assert!(text.body.ends_with("...\nhttps://app.example.org/plan?id=1"), "{}", text.body);
    assert!(text.validity.is_some_and(|seconds| (1700..=1800).contains(&seconds)), "{:?}", text.validity);
    assert_eq!(text.from, "Carebell");
    worker.stop().await;
}

#[tokio::test]
async fn a_number_that_is_no_use_is_recorded_and_is_no_dead_letter() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    for (code, reason) in [(21_211, "invalid_number"), (21_614, "invalid_number"), (21_610, "opted_out")] {
        phones.first.behave(1, Behaviour::error(400, code));
        let (job, number) = (format!("job-{code}"), [format!("+43{code}00")]);
        world.text_to(&job, &number).await;
        let row = world.rows(&job).await.remove(0);
        assert_eq!(row.ended(), ("failed", Some(reason), 0), "{code}");
        assert_eq!(row.answer, Some(format!("400, error {code}")));
        let again = format!("again-{code}");
        world.text_to(&again, &number).await;
        assert_eq!(world.rows(&again).await.remove(0).ended(), ("failed", Some("address_gone"), 0), "it is marked");
    }
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty());
    assert_eq!(phones.first.counts().requests, 3, "no number was tried again");
    worker.stop().await;
}

#[tokio::test]
async fn a_refusal_is_a_dead_letter_at_once_without_the_number() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    phones.first.behave(1, Behaviour::error(400, 21_606));
    world.text("news", 1).await;
    let row = world.rows("news").await.remove(0);
    assert_eq!(row.ended(), ("dead", Some("permanent"), 1));
    let (subject, headers, _) = world.dead_letters_once(1).await.remove(0);
    assert!(subject.starts_with("dead.deliver.sms.DELIVERIES."), "{subject}");
    let error = headers.get("Carebell-Dead-Error").unwrap().as_str();
    assert!(error.contains("400, error 21606") && !error.contains(&NUMBER[1..]), "{error}");
    worker.stop().await;
}

#[tokio::test]
async fn a_wish_to_wait_is_honoured_and_burns_no_attempt() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    phones.first.behave(1, Behaviour::later("2"));
    let asked = utc_now();
    world.text("news", 1).await;
    assert_eq!(world.rows("news").await.remove(0).ended(), ("sent", None, 0));
    let text = &phones.first.wait_for(1, LIMIT).await.unwrap()[0];
    assert!((text.received - asked).num_milliseconds() >= 2000, "came back after {}", text.received - asked);
    world.queues_are_empty().await;
    worker.stop().await;
}

/// An outage loses nothing, and the breaker spares the provider.
async fn outage(fail: impl Fn(&Phones), mend: impl Fn(&Phones)) {
    let (world, phones) = with_phones(World::with_overrides(PATIENT).await.at_pace(5)).await;
    fail(&phones);
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    world.text("news", 14).await;
    world
        .eventually("the breaker opens, and the send that opened it is parked", async || {
            let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'provider_down'";
            (world.count(held).await > 0).then_some(())
        })
        .await;
    let counts = phones.first.counts();
    let asked = counts.requests + counts.refused;
    assert!((5..=20).contains(&asked), "enough to open the breaker, and those under way: {asked}");
    let burnt = world.count("SELECT sum(attempts)::bigint FROM deliveries").await;
    assert!(burnt < 20, "{burnt} attempts: a parked one burns none");
    mend(&phones);
    let rows = world.rows("news").await;
    assert!(rows.iter().all(|row| row.state == "sent"), "{rows:#?}");
    assert_eq!(phones.first.counts().accepted, 14, "each once");
    world.queues_are_empty().await;
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn an_outage_parks_everything_until_it_is_over() {
    let behave = |behaviour: Option<Behaviour>| move |phones: &Phones| phones.first.behave_always(behaviour.clone());
    tokio::join!(
        outage(behave(Some(Behaviour::status(503))), behave(None)),
        outage(behave(Some(Behaviour::error(401, 20_003))), behave(None)),
        outage(|phones| phones.first.shut(true), |phones| phones.first.shut(false)),
    );
}

#[tokio::test]
async fn the_second_provider_stands_in_until_the_first_is_back() {
    let (world, phones) = with_phones(World::with_overrides(PATIENT).await.at_pace(5)).await;
    phones.first.behave_always(Some(Behaviour::status(503)));
    let worker = Phones::worker(&world, &phones.both("SMS"), &[]);
    world.text("news", 14).await;
    let rows = world.rows("news").await;
    let second = Some(phones.second.name());
    assert!(rows.iter().all(|row| row.state == "sent" && row.provider == second), "{rows:#?}");
    assert_eq!((phones.first.counts().accepted, phones.second.counts().accepted), (0, 14));
    assert!(phones.second.received().iter().all(|text| text.from == "+43720654321"));

    phones.first.behave_always(None);
    let mut number = 0;
    world
        .eventually("a probe succeeds and the first provider is preferred again", async || {
            number += 1;
            let job = format!("later-{number}");
            world.text(&job, 1).await;
            let row = world.rows(&job).await.remove(0);
            assert_eq!(row.state, "sent");
            (row.provider == Some(phones.first.name())).then_some(())
        })
        .await;
    let before = phones.second.counts().accepted;
    world.text("after", 5).await;
    assert!(world.rows("after").await.iter().all(|row| row.provider == Some(phones.first.name())));
    assert_eq!(phones.second.counts().accepted, before);
    assert_eq!((phones.first.rejected(), phones.second.rejected()), (vec![], vec![]));
    worker.stop().await;
}

#[tokio::test]
async fn a_provider_that_asks_for_an_hour_is_passed_over() {
    let (world, phones) = world().await;
    phones.first.behave_always(Some(Behaviour::later("3600")));
    let worker = Phones::worker(&world, &phones.both("SMS"), &[]);
    world.text("news", 3).await;
    let rows = world.rows("news").await;
    assert!(rows.iter().all(|row| row.ended() == ("sent", None, 0)), "{rows:#?}");
    assert!(rows.iter().all(|row| row.provider == Some(phones.second.name())), "{rows:#?}");
    assert_eq!(phones.second.counts().accepted, 3);
    worker.stop().await;
}

/// Deliveries wait for the provider that is back sooner.
#[tokio::test]
async fn an_hour_that_the_first_asks_for_hides_no_outage_of_the_second() {
    let (world, phones) = world().await;
    phones.first.behave_always(Some(Behaviour::later("3600")));
    phones.second.behave_always(Some(Behaviour::status(503)));
    let worker = Phones::worker(&world, &phones.both("SMS"), &[]);
    world.text("news", 14).await;
    world
        .eventually("the second's breaker opens and its deliveries wait", async || {
            let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'provider_down'";
            (world.count(held).await > 0).then_some(())
        })
        .await;
    phones.second.behave_always(None);
    let rows = world.rows("news").await;
    assert!(rows.iter().all(|row| row.state == "sent"), "{rows:#?}");
    assert_eq!((phones.first.counts().accepted, phones.second.counts().accepted), (0, 14), "each once");
    worker.stop().await;
}

#[tokio::test]
async fn what_may_have_been_accepted_is_not_sent_again() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[]);
    let bad_gateway = Behaviour::Plain { status: 502, body: "<html>Bad gateway".into(), retry_after: None };
    for (job, behaviour, accepted) in
        [("lost", Behaviour::Lost, 1), ("garbage", Behaviour::Garbage, 2), ("proxy", bad_gateway, 2)]
    {
        phones.first.behave(1, behaviour);
        world.text(job, 1).await;
        let row = world.rows(job).await.remove(0);
        assert_eq!(row.ended(), ("unknown", Some("no_answer"), 0), "{job}: {row:?}");
        assert_eq!(row.provider, Some(phones.first.name()));
        world.queues_are_empty().await;
        assert_eq!(phones.first.counts().accepted, accepted, "{job}");
    }
    assert_eq!(phones.first.counts().requests, 3);
    assert!(world.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn it_is_sent_again_where_that_is_wished() {
    let (world, phones) = world().await;
    let worker = Phones::worker(&world, &phones.one("SMS"), &[("SMS_AFTER_UNKNOWN", "send_again")]);
    phones.first.behave(1, Behaviour::Lost);
    world.text("news", 1).await;
    assert_eq!(world.rows("news").await.remove(0).ended(), ("sent", None, 1));
    assert_eq!(phones.first.counts().accepted, 2, "the person may have it twice");
    worker.stop().await;
}

/// The provider is probed by a look-up, since a trial text might be accepted.
#[tokio::test]
async fn what_is_sent_again_is_not_sent_to_see_either() {
    const TEXTS: usize = 5;
    let world = World::with_overrides(&format!("{QUICK},deliver_sms_normal.attempts=8")).await;
    let phones = Phones::start(&world).await;
    let phone = &phones.first;
    phone.behave_always(Some(Behaviour::status(502)));
    let worker = Phones::worker(&world, &phones.one("SMS"), &[("SMS_AFTER_UNKNOWN", "send_again")]);
    world.text("news", TEXTS).await;
    let counts = phone.wait_until(LIMIT, |counts| counts.looks > 0).await.unwrap();
    assert!((5..40).contains(&counts.requests), "enough to open the breaker, and those under way: {counts:?}");
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'provider_down'";
    world.eventually("deliveries keep waiting", async || (world.count(held).await > 0).then_some(())).await;
    phone.behave_always(None);
    let rows = world.rows("news").await;
    assert!(rows.iter().all(|row| row.state == "sent"), "{rows:#?}");
    let burnt: usize = rows.iter().map(|row| usize::try_from(row.attempts).unwrap()).sum();
    assert_eq!((burnt, phone.counts().accepted), (counts.requests, TEXTS), "the look-up burns none");
    assert_eq!(phone.counts().requests, counts.requests + TEXTS);
    worker.stop().await;
}

fn settings(phones: &Phones, timeout: Duration) -> Settings {
    let mut settings = Source::of(phones.one("SMS")).gateways().unwrap().remove(0);
    settings.timeout = timeout;
    settings
}

async fn send(sms: &Sms, address: &str) -> Answer {
    let content = Content {
        kind: "T".into(),
        title: "Now".into(),
        body: String::new(),
        url: None,
        data: Map::new(),
        tag: None,
        locale: String::new(),
    };
    let parcel = Parcel {
        id: "d1",
        root_id: "r1",
        address: Address::Plain(address),
        content: &content,
        locale: "",
        lane: Lane::Normal,
        created_at: utc_now(),
        ttl: Duration::from_mins(1),
    };
    assert_eq!(sms.provider(&parcel, 0).unwrap() == "none", !address.starts_with('+'));
    sms.send(&parcel, 0).await
}

/// Only a request that cannot have been read may be repeated.
#[tokio::test]
async fn silence_before_the_request_is_not_silence_after_it() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (_world, phones) = world().await;
    let sms = |settings| Sms::new(settings, Clock::system()).unwrap();
    // Enough to connect on a busy machine, far less than the silences below.
    let patient = settings(&phones, Duration::from_secs(3));
    let to_first = sms(patient.clone());

    phones.first.behave(1, Behaviour::Hang);
    assert_eq!(send(&to_first, NUMBER).await, Answer::Unknown { why: "timeout".into() });
    phones.first.behave(1, Behaviour::Slow(Duration::from_secs(30)));
    assert_eq!(send(&to_first, NUMBER).await, Answer::Unknown { why: "timeout".into() });
    phones.first.behave(1, Behaviour::Slow(Duration::from_millis(100)));
    assert!(matches!(send(&to_first, NUMBER).await, Answer::Accepted { .. }));
    phones.first.behave(1, Behaviour::Lost);
    assert!(matches!(send(&to_first, NUMBER).await, Answer::Unknown { .. }));
    let asked = phones.first.counts().requests;

    let is_down =
        |answer: &Answer, silent: bool| matches!(answer, Answer::Down { timed_out, .. } if *timed_out == silent);
    phones.first.shut(true);
    let shut = send(&sms(patient.clone()), NUMBER).await;
    assert!(is_down(&shut, false), "{shut:?}");
    phones.first.shut(false);
    // Nothing listens there.
    let at = |url: String| {
        let account = Account::parse(Channel::Sms, ("SMS_PROVIDER_URL", &url), ("SMS_FROM", "Carebell")).unwrap();
        Settings { accounts: vec![account], ..patient.clone() }
    };
    let closed = send(&sms(at("https://AC1:secret@127.0.0.1:1".into())), NUMBER).await;
    assert!(is_down(&closed, false), "{closed:?}");
    // A resolver may be slow to fail.
    let unknown = Settings { timeout: LIMIT, ..at("https://AC1:secret@no-such-host.invalid".into()) };
    let no_such_host = send(&sms(unknown), NUMBER).await;
    assert!(is_down(&no_such_host, false), "{no_such_host:?}");
    // A listener that never answers TLS.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = silent.local_addr().unwrap();
    let quick = Settings { timeout: Duration::from_millis(600), ..at(format!("https://AC1:secret@{place}")) };
    let no_handshake = send(&sms(quick), NUMBER).await;
    assert!(is_down(&no_handshake, true), "{no_handshake:?}");
    // An untrusted root.
    let strange = send(&sms(Settings { ca_file: None, ..patient.clone() }), NUMBER).await;
    assert!(is_down(&strange, false), "{strange:?}");
    for answer in [&shut, &closed, &no_such_host, &no_handshake, &strange] {
        let shown = format!("{answer:?}");
        assert!(!shown.contains("secret") && !shown.contains(&NUMBER[1..]) && !shown.contains("Accounts"), "{shown}");
    }
    let gone = Answer::Gone { answer: "not E.164".into(), reason: "invalid_number" };
    assert_eq!(send(&to_first, "0660 1234567").await, gone);
    assert_eq!(phones.first.counts().requests, asked, "none of these was a request");
}
