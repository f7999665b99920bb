use super::failed::Failed;
use crate::{
    config::Source,
    health::Health,
    nats::{self, JetStream},
    store::Store,
};

/// Connects once: the pool would try a server that refuses for seconds, and keep the reason to itself.
///
/// # Errors
/// No connection, or no tables of Carebell: statements would find the application's of the same names.
pub(super) async fn store(source: &Source, connections: u32) -> Result<Store, Failed> {
    let store = Store::new(&source.database()?, connections);
    let in_words = |error| Failed(format!("DATABASE_URL: {error}"));
    let mut probe = store.probe().await.map_err(in_words)?;
    if !probe.has_own_tables().await.map_err(in_words)? {
        return Err(Failed("the database has no tables of Carebell: run `carebell migrate`".to_owned()));
    }
    Ok(store)
}

pub(super) async fn jetstream(source: &Source) -> Result<JetStream, Failed> {
    let client = nats::connect(&source.nats()?, &Health::new()).await?;
    Ok(nats::jetstream(&client))
}
