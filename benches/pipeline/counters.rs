//! Counters of the servers and the kernel.

use std::time::Instant;

use sqlx::PgPool;

use crate::{
    process::{self, cpu},
    scene::Scene,
};

/// All counters at one moment. CPU is in seconds.
pub struct Counters {
    at: Instant,
    pub nats_cpu: f64,
    pub postgres_cpu: f64,
    pub sink_cpu: f64,
    bench_cpu: f64,
    machine_cpu: f64,
    /// Messages from clients: publishes, pulls, acks.
    pub messages_in: f64,
    /// Messages to clients: jobs, publish acks.
    pub messages_out: f64,
    /// Messages stored in all streams.
    pub messages_stored: f64,
    /// Statements with BEGIN and COMMIT. None without the extension that counts them.
    pub statements: Option<f64>,
    /// Commits, reads included. They are counted with a delay.
    pub commits: f64,
    pub wal_bytes: f64,
}

impl Counters {
    pub async fn read(scene: &Scene) -> Self {
        let cpu_first = (Instant::now(), process::machine_cpu());
        let nats = scene.nats_counters().await;
        let (nats_cpu, postgres_cpu) = (cpu(scene.nats.pid()), process::family_cpu(scene.postgres.pid()));
        Self {
            at: cpu_first.0,
            machine_cpu: cpu_first.1,
            nats_cpu,
            postgres_cpu,
            sink_cpu: cpu(scene.sink.pid()),
            bench_cpu: cpu(std::process::id()),
            messages_in: nats["in_msgs"].as_f64().unwrap(),
            messages_out: nats["out_msgs"].as_f64().unwrap(),
            messages_stored: scene.stored().await as f64,
            statements: statements(&scene.db).await,
            commits: scene.commits().await,
            wal_bytes: number(&scene.db, "SELECT pg_current_wal_lsn() - '0/0'").await,
        }
    }

    pub fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    /// CPU outside the bench, in percent of all cores. `workers` is in seconds.
    pub fn elsewhere_percent(&self, before: &Self, workers: f64) -> f64 {
        let own = |counters: &Self| counters.nats_cpu + counters.postgres_cpu + counters.sink_cpu + counters.bench_cpu;
        let others = self.machine_cpu - before.machine_cpu - (own(self) - own(before)) - workers;
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        (others / self.seconds_since(before) / cores * 100.0).max(0.0)
    }
}

impl Scene {
    pub async fn commits(&self) -> f64 {
        number(&self.db, "SELECT xact_commit FROM pg_stat_database WHERE datname = 'postgres'").await
    }

    async fn stored(&self) -> u64 {
        let mut stored = 0;
        for stream in ["JOBS", "WORK", "DELIVERIES", "HOLD", "DEAD_LETTERS"] {
            stored += self.context.get_stream(stream).await.unwrap().cached_info().state.last_sequence;
        }
        stored
    }

    /// Prints the most expensive statements to standard error.
    pub async fn say_statements(&self) {
        let rows: Vec<(i64, f64, i64, String)> = sqlx::query_as(
            "SELECT calls, total_exec_time, rows, regexp_replace(left(query, 400), '\\s+', ' ', 'g') \
             FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 12",
        )
        .fetch_all(&self.db)
        .await
        .unwrap_or_default();
        for (calls, millis, rows, query) in rows {
            eprintln!("  {millis:>9.0} ms {calls:>7} calls {rows:>8} rows  {query:.110}");
        }
    }
}

async fn statements(db: &PgPool) -> Option<f64> {
    let calls = sqlx::query_scalar("SELECT sum(calls)::float8 FROM pg_stat_statements").fetch_one(db).await;
    calls.ok()
}

async fn number(db: &PgPool, sql: &'static str) -> f64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT ({sql})::float8"))).fetch_one(db).await.unwrap()
}
