//! The connection to NATS: made with the configured credentials, mended by the client, its state told to [`Health`].

use std::{sync::Arc, time::Duration};

use async_nats::{ConnectOptions, Event, jetstream};

use crate::{
    config::NatsConfig,
    health::{Health, NATS, Part},
};

/// How long an answer of the `JetStream` API and a publish's acknowledgement may take.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Publishes in flight at once, over all jobs of a process: what bounds the memory of unacknowledged messages.
const PUBLISHES_IN_FLIGHT: usize = 5000;

/// Connects once.
///
/// # Errors
/// If the server cannot be reached, refuses the credentials, or is older than 2.12, which cannot schedule messages.
pub async fn connect(config: &NatsConfig, health: &Arc<Health>) -> Result<async_nats::Client, String> {
    let listener = Arc::clone(health);
    let mut options = ConnectOptions::new()
        .name("carebell")
        .connection_timeout(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(100 * 2_u64.saturating_pow(u32::try_from(attempts).unwrap_or(u32::MAX).min(5)))
        })
        .event_callback(move |event| {
            let health = Arc::clone(&listener);
            async move { hear(&health, &event) }
        });
    if let Some(roots) = &config.ca_file {
        options = options.add_root_certificates(roots.clone());
    }
    if let Some(creds) = &config.creds {
        let read = options.credentials_file(creds).await;
        options = read.map_err(|error| format!("NATS_CREDS cannot be read: {error}"))?;
    }
    let servers: Vec<&str> = config.url.split(',').map(str::trim).collect();
    let client = options.connect(servers).await.map_err(|error| format!("NATS_URL: {error}"))?;
    let version = client.server_info().version;
    if !client.is_server_compatible(2, 12, 0) {
        return Err(format!("NATS_URL: the server is version {version}; Carebell needs 2.12 or later"));
    }
    health.set(NATS, Part::Up);
    Ok(client)
}

/// `JetStream` over a connection.
#[must_use]
pub fn jetstream(client: &async_nats::Client) -> jetstream::Context {
    jetstream::context::ContextBuilder::new()
        .timeout(API_TIMEOUT)
        .ack_timeout(API_TIMEOUT)
        .max_ack_inflight(PUBLISHES_IN_FLIGHT)
        .backpressure_on_inflight(true)
        .build(client.clone())
}

fn hear(health: &Health, event: &Event) {
    match event {
        Event::Connected => health.connected(),
        Event::Disconnected => health.set(NATS, Part::Down("disconnected, trying again".into())),
        // A denied publish is otherwise seen only as an acknowledgement that does not come.
        Event::ServerError(error) => tracing::error!("NATS refuses: {error}"),
        Event::ClientError(error) => tracing::warn!("the NATS client: {error}"),
        Event::LameDuckMode => tracing::info!("this NATS server is about to stop; the client moves to another"),
        _ => {}
    }
}
