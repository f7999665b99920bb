//! Each answer has one meaning, however bad it is.

use carebell::declared::AfterUnknown;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::site::{Options, Site};
use crate::support::{
    World,
    endpoint::{Does, SECRET, answer, write_secret},
};

fn with(status: u16, name: &'static str, value: &str) -> Does {
    Does::Answer(status, vec![(name, value.to_owned())], String::new())
}

#[tokio::test]
async fn a_wrong_answer_is_dead_at_once_and_says_where() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    let effect = |effect: serde_json::Value| json!({ "effects": [effect] }).to_string();
    let cases = [
        (answer(200, "ok"), "answered 200, and its body is wrong: no JSON at line 1"),
        (answer(200, ""), "no JSON at line 1, column 0"),
        (answer(201, r#"{"reslt": 1}"#), "unknown field `reslt`, expected `result` or `effects`"),
        (Does::Floods, "answered 200 with more than 262144 bytes"),
        (answer(200, &json!({ "result": "x".repeat(40_000) }).to_string()), "result: has 40002 bytes"),
        (answer(202, ""), "its declaration does not let it answer later (mode)"),
        (answer(422, "{}"), "answered 422: it refuses the job"),
        (answer(206, ""), "expected 200, 201, 202 or 204"),
        (with(500, "carebell-outcome", "permanent"), "it says that no retry mends it"),
        (with(200, "carebell-outcome", "done"), "none of permanent, retry, later, skipped and cancelled"),
        (
            answer(200, &effect(json!({ "id": "a", "kind": "reminder.medication", "job": {} }))),
            "effects[0].kind: the declaration of search.index lets it publish notification, search.index",
        ),
        (
            answer(200, &effect(json!({ "id": "a~b", "kind": "notification", "job": {} }))),
            "effects[0].id: expected 1 to 128 of the characters",
        ),
        (
            answer(200, &effect(json!({ "id": "a", "kind": "notification", "job": { "recipents": [] } }))),
            "effects[0].job: ",
        ),
        (
            answer(200, &effect(json!({ "id": "a", "kind": "notification", "lane": "fast", "job": {} }))),
            "effects[0].lane: expected one of critical, normal, bulk",
        ),
        (
            answer(200, &effect(json!({ "id": "a", "kind": "search.index", "job": {}, "at": "2027-01-01T08:00:00" }))),
            "effects[0].at: expected an RFC 3339 instant with its offset",
        ),
    ];
    for (number, (does, _)) in cases.iter().enumerate() {
        let job = format!("bad-{number}");
        site.endpoint.always(&job, does.clone());
        site.publish(&job, &json!({})).await;
    }
    for (number, (_, expected)) in cases.iter().enumerate() {
        let job = format!("bad-{number}");
        assert_eq!(world.ended(&job).await, ("dead".into(), Some("permanent".into())), "{expected}");
        let error = site.error(&job).await;
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert_eq!(site.endpoint.posted(&job).len(), 1, "{expected}");
    }
    world.dead_letters_once(cases.len()).await;
    assert_eq!(world.count("SELECT count(*) FROM job_children").await, 0, "nothing of a wrong answer is published");
    site.stop().await;
}

#[tokio::test]
async fn later_and_skipped_burn_no_attempt() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    site.endpoint.next("busy", [with(429, "retry-after", "1"), with(503, "retry-after", "1"), answer(204, "")]);
    site.endpoint.next("not-needed", [with(500, "carebell-outcome", "skipped")]);
    for job in ["busy", "not-needed"] {
        site.publish(job, &json!({})).await;
    }
    assert_eq!(world.ended("busy").await, ("done".into(), None));
    assert_eq!(site.attempts("busy").await, 0);
    assert_eq!(world.ended("not-needed").await, ("skipped".into(), Some("not_needed".into())));
    site.stop().await;
}

#[tokio::test]
async fn silence_ends_at_the_timeout_and_is_sent_again_or_not() {
    let world = World::new().await;
    for (after_unknown, requests, reason) in
        [(AfterUnknown::SendAgain, 2, "exhausted"), (AfterUnknown::Stop, 1, "permanent")]
    {
        let options = Options { after_unknown, attempts: 2, timeout: "500ms", ..Options::default() };
        let site = Site::start(&world, options).await;
        for (job, does) in [("hangs", Does::Hangs), ("trickles", Does::Trickles)] {
            let job = format!("{job}-{requests}");
            site.endpoint.always(&job, does);
            site.publish(&job, &json!({})).await;
        }
        for job in ["hangs", "trickles"] {
            let job = format!("{job}-{requests}");
            assert_eq!(world.ended(&job).await, ("dead".into(), Some(reason.into())), "{job}");
            assert_eq!(site.endpoint.posted(&job).len(), requests, "{job}");
            let error = site.error(&job).await;
            assert!(error.contains("no answer within 500ms"), "{error}");
            assert_eq!(error.starts_with("unknown: "), requests == 1, "{error}");
        }
        site.stop().await;
    }
}

#[tokio::test]
async fn a_request_that_was_never_sent_is_never_unknown() {
    let world = World::new().await;
    let options = Options { after_unknown: AfterUnknown::Stop, attempts: 2, ..Options::default() };
    let mut site = Site::without_worker(&world, options).await;
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    site.endpoint.url = format!("http://127.0.0.1:{port}/jobs").parse().unwrap();
    site.work().await;
    site.publish("nobody", &json!({})).await;
    assert_eq!(world.ended("nobody").await, ("dead".into(), Some("exhausted".into())));
    let error = site.error("nobody").await;
    assert!(error.starts_with("no connection"), "{error}");
    site.stop().await;
}

#[tokio::test]
async fn a_connection_that_its_server_closed_burns_no_attempt() {
    let world = World::new().await;
    let mut site = Site::without_worker(&world, Options::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.endpoint.url = format!("http://{}/jobs", listener.local_addr().unwrap()).parse().unwrap();
    // Answers the first request of each connection, and closes it at the second without a word.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = vec![0; 8192];
                if stream.read(&mut read).await.unwrap_or(0) == 0 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                let _ = stream.read(&mut read).await;
            });
        }
    });
    site.work().await;
    for job in ["first", "second", "third"] {
        site.publish(job, &json!({})).await;
        assert_eq!(world.ended(job).await, ("done".into(), None));
        assert_eq!(site.attempts(job).await, 0, "{job}");
    }
    site.stop().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let world = World::new().await;
    let site = Site::start(&world, Options { attempts: 1, ..Options::default() }).await;
    site.endpoint.always("moved", with(307, "location", site.endpoint.url.as_str()));
    site.publish("moved", &json!({})).await;
    assert_eq!(world.ended("moved").await, ("dead".into(), Some("exhausted".into())));
    assert_eq!((site.endpoint.posted("moved").len(), site.error("moved").await.as_str()), (1, "answered 307"));
    site.stop().await;
}

#[tokio::test]
async fn a_changed_secret_file_is_read_anew() {
    let world = World::new().await;
    let site = Site::start(&world, Options::default()).await;
    let signatures = async |job: &str| {
        site.publish(job, &json!({})).await;
        world.ended(job).await;
        let posted = site.endpoint.posted(job);
        posted.first().map(|posted| posted.header("webhook-signature").split(' ').count())
    };
    assert_eq!(signatures("one").await, Some(1));
    let other = SECRET.replace('M', "N");
    write_secret(&site.endpoint.secret_file, &format!("{other}\n{SECRET}\n"));
    assert_eq!(signatures("two").await, Some(2), "the old one signs too");
    write_secret(&site.endpoint.secret_file, &other);
    assert_eq!(signatures("three").await, None, "the endpoint does not know it");
    assert!(site.endpoint.forged() >= 1);
    site.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_left_alone_until_it_is_back() {
    let world = World::with_overrides("*.backoff=fixed 2s,*.jitter=0%,*.ack_wait=5s").await;
    let site = Site::start(&world, Options { attempts: 5, ..Options::default() }).await;
    for number in 0..20 {
        let job = format!("down-{number}");
        site.endpoint.next(&job, vec![answer(503, ""); 1]);
        site.publish(&job, &json!({})).await;
    }
    world
        .eventually("some wait for the endpoint", async || {
            let waiting = "SELECT count(*) FROM job_runs WHERE state = 'open' AND reason = 'provider_down'";
            (world.count(waiting).await > 0).then_some(())
        })
        .await;
    for number in 0..20 {
        assert_eq!(world.ended(&format!("down-{number}")).await, ("done".into(), None));
    }
    let burnt = world.count("SELECT sum(attempts)::bigint FROM job_runs").await;
    assert!(burnt < 20, "a known outage burns no attempt: {burnt}");
    site.stop().await;
}
