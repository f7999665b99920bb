//! Private servers for `carebell dev`, tests and benches, in a temporary directory on free loopback ports. They end
//! with this process, however it ends.

pub mod certificates;
pub mod demo;
pub mod guard;
pub mod kit;
pub mod nats;
pub mod phone_service;
pub mod postgres;
pub mod programs;
pub mod push_service;
pub mod smtp_server;
pub mod trace_receiver;
pub mod trail;
pub mod webhook_endpoint;
pub mod wish;

use std::path::Path;

use self::{
    guard::PrivateDir,
    nats::NatsServer,
    postgres::Postgres,
    programs::{DevError, Programs, Search},
};

const CACHE: &str = "programs";

/// Both servers and their directory, until dropped.
#[derive(Debug)]
pub struct Servers {
    /// NATS with `JetStream`.
    pub nats: NatsServer,
    /// Postgres.
    pub postgres: Postgres,
    /// Both stores and temporary files. Dropped last.
    pub directory: PrivateDir,
}

impl Servers {
    /// Finds or fetches the programs and starts both.
    ///
    /// # Errors
    /// Names the program, every attempt and the remedy.
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

/// Finds or fetches the programs, the latter into `target/`.
///
/// # Errors
/// Names the program, every attempt and the remedy.
pub async fn find(announce: fn(&str)) -> Result<Programs, DevError> {
    programs::find_or_fetch(&search(announce)).await
}

/// Where programs are looked for and kept.
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

/// This program's `target/`, else one in the working directory.
fn target_directory() -> std::path::PathBuf {
    let executable = std::env::current_exe().unwrap_or_default();
    let built_into = executable.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    built_into.unwrap_or(Path::new("target")).to_owned()
}
