//! Programs and the shared Postgres: found or fetched, and started once per test run.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use carebell::{
    dev::{
        self,
        guard::{self, PrivateDir},
        postgres::Postgres,
        programs::Programs,
    },
    store::{Database, Store},
};
use sqlx::{Connection, Executor, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::{
    process::Command,
    sync::{Mutex, OnceCell},
};

/// Settings of the shared server, whose data nobody needs after a crash.
const SHARED: [(&str, &str); 5] = [
    // It would start a process several times a second.
    ("autovacuum", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("checkpoint_timeout", "1h"),
];

/// In kilobytes: a database per test, and their log.
const ROOM: u64 = 8 << 20;

/// Memory, where there is room for the data of all tests; else the temporary directory.
pub async fn fast_place() -> &'static Path {
    static PLACE: OnceCell<PathBuf> = OnceCell::const_new();
    PLACE.get_or_init(find_fast_place).await
}

async fn find_fast_place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = Command::new("df").args(["-Pk"]).arg(memory).output().await;
    let free = free.ok().filter(|df| df.status.success()).and_then(|df| {
        let table = String::from_utf8(df.stdout).ok()?;
        table.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    if free.is_some_and(|free| free > ROOM) { memory.to_owned() } else { std::env::temp_dir() }
}

/// Finds or fetches the programs, once.
pub async fn programs() -> &'static Programs {
    static PROGRAMS: OnceCell<Programs> = OnceCell::const_new();
    PROGRAMS.get_or_init(async || dev::find(|text| eprintln!("{text}")).await.unwrap()).await
}

/// An unsupported, older nats-server; `None` if it cannot be fetched.
pub async fn old_nats_server() -> Option<std::path::PathBuf> {
    let search = dev::search(|text| eprintln!("{text}"));
    let fetched = dev::programs::fetch_nats(&search, concat!("\n", include_str!("old-nats-server.txt"))).await;
    fetched.map_err(|why| eprintln!("without an old nats-server: {why}")).ok()
}

pub async fn rotel() -> std::path::PathBuf {
    let search = dev::search(|text| eprintln!("{text}"));
    dev::programs::fetch_rotel(&search, concat!("\n", include_str!("rotel.txt"))).await.unwrap()
}

/// New and migrated, in the shared server.
pub async fn database() -> String {
    database_like("postgres").await
}

/// An application's, before anything is in it.
pub async fn database_without_tables() -> String {
    database_like("template0").await
}

/// For an application that brings its own.
pub async fn database_without_care_tables() -> String {
    let url = database_without_tables().await;
    let store = store(&url, 1);
    store.migrate().await.unwrap();
    store.close().await;
    url
}

/// In the schema of every installation that names no other.
pub fn store(url: &str, connections: u32) -> Store {
    Store::new(&Database::parse(url).unwrap(), connections)
}

/// As an application that has Carebell's schema in its search path.
pub fn connect_options(url: &str) -> PgConnectOptions {
    let path = format!("{}, public", Database::SCHEMA);
    url.parse::<PgConnectOptions>().unwrap().options([("search_path", path)])
}

pub fn pool(url: &str) -> PgPool {
    PgPool::connect_lazy_with(connect_options(url))
}

async fn database_like(template: &str) -> String {
    static SERVER: OnceCell<(Postgres, PrivateDir)> = OnceCell::const_new();
    static TEMPLATE: Mutex<()> = Mutex::const_new(());
    static NUMBER: AtomicUsize = AtomicUsize::new(0);

    let (server, _) = SERVER
        .get_or_init(async || {
            let directory = guard::private_dir_in(fast_place().await).unwrap();
            let bin = &programs().await.postgres_bin;
            let server = Postgres::start_with(bin, directory.path(), &SHARED).await.unwrap();
            migrate(&server.url("postgres")).await;
            (server, directory)
        })
        .await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::SeqCst));
    // Postgres copies a template only while nobody is connected to it: one at a time, from another database.
    let _guard = TEMPLATE.lock().await;
    let mut connection = PgConnection::connect(&server.url("template1")).await.unwrap();
    let statement = format!("CREATE DATABASE {name} TEMPLATE {template}");
    connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
    server.url(&name)
}

/// A private server, for tests that stop it. Keep the directory until the server is gone.
pub async fn own_postgres() -> (Postgres, PrivateDir) {
    let directory = guard::private_dir().unwrap();
    let server = Postgres::start(&programs().await.postgres_bin, directory.path()).await.unwrap();
    migrate(&server.url("postgres")).await;
    (server, directory)
}

async fn migrate(url: &str) {
    let store = store(url, 1);
    store.create_care_tables().await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
}
