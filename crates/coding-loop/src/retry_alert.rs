//! The alert about something that does not work on this machine and is tried again by itself, with a delay that doubles. It has the
//! time of the next try, by which all processes of the machine go.

use std::time::Duration;

use coord_db::{Alert, AlertType, NewAlert, Result, Severity, Timestamp, WriteTx};
use serde_json::{Value, json};

/// Delay before the second try, in milliseconds; it doubles.
const FIRST_DELAY: i64 = 10_000;
/// Maximum number of times that the delay doubles.
const MAX_DOUBLINGS: i64 = 5;
/// Number of tries before the alert is critical.
const MAX_QUIET: i64 = 2;

/// When what an alert is about is tried next.
pub(crate) fn next_try(alert: &Alert) -> Timestamp {
    Timestamp::from_millis(alert.context["next_try"].as_i64().unwrap_or_default())
}

/// Time until the next try; none if that is now.
pub(crate) fn time_left(alert: &Alert, now: Timestamp) -> Option<Duration> {
    // The clock may have been set back.
    let left = next_try(alert).millis_since(now).min(FIRST_DELAY << MAX_DOUBLINGS);
    u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
}

/// Raises the alert after a try that has failed, and sets the time of the next one, unless another process has just done so.
pub(crate) fn raise(tx: &WriteTx<'_>, fingerprint: &str, message: String, mut context: Value) -> Result<()> {
    let open = tx.open_alert(fingerprint)?;
    if open.as_ref().is_some_and(|alert| time_left(alert, tx.now()).is_some()) {
        return Ok(());
    }
    let tries = open.and_then(|alert| alert.context["tries"].as_i64()).unwrap_or_default();
    let again = tx.now().plus_millis(FIRST_DELAY << tries.clamp(0, MAX_DOUBLINGS));
    (context["tries"], context["next_try"]) = (json!(tries + 1), json!(again.as_millis()));
    tx.raise_alert(&NewAlert {
        fingerprint: fingerprint.to_owned(),
        severity: if tries < MAX_QUIET { Severity::Warning } else { Severity::Critical },
        alert_type: AlertType::Resource,
        source: "coding-loop".to_owned(),
        message,
        context,
        event_id: None,
    })
    .map(drop)
}
