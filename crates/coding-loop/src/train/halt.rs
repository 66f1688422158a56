//! The train of a machine halts while works cannot be judged there: a program is missing, a check is killed, the set-up fails without
//! them too, the remote does not answer. One alert of all its processes has the time of the next try, and is closed when something is
//! judged again. Other machines judge meanwhile.

use std::time::Duration;

use coord_db::process::{host, host_name};
use serde_json::json;

use super::Train;
use crate::{Result, retry_alert};

/// Beginning of the fingerprint of the alert, before the host.
const HALTED: &str = "train_halted";

fn fingerprint() -> String {
    format!("{HALTED}:{}", host().unwrap_or_default())
}

impl Train<'_> {
    /// Raises the alert, and sets the time of the next try, unless another process of this machine has just done so.
    pub(super) fn halt(&self, why: &str) -> Result<()> {
        let again = match self.context.store.remote() {
            None => "it is judged again by itself when that is mended".to_owned(),
            Some(_) => format!("{} tries again by itself", host().map_or("this machine", host_name)),
        };
        let message = format!("finished work cannot land: {}; {again}", why.lines().next().unwrap_or_default());
        let context = json!({ "kind": HALTED });
        self.context.db.write(|tx| retry_alert::raise(tx, &fingerprint(), message, context))?;
        Ok(())
    }

    /// Time until the next try; none if the train of this machine is not halted.
    pub(super) fn halted_for(&self) -> Result<Option<Duration>> {
        let db = self.context.db;
        let alert = db.read(|tx| tx.open_alert(&fingerprint()))?;
        Ok(alert.and_then(|alert| retry_alert::time_left(&alert, db.now())))
    }

    /// Closes the alerts that end with what has happened: this machine's when something was judged, all when nothing waits.
    pub(super) fn go_on(&self, nothing_waits: bool) -> Result<()> {
        let ended = if nothing_waits { HALTED.to_owned() } else { fingerprint() };
        for alert in self.context.db.read(|tx| tx.open_alerts_with(&ended))? {
            tracing::info!("finished work can be judged again");
            let Some(fingerprint) = alert.fingerprint else { continue };
            self.context.db.write(|tx| tx.close_alert(&fingerprint))?;
        }
        Ok(())
    }
}
