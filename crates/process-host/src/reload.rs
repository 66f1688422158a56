//! Reading the settings again without a restart, and saying so if they are refused.

use std::path::Path;

use coord_db::{AlertType, Config, Database, Error, NewAlert, Result, Severity};
use serde_json::json;
use tokio::signal::unix::SignalKind;
use tokio::sync::watch;

use crate::config_file::ConfigFile;
use crate::signals::take;

/// Whether the settings are to be read again: their file holds something else, or SIGHUP has come.
#[derive(Debug)]
pub struct Reload {
    changes: watch::Receiver<u64>,
    is_wanted: bool,
}

impl Reload {
    /// Follows the file of a database's settings and takes the signal from now on. To be called before the settings are
    /// read, so that no change falls in between; in a runtime.
    ///
    /// # Errors
    /// If the kernel gives no more descriptors.
    pub fn listen(database: &Path, named: Option<&Path>) -> Result<Self> {
        let (sender, changes) = watch::channel(0);
        let changed = sender.clone();
        ConfigFile::note(database, named).follow(move || changed.send_modify(|count| *count += 1));
        let mut hangup = take(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self { changes, is_wanted: false })
    }

    /// Returns once there is a reason, which [`Reload::take`] gives then.
    pub async fn wanted(&mut self) {
        if self.changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.is_wanted = true;
    }

    /// True once for each time that there was a reason.
    pub fn take(&mut self) -> bool {
        let news = self.changes.has_changed().unwrap_or(false);
        if news {
            self.changes.mark_unchanged();
        }
        std::mem::take(&mut self.is_wanted) || news
    }
}

/// What names the alert about settings that nobody can read.
const UNREADABLE: &str = "config";

/// What names the alert about settings that only this component refuses.
fn refused_by(component: &str) -> String {
    format!("{UNREADABLE}:{component}")
}

/// The settings have been read and taken: what was said about earlier ones is over.
///
/// # Errors
/// What SQLite says.
pub fn settings_hold(db: &Database, component: &str) -> Result<()> {
    db.write(|tx| {
        tx.close_alert(UNREADABLE)?;
        tx.close_alert(&refused_by(component)).map(drop)
    })
}

/// Reads the settings for a component, as they have changed or it was told to. None if they are refused, by their form or by
/// `accept`: it goes on with those it has, and an alert says so until good ones are read. One that every process refuses is
/// one alert.
#[must_use]
pub fn reload(
    db: &Database,
    path: &Path,
    named: Option<&Path>,
    component: &str,
    accept: impl FnOnce(&Config) -> Result<(), String>,
) -> Option<Config> {
    let file = named.map_or_else(|| Config::path_for(path), Path::to_owned);
    let loaded = if file.exists() {
        Config::load(path, named).map_err(|error| coord_db::error_chain(&error))
    } else {
        Err(format!("{} is no longer there", file.display()))
    };
    let read = loaded.map_err(|why| (UNREADABLE.to_owned(), "every running process", why)).and_then(|config| {
        accept(&config).map_err(|why| (refused_by(component), component, why))?;
        Ok(config)
    });
    let said = match &read {
        Ok(_) => {
            tracing::info!(file = %file.display(), "the settings were read again; they hold from now on");
            settings_hold(db, component)
        }
        Err((fingerprint, who, why)) => {
            tracing::error!(
                why,
                "the changed settings are refused; those from before stay in force until the file is corrected"
            );
            let alert = NewAlert {
                fingerprint: fingerprint.clone(),
                severity: Severity::Warning,
                alert_type: AlertType::Resource,
                source: component.to_owned(),
                message: format!(
                    "the changed settings are refused: {why}; {who} goes on with those from before until the file is corrected"
                ),
                context: json!({"kind": "config", "error": why}),
                event_id: None,
            };
            db.write(|tx| tx.raise_alert(&alert).map(drop))
        }
    };
    if let Err(error) = said {
        let error: Error = error;
        tracing::warn!(%error, "cannot record how reading the settings went");
    }
    read.ok()
}
