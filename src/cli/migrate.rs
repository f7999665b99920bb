//! `carebell migrate`

use super::failed::Failed;
use crate::cli::print::say;
use crate::{config::Source, store::Store};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also create the care tables (users, medications, …) unless tables or views of these names exist
    #[arg(long)]
    care_tables: bool,
}

pub(super) async fn run(source: &Source, args: &Args) -> Result<(), Failed> {
    let store = Store::new(&source.database()?, 2);
    store.probe().await.map_err(|error| Failed(format!("DATABASE_URL: {error}")))?;
    if args.care_tables {
        store.create_care_tables().await?;
        say!("care tables: in place");
    }
    store.migrate().await?;
    say!("schema: up to date");
    store.close().await;
    Ok(())
}
