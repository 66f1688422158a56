//! The signals that ask a process to end.

use coord_db::{Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// True once the process has been asked to end.
pub type Stop = watch::Receiver<bool>;

/// Turns true once SIGTERM or SIGINT has come. From now on neither ends the process by itself.
///
/// # Errors
/// If the kernel gives no more descriptors.
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
    // The tasks hold the sender; without them nothing could ever stop the process.
    Ok(receiver)
}

/// Returns once the process has been asked to end; never where nothing can ask any more.
pub async fn told_to_stop(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

pub(crate) fn take(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|source| Error::Io { context: "cannot take signals".to_owned(), source })
}
