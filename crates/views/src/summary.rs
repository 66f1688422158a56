//! What a period has brought.

use coord_db::{Conflict, Deadlock, Error, Event, ReadTx, Regression, Test, TestStatus, Timestamp, UsageKey, UsageTotal};
use serde::Serialize;
use serde_json::Value;

use crate::questions::{Question, questions};
use crate::sentence::as_told;

/// What a period has brought.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Summary {
    pub since: Timestamp,
    pub until: Timestamp,
    pub passed: Vec<Test>,
    #[serde(serialize_with = "as_told")]
    pub failed_attempts: Vec<Event>,
    #[serde(serialize_with = "as_told")]
    pub blocked: Vec<Event>,
    pub deadlocks: Vec<Deadlock>,
    pub conflicts: Vec<Conflict>,
    pub regressions: Vec<Regression>,
    pub decisions: Vec<Question>,
    #[serde(serialize_with = "as_told")]
    pub deaths: Vec<Event>,
    pub usage: Vec<UsageTotal>,
}

/// Reads what has happened since a moment.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, since: Timestamp) -> Result<Summary, Error> {
    let events = tx.events_of_types(&["component_degraded", "test_failed", "test_blocked"], since)?;
    let of_type = |event_type: &str| events.iter().filter(|event| event.event_type == event_type).cloned().collect::<Vec<_>>();
    let mut passed = tx.tests(None, Some(TestStatus::Passed))?;
    passed.retain(|test| test.passed_at.is_some_and(|at| at >= since));
    let mut conflicts = tx.conflicts(false)?;
    conflicts.retain(|row| row.detected_at >= since);
    let mut regressions = tx.regressions(false)?;
    regressions.retain(|row| row.detected_at >= since);
    let mut decisions = tx.decisions(false)?;
    decisions.retain(|row| row.requested_at >= since || row.decided_at.is_some_and(|at| at >= since));
    let mut deaths = of_type("component_degraded");
    deaths.retain(|event| event.payload.get("status").and_then(Value::as_str) == Some("dead"));
    Ok(Summary {
        since,
        until: tx.now(),
        passed,
        failed_attempts: of_type("test_failed"),
        blocked: of_type("test_blocked"),
        deadlocks: tx.deadlocks_since(since)?,
        conflicts,
        regressions,
        decisions: questions(tx, decisions)?,
        deaths,
        usage: tx.usage_totals(UsageKey::Loop, Some(since))?,
    })
}
