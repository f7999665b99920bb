//! The files of `migrations/`.

use std::sync::LazyLock;

use sqlx::{
    SqlStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// An older worker runs on a newer schema, and its `migrate` leaves that alone: pods of a rollout or rollback start in
/// any order.
pub(super) static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let migration = |&(number, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(number, name.into(), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    let mut migrations = Migrator::with_migrations(EMBEDDED.iter().map(migration).collect());
    migrations.set_ignore_missing(true);
    migrations
});

/// Number, name and text of each file in `migrations/`. Written by `build.rs`.
const EMBEDDED: &[(i64, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
