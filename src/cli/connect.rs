use super::failed::Failed;
use crate::{
    config::Source,
    health::Health,
    nats::{self, JetStream},
};

pub(super) async fn jetstream(source: &Source) -> Result<JetStream, Failed> {
    let client = nats::connect(&source.nats()?, &Health::new()).await?;
    Ok(nats::jetstream(&client))
}
