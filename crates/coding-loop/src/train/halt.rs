//! The train of a machine halts while works cannot be judged there: a program is missing, a check is killed, the set-up fails without
//! them too, the remote does not answer. One alert of all its processes has the time of the next try, and is closed when something is
//! judged again. Other machines judge meanwhile.

use std::time::Duration;

use coord_db::process::{host, host_name};
use coord_db::{Alert, AlertType, NewAlert, Severity, Timestamp};
use serde_json::json;

use super::{RETRY, Train};
use crate::Result;

/// Beginning of the fingerprint of the alert, before the host.
const HALTED: &str = "train_halted";
/// Maximum number of times that the delay before the next try doubles.
const MAX_DOUBLINGS: i64 = 5;
/// Number of tries before the alert is critical.
const MAX_QUIET: i64 = 2;

fn fingerprint() -> String {
    format!("{HALTED}:{}", host().unwrap_or_default())
}

/// Milliseconds until the next try that an alert names; none if that is now.
fn millis_left(alert: Option<&Alert>, now: Timestamp) -> Option<i64> {
    let left = alert?.context["next_try"].as_i64()? - now.as_millis();
    // The clock may have been set back.
    let most = (RETRY.as_millis() as i64) << MAX_DOUBLINGS;
    (left > 0).then(|| left.min(most))
}

impl Train<'_> {
    /// Raises the alert, and sets the time of the next try, unless another process of this machine has just done so.
    pub(super) fn halt(&self, why: &str) -> Result<()> {
        let again = match self.context.store.remote() {
            None => "it is judged again by itself when that is mended".to_owned(),
            Some(_) => format!("{} tries again by itself", host().map_or("this machine", host_name)),
        };
        self.context.db.write(|tx| {
            let open = tx.open_alert(&fingerprint())?;
            if millis_left(open.as_ref(), tx.now()).is_some() {
                return Ok(());
            }
            let tries = open.and_then(|alert| alert.context["tries"].as_i64()).unwrap_or_default();
            let seconds = (RETRY.as_secs() as i64) << tries.clamp(0, MAX_DOUBLINGS);
            tx.raise_alert(&NewAlert {
                fingerprint: fingerprint(),
                severity: if tries < MAX_QUIET { Severity::Warning } else { Severity::Critical },
                alert_type: AlertType::Resource,
                source: "coding-loop".to_owned(),
                message: format!("finished work cannot land: {}; {again}", why.lines().next().unwrap_or_default()),
                context: json!({ "kind": HALTED, "tries": tries + 1, "next_try": tx.now().plus_seconds(seconds).as_millis() }),
                event_id: None,
            })
            .map(drop)
        })?;
        Ok(())
    }

    /// Time until the next try; none if the train of this machine is not halted.
    pub(super) fn halted_for(&self) -> Result<Option<Duration>> {
        let db = self.context.db;
        let alert = db.read(|tx| tx.open_alert(&fingerprint()))?;
        Ok(millis_left(alert.as_ref(), db.now()).map(|left| Duration::from_millis(left.unsigned_abs())))
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
