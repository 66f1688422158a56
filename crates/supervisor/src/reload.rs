//! Reading the settings again without a restart, and saying so if they are refused.

use std::path::Path;

use coord_db::{AlertType, Config, Database, Error, NewAlert, Result, Severity};
use serde_json::json;

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
