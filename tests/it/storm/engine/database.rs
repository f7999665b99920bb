//! The storm's Postgres, and the standby that takes its place.

use std::{
    mem,
    time::{Duration, Instant},
};

use carebell::dev::{
    guard::{self, PrivateDir},
    postgres::Postgres,
};
use tokio::time::sleep;

use super::Settings;
use crate::support::{Forwarder, LIMIT, own_postgres, pool};

pub struct Database {
    pub primary: Postgres,
    /// With the address that leads to whichever is in charge.
    standby: Option<(Postgres, Forwarder)>,
    synchronous: bool,
    /// Of all servers so far: dropped last.
    directories: Vec<PrivateDir>,
}

impl Database {
    pub async fn start(settings: &Settings) -> Self {
        let (primary, directory) = own_postgres().await;
        let synchronous = !settings.asynchronous;
        let mut database = Self { primary, standby: None, synchronous, directories: vec![directory] };
        if settings.failovers > 0 {
            let service = Forwarder::start(database.primary.port(), Duration::ZERO).await;
            database.standby = Some((database.copy().await, service));
        }
        database
    }

    pub fn url(&self) -> String {
        match &self.standby {
            Some((_, service)) => format!("postgres://postgres@127.0.0.1:{}/postgres", service.port()),
            None => self.primary.url("postgres"),
        }
    }

    /// The primary dies, and the standby takes over.
    pub async fn fail_over(&mut self) {
        let Some((standby, service)) = &mut self.standby else { panic!("there is no standby") };
        self.primary.kill().await;
        standby.promote().await.unwrap();
        // It would wait for itself.
        standby.configure("synchronous_standby_names", "").await.unwrap();
        service.point_at(standby.port());
        service.cut();
        mem::swap(&mut self.primary, standby);
    }

    /// Replaces the standby that took over.
    pub async fn renew(&mut self) {
        let copy = self.copy().await;
        if let Some((standby, _)) = &mut self.standby {
            *standby = copy;
        }
    }

    async fn copy(&mut self) -> Postgres {
        let directory = guard::private_dir().unwrap();
        let copy = self.primary.standby(directory.path(), "standby", self.primary.port()).await.unwrap();
        self.directories.push(directory);
        let mut follows = "state = 'streaming'";
        if self.synchronous {
            self.primary.configure("synchronous_standby_names", "standby").await.unwrap();
            follows = "sync_state = 'sync'";
        }
        let db = pool(&self.primary.url("postgres"));
        let query = format!("SELECT count(*) FROM pg_stat_replication WHERE {follows}");
        let since = Instant::now();
        while sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query.clone())).fetch_one(&db).await.unwrap() == 0 {
            assert!(since.elapsed() < LIMIT, "the standby does not follow");
            sleep(Duration::from_millis(20)).await;
        }
        db.close().await;
        copy
    }
}
