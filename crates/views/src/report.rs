//! The morning's question: what has landed, what needs an answer, what broke and who mended it, what it cost, what was odd.

use std::collections::BTreeMap;

use coord_db::payload::TestPassed;
use coord_db::{
    Alert, Config, Error, Event, EventId, Hold, LoopId, Payload, ReadTx, Test, TestId, TestStatus, Timestamp, UsageTotal,
};
use serde::Serialize;

use crate::broke::{self, Broke};
use crate::cost::{self, Cost};
use crate::lanes::{self, Lanes};
use crate::questions::{Question, questions};
use crate::sentence::sentence;

/// A period of work.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    pub since: Timestamp,
    pub until: Timestamp,
    /// In the order of landing.
    pub landed: Vec<Landed>,
    pub waiting: Waiting,
    /// The oldest first.
    pub broke: Vec<Broke>,
    pub cost: Cost,
    /// The oldest first.
    pub odd: Vec<Odd>,
    pub lanes: Lanes,
}

/// Verified work.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Landed {
    pub at: Timestamp,
    pub test_id: TestId,
    pub loop_id: LoopId,
    /// The first line of its notes or specification.
    pub title: String,
    pub commit: String,
    pub attempt: i64,
    /// The checks that passed on it.
    pub checks: Vec<String>,
    pub duration_seconds: i64,
    pub tokens_estimated: i64,
    pub cost_microusd: i64,
    /// False if the test landed again later.
    pub is_last: bool,
    /// For `loopctl why`.
    pub event_id: EventId,
}

/// What needs the human.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Waiting {
    pub questions: Vec<Question>,
    /// Open alerts that nobody has acknowledged.
    pub alerts: Vec<Alert>,
    /// Tests that no loop takes again by itself.
    pub blocked: Vec<Test>,
    /// What keeps loops from starting an attempt.
    pub holds: Vec<Hold>,
}

impl Report {
    /// How many tests have landed, and how many landings were of a test that landed again later.
    #[must_use]
    pub fn landed_tests(&self) -> (i64, i64) {
        let tests = self.landed.iter().filter(|work| work.is_last).count();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        (number(tests), number(self.landed.len() - tests))
    }
}

/// Something that does not happen on a quiet day.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Odd {
    pub at: Timestamp,
    pub event_type: String,
    pub sentence: String,
    /// For `loopctl why`.
    pub event_id: EventId,
}

/// The types of [`Odd`] events.
const ODD: [&str; 12] = [
    "agent_limited",
    "agent_available",
    "agent_gave_up",
    "base_red",
    "component_degraded",
    "digression_detected",
    "file_conflict",
    "force_release",
    "knowledge_conflict",
    "rollback_triggered",
    "stuck_detected",
    "test_blocked",
];

/// Reads what has happened since a moment.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>, config: &Config, since: Timestamp) -> Result<Report, Error> {
    let types: Vec<&str> = ODD.into_iter().chain(broke::TYPES).collect();
    let events = tx.events_of_types(&types, since)?;
    let mut regressions = tx.regressions(false)?;
    regressions.retain(|row| row.detected_at >= since || row.resolved_at.is_none_or(|at| at >= since));
    let mut blocked = tx.tests(None, Some(TestStatus::Blocked))?;
    blocked.extend(tx.tests(None, Some(TestStatus::Failed))?);
    Ok(Report {
        since,
        until: tx.now(),
        landed: landed(tx, &events)?,
        waiting: Waiting {
            questions: questions(tx, tx.decisions(true)?)?,
            alerts: tx.alerts(true)?.into_iter().filter(|alert| !alert.acknowledged).collect(),
            blocked,
            holds: tx.all_holds()?,
        },
        broke: regressions.into_iter().map(|row| Broke::of(row, &events)).collect(),
        cost: cost::look(tx, Some(since), &config.budget)?,
        odd: events.iter().filter(|event| is_odd(event)).map(odd).collect(),
        lanes: lanes::look(tx, since)?.from_first_activity(),
    })
}

fn landed(tx: &ReadTx<'_>, events: &[Event]) -> Result<Vec<Landed>, Error> {
    let passes = events.iter().filter_map(|event| match event.parse() {
        Ok(Payload::TestPassed(passed)) => Some((event, passed)),
        _ => None,
    });
    let mut known: BTreeMap<TestId, (String, UsageTotal)> = BTreeMap::new();
    let mut landed: Vec<Landed> = Vec::new();
    // The newest first: the use of a test is all that it took, and stands beside its last landing.
    for (event, passed) in passes.collect::<Vec<_>>().into_iter().rev() {
        let TestPassed { test_id, loop_id, attempt, commit, duration_seconds, verification_checks, .. } = passed;
        let is_last = !known.contains_key(&test_id);
        if is_last {
            let title = tx.find_test(test_id.as_str())?.as_ref().map(title).unwrap_or_default();
            known.insert(test_id.clone(), (title, tx.usage_of_test(&test_id)?));
        }
        let (title, used) = known.get(&test_id).cloned().unwrap_or_default();
        landed.push(Landed {
            at: event.timestamp,
            title,
            test_id,
            loop_id,
            commit,
            attempt,
            checks: verification_checks.keys().cloned().collect(),
            duration_seconds,
            tokens_estimated: if is_last { used.tokens_estimated } else { 0 },
            cost_microusd: if is_last { used.cost_microusd } else { 0 },
            is_last,
            event_id: event.id.clone(),
        });
    }
    landed.reverse();
    Ok(landed)
}

/// What a test is about, in one line; empty if it does not say.
#[must_use]
pub fn title(test: &Test) -> String {
    let text = test.notes.as_deref().or(test.spec_content.as_deref()).unwrap_or_default();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.trim_start_matches('#').trim().to_owned()
}

fn is_odd(event: &Event) -> bool {
    // A late heartbeat is not yet a death.
    let is_late = event.event_type == "component_degraded" && event.payload["status"].as_str() != Some("dead");
    ODD.contains(&event.event_type.as_str()) && !is_late
}

fn odd(event: &Event) -> Odd {
    Odd { at: event.timestamp, event_type: event.event_type.clone(), sentence: sentence(event), event_id: event.id.clone() }
}
