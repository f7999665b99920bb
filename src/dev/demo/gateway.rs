//! The HTTP door of the demo.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::DemoError;
use crate::{
    admin::{draw_secret, hash_secret},
    clock::{Clock, Random},
    config::{GatewayConfig, Source},
    gateway::{self, Parts},
    health::{Health, Phase},
    jobs,
    nats::JetStream,
    store::{AuditEntry, GatewayToken, Store},
};

/// The name of its token, and its maker.
const NAME: &str = "dev";

fn published_kinds() -> Vec<String> {
    let registry = jobs::registry();
    registry.kinds().iter().filter(|kind| kind.is_published()).map(|kind| kind.name.to_owned()).collect()
}

/// Served until dropped.
pub struct DemoGateway {
    url: String,
    token: String,
    _stop: DropGuard,
}

impl DemoGateway {
    /// On a free port, beside a worker with this environment, with a token for all kinds.
    ///
    /// # Errors
    /// If no port is free, or the token cannot be kept.
    pub async fn start(
        environment: &[(&'static str, String)],
        tokens: &Store,
        context: &JetStream,
        clock: Clock,
    ) -> Result<Self, DemoError> {
        let source = Source::of(environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let health = Health::new();
        let (token, now) = (draw_secret()?, clock.now());
        let row = GatewayToken {
            id: Random::system().uuid(now).to_string(),
            name: NAME.to_owned(),
            application: String::new(),
            kinds: published_kinds(),
            rate: None,
            created_at: now,
            created_by: NAME.to_owned(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        let act = AuditEntry {
            at: now,
            actor: NAME.to_owned(),
            action: "gateway_token.added".to_owned(),
            job_id: None,
            root_id: None,
            detail: json!({ "token": NAME }),
        };
        tokens.add_gateway_token(&row, &hash_secret(&token), &act).await?;
        health.enter(Phase::Running);
        let parts = Parts {
            store: Store::impatient(&source.database()?, 4, Duration::from_secs(5)),
            nats: Arc::new(OnceLock::from(context.clone())),
            health,
            clock,
            config: GatewayConfig::default(),
        };
        let stop = CancellationToken::new();
        let (address, _) = gateway::serve(parts, stop.clone()).map_err(|error| error.to_string())?;
        Ok(Self { url: format!("http://127.0.0.1:{}", address.port()), token, _stop: stop.drop_guard() })
    }

    /// Variables for other terminals.
    pub fn environment(&self) -> [(&'static str, &str); 2] {
        [("GATEWAY_URL", &self.url), ("GATEWAY_TOKEN", &self.token)]
    }
}
