//! `deliver.webhook`: effect of each answer on delivery and address.

use std::{fs, net::SocketAddr};

use carebell::{
    channels::outbound,
    dev::webhook_endpoint::{Behaviour, WebhookEndpoint},
    store::LedgerLine,
};
use serde_json::json;

use crate::support::{LIMIT, PATIENT, Process, QUICK, Receivers, World, utc_now};

/// A world in which ana receives by webhook only.
struct Scene {
    world: World,
    endpoint: WebhookEndpoint,
    worker: Process,
}

impl Scene {
    async fn new() -> Self {
        Self::of(QUICK, str::to_owned).await
    }

    async fn with_overrides(overrides: &str) -> Self {
        Self::of(overrides, str::to_owned).await
    }

    /// The allowed hosts are derived from the endpoint's.
    async fn of(overrides: &str, named: impl Fn(&str) -> String) -> Self {
        let world = World::with_overrides(overrides).await.at_pace(5);
        let endpoint = WebhookEndpoint::start().await.unwrap();
        let (url, secret) = endpoint.subscribe("ana");
        hook(&world, &url, &secret).await;
        world.sql("INSERT INTO preferences (user_id, channels) VALUES ('ana', '{webhook}')").await;
        let ca_file = world.directory.path().join("webhook.pem");
        fs::write(&ca_file, endpoint.ca_pem()).unwrap();
        let named = named(&endpoint.host_port());
        let worker = [("WEBHOOK_ALLOWED_HOSTS", named.as_str()), ("WEBHOOK_CA_FILE", ca_file.to_str().unwrap())];
        let worker = Process::worker(&world, &worker);
        Self { world, endpoint, worker }
    }

    async fn tell_ana(&self, job_id: &str) -> LedgerLine {
        let body = json!({ "recipients": [{ "userId": "ana" }], "title": "Refill", "body": "12 left", "url": "/x?id=7",
                           "type": "REFILL_ALERT", "data": { "medicationId": "7" } });
        self.world.publish_json("jobs.notification.normal", job_id, &body).await;
        self.world.ledger(job_id).await.remove(0)
    }

    async fn state(&self) -> String {
        sqlx::query_scalar("SELECT state FROM user_addresses").fetch_one(&self.world.db).await.unwrap()
    }

    async fn end(mut self) {
        self.world.queues_are_empty().await;
        assert_eq!(self.worker.terminate().await.code(), Some(0));
    }
}

async fn hook(world: &World, url: &str, secrets: &str) {
    sqlx::query("INSERT INTO user_addresses (user_id, channel, address, secrets) VALUES ('ana', 'webhook', $1, $2)")
        .bind(url)
        .bind(secrets)
        .execute(&world.db)
        .await
        .unwrap();
}

#[tokio::test]
async fn accepted_is_sent_and_the_endpoint_can_verify_it() {
    let scene = Scene::new().await;
    let sent = scene.tell_ana("news").await;
    assert_eq!((sent.channel.as_str(), sent.state.as_str(), sent.answer.as_deref()), ("webhook", "sent", Some("204")));
    assert_eq!(sent.provider.as_deref(), Some("localhost"));
    let received = scene.endpoint.received().remove(0);
    assert_eq!((received.id.as_str(), received.signatures), (sent.id.as_str(), 1));
    assert!((received.timestamp - utc_now().timestamp()).abs() <= 10);
    assert_eq!(received.body["type"], "carebell.notification");
    let data = json!({ "deliveryId": sent.id, "jobId": "news", "type": "REFILL_ALERT", "title": "Refill",
                       "body": "12 left", "url": "https://app.example.org/x?id=7",
                       "data": { "type": "REFILL_ALERT", "medicationId": "7" } });
    assert_eq!(received.body["data"], data);
    assert_eq!(scene.endpoint.rejected(), Vec::<String>::new());
    scene.end().await;
}

#[tokio::test]
async fn what_is_sent_again_has_the_same_id_and_body() {
    let scene = Scene::new().await;
    scene.endpoint.behave("ana", Behaviour::Answer(404, vec![]));
    scene.endpoint.behave("ana", Behaviour::Answer(429, vec![("retry-after", "1".into())]));
    let sent = scene.tell_ana("news").await;
    assert_eq!((sent.state.as_str(), sent.attempts), ("sent", 1), "a 429 burns no attempt");
    assert_eq!(sent.failures.len(), 1);
    assert!(sent.failures[0].answer.contains("answered 404"), "{:?}", sent.failures);
    let received = scene.endpoint.received().remove(0);
    assert_eq!(received.id, sent.id);
    assert_eq!(scene.endpoint.requests(), 3);
    scene.end().await;
}

#[tokio::test]
async fn an_endpoint_that_wants_no_more_is_disabled() {
    let scene = Scene::new().await;
    scene.endpoint.behave("ana", Behaviour::Answer(410, vec![]));
    let failed = scene.tell_ana("last").await;
    assert_eq!((failed.state.as_str(), failed.reason.as_deref()), ("failed", Some("webhook_gone")));
    assert_eq!(scene.state().await, "gone");
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "More" });
    scene.world.publish_json("jobs.notification.normal", "more", &body).await;
    assert_eq!(scene.world.ended("more").await.0, "done");
    let nowhere = scene.world.ledger("more").await.remove(0);
    assert_eq!((nowhere.state.as_str(), nowhere.reason.as_deref()), ("failed", Some("no_address")));
    assert_eq!(scene.endpoint.requests(), 1);
    assert!(scene.world.dead_letters().await.is_empty());
    scene.end().await;
}

#[tokio::test]
async fn keys_are_changed_without_a_refusal() {
    let scene = Scene::new().await;
    let new = scene.endpoint.change_key("ana");
    sqlx::query("UPDATE user_addresses SET secrets = secrets || ' ' || $1")
        .bind(&new)
        .execute(&scene.world.db)
        .await
        .unwrap();
    assert_eq!(scene.tell_ana("both").await.state, "sent");
    assert_eq!(scene.endpoint.received()[0].signatures, 2);
    sqlx::query("UPDATE user_addresses SET secrets = $1").bind(&new).execute(&scene.world.db).await.unwrap();
    assert_eq!(scene.tell_ana("new").await.state, "sent");
    assert_eq!(scene.endpoint.rejected(), Vec::<String>::new());
    scene.end().await;
}

#[tokio::test]
async fn nothing_is_sent_where_it_must_not_go() {
    let scene = Scene::new().await;
    scene.endpoint.behave("ana", Behaviour::Answer(307, vec![("location", "https://127.0.0.1:1/".into())]));
    let sent = scene.tell_ana("redirected").await;
    assert!(sent.failures[0].answer.contains("a redirect, which is not followed"), "{:?}", sent.failures);
    for (address, secrets, why) in [
        ("http://hooks.example.org/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "not https"),
        ("https://127.0.0.1/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "is not public"),
        ("https://hooks.example.org:22/", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "another port than 443"),
        ("https://hooks.example.org/", "secret", "whsec_"),
    ] {
        sqlx::query("UPDATE user_addresses SET address = $1, secrets = $2")
            .bind(address)
            .bind(secrets)
            .execute(&scene.world.db)
            .await
            .unwrap();
        let dead = scene.tell_ana(why.split(' ').next_back().unwrap()).await;
        let is_settings = why.contains("public") || why.contains("port");
        let reason = if is_settings { "host_not_allowed" } else { "invalid_address" };
        assert_eq!((dead.state.as_str(), dead.reason.as_deref()), ("failed", Some(reason)));
        let state: String =
            sqlx::query_scalar("SELECT state FROM user_addresses").fetch_one(&scene.world.db).await.unwrap();
        assert_eq!(state, "active", "a corrected one is tried anew");
        assert!(dead.answer.as_deref().is_some_and(|answer| answer.contains(why)), "{dead:?}");
        assert!(!format!("{dead:?}").contains("hooks.example.org/"), "{dead:?}");
    }
    assert!(!scene.worker.output().contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
    scene.end().await;
}

/// The resolved address counts. An allowed host permits no other spelling.
#[tokio::test]
async fn a_name_that_leads_inside_is_not_sent_to() {
    let other = Scene::of(QUICK, |_| "hooks.example.org".to_owned()).await;
    other.world.sql("UPDATE user_addresses SET address = regexp_replace(address, ':[0-9]+', '')").await;
    let dead = other.tell_ana("news").await;
    assert_eq!((dead.state.as_str(), dead.reason.as_deref()), ("dead", Some("exhausted")));
    assert_eq!(dead.answer.as_deref(), Some("the host has no public address"));
    // Not every machine resolves this name.
    let rooted = Scene::new().await;
    rooted
        .world
        .sql("UPDATE user_addresses SET address = regexp_replace(address, 'localhost:[0-9]+', 'localhost.')")
        .await;
    let dead = rooted.tell_ana("news").await;
    assert_eq!((dead.state.as_str(), dead.reason.as_deref()), ("dead", Some("exhausted")));
    for scene in [other, rooted] {
        assert_eq!(scene.endpoint.requests(), 0);
        scene.end().await;
    }
}

/// A host name may reveal whose webhook it is.
#[tokio::test]
async fn no_host_is_in_logs_and_dead_letters() {
    let scene = Scene::new().await;
    let host = "clinic-of-ana.invalid";
    scene.world.sql(&format!("UPDATE user_addresses SET address = 'https://{host}/hooks'")).await;
    let dead = scene.tell_ana("news").await;
    assert_eq!((dead.state.as_str(), dead.reason.as_deref()), ("dead", Some("exhausted")));
    assert_eq!(dead.provider.as_deref(), None, "only an accepting provider is recorded");
    let (_, headers, _) = scene.world.dead_letters_once(1).await.remove(0);
    assert!(headers.get("Carebell-Dead-Error").is_some(), "{headers:?}");
    let shown = format!("{headers:?} {dead:?} {}", scene.worker.output());
    assert!(!shown.contains("clinic"), "{shown}");
    scene.end().await;
}

/// Users choose both names.
#[tokio::test]
async fn a_certificate_for_another_name_is_told_without_either() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let endpoint = WebhookEndpoint::start().await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), endpoint.ca_pem()).unwrap();
    let tls = outbound::tls("WEBHOOK_CA_FILE", Some(file.path())).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], endpoint.host_port().split(':').nth(1).unwrap().parse().unwrap()));
    let client = outbound::to_provider(tls).resolve("clinic-of-ana.example", address).build().unwrap();
    let error = client.post("https://clinic-of-ana.example/hooks").send().await.unwrap_err();
    assert_eq!(outbound::describe(&error), "no connection: the certificate is for another name", "{error:?}");
}

/// A hanging host holds only the requests allowed per host.
#[tokio::test]
async fn a_host_that_is_slow_leaves_the_queue_to_the_others() {
    const SLOW: i64 = 60;
    let world = World::with_overrides(&format!("{QUICK},deliver_webhook_normal.concurrency=12")).await;
    let receivers = Receivers::start(&world).await;
    for user in ["ana", "dan"] {
        receivers.hook(&world, user).await;
        world.sql(&format!("INSERT INTO preferences (user_id, channels) VALUES ('{user}', '{{webhook}}')")).await;
    }
    // Another name of the same endpoint counts as another host.
    let dans = "UPDATE user_addresses SET address = replace(address, 'localhost', '127.0.0.1') WHERE user_id = 'dan'";
    world.sql(dans).await;
    receivers.hooks.behave_always("dan", Some(Behaviour::Hang));
    let named = receivers.hooks.host_port();
    let named = format!("{named},{}", named.replace("localhost", "127.0.0.1"));
    let mut worker = Process::worker(&world, &receivers.with(&[("WEBHOOK_ALLOWED_HOSTS", &named)]));
    let tell = async |user: &str, number: i64| {
        let body = json!({ "recipients": [{ "userId": user }], "title": "News" });
        world.publish_json("jobs.notification.normal", &format!("{user}-{number}"), &body).await;
    };
    for number in 0..SLOW {
        tell("dan", number).await;
    }
    let planned = async || (world.count("SELECT count(*) FROM deliveries").await == SLOW).then_some(());
    world.eventually("all deliveries to the slow host are planned", planned).await;
    tell("ana", 0).await;
    receivers.hooks.wait_for(1, LIMIT).await.unwrap();
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM deliveries").await, 0, "none has been given up by then");
    assert_eq!(receivers.hooks.requests(), 1 + 8);
    worker.kill().await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_left_alone_until_it_is_back() {
    let scene = Scene::with_overrides(PATIENT).await;
    scene.endpoint.behave_always("ana", Some(Behaviour::Answer(503, vec![])));
    for number in 0..12 {
        let body = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
        scene.world.publish_json("jobs.notification.normal", &format!("news-{number}"), &body).await;
    }
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'provider_down'";
    scene.world.eventually("they wait", async || (scene.world.count(held).await > 0).then_some(())).await;
    scene.endpoint.behave_always("ana", None);
    scene.endpoint.wait_for(12, LIMIT).await.unwrap();
    let sent = "SELECT count(*) FROM deliveries WHERE state = 'sent'";
    scene.world.eventually("all are sent", async || (scene.world.count(sent).await == 12).then_some(())).await;
    assert_eq!(scene.endpoint.received().len(), 12);
    scene.end().await;
}
