//! Private servers for `carebell dev`, tests and benches: a real nats-server and a real Postgres, found on this machine
//! or fetched once, in a directory of their own, on free loopback ports; they end with this process, however it ends.

pub mod certificates;
pub mod demo;
pub mod guard;
pub mod nats;
pub mod phone_service;
pub mod postgres;
pub mod programs;
pub mod push_service;
pub mod smtp_server;
pub mod trace_receiver;
pub mod trail;
pub mod webhook_endpoint;

use std::path::Path;

use self::{
    guard::PrivateDir,
    nats::NatsServer,
    postgres::Postgres,
    programs::{DevError, Programs, Search},
};

/// Where fetched programs are kept.
const CACHE: &str = "programs";

/// Both servers and the directory they are in. Dropping it stops them and removes it.
#[derive(Debug)]
pub struct Servers {
    /// NATS with `JetStream`.
    pub nats: NatsServer,
    /// Postgres.
    pub postgres: Postgres,
    /// Holds both stores, and whatever else should vanish with them. Dropped last.
    pub directory: PrivateDir,
}

impl Servers {
    /// Finds or fetches the programs and starts both.
    ///
    /// # Errors
    /// Says which program is missing or did not start, what was tried, and what to do.
    pub async fn start(announce: fn(&str)) -> Result<Self, DevError> {
        let programs = find(announce).await?;
        let directory = guard::private_dir()?;
        let (nats, postgres) = tokio::join!(
            NatsServer::start(&programs.nats_server, directory.path()),
            Postgres::start(&programs.postgres_bin, directory.path()),
        );
        Ok(Self { nats: nats?, postgres: postgres?, directory })
    }
}

/// Finds or fetches the programs. They are kept under `target/`, beside what cargo builds.
///
/// # Errors
/// Says what is missing, what was tried, and what to do.
pub async fn find(announce: fn(&str)) -> Result<Programs, DevError> {
    programs::find_or_fetch(&search(announce)).await
}

/// Where programs are looked for, and kept.
#[must_use]
pub fn search(announce: fn(&str)) -> Search {
    Search {
        path: std::env::var_os("PATH"),
        nats_server: std::env::var_os("NATS_SERVER").map(Into::into),
        postgres_bin: std::env::var_os("POSTGRES_BIN").map(Into::into),
        cache: target_directory().join(CACHE),
        announce,
    }
}

/// The `target/` that this program was built into, else one in the working directory.
fn target_directory() -> std::path::PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let built_into = executable.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    built_into.unwrap_or(Path::new("target")).to_owned()
}
