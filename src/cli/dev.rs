//! `carebell dev`

use tokio_util::sync::CancellationToken;

use super::Failed;
use crate::dev::demo::Demo;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop when the family's pushes have arrived
    #[arg(long)]
    once: bool,
    /// Print one JSON object at the end; the way is told on standard error
    #[arg(long, requires = "once")]
    json: bool,
}

pub(super) async fn run(args: &Args, stop: CancellationToken) -> Result<(), Failed> {
    let Some(demo) = stop.run_until_cancelled(Box::pin(Demo::start(args.json))).await else { return Ok(()) };
    let mut demo = demo?;
    let result = demo.once(&stop).await;
    if let (Ok(_), false) = (&result, args.once) {
        demo.keep_running(&stop).await?;
    }
    demo.stop().await;
    if stop.is_cancelled() && !args.once {
        return Ok(());
    }
    let summary = result?;
    if args.json {
        println!("{}", summary.to_json());
    } else {
        println!(
            "{} reminder, {} inbox rows, {} pushes sent, {} decrypted, {} doubled; last push {} ms after it was due",
            summary.reminders,
            summary.inbox_rows,
            summary.pushes_sent,
            summary.pushes_decrypted,
            summary.duplicates,
            summary.due_to_last_push_ms
        );
    }
    Ok(())
}
