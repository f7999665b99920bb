//! `carebell migrate`

use serde_json::json;

use super::{failed::Failed, output::Format};
use crate::{config::Source, store::Store};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Also create the care tables (users, medications, …) unless tables or views of these names exist
    #[arg(long)]
    care_tables: bool,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(source: &Source, args: &Args) -> Result<(), Failed> {
    let store = Store::new(&source.database()?, 2);
    store.probe().await.map_err(|error| Failed(format!("DATABASE_URL: {error}")))?;
    if args.care_tables {
        store.create_care_tables().await?;
    }
    store.migrate().await?;
    store.close().await;
    let care_tables = if args.care_tables { "care tables: in place\n" } else { "" };
    let json = json!({ "schema": "up to date", "care_tables": args.care_tables });
    Ok(args.format.print(&json, &format!("{care_tables}schema: up to date"))?)
}
