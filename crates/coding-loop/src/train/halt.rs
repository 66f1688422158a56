//! The train halts while works cannot be judged: a program is missing, a check is killed, the set-up fails without them too. One
//! alert of all processes has the time of the next try, and is closed when something is judged again.

use std::time::Duration;

use coord_db::{AlertType, NewAlert, Severity};
use serde_json::json;

use super::{RETRY, Train};
use crate::Result;

/// Fingerprint of the alert.
const HALTED: &str = "train_halted";
/// Maximum number of times that the delay before the next try doubles.
const MAX_DOUBLINGS: i64 = 5;
/// Number of tries before the alert is critical.
const MAX_QUIET: i64 = 2;

impl Train<'_> {
    /// Raises the alert, and sets the time of the next try.
    pub(super) fn halt(&self, why: &str) -> Result<()> {
        self.context.db.write(|tx| {
            let tries = tx.open_alert(HALTED)?.and_then(|alert| alert.context["tries"].as_i64()).unwrap_or_default();
            let seconds = (RETRY.as_secs() as i64) << tries.clamp(0, MAX_DOUBLINGS);
            tx.raise_alert(&NewAlert {
                fingerprint: HALTED.to_owned(),
                severity: if tries < MAX_QUIET { Severity::Warning } else { Severity::Critical },
                alert_type: AlertType::Resource,
                source: "coding-loop".to_owned(),
                message: format!(
                    "finished work cannot land: {}; it is judged again by itself when that is mended",
                    why.lines().next().unwrap_or_default()
                ),
                context: json!({ "kind": HALTED, "tries": tries + 1, "next_try": tx.now().plus_seconds(seconds).as_millis() }),
                event_id: None,
            })
        })?;
        Ok(())
    }

    /// Time until the next try; none if the train is not halted.
    pub(super) fn halted_for(&self) -> Result<Option<Duration>> {
        let db = self.context.db;
        let next = db.read(|tx| tx.open_alert(HALTED))?.and_then(|alert| alert.context["next_try"].as_i64());
        let left = next.map_or(0, |next| next - db.clock().now().as_millis());
        // The clock may have been set back.
        let most = (RETRY.as_millis() as i64) << MAX_DOUBLINGS;
        Ok((left > 0).then(|| Duration::from_millis(left.min(most).unsigned_abs())))
    }

    /// Closes the alert.
    pub(super) fn go_on(&self) -> Result<()> {
        let db = self.context.db;
        if db.read(|tx| tx.open_alert(HALTED))?.is_some() {
            tracing::info!("finished work can be judged again");
            db.write(|tx| tx.close_alert(HALTED))?;
        }
        Ok(())
    }
}
