//! `docs/OPERATIONS.md`: two versions at once, as during an upgrade or rollback, and lost streams.

use crate::{
    cli::carebell,
    support::{FAMILY, Process, World},
};

#[tokio::test]
async fn an_older_program_runs_on_a_newer_schema_and_leaves_it_as_it_is() {
    let world = World::new().await;
    world
        .sql(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'of a newer program', true, '\\x00', 0)",
        )
        .await;
    let (well, said, error) = carebell(&world, &["migrate"], &[]).await;
    assert!(well, "{said}{error}");
    assert_eq!(world.count("SELECT max(version) FROM _sqlx_migrations").await, 9999);

    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("on-a-newer-schema").await;
    world.everyone_has_it_once("on-a-newer-schema").await;
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_schema_that_an_unreleased_build_made_is_refused_in_words() {
    let world = World::new().await;
    world.sql("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1").await;
    let (well, said, error) = carebell(&world, &["doctor"], &[]).await;
    assert!(!well && said.contains("migration 1 of the schema is not this program's"), "{said}{error}");
}

#[tokio::test]
async fn deliveries_whose_messages_were_lost_are_sent_after_the_statements_of_the_document() {
    let doc = include_str!("../../docs/OPERATIONS.md");
    let statements = doc.split("```sql").nth(1).unwrap().split("```").next().unwrap();
    let world = World::with_overrides("*.backoff=fixed 50ms,*.jitter=0%,*.ack_wait=6s").await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    world.remind("lost").await;
    world.everyone_has_it_once("lost").await;
    world.queues_are_empty().await;
    assert_eq!(worker.terminate().await.code(), Some(0));

    // The stream is lost: the ledger waits, but the messages are gone.
    world.context.delete_stream("DELIVERIES").await.unwrap();
    let (well, said, error) = carebell(&world, &["streams", "apply"], &[]).await;
    assert!(well, "{said}{error}");
    let states = ["pending", "sending", "held", "sent"];
    for (name, state) in FAMILY.iter().zip(states) {
        world.sql(&format!("UPDATE deliveries SET state = '{state}', claims = 1 WHERE user_id = '{name}'")).await;
    }
    for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        world.sql(statement).await;
    }
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let sent = "SELECT count(*) FROM deliveries WHERE state = 'sent'";
    world.eventually("all are sent", async || (world.count(sent).await == 4).then_some(())).await;
    assert_eq!(world.push.counts().accepted, 7, "the sent push is not repeated");
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 4);
    assert_eq!(worker.terminate().await.code(), Some(0));
}
