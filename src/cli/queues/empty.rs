//! `carebell queues empty`.

use crate::{
    acts::Spec,
    cli::{
        failed::Failed,
        kinds::queue_named,
        operations::{Desk, carry, finish, preview_in_words},
        output::Format,
        signals::stop_signal,
    },
    config::Source,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name in `list`
    queue: String,
    /// The number of jobs that was shown. If more wait by now, nothing is emptied. Without it, only shows the number
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Why, for the colleagues: kept with the operation and in the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Leave it to a console to carry it out
    #[arg(long)]
    detach: bool,
    /// Your name, for the audit log
    #[arg(long, env = "USER", hide_env_values = true, value_name = "NAME")]
    by: Option<String>,
    #[command(flatten)]
    format: Format,
}

pub(super) async fn run(source: &Source, args: &Args) -> Result<(), Failed> {
    let queue = queue_named(&args.queue)?;
    let stop = stop_signal()?;
    let desk = Desk::open(source, args.by.clone()).await?;
    let Some(count) = args.count else {
        let preview = desk.acting().preview(Spec::Queue(queue)).await;
        desk.store.close().await;
        let preview = preview?;
        args.format.print(&preview.to_json(), &preview_in_words(&preview))?;
        return Err(Failed(format!("nothing is emptied: confirm with --count {}", preview.count)));
    };
    let begun = desk.acting().begin(Spec::Queue(queue), count, &args.reason).await;
    let followed = carry(&desk, begun.map_err(Failed::from), args.detach, &stop).await;
    desk.store.close().await;
    finish(&followed?, args.format)
}
