//! Two versions of the program at once, as while an upgrade rolls out, or is taken back.

use crate::{
    cli::carebell,
    support::{Process, World},
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
