//! Web Push against the strict push service: every class of answer, and everything that must not be sent.

use std::{io::Write, sync::Arc, time::Duration};

use carebell::{
    channels::outbound::AllowedHost,
    channels::web_push::{
        DEFAULT_WAIT, KeyPair, MAX_PLAINTEXT, Note, Push, PushOutcome, Settings, Topic, Urgency, WebPush, generate_keys,
    },
    clock::Clock,
    dev::push_service::{Behaviour, PushService, Reply, Subscription},
};
use chrono::TimeDelta;
use futures::future::{join_all, try_join_all};
use serde_json::json;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

struct Pair {
    service: PushService,
    channel: WebPush,
}

impl Pair {
    async fn start() -> Self {
        Self::with(|_, _| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings, &PushService)) -> Self {
        let service = PushService::start().await.unwrap();
        let mut settings = settings(&service);
        change(&mut settings, &service);
        let channel = channel(settings, service.ca_pem());
        Self { service, channel }
    }

    /// Sends a push with a topic of its own to a new subscription.
    async fn send(&self, name: &str) -> PushOutcome {
        self.channel.send(&push(&self.service.subscribe(name), name)).await
    }
}

fn settings(service: &PushService) -> Settings {
    let mut settings = Settings::new(generate_keys().unwrap(), "mailto:ops@carebell.example");
    settings.allowed_hosts = AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", &service.host_port()).unwrap();
    settings
}

/// A channel that also trusts this root.
fn channel(mut settings: Settings, ca_pem: &str) -> WebPush {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(ca_pem.as_bytes()).unwrap();
    settings.ca_file = Some(file.path().to_owned());
    WebPush::new(settings, Clock::system()).unwrap()
}

fn push<'a>(to: &'a Subscription, identity: &str) -> Push<'a> {
    Push {
        endpoint: &to.endpoint,
        p256dh: &to.p256dh,
        auth: &to.auth,
        payload: b"{}",
        ttl: Duration::from_mins(10),
        urgency: Urgency::Normal,
        topic: Topic::of(identity),
    }
}

fn answer_with(status: u16, body: &str) -> Behaviour {
    Behaviour::Answer(Reply { status, headers: Vec::new(), body: body.to_owned() })
}

#[tokio::test]
async fn a_push_arrives_as_it_was_meant() {
    let Pair { service, channel } =
        Pair::with(|settings, _| settings.app_url = Some("https://care.example".parse().unwrap())).await;
    let phone = service.subscribe_for("phone", channel.public_key());
    let data = json!({"type": "MEDICATION_REMINDER"}).as_object().unwrap().clone();
    let note =
        Note { title: "Aspirin", body: "100 mg for Ada 💊", url: Some("/medications?id=m1"), tag: "d1", data: &data };
    let payload = channel.payload(&note);
    let push = Push { payload: &payload, urgency: Urgency::High, ..push(&phone, "delivery-1") };
    let before = Clock::system().now();

    assert_eq!(channel.send(&push).await, PushOutcome::Accepted { status: 201 });

    let received = service.wait_for(1, SOON).await.unwrap().remove(0);
    assert_eq!((received.name.as_str(), received.urgency.as_str()), ("phone", "high"));
    assert_eq!(received.topic, Topic::of("delivery-1").as_str());
    assert!((590..=600).contains(&received.ttl), "{}", received.ttl);
    assert_eq!(received.plaintext, payload);
    assert_eq!(received.json()["notification"]["navigate"], "https://care.example/medications?id=m1");
    assert_eq!(received.claims.aud, service.origin());
    assert_eq!(received.claims.sub, "mailto:ops@carebell.example");
    let lifetime = received.claims.exp - before.timestamp();
    assert!((12 * 3600..=12 * 3600 + 60).contains(&lifetime), "{lifetime}");
    assert_eq!(service.rejected(), []);
}

#[tokio::test]
async fn every_answer_has_its_class() {
    let pair = Pair::start().await;
    for (status, label) in [
        (200, "accepted"),
        (202, "accepted"),
        (400, "rejected"),
        (403, "forbidden"),
        (404, "gone"),
        (406, "later"),
        (410, "gone"),
        (413, "too_large"),
        (429, "later"),
        (500, "failed"),
        (502, "failed"),
        (503, "failed"),
    ] {
        let name = status.to_string();
        pair.service.behave(&name, Behaviour::status(status));
        let answer = pair.send(&name).await;
        assert_eq!((answer.label(), answer.status()), (label, Some(status)), "{answer}");
    }
    assert_eq!(pair.service.rejected(), []);
    assert_eq!(pair.service.counts().accepted, 2);
}

#[tokio::test]
async fn a_subscription_that_ended_is_gone() {
    let Pair { service, channel } = Pair::start().await;
    let phone = service.subscribe("phone");
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "accepted");
    service.unsubscribe("phone");
    assert_eq!(channel.send(&push(&phone, "2")).await, PushOutcome::Gone { status: 410 });
    let never = Subscription { endpoint: format!("{}/push/never", service.origin()), ..phone };
    assert_eq!(channel.send(&push(&never, "3")).await, PushOutcome::Gone { status: 404 });
}

#[tokio::test]
async fn retry_after_is_honoured_in_both_forms() {
    let pair = Pair::start().await;
    let date = (Clock::system().now() + TimeDelta::seconds(90)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let about = |seconds: u64| Duration::from_secs(seconds - 10)..=Duration::from_secs(seconds);
    for (behaviour, expected) in [
        (Behaviour::retry_after(429, "30"), about(30)),
        (Behaviour::retry_after(429, &date), about(90)),
        (Behaviour::retry_after(406, "20"), about(20)),
        (Behaviour::status(429), DEFAULT_WAIT..=DEFAULT_WAIT),
    ] {
        pair.service.behave("phone", behaviour);
        let answer = pair.send("phone").await;
        let PushOutcome::Later { after, .. } = answer else { panic!("{answer}") };
        assert!(expected.contains(&after), "{after:?} is not in {expected:?}");
    }
    for (behaviour, expected) in
        [(Behaviour::retry_after(503, "30"), Some(Duration::from_secs(30))), (Behaviour::status(503), None)]
    {
        pair.service.behave("phone", behaviour);
        let answer = pair.send("phone").await;
        let PushOutcome::Failed { after, .. } = answer else { panic!("{answer}") };
        assert_eq!(after, expected);
    }
}

#[tokio::test]
async fn a_401_gets_one_more_try_with_a_fresh_token() {
    let Pair { service, channel } = Pair::start().await;
    let phone = service.subscribe("phone");
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "accepted");
    service.behave("phone", Behaviour::status(401));
    assert_eq!(channel.send(&push(&phone, "2")).await.label(), "accepted");
    assert_eq!(channel.send(&push(&phone, "3")).await.label(), "accepted");
    let tokens: Vec<_> = service.received().into_iter().map(|push| push.token).collect();
    assert_ne!(tokens[0], tokens[1], "the token that was refused is not used again");
    assert_eq!(tokens[1], tokens[2], "the fresh one is");

    let before = service.counts().requests;
    service.behave_always("phone", Some(answer_with(401, "no")));
    let answer = channel.send(&push(&phone, "4")).await;
    assert_eq!(answer, PushOutcome::Unauthorized { status: 401, why: "no".to_owned() });
    assert_eq!(service.counts().requests - before, 2);
}

#[tokio::test]
async fn a_subscription_made_with_another_key_is_forbidden() {
    let Pair { service, channel } = Pair::start().await;
    let phone = service.subscribe_for("phone", &generate_keys().unwrap().public);
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "forbidden");
    assert_eq!(service.counts().accepted, 0);
}

#[tokio::test]
async fn a_push_that_is_not_answered_fails_in_time_and_its_repetition_replaces_it() {
    let Pair { service, channel } = Pair::with(|settings, _| settings.timeout = Duration::from_secs(2)).await;
    let phone = service.subscribe("phone");
    service.behave("phone", Behaviour::Hang);
    let started = Instant::now();
    let answer = channel.send(&push(&phone, "1")).await;
    assert_eq!(answer, PushOutcome::Failed { status: None, why: "timeout".to_owned(), after: None });
    let took = started.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(20)).contains(&took), "{took:?}");
    assert_eq!(service.counts().accepted, 0);

    service.behave("phone", Behaviour::Swallow);
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "failed");
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "accepted");
    let counts = service.counts();
    assert_eq!((counts.accepted, counts.replaced), (2, 1));
    assert!(service.received()[1].replaces);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_of_first_requests_opens_one_connection() {
    let Pair { service, channel } = Pair::start().await;
    let channel = Arc::new(channel);
    let sends = (0..50).map(|n| {
        let (device, channel) = (service.subscribe(&format!("device {n}")), Arc::clone(&channel));
        tokio::spawn(async move { channel.send(&push(&device, "1")).await })
    });
    let answers = try_join_all(sends.collect::<Vec<_>>()).await.unwrap();
    assert!(answers.iter().all(|answer| answer.label() == "accepted"), "{answers:?}");
    let counts = service.counts();
    assert_eq!((counts.accepted, counts.connections, counts.replaced), (50, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_first_request_that_hangs_does_not_take_the_others_with_it() {
    let Pair { service, channel } = Pair::with(|settings, _| settings.timeout = Duration::from_secs(2)).await;
    let (stuck, other) = (service.subscribe("stuck"), service.subscribe("other"));
    service.behave("stuck", Behaviour::Hang);
    let (stuck, other) = tokio::join!(async { channel.send(&push(&stuck, "1")).await }, async {
        service.wait_until(SOON, |counts| counts.requests == 1).await.unwrap();
        channel.send(&push(&other, "2")).await
    });
    assert_eq!((stuck.label(), other.label()), ("failed", "accepted"));
    assert_eq!(service.counts().connections, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_a_connection_stands_nobody_waits_for_another() {
    let Pair { service, channel } = Pair::with(|settings, _| settings.timeout = Duration::from_secs(2)).await;
    let phone = service.subscribe("phone");
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "accepted");
    service.behave_always("phone", Some(Behaviour::Hang));
    // One after the other, few would be sent before all time out.
    let answers = join_all((0..20).map(|_| async { channel.send(&push(&phone, "2")).await })).await;
    assert!(answers.iter().all(|answer| answer.label() == "failed"), "{answers:?}");
    assert_eq!((service.counts().requests, service.counts().connections), (21, 1));
}

#[tokio::test]
async fn after_a_restart_of_the_push_service_a_new_connection_is_made() {
    let Pair { service, channel } = Pair::start().await;
    let phone = service.subscribe("phone");
    assert_eq!(channel.send(&push(&phone, "1")).await.label(), "accepted");
    service.drop_connections();
    // The first push may use the broken connection and fail.
    let first = channel.send(&push(&phone, "2")).await;
    assert!(["accepted", "failed"].contains(&first.label()), "{first}");
    assert_eq!(channel.send(&push(&phone, "3")).await.label(), "accepted");
    assert_eq!(service.counts().connections, 2);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let Pair { service, channel } = Pair::start().await;
    let elsewhere = service.subscribe("elsewhere");
    service.behave("phone", Behaviour::redirect(&elsewhere.endpoint));
    let answer = channel.send(&push(&service.subscribe("phone"), "1")).await;
    assert_eq!((answer.label(), answer.status(), answer.is_our_fault()), ("rejected", Some(307), true));
    assert_eq!(service.counts().requests, 1);
}

#[tokio::test]
async fn what_was_not_named_is_not_connected_to() {
    let service = PushService::start().await.unwrap();
    let phone = service.subscribe("phone");
    let by_address = phone.endpoint.replace("localhost", "127.0.0.1");
    for (named, endpoint) in [
        ("", phone.endpoint.as_str()),
        ("localhost", &phone.endpoint),
        ("localhost:1", &phone.endpoint),
        (&service.host_port(), &by_address),
        (&service.host_port(), &phone.endpoint.replace("https", "http")),
        (&service.host_port(), "https://169.254.169.254/latest/meta-data"),
        (&service.host_port(), "/push/x"),
    ] {
        let mut settings = settings(&service);
        settings.allowed_hosts = AllowedHost::list("WEB_PUSH_ALLOWED_HOSTS", named).unwrap();
        let to = Subscription { endpoint: endpoint.to_owned(), ..phone.clone() };
        let answer = channel(settings, service.ca_pem()).send(&push(&to, "1")).await;
        let is_unknown = ["bad_subscription", "not_allowed"].contains(&answer.label());
        assert!(is_unknown && answer.status().is_none(), "{named} {endpoint}: {answer}");
        assert!(!answer.to_string().contains("push/"), "{answer}");
    }
    let counts = service.counts();
    assert_eq!((counts.connections, counts.requests), (0, 0));
}

#[tokio::test]
async fn broken_keys_and_long_payloads_are_never_sent() {
    let Pair { service, channel } = Pair::start().await;
    let phone = service.subscribe("phone");
    for (p256dh, auth) in
        [("AAAA", phone.auth.as_str()), (&phone.p256dh, "AAAA"), ("", ""), (&phone.auth, &phone.p256dh)]
    {
        let answer = channel.send(&Push { p256dh, auth, ..push(&phone, "1") }).await;
        assert_eq!(answer.label(), "bad_subscription", "{answer}");
    }
    let long = vec![b' '; MAX_PLAINTEXT + 1];
    let answer = channel.send(&Push { payload: &long, ..push(&phone, "1") }).await;
    assert_eq!(answer, PushOutcome::TooLarge { status: None });
    assert_eq!(service.counts().requests, 0);
    let answer = channel.send(&Push { payload: &long[1..], ..push(&phone, "1") }).await;
    assert_eq!(answer.label(), "accepted", "{answer}");
    assert_eq!(service.received()[0].plaintext.len(), MAX_PLAINTEXT);
}

#[tokio::test]
async fn what_the_service_says_is_kept_only_without_secrets() {
    let Pair { service, channel } = Pair::start().await;
    let phone = service.subscribe("phone");
    for (body, kept) in [("out of order", true), (&phone.endpoint, false), (&phone.auth, false)] {
        service.behave("phone", answer_with(503, body));
        let answer = channel.send(&push(&phone, "1")).await;
        assert_eq!(answer.to_string().contains("out of order"), kept);
        let path = phone.endpoint.rsplit('/').next().unwrap();
        assert!(
            !format!("{answer:?}").contains(path) && (kept || !format!("{answer:?}").contains(&phone.auth)),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_reached_or_trusted_is_a_failure_that_names_its_cause() {
    let (service, stranger) = (PushService::start().await.unwrap(), PushService::start().await.unwrap());
    let phone = service.subscribe("phone");
    let untrusting = channel(settings(&service), stranger.ca_pem());
    let answer = untrusting.send(&push(&phone, "1")).await;
    assert!(
        matches!(&answer, PushOutcome::Failed { status: None, why, .. } if why.contains("certificate")),
        "{answer}"
    );

    let trusting = channel(settings(&service), service.ca_pem());
    drop(service);
    let answer = trusting.send(&push(&phone, "1")).await;
    assert!(
        matches!(&answer, PushOutcome::Failed { status: None, why, .. } if why.contains("no connection")),
        "{answer}"
    );
}

#[tokio::test]
async fn the_push_service_takes_nothing_that_is_no_push() {
    let service = PushService::start().await.unwrap();
    let phone = service.subscribe("phone");
    let root = reqwest::Certificate::from_pem(service.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_merge([root]).build().unwrap();
    for (request, status) in [
        (client.get(&phone.endpoint), 400),
        (client.post(&phone.endpoint), 401),
        (client.post(service.origin()), 404),
        (client.post(&phone.endpoint).body(vec![0; 4097]), 413),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
        assert_eq!(service.rejected().pop().unwrap().status, status);
    }
    assert_eq!((service.counts().rejected, service.counts().accepted), (4, 0));
}

#[tokio::test]
async fn waiting_for_what_does_not_come_says_what_came() {
    let pair = Pair::start().await;
    let stranger = KeyPair { public: generate_keys().unwrap().public, ..generate_keys().unwrap() };
    pair.channel.send(&push(&pair.service.subscribe_for("phone", &stranger.public), "1")).await;
    let missing = pair.service.wait_for(1, Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(missing.counts.rejected, 1);
    assert!(missing.to_string().contains("403: the subscription was made with another key"), "{missing}");
}
