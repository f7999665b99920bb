//! `carebell dev`

use crate::cli::print::say;
use tokio_util::sync::CancellationToken;

use super::failed::Failed;
use crate::dev::demo::Demo;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop when pushes, mail, text message and webhook have arrived
    #[arg(long)]
    once: bool,
    /// Print one JSON object at the end; progress goes to standard error
    #[arg(long, requires = "once")]
    json: bool,
    /// Then fail the SMS provider for a while, and show the effect
    #[arg(long)]
    outage: bool,
}

pub(super) async fn run(args: &Args, stop: CancellationToken) -> Result<(), Failed> {
    let Some(demo) = stop.run_until_cancelled(Box::pin(Demo::start(args.json))).await else { return Ok(()) };
    let mut demo = demo?;
    let result = demo.once(&stop).await;
    let mut outage = None;
    if args.outage && result.is_ok() {
        outage = Some(demo.outage(&stop).await);
    }
    if let (Some(Ok(outage)), false) = (&outage, args.json) {
        say!("{outage}");
    }
    if let (Ok(_), None | Some(Ok(_)), false) = (&result, &outage, args.once) {
        demo.keep_running(&stop).await?;
    }
    demo.stop().await;
    if stop.is_cancelled() && !args.once {
        return Ok(());
    }
    let summary = result?;
    let outage = outage.transpose()?;
    if args.json {
        let mut json = summary.to_json();
        if let Some(outage) = outage {
            json["outage"] = outage.to_json();
        }
        say!("{json}");
    } else {
        say!(
            "{} reminder, {} inbox rows, {} pushes sent, {} decrypted, {} duplicates, {} mail, {} text message, {} \
             webhook; last push {} ms after the due time",
            summary.reminders,
            summary.inbox_rows,
            summary.pushes_sent,
            summary.pushes_decrypted,
            summary.duplicates,
            summary.mails,
            summary.texts,
            summary.webhooks,
            summary.due_to_last_push_ms
        );
    }
    Ok(())
}
