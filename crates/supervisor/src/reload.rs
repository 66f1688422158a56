//! Reading the settings again without a restart, and saying so if they are refused.

use std::path::Path;

use coord_db::{AlertType, Config, Database, Error, NewAlert, Result, Severity};
use serde_json::json;

/// What names the alert about a component's refused settings.
#[must_use]
pub fn config_fingerprint(component: &str) -> String {
    format!("config:{component}")
}

/// Reads the settings for a component that has been told to. None if they are refused, by their form or by `accept`: it
/// goes on with those it has, and an alert says so until good ones are read.
#[must_use]
pub fn reload(
    db: &Database,
    path: &Path,
    named: Option<&Path>,
    component: &str,
    accept: impl FnOnce(&Config) -> Result<(), String>,
) -> Option<Config> {
    let read = Config::load(path, named).map_err(|error| coord_db::error_chain(&error)).and_then(|config| {
        accept(&config)?;
        Ok(config)
    });
    let said = match &read {
        Ok(_) => {
            tracing::info!("read the settings again; they hold from now on");
            db.write(|tx| tx.close_alert(&config_fingerprint(component)).map(drop))
        }
        Err(why) => {
            tracing::error!(why, "the settings are refused; those from before stay. Mend the file and send SIGHUP again");
            db.write(|tx| tx.raise_alert(&refused(component, why)).map(drop))
        }
    };
    if let Err(error) = said {
        let error: Error = error;
        tracing::warn!(%error, "cannot write down how reading the settings went");
    }
    read.ok()
}

fn refused(component: &str, why: &str) -> NewAlert {
    NewAlert {
        fingerprint: config_fingerprint(component),
        severity: Severity::Warning,
        alert_type: AlertType::Resource,
        source: component.to_owned(),
        message: format!(
            "{component} was told to read its settings again and refuses them: {why}. It goes on with those from before; \
             mend the file and send SIGHUP again"
        ),
        context: json!({"kind": "config", "component": component, "error": why}),
        event_id: None,
    }
}
