//! LISTEN/NOTIFY.

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::{
    database::{PING_TIMEOUT, Store},
    error::StoreError,
};

/// Listens on some channels.
pub struct Listener(PgListener);

impl Store {
    /// Listens over a connection outside the pool.
    pub async fn listen(&self, channels: &[&str]) -> Result<Listener, StoreError> {
        let options = self.pool.connect_options().as_ref().clone();
        let own = PgPoolOptions::new().max_connections(1).acquire_timeout(PING_TIMEOUT).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen_all(channels.iter().copied()).await?;
        Ok(Listener(listener))
    }
}

impl Listener {
    /// The channel of the next announcement. None after a reconnect: some may have been missed.
    pub async fn hear(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_recv().await?.map(|heard| heard.channel().to_owned()))
    }
}
