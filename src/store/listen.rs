//! LISTEN/NOTIFY: the database says that something has changed.

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::{PING_TIMEOUT, Store, StoreError};

/// Hears what is announced on some channels.
pub struct Listener(PgListener);

impl Store {
    /// Listens on these channels, over a connection of its own beside the pool.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn listen(&self, channels: &[&str]) -> Result<Listener, StoreError> {
        let options = self.pool.connect_options().as_ref().clone();
        let own = PgPoolOptions::new().max_connections(1).acquire_timeout(PING_TIMEOUT).connect_lazy_with(options);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.listen_all(channels.iter().copied()).await?;
        Ok(Listener(listener))
    }
}

impl Listener {
    /// Waits until something is announced, and answers on which channel. None where the connection was lost and made
    /// again: what was announced meanwhile is not known.
    ///
    /// # Errors
    /// If the connection cannot be made again.
    pub async fn hear(&mut self) -> Result<Option<String>, StoreError> {
        Ok(self.0.try_recv().await?.map(|heard| heard.channel().to_owned()))
    }
}
