//! The settings are read again between two attempts, when their file has changed or on SIGHUP. An attempt that is being made
//! keeps those it began with.

use supervisor::ConfigFile;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::{Error, Result};

/// Whether the settings are to be read again.
pub(crate) struct Reload {
    told: watch::Receiver<u64>,
    wanted: bool,
}

impl Reload {
    /// Takes the signal and follows the file from now on.
    pub(crate) fn listen(file: ConfigFile) -> Result<Self> {
        let (sender, told) = watch::channel(0);
        let changed = sender.clone();
        file.follow(move || changed.send_modify(|count| *count += 1));
        let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::io("cannot take signals", error))?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { told, wanted: false })
    }

    /// True once for each time that there was a reason.
    pub(crate) fn take(&mut self) -> bool {
        let news = self.told.has_changed().unwrap_or(false);
        if news {
            self.told.mark_unchanged();
        }
        std::mem::take(&mut self.wanted) || news
    }
}

/// Returns each time that there is a reason; never where nobody listens.
pub(crate) async fn asked(reload: Option<&mut Reload>) {
    let Some(reload) = reload else { return std::future::pending().await };
    if reload.told.changed().await.is_err() {
        return std::future::pending().await;
    }
    reload.wanted = true;
    tracing::info!("the settings have changed; they are read before the next attempt");
}
