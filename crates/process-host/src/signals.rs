//! The signals that request a process to end.

use coord_db::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// True once the process has been requested to end.
pub type Stop = watch::Receiver<bool>;

/// Becomes true when SIGTERM or SIGINT arrives. From now on neither ends the process by itself.
///
/// # Errors
/// If the process has no file descriptors left.
pub fn stop_signal() -> Result<Stop> {
    let (sender, receiver) = watch::channel(false);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = take(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                sender.send_replace(true);
            }
        });
    }
    // The tasks hold the sender; without them the process could not be stopped.
    Ok(receiver)
}

/// Returns once the process has been requested to end; never if no request can arrive any more.
pub async fn stop_requested(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

pub(crate) fn take(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|source| Error::Io { context: "cannot handle signals".to_owned(), source })
}
