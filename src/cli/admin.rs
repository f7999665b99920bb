//! `carebell admin`

use tokio_util::sync::CancellationToken;

use super::failed::Failed;
use crate::{
    admin::{self, Parts},
    clock::Clock,
    config::Source,
    streams::Streams,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(source: &Source, _: &Args, stop: CancellationToken) -> Result<(), Failed> {
    let config = source.admin()?;
    let parts = Parts {
        store: admin::store(&source.database()?),
        nats: admin::reach_nats(source.nats()?, stop.clone()),
        streams: Streams::embedded(&source.adjustments()?)?,
        clock: Clock::system(),
        config,
        ticket: None,
    };
    let address = admin::serve(parts, stop.clone()).map_err(|error| error.to_string())?;
    tracing::info!(port = address.port(), "the console is served");
    stop.cancelled().await;
    Ok(())
}
