//! Reloads the settings without a restart, and raises an alert if they are invalid.

use std::path::Path;

use coord_db::process::{host, host_name};
use coord_db::{AlertType, Config, Database, Error, NewAlert, Result, Severity};
use serde_json::json;
use tokio::signal::unix::SignalKind;
use tokio::sync::watch;

use crate::config_file::ConfigFile;
use crate::signals::take;

/// Signals that the settings have to be reloaded: their file has changed, or SIGHUP was received.
#[derive(Debug)]
pub struct Reload {
    changes: watch::Receiver<u64>,
    is_wanted: bool,
}

impl Reload {
    /// Watches the settings file of a database and handles SIGHUP from now on. To be called in a runtime, and before
    /// the settings are loaded, so that no change is missed in between.
    ///
    /// # Errors
    /// If the process has no file descriptors left.
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

    /// Returns once a reload is requested; [`Reload::take`] then returns true.
    pub async fn wanted(&mut self) {
        if self.changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.is_wanted = true;
    }

    /// True if a reload was requested since the last call.
    pub fn take(&mut self) -> bool {
        let news = self.changes.has_changed().unwrap_or(false);
        if news {
            self.changes.mark_unchanged();
        }
        std::mem::take(&mut self.is_wanted) || news
    }
}

/// Fingerprint of the alert about settings that cannot be parsed. Where several machines can share the database, each has settings of
/// its own, and its host follows.
const UNREADABLE: &str = "config";

/// This host, if several can share the database.
fn shared_host(db: &Database) -> Option<&'static str> {
    db.server().and(host())
}

fn unreadable(host: Option<&str>) -> String {
    host.map_or_else(|| UNREADABLE.to_owned(), |host| format!("{UNREADABLE}:{host}"))
}

/// Fingerprint of the alert about settings that only this component rejects.
fn refused_by(component: &str) -> String {
    format!("{UNREADABLE}:{component}")
}

/// Closes the alerts about invalid settings, after valid ones were loaded.
pub fn settings_accepted(db: &Database, component: &str) -> Result<()> {
    db.write(|tx| {
        tx.close_alert(&unreadable(shared_host(db)))?;
        tx.close_alert(&refused_by(component)).map(drop)
    })
}

/// Reloads the settings for a component. None if they are invalid or `accept` rejects them: the component keeps its
/// settings, and an alert stays open until valid ones are loaded. Settings that every process rejects raise a single
/// alert.
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
        Err(format!("{} no longer exists", file.display()))
    };
    let host = shared_host(db);
    let (of_host, every) = match host.map(host_name) {
        Some(name) => (format!(" of {name}"), "every running process there"),
        None => (String::new(), "every running process"),
    };
    let read = loaded.map_err(|why| (unreadable(host), every, why)).and_then(|config| {
        accept(&config).map_err(|why| (refused_by(component), component, why))?;
        Ok(config)
    });
    let said = match &read {
        Ok(_) => {
            tracing::info!(file = %file.display(), "settings reloaded");
            settings_accepted(db, component)
        }
        Err((fingerprint, who, why)) => {
            tracing::error!(
                why,
                "the changed settings are invalid; the previous settings stay in force until the file is corrected"
            );
            let alert = NewAlert {
                fingerprint: fingerprint.clone(),
                severity: Severity::Warning,
                alert_type: AlertType::Resource,
                source: component.to_owned(),
                message: format!(
                    "the changed settings{of_host} are invalid: {why}; {who} uses the previous settings until the file is corrected"
                ),
                context: json!({"kind": "config", "error": why}),
                event_id: None,
            };
            db.write(|tx| tx.raise_alert(&alert).map(drop))
        }
    };
    if let Err(error) = said {
        let error: Error = error;
        tracing::warn!(%error, "cannot record the result of reloading the settings");
    }
    read.ok()
}
