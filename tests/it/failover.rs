//! A Postgres that fails over to a standby: what was acknowledged is kept, and work goes on at the new primary.

use std::time::Duration;

use carebell::dev::{
    guard::{self, PrivateDir},
    postgres::Postgres,
};
use chrono::TimeDelta;
use sqlx::PgPool;

use crate::support::{Forwarder, LIMIT, Process, QUICK, World, own_postgres, pool, reminder, utc_now};

/// A primary, a standby and the address that leads to whichever is in charge.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    /// Workers and tests connect here.
    service: Forwarder,
    /// The standby streams through this.
    _replication: Forwarder,
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
        let pair =
            Self { primary, standby, service, _replication: replication, _directories: [primary_directory, directory] };
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
    let until = tokio::time::Instant::now() + LIMIT;
    while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(count.to_owned())).fetch_one(db).await.unwrap() == 0 {
        assert!(tokio::time::Instant::now() < until, "not within {LIMIT:?}: {count}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reminders of an hour ago would be expired.
async fn publish(world: &World, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let body = reminder("metformin", utc_now() - TimeDelta::minutes(number));
        world.publish_json("jobs.reminder.medication", &format!("dose-{number}"), &body).await;
    }
}

/// Each reminder has its rows once, and each of the family its push once.
async fn all_have_it_once(world: &World, reminders: i64) {
    for number in 0..reminders {
        let ledger = world.ledger(&format!("dose-{number}")).await;
        assert_eq!((ledger.len(), ledger.iter().all(|line| line.state == "sent")), (4, true), "{ledger:?}");
    }
    world.queues_are_empty().await;
    assert_eq!(world.count("SELECT count(*) FROM deliveries").await, 4 * reminders);
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 4 * reminders);
    assert_eq!(world.count("SELECT count(*) FROM reminder_marks").await, reminders);
    assert_eq!(world.count("SELECT sum(attempts)::bigint FROM job_runs").await, 0, "a failover burns no attempt");
    let counts = world.push.counts();
    assert_eq!((i64::try_from(counts.accepted).unwrap(), counts.replaced), (4 * reminders, 0), "{counts:?}");
    assert!(world.dead_letters().await.is_empty());
}

#[tokio::test]
async fn a_synchronous_standby_takes_over_in_the_middle_of_work() {
    let mut pair = Pair::synchronous(Duration::from_millis(2)).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    publish(&world, 0..40).await;
    world.push.wait_until(LIMIT, |counts| counts.accepted >= 20).await.unwrap();
    pair.fail_over().await;
    pair.service.cut();
    publish(&world, 40..50).await;
    all_have_it_once(&world, 50).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Its machine or its network is gone: connections stay open, and no packet says that they are dead.
#[tokio::test]
async fn a_silent_primary_is_noticed_and_its_successor_is_used() {
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let own = Forwarder::start(pair.primary.port(), Duration::ZERO).await;
    let world = World::on(format!("postgres://postgres@127.0.0.1:{}/postgres", own.port()), QUICK).await;
    let mut worker = Process::worker(&world, &[("DATABASE_URL", &pair.url())]);
    worker.ready().await;
    publish(&world, 0..30).await;
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
    publish(&world, 30..40).await;
    all_have_it_once(&world, 40).await;
    world.eventually("all is well again", async || (worker.get("/health").await.0 == 200).then_some(())).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn without_its_synchronous_standby_work_waits_and_goes_on_later() {
    const HELD: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;

    pair.standby.kill().await;
    publish(&world, 0..5).await;
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
    publish(&world, 5..10).await;
    wait_for(&world.db, HELD).await;
    assert_eq!(world.push.counts().accepted, 20);
    pair.primary.configure("synchronous_standby_names", "").await.unwrap();
    all_have_it_once(&world, 10).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}
