//! Writes the rows of one action: records intents, raises and closes alerts.

use coord_db::{AlertType, EventFilter, EventId, NewAlert, Payload, Result, Severity, WriteTx};
use serde::Serialize;
use serde_json::json;

use crate::decide::Action;
use crate::notes::{ASK_TESTS, BISECT, CHECK_COLD, CHECK_HEAD, Found};
use crate::snapshot::{LOST, UNCHECKED};
use crate::{BisectNotes, ID, record};

pub(crate) fn apply(tx: &WriteTx<'_>, action: &Action) -> Result<()> {
    match action {
        Action::CheckHead { steps, reason } => {
            tracing::info!(check = steps.check, commit = steps.commit, reason, "running a check");
            let cause = what_moved_to(tx, &steps.commit)?;
            begin(tx, CHECK_HEAD, steps, cause.as_ref())?;
        }
        Action::AskTests { steps } => {
            tracing::info!(check = steps.check, commit = steps.commit, "running a failing check for more tests");
            begin(tx, ASK_TESTS, steps, None)?;
        }
        Action::CheckCold { steps } => {
            tracing::info!(check = steps.check, commit = steps.commit, "running a check on a fresh clone without caches");
            begin(tx, CHECK_COLD, steps, None)?;
        }
        Action::Bisect { steps } => {
            tracing::info!(regression = steps.regression, round = steps.round, "bisecting");
            begin(tx, BISECT, steps, None)?;
        }
        Action::GiveUp { regression, why } => {
            if let Some(row) = tx.regression(regression)?.filter(|row| row.resolved_at.is_none()) {
                let notes = BisectNotes::of(&row);
                record::settle(tx, row, notes, &Found::Unknown { why: why.clone(), suspects: Vec::new() })?;
            }
        }
        Action::ReportUnchecked(message) => alert(tx, UNCHECKED, Severity::Info, message)?,
        Action::ReportLost(message) => alert(tx, LOST, Severity::Error, message)?,
        Action::CloseAlert { fingerprint, why } => {
            tracing::info!(fingerprint, why, "alert closed");
            tx.close_alert(fingerprint)?;
        }
    }
    Ok(())
}

fn alert(tx: &WriteTx<'_>, kind: &str, severity: Severity, message: &str) -> Result<()> {
    tracing::info!("{message}");
    tx.raise_alert(&NewAlert {
        fingerprint: kind.to_owned(),
        severity,
        alert_type: AlertType::Regression,
        source: ID.to_owned(),
        message: message.to_owned(),
        context: json!({"kind": kind}),
        event_id: None,
    })?;
    Ok(())
}

fn begin(tx: &WriteTx<'_>, operation: &str, steps: &impl Serialize, cause: Option<&EventId>) -> Result<()> {
    let steps = serde_json::to_value(steps).unwrap_or_default();
    tx.begin_operation(operation, ID, None, &steps, cause)?;
    Ok(())
}

/// The event of the test that landed with this commit, if it is the newest landing.
fn what_moved_to(tx: &WriteTx<'_>, commit: &str) -> Result<Option<EventId>> {
    let newest = EventFilter { event_type: Some("test_passed".to_owned()), limit: Some(1), ..EventFilter::default() };
    let newest = tx.events(&newest)?.pop();
    Ok(newest
        .filter(|event| matches!(event.parse(), Ok(Payload::TestPassed(passed)) if passed.commit == commit))
        .map(|event| event.id))
}
