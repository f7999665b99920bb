//! A second Postgres that follows the first, and takes its place.

use std::{ffi::OsString, fs::File, io::Write, path::Path};

use super::{DevError, Home, Postgres};

impl Postgres {
    /// Makes a copy in `dir` and starts it as a hot standby, on a port of its own, with the settings of this server. It
    /// streams from `port` under the application name `name`, to be used in `synchronous_standby_names`. The port is
    /// this server's own, or that of a forwarder to it.
    ///
    /// # Errors
    /// If the copy fails or the standby does not start, with the end of its log.
    pub async fn standby(&self, dir: &Path, name: &str, port: u16) -> Result<Self, DevError> {
        let mut home = Home::new(&self.home.bin, dir, self.home.settings.clone()).await?;
        home.let_user_in(dir).await?;
        let source = format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
        let options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-D", "data", "-d", &source];
        home.run("pg_basebackup", options.into_iter().map(OsString::from).collect()).await?;
        Self::on_a_free_port(home).await
    }

    /// Makes a standby the primary of a new timeline, and waits until it takes writes.
    ///
    /// # Errors
    /// If it is no standby or does not get there, with the end of its log.
    pub async fn promote(&self) -> Result<(), DevError> {
        self.control("promote").await
    }

    /// Sets a value of the configuration, such as `synchronous_standby_names`, and tells the server. It is kept over
    /// restarts, and copied to standbys made later.
    ///
    /// # Errors
    /// If the file cannot be written or the server does not run.
    pub async fn configure(&self, name: &str, value: &str) -> Result<(), DevError> {
        let path = self.home.directory.join("data/postgresql.auto.conf");
        // The last line of a name wins.
        let line = format!("{name} = '{}'\n", value.replace('\'', "''"));
        let file = File::options().append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).map_err(DevError::file("add to", &path))?;
        self.control("reload").await
    }

    async fn control(&self, order: &str) -> Result<(), DevError> {
        self.home.run("pg_ctl", [order, "-D", "data"].into_iter().map(OsString::from).collect()).await
    }
}
