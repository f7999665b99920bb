//! `carebell admin`

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::failed::Failed;
use crate::{
    admin::{self, Parts},
    clock::Clock,
    config::Source,
    store::Store,
    streams::Streams,
};

/// A page is a few short statements.
const CONNECTIONS: u32 = 6;

/// No page may slow a worker for longer.
const LONGEST_STATEMENT: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(source: &Source, _: &Args, stop: CancellationToken) -> Result<(), Failed> {
    let config = source.admin()?;
    let parts = Parts {
        store: Store::impatient(&source.database()?, CONNECTIONS, LONGEST_STATEMENT),
        nats: admin::reach_nats(source.nats()?, stop.clone()),
        streams: Streams::embedded(&source.adjustments()?)?,
        clock: Clock::system(),
        config,
        ticket: None,
    };
    let address = admin::serve(parts, stop.clone())
        .map_err(|error| format!("ADMIN_PORT or ADMIN_METRICS_PORT cannot be served: {error}"))?;
    tracing::info!(port = address.port(), "the console is served");
    stop.cancelled().await;
    Ok(())
}
