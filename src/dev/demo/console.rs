//! The console of the demo.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::DemoError;
use crate::{
    admin::{self, Parts, draw_secret, ticket_path},
    clock::Clock,
    config::{AdminConfig, Source},
    nats::JetStream,
    store::Store,
    streams::Streams,
};

/// Served until dropped.
pub struct DemoConsole {
    url: String,
    token: String,
    ticket: String,
    _stop: DropGuard,
}

impl DemoConsole {
    /// On a free port, beside a worker with this environment.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start(environment: &[(&'static str, String)], context: &JetStream) -> Result<Self, DemoError> {
        let source = Source::of(environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let (token, ticket) = (draw_secret()?, draw_secret()?);
        let stop = CancellationToken::new();
        let parts = Parts {
            store: Store::impatient(&source.database()?, 4, Duration::from_secs(2)),
            nats: Arc::new(OnceLock::from(context.clone())),
            streams: Streams::embedded(&source.adjustments()?)?,
            clock: Clock::system(),
            config: AdminConfig { token: Some(token.clone()), providers: source.providers(), ..AdminConfig::default() },
            ticket: Some(ticket.clone()),
        };
        let address = admin::serve(parts, stop.clone()).map_err(|error| error.to_string())?;
        let url = format!("http://127.0.0.1:{}", address.port());
        Ok(Self { url, token, ticket, _stop: stop.drop_guard() })
    }

    /// An address that signs in once.
    pub fn way_in(&self) -> String {
        format!("{}{}", self.url, ticket_path(&self.ticket))
    }

    /// Variables for other terminals.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("CONSOLE_URL", &self.url), ("ADMIN_TOKEN", &self.token)]
    }
}
