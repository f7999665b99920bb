//! `carebell run`

use tokio_util::sync::CancellationToken;

use super::Failed;
use crate::{
    config::{Config, Source},
    worker,
};

pub(super) async fn run(source: &Source, stop: CancellationToken) -> Result<(), Failed> {
    Box::pin(worker::run(Config::from_source(source)?, stop)).await?;
    Ok(())
}
