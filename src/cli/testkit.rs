//! `carebell testkit`

use std::fmt::Write as _;

use tokio_util::sync::CancellationToken;

use super::{failed::Failed, output::Format};
use crate::{
    cli::print::say,
    dev::kit::{self, Kit, routes},
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Port of the kit's own HTTP interface; 0 for any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(args: &Args, stop: CancellationToken) -> Result<(), Failed> {
    let failed = |why: kit::KitError| Failed(why.to_string());
    let listener = kit::listen(args.port).await.map_err(|error| Failed(format!("--port {}: {error}", args.port)))?;
    let url = format!("http://{}", listener.local_addr().map_err(|error| Failed(error.to_string()))?);
    let Some(started) = stop.run_until_cancelled(Box::pin(Kit::start(Vec::new()))).await else { return Ok(()) };
    let kit = started.map_err(failed)?;
    let introduction = kit.introduction(&url);
    if args.format.is_json() {
        say!("{introduction}");
    } else {
        let mut text = String::new();
        for (name, value) in introduction["env"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "export {name}='{}'", value.as_str().unwrap_or_default());
        }
        say!("{text}");
    }
    routes::serve(kit, listener, stop).await.map_err(failed)
}
