use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failed::Failed;

/// Cancelled by SIGTERM or SIGINT. A second SIGINT ends the process.
pub(super) fn stop_signal() -> Result<CancellationToken, Failed> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
        interrupt.recv().await;
        std::process::exit(130);
    });
    Ok(stop)
}
