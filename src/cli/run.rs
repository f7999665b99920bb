//! `carebell run`

use tokio_util::sync::CancellationToken;

use super::failed::Failed;
use crate::{
    clock::Clock,
    config::{Config, Duty, Source},
    doctor, worker,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run only these duties (pipeline, scheduler, dead-letters, admin) [default: all but admin]
    #[arg(long, value_delimiter = ',', value_parser = parse_duty, value_name = "PART,…")]
    only: Vec<Duty>,
}

pub(super) async fn run(source: &Source, args: &Args, stop: CancellationToken) -> Result<(), Failed> {
    let mut config = Config::from_source(source)?;
    if !args.only.is_empty() {
        config.duties = args.only.iter().copied().collect();
    }
    if config.duties.contains(&Duty::Admin) {
        config.admin = Some(source.admin()?);
    }
    doctor::at_start(&[doctor::descriptors(source), doctor::zones(&Clock::system())])
        .map_err(|(_, why)| Failed(why))?;
    Box::pin(worker::run(config, stop)).await?;
    Ok(())
}

fn parse_duty(text: &str) -> Result<Duty, String> {
    let expected = "expected pipeline, scheduler, dead-letters or admin, separated by commas";
    Duty::parse(text).ok_or_else(|| expected.to_owned())
}
