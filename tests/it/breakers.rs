//! Circuit breakers: an outage costs no attempt, delays no other provider, and ends by itself.

use carebell::dev::push_service::Behaviour;
use serde_json::{Value, json};

use crate::support::{FAMILY, LIMIT, PATIENT, Process, World};

async fn health(worker: &mut Process) -> (u16, Value) {
    let (status, text) = worker.get("/health").await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn deliveries_wait_for_a_push_service_that_is_down_and_arrive_when_it_is_back() {
    const JOBS: usize = 40;
    let world = World::with_overrides(PATIENT).await;
    for name in FAMILY {
        world.push.behave_always(name, Some(Behaviour::status(503)));
    }
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    for number in 0..JOBS {
        let body = json!({ "recipients": [{ "userId": FAMILY[number % 4] }], "title": "News" });
        world.publish_json("jobs.notification.normal", &format!("news-{number}"), &body).await;
    }
    let held = "SELECT count(*) FROM deliveries WHERE state = 'held' AND reason = 'provider_down'";
    let waits = async || (world.count(held).await >= 20).then_some(());
    world.eventually("most are known to wait for the provider", waits).await;
    let (status, found) = health(&mut worker).await;
    let breaker = format!("web_push {}", world.push.host_port());
    assert_eq!((status, found["breakers"][&breaker].as_str()), (200, Some("open")), "{found}");
    let asked = world.push.counts().requests;
    assert!(asked < 2 * JOBS, "it is not asked repeatedly: {asked}");

    for name in FAMILY {
        world.push.behave_always(name, None);
    }
    world.push.wait_for(JOBS, LIMIT).await.unwrap();
    let sent = "SELECT count(*) FROM deliveries WHERE state = 'sent'";
    let sent = async || (world.count(sent).await == i64::try_from(JOBS).unwrap()).then_some(());
    world.eventually("all are sent", sent).await;
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE attempts >= 3").await, 0);
    assert_eq!(world.push.received().len(), JOBS, "none twice");
    let closed = async || (health(&mut worker).await.1["breakers"][&breaker] == "closed").then_some(());
    world.eventually("the breaker is closed", closed).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}
