//! A worker beside a slow or absent service holds a bounded number of jobs, however many wait.

use async_nats::jetstream::consumer::PullConsumer;
use carebell::dev::push_service::Behaviour;
use serde_json::json;

use crate::{
    lanes::{backlog, waiting},
    support::{LIMIT, Process, QUICK, World, own_postgres},
};

const FEW: usize = 200;
const MANY: usize = 20_000;

/// Concurrency of `deliver_web_push_normal`, below the limit for one push service.
const PLACES: usize = 64;

/// Bytes that waiting jobs may cost. Holding all of them would take many times as much.
const SLACK: usize = 24 << 20;

async fn unsettled(world: &World, durable: &str, stream: &str) -> usize {
    let consumer: PullConsumer = world.context.get_consumer_from_stream(durable, stream).await.unwrap();
    consumer.cached_info().num_ack_pending
}

/// Memory of a worker while deliveries wait for a silent push service.
async fn resident_with(deliveries: usize) -> usize {
    let world = World::with_overrides(&format!("*.ack_wait=5s,deliver_web_push_normal.concurrency={PLACES}")).await;
    world.push.behave_always("ana", Some(Behaviour::Hang));
    // Ana's browsers are all the same one to the push service.
    world
        .sql(&format!(
            "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth) \
             SELECT 'ana-' || n, 'ana', endpoint || '?n=' || n, p256dh, auth \
             FROM push_subscriptions, generate_series(2, {deliveries}) n WHERE id = 'ana'"
        ))
        .await;
    // A first worker plans the deliveries; its memory is gone with it.
    let planner = Process::worker(&world, &[]);
    let body = json!({ "recipients": [{ "userId": "ana" }], "title": "News" });
    world.publish_json("jobs.notification.normal", "news", &body).await;
    let published = async || {
        let runs = world.count("SELECT count(*) FROM job_runs WHERE state = 'done' AND NOT children_pending").await;
        (runs == 1).then_some(())
    };
    world.eventually_within(3 * LIMIT, "the deliveries are planned and published", published).await;
    drop(planner);
    world.push.drop_connections();
    world.push.wait_until(LIMIT, |counts| counts.open == 0).await.unwrap();

    // Until a connection stands, a worker sends only one or two at once.
    world.push.behave("ana", Behaviour::status(503));
    let worker = Process::worker(&world, &[]);
    world.push.wait_until(LIMIT, |counts| counts.open == PLACES).await.unwrap();
    let resident = worker.resident();
    assert_eq!(world.push.counts().most_open, PLACES, "never more than it has places for");
    // The server redelivers the first worker's unsettled messages later.
    let begun = unsettled(&world, "deliver_web_push_normal", "DELIVERIES").await;
    assert!(begun <= 2 * PLACES, "{begun} were pulled");
    let left = usize::try_from(waiting(&world, "deliver_web_push_normal", "DELIVERIES").await).unwrap();
    assert!(left + 3 * PLACES >= deliveries, "{left} were not pulled");
    resident
}

#[tokio::test]
#[ignore = "soak: 20,000 waiting deliveries"]
async fn a_push_service_that_never_answers_costs_no_memory() {
    let few = resident_with(FEW).await;
    let many = resident_with(MANY).await;
    println!("resident: {} KiB with {FEW} waiting, {} KiB with {MANY}", few >> 10, many >> 10);
    assert!(many < few + SLACK, "{few} bytes with {FEW} waiting, {many} with {MANY}");
}

#[tokio::test]
#[ignore = "soak: 20,000 waiting jobs"]
async fn a_database_that_is_away_costs_no_memory() {
    let (mut postgres, _directory) = own_postgres().await;
    let places = [("notification_critical", 10), ("notification_bulk", 4)];
    let [critical, bulk] = places.map(|(durable, places)| format!("{durable}.concurrency={places}"));
    let world = World::on(postgres.url("postgres"), &format!("{QUICK},{critical},{bulk}")).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    postgres.stop().await;
    world
        .eventually("the worker has noticed", async || {
            let (_, body) = worker.get("/health").await;
            body.contains("\"postgres\":{\"state\":\"down\"").then_some(())
        })
        .await;
    backlog(&world, "critical", FEW).await;
    let few = worker.resident();
    backlog(&world, "bulk", MANY).await;
    let many = worker.resident();
    println!("resident: {} KiB with {FEW} waiting, {} KiB with {MANY}", few >> 10, many >> 10);
    assert!(many < few + SLACK, "{few} bytes with {FEW} waiting, {many} with {MANY}");
    // The worker holds the messages of its open pull and pulls no more.
    for (durable, places) in places {
        assert!(unsettled(&world, durable, "JOBS").await <= places, "{durable}");
    }
    postgres.start_again().await.unwrap();
    let done = async || {
        let done = world.count("SELECT count(*) FROM job_runs WHERE job_id LIKE 'critical-%'").await;
        (done == i64::try_from(FEW).unwrap()).then_some(())
    };
    world.eventually("the critical ones are done", done).await;
}
