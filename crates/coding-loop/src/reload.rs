//! SIGHUP: the settings are read again between two attempts. One that is being made keeps those it began with.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::{Error, Result};

/// Whether the process has been told to read its settings again.
pub(crate) struct Reload {
    told: watch::Receiver<u64>,
    wanted: bool,
}

impl Reload {
    /// Takes the signal from now on.
    pub(crate) fn listen() -> Result<Self> {
        let (sender, told) = watch::channel(0);
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::io("cannot take signals", error))?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { told, wanted: false })
    }

    /// True once for each time that it was told.
    pub(crate) fn take(&mut self) -> bool {
        let news = self.told.has_changed().unwrap_or(false);
        if news {
            self.told.mark_unchanged();
        }
        std::mem::take(&mut self.wanted) || news
    }
}

/// Returns each time that the process is told; never where it does not listen.
pub(crate) async fn asked(reload: Option<&mut Reload>) {
    let Some(reload) = reload else { return std::future::pending().await };
    if reload.told.changed().await.is_err() {
        return std::future::pending().await;
    }
    reload.wanted = true;
    tracing::info!("told to read the settings again; that is done before the next attempt");
}
