//! A Postgres that fails over to a standby: what was acknowledged is kept, and work goes on at the new primary.

mod journal;

use std::time::Duration;

use carebell::dev::{
    guard::{self, PrivateDir},
    postgres::Postgres,
    push_service::Behaviour,
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

use crate::support::{Forwarder, LIMIT, Process, QUICK, World, own_postgres, pool, reminder, utc_now};

/// A primary, a standby and the address that leads to whichever is in charge.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    /// Workers and tests connect here.
    service: Forwarder,
    /// The standby streams through this.
    replication: Forwarder,
    _directories: [PrivateDir; 2],
}

impl Pair {
    /// Each commit waits for the standby, which is this far away.
    async fn synchronous(delay: Duration) -> Self {
        let pair = Self::asynchronous(delay).await;
        pair.primary.configure("synchronous_standby_names", "standby").await.unwrap();
        pair.has_a_standby("sync_state = 'sync'").await;
        pair
    }

    async fn asynchronous(delay: Duration) -> Self {
        let (primary, primary_directory) = own_postgres().await;
        let replication = Forwarder::start(primary.port(), delay).await;
        let directory = guard::private_dir().unwrap();
        let standby = primary.standby(directory.path(), "standby", replication.port()).await.unwrap();
        let service = Forwarder::start(primary.port(), Duration::ZERO).await;
        let pair = Self { primary, standby, service, replication, _directories: [primary_directory, directory] };
        pair.has_a_standby("state = 'streaming'").await;
        pair
    }

    async fn has_a_standby(&self, which: &str) {
        let db = pool(&self.primary.url("postgres"));
        wait_for(&db, &format!("SELECT count(*) FROM pg_stat_replication WHERE {which}")).await;
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.service.port())
    }

    /// The old primary ends first: it takes no more writes once the new one does.
    async fn fail_over(&mut self) {
        self.primary.kill().await;
        self.standby.promote().await.unwrap();
        self.service.point_at(self.standby.port());
    }
}

/// Until the count is above zero.
async fn wait_for(db: &PgPool, count: &str) {
    let until = Instant::now() + LIMIT;
    while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(count.to_owned())).fetch_one(db).await.unwrap() == 0 {
        assert!(Instant::now() < until, "not within {LIMIT:?}: {count}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Reminders of the minutes before `now`. Those of an hour ago would be expired.
async fn publish(world: &World, name: &str, now: DateTime<Utc>, minutes: std::ops::Range<i64>) {
    for minute in minutes {
        let body = reminder("metformin", now - TimeDelta::minutes(minute));
        world.publish_json("jobs.reminder.medication", &format!("{name}-{minute}"), &body).await;
    }
}

/// Each reminder has its rows once, and each of the family its push once.
async fn all_have_it_once(world: &World, reminders: i64) {
    for number in 0..reminders {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert_eq!((ledger.len(), ledger.iter().all(|line| line.state == "sent")), (4, true), "{ledger:?}");
    }
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM deliveries WHERE job_id LIKE 'dose-%'").await, 4 * reminders);
    assert_eq!(world.count("SELECT count(*) FROM notifications WHERE job_id LIKE 'dose-%'").await, 4 * reminders);
    assert_eq!(world.count("SELECT count(*) FROM reminder_marks").await, reminders);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0, "a failover burns no attempt");
    let counts = world.push.counts();
    assert_eq!((i64::try_from(counts.accepted).unwrap(), counts.replaced), (4 * reminders, 0), "{counts:?}");
    assert!(world.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_synchronous_standby_takes_over_in_the_middle_of_work() {
    let now = utc_now();
    let mut pair = Pair::synchronous(Duration::from_millis(2)).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    publish(&world, "dose", now, 0..40).await;
    world.push.wait_until(LIMIT, |counts| counts.accepted >= 20).await.unwrap();
    pair.fail_over().await;
    pair.service.cut();
    publish(&world, "dose", now, 40..50).await;
    all_have_it_once(&world, 50).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Its machine or its network is gone: connections stay open, and no packet says that they are dead.
#[tokio::test]
async fn a_silent_primary_is_noticed_and_its_successor_is_used() {
    let now = utc_now();
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let own = Forwarder::start(pair.primary.port(), Duration::ZERO).await;
    let world = World::on(format!("postgres://postgres@127.0.0.1:{}/postgres", own.port()), QUICK).await;
    let mut worker = Process::worker(&world, &[("DATABASE_URL", &pair.url())]);
    worker.ready().await;
    publish(&world, "dose", now, 0..30).await;
    world.push.wait_until(LIMIT, |counts| counts.accepted >= 20).await.unwrap();

    pair.service.hush();
    world
        .eventually("health shows that Postgres is silent", async || {
            let (status, body) = worker.get("/health").await;
            (status == 503 && body.contains("\"postgres\":{\"state\":\"down\"")).then_some(())
        })
        .await;
    pair.fail_over().await;
    own.point_at(pair.standby.port());
    own.cut();
    publish(&world, "dose", now, 30..40).await;
    all_have_it_once(&world, 40).await;
    world.eventually("all is well again", async || (worker.get("/health").await.0 == 200).then_some(())).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn without_its_synchronous_standby_work_waits_and_goes_on_later() {
    const HELD: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let now = utc_now();
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;

    pair.standby.kill().await;
    publish(&world, "dose", now, 0..5).await;
    wait_for(&world.db, HELD).await;
    assert_eq!(world.push.counts().accepted, 0, "nothing is sent before its commit is safe");
    world
        .eventually("health shows that commits wait", async || {
            let (status, body) = worker.get("/health").await;
            (status == 503 && body.contains("reads are answered, and a commit is not")).then_some(())
        })
        .await;
    pair.standby.start_again().await.unwrap();
    all_have_it_once(&world, 5).await;

    pair.standby.kill().await;
    publish(&world, "dose", now, 5..10).await;
    wait_for(&world.db, HELD).await;
    assert_eq!(world.push.counts().accepted, 20);
    pair.primary.configure("synchronous_standby_names", "").await.unwrap();
    all_have_it_once(&world, 10).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_cannot_put_the_timeline_on_record_says_so_and_starts_later() {
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    pair.standby.kill().await;
    let mut worker = Process::worker(&world, &[]);
    world
        .eventually("health shows that commits wait", async || {
            let (status, body) = worker.get("/health").await;
            (status == 503 && body.contains("reads are answered, and a commit is not")).then_some(())
        })
        .await;
    assert_eq!(worker.get("/ready").await.0, 503);
    pair.standby.start_again().await.unwrap();
    worker.ready().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// What the journal holds of it is written again, before anything else is done.
#[tokio::test]
async fn what_an_asynchronous_standby_lacks_is_restored() {
    let now = utc_now();
    let mut pair = Pair::asynchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    let mut other = Process::worker(&world, &[]);
    for worker in [&mut worker, &mut other] {
        worker.ready().await;
    }
    publish(&world, "dose", now, 0..5).await;
    all_have_it_once(&world, 5).await;
    let standby = pool(&pair.standby.url("postgres"));
    wait_for(&standby, "SELECT count(*) FROM deliveries WHERE state = 'sent' HAVING count(*) = 20").await;

    world.user("eve").await;
    let later = (now + TimeDelta::hours(1)).to_rfc3339();
    let delayed = [("Carebell-Job-Id", "later"), ("Carebell-At", &later), ("Content-Type", "application/json")];
    let news = json!({ "recipients": [{ "userId": "eve" }], "title": "News" });
    world.publish("jobs.later.notification.normal", &delayed, news.to_string()).await;
    wait_for(&standby, "SELECT count(*) FROM delayed_jobs WHERE state = 'waiting'").await;
    // One that is cancelled before it is parked stays there until it is due, to no effect.
    world
        .eventually("it is parked", async || {
            let hold = world.context.get_stream("HOLD").await.ok()?;
            (hold.cached_info().state.messages == 1).then_some(())
        })
        .await;

    // From here on, the standby hears nothing. Not all of the journal can be read.
    pair.replication.hush();
    world.publish("journal.page", &[], "no page").await;
    world.publish("journal.part.x.0.2", &[], "half a page").await;
    world.publish("jobs.cancel", &[("Carebell-Job-Id", "later")], "").await;
    publish(&world, "dose", now, 5..50).await;
    all_have_it_once(&world, 50).await;
    // What is not sent is an outcome too, and a reason why nothing is sent next time.
    world.push.behave("eve", Behaviour::status(410));
    world.publish_json("jobs.notification.normal", "gone", &news).await;
    assert_eq!(world.ledger("gone").await[0].state, "failed");
    let cancelled = "SELECT count(*) FROM delayed_jobs WHERE state = 'cancelled'";
    wait_for(&world.db, cancelled).await;
    world.queues_are_empty().await;
    let there = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM job_runs").fetch_one(&standby).await.unwrap();
    assert_eq!(there, 10, "those of five reminders");
    // One push is under way.
    world.push.behave("ben", Behaviour::Slow(Duration::from_secs(2)));
    publish(&world, "dose", now, 50..51).await;
    world.push.wait_until(LIMIT, |counts| counts.accepted >= 204).await.unwrap();
    pair.fail_over().await;
    pair.service.cut();
    let (runs, outcomes, said) = restored(&world, [&worker, &other]).await;
    assert!(runs == 47 && (181..=184).contains(&outcomes), "{runs} runs, {outcomes} outcomes: {said}");
    assert!(said.contains("a message of the journal cannot be read, and is passed over"), "{said}");
    all_have_it_once(&world, 51).await;
    assert_eq!(world.ledger("gone").await[0].reason.as_deref(), Some("subscription_gone"));
    assert_eq!(world.count("SELECT count(*) FROM push_subscriptions WHERE user_id = 'eve'").await, 0);
    assert_eq!(world.count(cancelled).await, 1);
    world.all_is_published().await;

    // From an application that lost its records too.
    publish(&world, "again", now, 0..50).await;
    for minute in 0..50 {
        let (state, reason) = world.ended(&format!("again-{minute}")).await;
        assert_eq!((state.as_str(), reason.as_deref()), ("skipped", Some("already_sent")));
    }
    world.queues_are_empty().await;
    assert_eq!((world.push.counts().accepted, world.count("SELECT count(*) FROM notifications").await), (204, 205));

    let times = [&worker, &other].map(|worker| worker.output().matches("restored from the journal").count());
    assert_eq!(times.iter().sum::<usize>(), 1, "the other finds the timeline on record");

    // Once more, as by a worker that ended before it had put the timeline on record.
    world.sql("DELETE FROM scheduler_state WHERE part LIKE 'timeline%'").await;
    let mut another = Process::worker(&world, &[]);
    another.ready().await;
    world
        .eventually("nothing is missing", async || another.says("nothing of the journal is missing").then_some(()))
        .await;
    assert_eq!(another.terminate().await.code(), Some(0));
    for worker in [&mut worker, &mut other] {
        assert_eq!(worker.terminate().await.code(), Some(0));
    }
}

/// Runs and outcomes that one of the workers says it has restored, and all that it says.
async fn restored(world: &World, workers: [&Process; 2]) -> (u64, u64, String) {
    const RESTORED: &str = "restored from the journal";
    let output = world
        .eventually("one of them restores", async || {
            workers.iter().map(|worker| worker.output()).find(|output| output.contains(RESTORED))
        })
        .await;
    let line = output.lines().find(|line| line.contains(RESTORED)).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    (line["runs"].as_u64().unwrap(), line["outcomes"].as_u64().unwrap(), output)
}

/// It may be missing, as before an upgrade has applied the streams.
#[tokio::test]
async fn without_a_journal_work_goes_on_and_health_says_so() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("with").await;
    world.everyone_has_it_once("with").await;
    let journal = world.context.get_stream("JOURNAL").await.unwrap().cached_info().config.clone();
    world.context.delete_stream("JOURNAL").await.unwrap();
    let since = Instant::now();
    world
        .publish_json(
            "jobs.notification.normal",
            "without",
            &json!({ "recipients": [{ "userId": "ana" }], "title": "x" }),
        )
        .await;
    assert_eq!(world.ledger("without").await[0].state, "sent");
    world.queues_are_empty().await;
    assert!(since.elapsed() < Duration::from_secs(10), "no job waits for a journal: {:?}", since.elapsed());
    let is = |state: &'static str| {
        let expected = format!("\"journal\":{{\"state\":\"{state}\"");
        move |body: &str| body.contains(&expected).then_some(())
    };
    let (down, up) = (is("down"), is("up"));
    world.eventually("health says that it is missing", async || down(&worker.get("/health").await.1)).await;
    world.context.create_stream(journal).await.unwrap();
    world.eventually("health says that it is back", async || up(&worker.get("/health").await.1)).await;
    let journal = world.context.get_stream("JOURNAL").await.unwrap();
    let mut is_kept = false;
    for sequence in 1..=journal.cached_info().state.last_sequence {
        let page = journal.get_raw_message(sequence).await.unwrap().payload;
        is_kept |= page.windows(7).any(|bytes| bytes == b"without");
    }
    assert!(is_kept, "what could not be written is there now");
    assert_eq!(worker.terminate().await.code(), Some(0));
}
