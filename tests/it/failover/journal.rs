//! What the journal gives back, and what does not keep it from that.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use carebell::{
    job::{Context, Failure, Invalid, Job, Outcome},
    kind::Kind,
    pipeline::Registry,
    plan::{DeadReason, Delivered, Receipt},
    store::{LedgerEntry, LedgerRecord, Verdict},
    wire,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, stream};
use sqlx::Row;
use tokio::time::Instant;

use super::{Pair, wait_for};
use crate::support::{Custom, Forwarder, Process, QUICK, World, connect_options, pool, utc_now};

const NOTHING_IS_MISSING: &str = "nothing of the journal is missing there";
const RESTORED: &str = "is restored from the journal";

/// All rows of jobs, as a standby would that has received none.
const LOSE_ALL: &str = "TRUNCATE contents, deliveries, delivery_attempts, job_children, job_runs, notifications, \
                        reminder_marks CASCADE";

/// As on a timeline that nobody has met.
const FORGET_TIMELINES: &str = "DELETE FROM scheduler_state WHERE part LIKE 'timeline%'";

async fn journal(world: &World) -> Stream {
    world.context.get_stream("JOURNAL").await.unwrap()
}

/// Its messages, in their order.
async fn pages(world: &World) -> Vec<Bytes> {
    let stream = journal(world).await;
    let state = &stream.cached_info().state;
    let mut pages = Vec::new();
    for sequence in state.first_sequence.max(1)..=state.last_sequence {
        pages.push(stream.get_raw_message(sequence).await.unwrap().payload);
    }
    pages
}

async fn says(world: &World, worker: &Process, text: &str) {
    world.eventually(text, async || worker.says(text).then_some(())).await;
}

async fn connection(url: &str) -> sqlx::PgConnection {
    use sqlx::ConnectOptions;
    connect_options(url).connect().await.unwrap()
}

/// A worker that only looks for what is missing.
async fn look_again(world: &World, text: &str) -> String {
    let mut worker = Process::worker(world, &[]);
    worker.ready().await;
    says(world, &worker, text).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    worker.output()
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_timeline_is_used_without_it() {
    let world = World::new().await;
    let role = world.role_with("worker").await;
    let as_role = [("DATABASE_URL", role.url.as_str())];
    let known = "SELECT count(*) FROM scheduler_state WHERE part = 'timeline 1'";
    world.sql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC").await;
    let mut worker = Process::worker(&world, &as_role);
    worker.ready().await;
    assert_eq!(world.count(known).await, 1, "the number is on record without the server's");
    assert_eq!(worker.terminate().await.code(), Some(0));

    world.sql("REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC").await;
    let mut worker = Process::worker(&world, &as_role);
    worker.ready().await;
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(worker.output().matches("does not tell its timeline").count(), 1, "{}", worker.output());
    assert_eq!(worker.terminate().await.code(), Some(0));
    role.drop(&world).await;
}

#[tokio::test]
async fn the_same_number_of_another_server_is_another_timeline() {
    let world = World::new().await;
    world.sql("INSERT INTO scheduler_state VALUES ('timeline 1', now()), ('timeline 42/1', now())").await;
    look_again(&world, NOTHING_IS_MISSING).await;
    let own = "SELECT count(*) FROM scheduler_state, pg_control_system() \
               WHERE part = 'timeline ' || system_identifier || '/1' AND journal_seq IS NOT NULL";
    assert_eq!(world.count(own).await, 1);
}

/// It waits for another worker's lock, and hears nothing any more.
#[tokio::test]
async fn a_primary_that_falls_silent_while_a_worker_catches_up_is_left() {
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut other = connection(&pair.primary.url("postgres")).await;
    let lock = "SELECT pg_advisory_lock(hashtextextended('carebell timeline', 0))";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let mut worker = Process::worker(&world, &[]);
    let tries = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' \
                 AND pid <> pg_backend_pid()";
    wait_for(&pool(&pair.primary.url("postgres")), tries).await;
    pair.service.hush();
    pair.fail_over().await;
    worker.ready().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// One that was frozen before its page was stored, when another had read the journal already.
#[tokio::test]
async fn a_worker_that_comes_to_a_timeline_on_record_reads_on_from_there() {
    let mut pair = Pair::asynchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    let mut frozen = Process::worker(&world, &[]);
    frozen.ready().await;
    let standby = pool(&pair.standby.url("postgres"));
    wait_for(&standby, "SELECT count(*) FROM push_subscriptions HAVING count(*) = 4").await;
    pair.replication.hush();
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    frozen.freeze();
    let late = pages(&world).await;
    journal(&world).await.purge().await.unwrap();
    pair.fail_over().await;
    pair.service.cut();

    let mut first = Process::worker(&world, &[]);
    first.ready().await;
    says(&world, &first, NOTHING_IS_MISSING).await;
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 0);
    for page in late {
        world.publish("journal.page", &[], page).await;
    }
    // However long ago that was.
    world.sql("UPDATE scheduler_state SET looked_at = now() - interval '1 hour' WHERE part LIKE 'timeline%'").await;
    frozen.thaw();
    says(&world, &frozen, RESTORED).await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(world.count("SELECT count(*) FROM reminder_marks").await, 1);
    for worker in [&mut first, &mut frozen] {
        assert_eq!(worker.terminate().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_worker_that_starts_soon_after_a_failover_reads_on_and_a_later_one_need_not() {
    let mut pair = Pair::synchronous(Duration::ZERO).await;
    let world = World::on(pair.url(), QUICK).await;
    pair.fail_over().await;
    pair.service.cut();
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    let late = pages(&world).await;
    world.sql(LOSE_ALL).await;
    look_again(&world, RESTORED).await;
    world.everyone_has_it_once("dose").await;
    assert!(!look_again(&world, "ready").await.contains(RESTORED));

    world.sql(LOSE_ALL).await;
    world.sql("UPDATE scheduler_state SET looked_at = now() - interval '1 hour' WHERE part LIKE 'timeline%'").await;
    for page in late {
        world.publish("journal.page", &[], page).await;
    }
    let output = look_again(&world, "ready").await;
    assert!(!output.contains(RESTORED) && !output.contains(NOTHING_IS_MISSING), "{output}");
}

#[tokio::test]
async fn without_nats_for_long_work_goes_on_and_the_rest_is_restored_when_it_is_back() {
    let mut pair = Pair::asynchronous(Duration::ZERO).await;
    let mut world = World::on(pair.url(), QUICK).await.at_pace(10);
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let standby = pool(&pair.standby.url("postgres"));
    wait_for(&standby, "SELECT count(*) FROM push_subscriptions HAVING count(*) = 4").await;
    pair.replication.hush();
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    world.nats.kill().await;
    pair.fail_over().await;
    pair.service.cut();
    says(&world, &worker, "is not restored yet, and work goes on").await;
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 0);
    world.nats.start_again().await.unwrap();
    says(&world, &worker, RESTORED).await;
    world.everyone_has_it_once("dose").await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

/// Another worker's page may come first.
#[tokio::test]
async fn outcomes_wait_for_the_commit_that_follows_them_in_the_journal() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    let pages = pages(&world).await;
    assert!(pages.len() > 1, "commit and outcomes have pages of their own");
    journal(&world).await.purge().await.unwrap();
    for page in pages.into_iter().rev() {
        world.publish("journal.page", &[], page).await;
        // Far enough from each other to be worked on apart.
        for _ in 0..300 {
            world.publish("journal.page", &[], "").await;
        }
    }
    world.sql(LOSE_ALL).await;
    world.sql(FORGET_TIMELINES).await;
    let output = look_again(&world, RESTORED).await;
    assert!(output.contains("\"outcomes\":4"), "{output}");
    world.everyone_has_it_once("dose").await;
}

/// Replaces `reminder.medication`.
struct Failing;

impl Job for Failing {
    const KIND: Kind = Kind::reminder("reminder.medication");

    type Wire = wire::MedicationReminder;

    fn parse(_: Self::Wire) -> Result<Self, Invalid> {
        Ok(Self)
    }

    fn default_expiry(&self, published: DateTime<Utc>) -> DateTime<Utc> {
        published + TimeDelta::hours(12)
    }

    async fn work(self, _: &Context) -> Result<Outcome, Failure> {
        Err(Failure::retry("no luck"))
    }
}

#[tokio::test]
async fn failed_attempts_are_restored_one_by_one_and_never_counted_twice() {
    let world = World::new().await;
    let pipeline = Custom::start(&world, Registry::default().with::<Failing>());
    let job_ids = ["one", "two"];
    for job_id in job_ids {
        world.remind(job_id).await;
        assert_eq!(world.ended(job_id).await.0, "dead");
    }
    world.queues_are_empty().await;
    pipeline.stop().await;
    // A job that goes on to fail: its last attempt is not the last that it has.
    world.sql("UPDATE job_runs SET state = 'open', reason = NULL WHERE job_id = 'two'").await;
    let records = async || {
        let rows = sqlx::query("SELECT job_id, attempts, recorded_delivery FROM job_runs ORDER BY job_id");
        let rows = rows.fetch_all(&world.db).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect::<Vec<(String, i32, i64)>>()
    };
    let before = records().await;
    assert!(before.iter().all(|(_, attempts, _)| *attempts > 1), "{before:?}");
    look_again(&world, NOTHING_IS_MISSING).await;
    assert_eq!(records().await, before, "after a failover that lost nothing");

    world.sql(LOSE_ALL).await;
    world.sql(FORGET_TIMELINES).await;
    let output = look_again(&world, RESTORED).await;
    let failures: i32 = before.iter().map(|(_, attempts, _)| attempts).sum();
    assert!(output.contains(&format!("\"failures\":{failures}")), "{failures} failures: {output}");
    assert_eq!(records().await, before);
    for job_id in job_ids {
        assert_eq!(world.ended(job_id).await.0, "dead");
    }
}

/// Clocks of workers differ: a claim may be younger than the outcome that followed it.
#[tokio::test]
async fn the_claim_decides_what_is_lost_of_a_delivery_and_not_the_clock() {
    let world = World::new().await;
    let sent = || {
        LedgerRecord::Receipt(Receipt {
            state: Delivered::Sent,
            reason: None,
            provider: "push.example.org".into(),
            provider_id: None,
            answer: "201".into(),
            address_gone: false,
            tried: None,
            overrode_quiet_hours: false,
        })
    };
    let held = || LedgerRecord::Held(utc_now(), "quiet_hours");
    let attempt = || LedgerRecord::Verdict(Verdict::Attempt { error: "503".into(), until: None });
    let dead = || LedgerRecord::Verdict(Verdict::Dead { error: "400".into(), reason: DeadReason::Permanent });
    // State, claims, sequence, delivery count, the last that is on record; an outcome with its sequence; whether it is lost.
    let cases = [
        ("pending, 0, NULL, NULL, 0", sent(), 7, true),
        ("sending, 2, 9, 1, 0", sent(), 7, true),
        ("dead, 1, 7, 1, 1", sent(), 7, true),
        ("sent, 1, 7, 1, 1", sent(), 7, false),
        ("delivered, 1, 7, 1, 1", sent(), 7, false),
        ("failed, 1, 7, 1, 1", sent(), 7, false),
        ("pending, 0, NULL, NULL, 0", held(), 7, true),
        ("held, 1, 7, 1, 1", held(), 7, false),
        ("sending, 1, 7, 1, 0", attempt(), 7, true),
        ("sending, 1, 0, 1, 0", attempt(), 0, true),
        ("sending, 1, 0, 1, 1", attempt(), 0, false),
        ("held, 1, 0, 1, 1", attempt(), 7, true),
        ("sending, 2, 9, 1, 0", attempt(), 7, false),
        ("pending, 3, NULL, NULL, 0", dead(), 7, false),
        ("expired, 1, 7, 1, 1", attempt(), 9, false),
    ];
    let entry = |number: usize, record: &LedgerRecord, sequence: i64| LedgerEntry {
        id: format!("delivery-{number:02}"),
        sequence,
        delivered: 1,
        worker: Arc::from("worker"),
        record: record.clone(),
        now: utc_now(),
    };
    let mut entries = Vec::new();
    let mut expected = Vec::new();
    for (number, (row, record, sequence, is_lost)) in cases.iter().enumerate() {
        let (state, claim) = row.split_once(", ").unwrap();
        world
            .sql(&format!(
                "INSERT INTO deliveries (id, job_id, run_id, user_id, channel, address, lane, state, claims, claim_seq, \
                     claim_delivery, recorded_delivery, claimed_by, not_after, created_at, updated_at) \
                 SELECT 'delivery-{number:02}', 'job-{number}', 'job-{number}', 'ana', 'web_push', 'ana', 'normal', \
                     '{state}', {claim}, 'worker', now(), now(), now() + interval '1 hour'"
            ))
            .await;
        entries.push(entry(number, record, *sequence));
        if *is_lost {
            expected.push(format!("delivery-{number:02}"));
        }
    }
    entries.push(entry(99, &sent(), 7));
    let ids = |entries: &[LedgerEntry]| entries.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>();
    let found = world.store.lost_outcomes(entries).await.unwrap();
    assert_eq!((ids(&found.lost), ids(&found.early)), (expected, vec!["delivery-99".to_owned()]));

    world.store.restore_claims(&found.lost).await.unwrap();
    let claim = "SELECT claim_seq FROM deliveries WHERE id = 'delivery-";
    assert_eq!(world.count(&format!("{claim}01'")).await, 9, "a later claim is left alone");
    assert_eq!(world.count(&format!("{claim}06'")).await, 7);
    let are_written = world.store.record_deliveries(&found.lost).await.unwrap();
    assert!(are_written.into_iter().all(|is| is));
    let left = world.store.lost_outcomes(found.lost).await.unwrap();
    assert_eq!(ids(&left.lost), Vec::<String>::new(), "each is lost once");
}

/// 25 ms away, in each direction.
#[tokio::test]
async fn a_whole_journal_far_away_is_read_in_seconds() {
    let world = World::new().await;
    let far = Forwarder::start(world.nats.port(), Duration::from_millis(25)).await;
    let publishes = stream::iter(0..20_000).map(|_| world.publish("journal.page", &[], Bytes::new()));
    publishes.buffer_unordered(100).for_each(async |_| {}).await;
    let mut worker = Process::worker(&world, &[("NATS_URL", &format!("nats://127.0.0.1:{}", far.port()))]);
    says(&world, &worker, "health is served").await;
    let since = Instant::now();
    worker.ready().await;
    eprintln!("read within {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(20), "one by one, 32 at a time, it takes half a minute");
    says(&world, &worker, NOTHING_IS_MISSING).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}
