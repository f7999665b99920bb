//! Jobs of declared kinds, carried out by real endpoints.

mod accepted;
mod answers;
mod cancelled;
mod crashes;
mod shown;
mod site;

use std::{sync::Arc, time::Duration};

use carebell::{
    clock::Clock,
    declared::{Endpoint, Http},
    tasks::Tasks,
    telemetry::metrics::Metrics,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use self::site::{KIND, Options, Site, declaration};
use crate::support::{
    FAMILY, World,
    endpoint::{Does, SECRET, answer, write_secret},
    utc_now,
};

#[tokio::test]
async fn a_job_is_posted_as_it_came_and_its_result_is_kept() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    site.endpoint.next("index-1", [answer(200, r#"{"result": {"pages": 3}}"#)]);
    site.publish("index-1", &json!({ "page": 7 })).await;
    assert_eq!(world.ended("index-1").await, ("done".into(), None));
    let posted = site.endpoint.posted("index-1").remove(0);
    assert_eq!((posted.path.as_str(), &posted.body[..]), ("/jobs", br#"{"page":7}"#.as_slice()));
    for (name, expected) in [
        ("content-type", "application/json"),
        ("carebell-kind", "search.index"),
        ("carebell-kind-version", "2"),
        ("carebell-attempt", "1"),
        ("carebell-timeout", "2"),
        ("carebell-task-token", ""),
        ("prefer", ""),
    ] {
        assert_eq!(posted.header(name), expected, "{name}");
    }
    let id = posted.header("webhook-id");
    assert!(id.starts_with("job_") && !id.contains('.') && posted.header("idempotency-key") == id);
    let deadline = DateTime::parse_from_rfc3339(posted.header("carebell-deadline")).unwrap();
    assert!((deadline.to_utc() - utc_now()).abs() < TimeDelta::seconds(5));
    let result: serde_json::Value =
        sqlx::query_scalar("SELECT result FROM job_runs WHERE job_id = 'index-1'").fetch_one(&world.db).await.unwrap();
    assert_eq!(result, json!({ "pages": 3 }));
    assert_eq!(site.endpoint.forged(), 0);
    assert_eq!(world.count("SELECT count(*) FROM job_tasks").await, 0, "a kind that answers at once needs no row");
    site.stop().await;
}

#[tokio::test]
async fn each_attempt_has_the_same_bytes_id_and_instant() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    site.endpoint.next("again", [answer(500, ""), answer(404, ""), answer(204, "")]);
    site.publish("again", &json!({ "b": 1.50, "a": "ä" })).await;
    assert_eq!(world.ended("again").await, ("done".into(), None));
    let posted = site.endpoint.posted("again");
    assert_eq!(posted.len(), 3);
    for (number, one) in (1..).zip(&posted) {
        assert_eq!(one.header("carebell-attempt"), number.to_string());
        assert_eq!(one.body, posted[0].body);
        for name in ["webhook-id", "carebell-scheduled-for"] {
            assert_eq!(one.header(name), posted[0].header(name), "{name}");
        }
    }
    assert_eq!(world.runs("again").await["search.index"].attempts, 2);
    site.stop().await;
}

#[tokio::test]
async fn effects_are_committed_with_the_run_and_published_as_roots_of_their_own() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    let later = utc_now() + TimeDelta::hours(1);
    let text = json!({
        "recipients": FAMILY.map(|user| json!({ "userId": user })), "title": "Critical value", "body": "Call the ward.",
    });
    let told = json!({ "effects": [
        { "id": "critical", "kind": "notification", "lane": "critical", "job": text },
        { "id": "recheck", "kind": "search.index", "job": { "page": 1 }, "at": later.to_rfc3339() },
    ] });
    site.endpoint.next("lab-7", [answer(200, &told.to_string())]);
    site.publish("lab-7", &json!({})).await;
    assert_eq!(world.ended("lab-7").await, ("done".into(), None));
    assert_eq!(world.ended("lab-7~critical").await, ("done".into(), None));
    let root: String = sqlx::query_scalar("SELECT root_id FROM job_runs WHERE job_id = 'lab-7~critical'")
        .fetch_one(&world.db)
        .await
        .unwrap();
    assert_eq!(root, "lab-7~critical");
    let inbox = world.count("SELECT count(*) FROM notifications WHERE job_id = 'lab-7~critical'").await;
    assert_eq!(inbox, 4);
    let hold = world.context.get_stream("HOLD").await.unwrap();
    let parked = world
        .eventually("the later effect is parked", async || hold.get_last_raw_message_by_subject("hold.at.>").await.ok())
        .await;
    assert_eq!(parked.headers.get("Carebell-Job-Id").unwrap().as_str(), "lab-7~recheck");
    let fires = parked.headers.get("Nats-Schedule").unwrap().as_str().trim_start_matches("@at ").to_owned();
    let fires = DateTime::parse_from_rfc3339(&fires).unwrap().with_timezone(&Utc);
    assert!((fires - later).abs() < TimeDelta::seconds(2));
    world.all_is_published().await;
    site.stop().await;
}

#[tokio::test]
async fn a_job_pages_on_by_effects_of_its_own_kind() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    let page = |number: usize| {
        json!({ "effects": [{ "id": "p", "kind": "search.index", "job": { "page": number } }] }).to_string()
    };
    let mut id = "pages".to_owned();
    for number in 1..=33 {
        site.endpoint.next(&id, [answer(200, &page(number))]);
        id.push_str("~p");
    }
    site.publish("pages", &json!({ "page": 0 })).await;
    let last = format!("pages{}", "~p".repeat(32));
    assert_eq!(world.ended(&last).await, ("dead".into(), Some("permanent".into())), "the 33rd hop is refused");
    let before = format!("pages{}", "~p".repeat(31));
    assert_eq!(world.ended(&before).await, ("done".into(), None));
    assert_eq!(site.endpoint.posted(&last)[0].body, br#"{"page":32}"#.as_slice());
    site.stop().await;
}

#[tokio::test]
async fn a_kind_that_hangs_slows_no_other() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    for number in 0..40 {
        let job = format!("hangs-{number}");
        site.endpoint.always(&job, Does::Hangs);
        site.publish_to("slow.kind", &job, &json!({})).await;
    }
    world.eventually("some hang", async || (!site.endpoint.posted("hangs-0").is_empty()).then_some(())).await;
    let since = tokio::time::Instant::now();
    for number in 0..50 {
        site.publish(&format!("quick-{number}"), &json!({})).await;
    }
    for number in 0..50 {
        assert_eq!(world.ended(&format!("quick-{number}")).await, ("done".into(), None));
    }
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    site.abandon();
}

#[tokio::test]
async fn a_declaration_that_cannot_be_carried_out_is_named_with_its_setting() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    write_secret(&secret, SECRET);
    let refusal = |change: &dyn Fn(&mut Http)| {
        let mut declared = declaration(KIND, ("http://127.0.0.1:8080/jobs", &secret), &Options::default());
        let Endpoint::Http(http) = &mut declared.endpoint else { unreachable!() };
        change(http);
        Tasks::new([Arc::new(declared)], &Clock::system(), &Metrics::new()).err().map(|error| error.to_string())
    };
    assert_eq!(refusal(&|_| ()), None);
    let why = refusal(&|http| http.allowed_hosts.clear()).unwrap();
    assert!(why.contains("search.index: [http] url is at a private address or another port than 443"), "{why}");
    let why = refusal(&|http| http.url = "http://jobs.example.org/".parse().unwrap()).unwrap();
    assert!(why.contains("url should be https://"), "{why}");
    let why = refusal(&|http| http.secret_file = directory.path().join("none")).unwrap();
    assert!(why.contains("secret_file") && why.contains("cannot be read"), "{why}");
    let mut declared = declaration(KIND, ("http://127.0.0.1:8080/jobs", &secret), &Options::default());
    declared.endpoint = Endpoint::Nats("indexer".into());
    let why = Tasks::new([Arc::new(declared)], &Clock::system(), &Metrics::new()).err().unwrap().to_string();
    assert_eq!(why, "search.index: [nats] is not carried out by this version: declare an HTTP endpoint, [http]");
}
