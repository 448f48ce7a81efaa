//! How a process is asked to stop.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// What a shell reports for a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// A token that SIGINT or SIGTERM cancels, so that the process can drain; a second signal ends it at once.
pub fn on_signal() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        let mut asked_before = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked_before {
                eprintln!("stopped at once, without draining");
                std::process::exit(INTERRUPTED);
            }
            asked_before = true;
            info!("stopping; a second signal ends the process at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
