//! `maintenance.subscriptions`: which subscriptions are removed, and when none are.

use serde_json::json;

use crate::support::{Process, World, decode};

const CLEAN: &str = "work.maintenance.subscriptions";

async fn subscriptions(world: &World, user: &str, count: u32, days: f64) {
    world
        .sql(&format!(
            "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth, created_at) \
             SELECT '{user}-' || n, '{user}', 'https://s3cret.example.org/{user}/' || n, 'x', 'x', \
                    now() - interval '1 day' * {days} FROM generate_series(1, {count}) n"
        ))
        .await;
}

async fn of(world: &World, user: &str) -> i64 {
    world.count(&format!("SELECT count(*) FROM push_subscriptions WHERE user_id = '{user}'")).await
}

async fn error(world: &World, job_id: &str) -> String {
    assert_eq!(world.ended(job_id).await, ("dead".into(), Some("permanent".into())));
    let runs = world.store.runs_of(job_id).await.unwrap();
    runs.into_iter().next().unwrap().last_error.unwrap()
}

#[tokio::test]
async fn those_of_users_who_are_gone_are_removed_unless_it_looks_like_a_mistake() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[("LOG_LEVEL", "debug,sqlx=info")]);
    worker.ready().await;

    subscriptions(&world, "gone", 10, 1.1).await;
    subscriptions(&world, "new", 10, 0.9).await;
    world.publish_json(CLEAN, "few", &json!({})).await;
    assert_eq!(world.ended("few").await, ("done".into(), None));
    assert_eq!((of(&world, "gone").await, of(&world, "new").await), (0, 10), "a new user's row may not exist yet");
    assert_eq!(of(&world, "ana").await, 1);
    assert_eq!(
        world.store.runs_of("few").await.unwrap()[0].result.as_ref().unwrap()["removed"]["push_subscriptions"],
        10
    );

    // Above the share: 11 of 25, then 51 of 1,015 (5 % are 50).
    subscriptions(&world, "gone", 11, 2.0).await;
    world.publish_json(CLEAN, "share", &json!({})).await;
    let why = error(&world, "share").await;
    assert!(
        why.starts_with("nothing is removed: 11 of 25 subscriptions belong to no row of `users`, and at most 10"),
        "{why}"
    );
    assert!(why.contains("check that `users` is complete") && why.ends_with("\"mostRemoved\": 11"), "{why}");
    subscriptions(&world, "ben", 950, 2.0).await;
    subscriptions(&world, "lost", 40, 2.0).await;
    world.publish_json(CLEAN, "large-share", &json!({})).await;
    assert!(error(&world, "large-share").await.contains("51 of 1015 "));
    assert_eq!((of(&world, "gone").await, of(&world, "lost").await), (11, 40));
    world.sql("DELETE FROM push_subscriptions WHERE id = 'lost-1'").await;
    world.publish_json(CLEAN, "within", &json!({})).await;
    assert_eq!(world.ended("within").await.0, "done");
    assert_eq!((of(&world, "gone").await, of(&world, "lost").await, of(&world, "ben").await), (0, 0, 951));

    // An operator may allow a larger number.
    subscriptions(&world, "many", 3000, 2.0).await;
    world.publish_json(CLEAN, "too-few", &json!({ "mostRemoved": 2999 })).await;
    assert!(error(&world, "too-few").await.contains("at most 2999"));
    world.publish_json(CLEAN, "meant", &json!({ "mostRemoved": 3000 })).await;
    assert_eq!(world.ended("meant").await.0, "done");
    assert_eq!((of(&world, "many").await, of(&world, "ben").await), (0, 951));

    // A view without users.
    world.sql("ALTER TABLE users RENAME TO people").await;
    world.sql("CREATE VIEW users AS SELECT * FROM people WHERE false").await;
    world.publish_json(CLEAN, "nobody", &json!({ "mostRemoved": 1_000_000 })).await;
    let why = error(&world, "nobody").await;
    assert!(why.starts_with("nothing is removed: `users` has no row"), "{why}");
    assert_eq!(of(&world, "ben").await, 951);

    assert_eq!(world.dead_letters_once(4).await.len(), 4);
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    assert!(!worker.output().contains("s3cret"), "no endpoint is in the log");
    assert!(worker.says("removed 3000 push_subscriptions"), "{}", worker.output());
}

#[tokio::test]
async fn a_bound_that_cannot_be_is_refused() {
    for most in [-1, 1_000_001] {
        let refused = decode("maintenance.subscriptions", &json!({ "mostRemoved": most })).unwrap_err();
        assert!(refused.contains("`most_removed` must be 1 to 1000000, or 0 for a share of all"), "{refused}");
    }
    decode("maintenance.subscriptions", &json!({ "mostRemoved": 1 })).unwrap();
}
