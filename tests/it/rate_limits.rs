//! Rate limits: a queue starts as many jobs as declared, and slows no other queue.

use std::time::Duration;

use async_nats::jetstream::consumer::{Info, PullConsumer};
use carebell::store::{BookAsk, Booked};
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    cli::carebell,
    lanes::{backlog, waiting},
    support::{Process, QUICK, Worker, World, own_postgres},
};

async fn limited(rate: &str) -> World {
    World::with_overrides(&format!("{QUICK},notification_normal.rate={rate}")).await
}

/// Counts later writes to a limit's row.
async fn count_bookings(world: &World) {
    world.sql("CREATE TABLE bookings (at timestamptz NOT NULL DEFAULT clock_timestamp())").await;
    world
        .sql(
            "CREATE FUNCTION booked() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO bookings DEFAULT VALUES; RETURN NULL; END'",
        )
        .await;
    world
        .sql("CREATE TRIGGER booked AFTER INSERT OR UPDATE ON rate_limits FOR EACH ROW EXECUTE FUNCTION booked()")
        .await;
}

async fn bookings(world: &World) -> i64 {
    world.count("SELECT count(*) FROM bookings").await
}

async fn ended(world: &World) -> i64 {
    world.count("SELECT count(*) FROM job_runs WHERE job_id LIKE 'normal-%' AND state = 'done'").await
}

async fn until_ended(world: &World, count: i64) {
    let enough = async || (ended(world).await >= count).then_some(());
    world.eventually(&format!("{count} have ended"), enough).await;
}

/// Fewest and most runs in ten seconds. A busy machine may fall below the limit, so tests in paused time check that.
async fn windows(world: &World) -> (usize, usize) {
    let runs: Vec<DateTime<Utc>> =
        sqlx::query_scalar("SELECT created_at FROM job_runs WHERE job_id LIKE 'normal-%' ORDER BY created_at")
            .fetch_all(&world.db)
            .await
            .unwrap();
    let last = *runs.last().unwrap();
    let span = TimeDelta::seconds(10);
    let until = |from: DateTime<Utc>| runs.partition_point(|at| *at < from + span);
    let counts = (0..).zip(&runs).map(|(first, at)| (*at, until(*at) - first));
    let whole: Vec<usize> = counts.filter(|(at, _)| *at + span <= last).map(|(_, count)| count).collect();
    println!(
        "{} runs in {}, windows of {:?} to {:?}",
        runs.len(),
        last - runs[0],
        whole.iter().min(),
        whole.iter().max()
    );
    (*whole.iter().min().unwrap(), *whole.iter().max().unwrap())
}

async fn consumer(world: &World) -> Info {
    consumer_in(world, "JOBS").await
}

async fn consumer_in(world: &World, stream: &str) -> Info {
    let found: PullConsumer = world.context.get_consumer_from_stream("notification_normal", stream).await.unwrap();
    found.cached_info().clone()
}

async fn idle(world: &World, workers: usize) {
    let pulls = async || {
        let waiting = [consumer_in(world, "JOBS").await.num_waiting, consumer_in(world, "WORK").await.num_waiting];
        (waiting == [workers; 2]).then_some(())
    };
    world.eventually(&format!("{workers} pulls wait"), pulls).await;
}

async fn nothing_failed(world: &World) {
    assert_eq!(world.count("SELECT coalesce(sum(attempts), 0)::bigint FROM job_runs").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM job_runs WHERE state NOT IN ('done', 'open')").await, 0);
    assert!(world.dead_letters().await.is_empty());
}

#[tokio::test]
async fn two_and_five_workers_that_come_and_go_hold_it_and_ask_for_five_at_once() {
    let world = limited("50/s").await;
    count_bookings(&world).await;
    backlog(&world, "normal", 1200).await;
    let start = || Process::worker(&world, &[]);
    let mut workers = vec![start(), start()];
    until_ended(&world, 120).await;
    workers.extend([start(), start(), start()]);
    until_ended(&world, 300).await;
    assert_eq!(workers.remove(0).terminate().await.code(), Some(0));
    workers.remove(0).kill().await;
    until_ended(&world, 400).await;
    workers.extend([start(), start()]);
    until_ended(&world, 550).await;
    workers.remove(0).kill().await;
    until_ended(&world, 650).await;
    workers.push(start());
    until_ended(&world, 750).await;

    let (fewest, most) = windows(&world).await;
    assert!(fewest >= 200 && most <= 550, "{fewest} to {most} in ten seconds");
    let (asked, runs) = (bookings(&world).await, ended(&world).await);
    println!("{asked} bookings for {runs} runs");
    assert!(asked * 5 < runs * 2, "{asked} statements for {runs} runs");
    for mut worker in workers {
        assert_eq!(worker.terminate().await.code(), Some(0));
        assert!(!worker.says("pulling failed"), "{}", worker.output());
    }
    nothing_failed(&world).await;
}

#[tokio::test]
async fn an_idle_queue_books_nothing_and_five_idle_workers_do_not_burst() {
    let world = limited("50/s").await;
    count_bookings(&world).await;
    let workers: Vec<Worker> = (0..5).map(|_| Worker::start(&world)).collect();
    idle(&world, 5).await;
    let before = bookings(&world).await;
    assert!(before <= 20, "each has asked once for each stream, and given back: {before}");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(bookings(&world).await, before);

    backlog(&world, "normal", 1000).await;
    until_ended(&world, 600).await;
    let (fewest, most) = windows(&world).await;
    assert!(fewest >= 200 && most <= 550, "{fewest} to {most} in ten seconds");
    for worker in workers {
        worker.stop().await;
    }
    nothing_failed(&world).await;
}

#[tokio::test]
async fn a_low_rate_is_held_by_five_workers() {
    let world = limited("100/min").await;
    backlog(&world, "normal", 60).await;
    let workers: Vec<Worker> = (0..5).map(|_| Worker::start(&world)).collect();
    until_ended(&world, 24).await;
    let (fewest, most) = windows(&world).await;
    assert!(fewest >= 12 && most <= 20, "{fewest} to {most} in ten seconds");
    for worker in workers {
        worker.stop().await;
    }
    nothing_failed(&world).await;
}

#[tokio::test]
async fn a_limit_slows_no_other_queue() {
    let world = limited("20/min").await;
    backlog(&world, "normal", 500).await;
    let worker = Worker::start(&world);
    until_ended(&world, 1).await;
    let body = json!({ "recipients": [{ "userId": "ben" }], "title": "Now", "channels": ["CHANNEL_IN_APP"] });
    let mut took = Vec::new();
    for number in 0..60 {
        let since = Instant::now();
        let lane = if number % 2 == 0 { "critical" } else { "bulk" };
        let id = format!("now-{number}");
        world.publish_json(&format!("jobs.notification.{lane}"), &id, &body).await;
        world.ended(&id).await;
        took.push(since.elapsed());
    }
    took.sort();
    println!("beside a limit: median {:?}, slowest {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(took[took.len() / 2] < Duration::from_secs(1) && took[took.len() - 1] < Duration::from_secs(10));
    assert!(
        waiting(&world, "notification_normal", "JOBS").await > 480,
        "the limited queue had its backlog all the time"
    );
    worker.stop().await;
}

/// Messages wait longer for their slots than `ack_wait`.
#[tokio::test]
async fn a_message_that_waits_for_its_slot_stays_its_worker_s() {
    // The last of three waits for six seconds.
    let world = World::with_overrides(&format!("{QUICK},*.ack_wait=4s,notification_normal.rate=20/min")).await;
    let mut workers = [Process::worker(&world, &[]), Process::worker(&world, &[])];
    for worker in &mut workers {
        worker.ready().await;
    }
    idle(&world, 2).await;
    backlog(&world, "normal", 3).await;
    until_ended(&world, 3).await;
    // A line follows its commit.
    let lines = async || {
        let output = workers.iter().map(Process::output).collect::<String>();
        let done = output.lines().filter(|line| line.contains("\"outcome\":\"done\"")).map(str::to_owned);
        Some(done.collect::<Vec<_>>()).filter(|lines| lines.len() == 3)
    };
    let lines = world.eventually("each has its line", lines).await;
    assert!(lines.iter().all(|line| line.contains("\"delivery_count\":1,")), "{lines:?}");

    // Both workers stop while one holds a message whose slot is far away.
    idle(&world, 2).await;
    world.sql("UPDATE rate_limits SET free_at = now() + interval '30 s'").await;
    let next = json!({ "recipients": [{ "userId": "ben" }], "title": "x" });
    world.publish_json("jobs.notification.normal", "normal-next", &next).await;
    let in_hand = async || (consumer(&world).await.num_ack_pending == 1).then_some(());
    world.eventually("somebody has it", in_hand).await;
    let since = Instant::now();
    for worker in &mut workers {
        assert_eq!(worker.terminate().await.code(), Some(0));
    }
    assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    world.sql("UPDATE rate_limits SET free_at = now()").await;
    let third = Worker::start(&world);
    until_ended(&world, 4).await;
    third.stop().await;
    nothing_failed(&world).await;
}

#[tokio::test]
async fn a_database_that_is_away_is_waited_for_and_forgets_no_job() {
    let (mut postgres, _directory) = own_postgres().await;
    let world = World::on(postgres.url("postgres"), &format!("{QUICK},notification_normal.rate=20/s")).await;
    backlog(&world, "normal", 120).await;
    let mut worker = Process::worker(&world, &[]);
    until_ended(&world, 30).await;
    postgres.stop().await;
    let (status, _) = worker.get("/livez").await;
    assert_eq!(status, 200);
    postgres.start_again().await.unwrap();
    until_ended(&world, 60).await;
    // The crash empties the table.
    postgres.kill().await;
    postgres.start_again().await.unwrap();
    until_ended(&world, 120).await;
    world.queues_are_empty().await;
    nothing_failed(&world).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_malformed_rate_is_refused_and_a_right_one_shown() {
    let world = World::with_overrides("notification_normal.rate=50/s").await;
    for rate in ["fast", "50", "0/s", "50/day"] {
        let overrides = format!("notification_normal.rate={rate}");
        let more = [("QUEUE_OVERRIDES", overrides.as_str())];
        for command in [&["run"][..], &["streams", "apply"], &["queues", "list"]] {
            let (well, _, error) = carebell(&world, command, &more).await;
            assert!(!well && error.contains("carebell.rate") && error.contains("50/s, 100/min or 1000/h"), "{error}");
        }
    }
    let (_, said, _) = carebell(&world, &["queues", "list", "--json"], &[]).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let rate = |name: &str| {
        let queues = said["queues"].as_array().unwrap();
        queues.iter().find(|queue| queue["queue"] == name).unwrap()["rate"].clone()
    };
    assert_eq!((rate("notification_normal"), rate("notification_bulk")), (json!("50/s"), json!(null)));
    let (_, table, _) = carebell(&world, &["queues", "list"], &[]).await;
    let line = table.lines().find(|line| line.starts_with("notification_normal")).unwrap();
    assert!(line.ends_with(" 50/s"), "{table}");
}

const SECOND: Duration = Duration::from_secs(1);

async fn book(world: &World, seconds: u32) -> Booked {
    book_of(world, "queue", seconds).await
}

async fn book_of(world: &World, queue: &str, seconds: u32) -> Booked {
    let ask = BookAsk { time: SECOND * seconds, horizon: SECOND * 100, saved: SECOND * 10, furthest: SECOND * 200 };
    world.store.book_slots(queue, &ask).await.unwrap()
}

#[tokio::test]
async fn the_row_books_what_it_has_and_says_when_to_come_again() {
    let world = World::new().await;
    // `ahead` counts from each statement, bookings from the row.
    let seconds = TimeDelta::seconds;
    let first = book(&world, 20).await;
    assert_eq!((first.granted, first.ahead), (true, seconds(20)), "the first slot is now");
    let second = book(&world, 90).await;
    assert!(second.granted, "a booking may end beyond the horizon");
    assert_eq!(second.free_at - first.free_at, seconds(90));
    let third = book(&world, 1).await;
    assert_eq!((third.granted, third.free_at), (false, second.free_at));
    assert!(third.ahead <= second.ahead && second.ahead <= seconds(110), "{third:?}, {second:?}");

    // Only the latest booking can be given back.
    world.store.give_slots_back("queue", first.free_at, SECOND * 5).await.unwrap();
    assert_eq!(book(&world, 1).await.free_at, second.free_at);
    world.store.give_slots_back("queue", second.free_at, SECOND * 40).await.unwrap();
    assert_eq!(book(&world, 1).await.free_at, second.free_at - seconds(40) + seconds(1));

    let set =
        async |ahead: &str| world.sql(&format!("UPDATE rate_limits SET free_at = now() + interval '{ahead}'")).await;
    set("-1 hour").await;
    assert_eq!(book(&world, 30).await.ahead, seconds(20), "at most ten seconds are made up for");
    set("5 hours").await;
    let clamped = book(&world, 1).await;
    assert_eq!((clamped.granted, clamped.ahead), (false, seconds(200)), "as if another clock had written it");

    // Concurrent bookings have separate slots.
    set("0").await;
    let all = join_all((0..40).map(|_| book(&world, 2))).await;
    let mut ends: Vec<_> = all.iter().filter(|booked| booked.granted).map(|booked| booked.free_at).collect();
    ends.sort();
    assert_eq!(ends.len(), 40);
    assert!(ends.windows(2).all(|two| two[1] - two[0] == seconds(2)), "{ends:?}");
    assert_eq!(book_of(&world, "another", 3).await.ahead, seconds(3), "each queue has a row of its own");
}
