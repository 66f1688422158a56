//! The morning's question: what has landed, what needs an answer, what broke and who mended it, what it cost, what was odd.

use coord_db::payload::TestPassed;
use coord_db::{
    Alert, Config, Error, Event, EventId, Hold, LoopId, Payload, ReadTx, Regression, Test, TestId, TestStatus, Timestamp,
};
use serde::Serialize;

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

/// A regression, and what became of it.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Broke {
    #[serde(flatten)]
    pub row: Regression,
    /// The head of integration at which the test was seen to pass again.
    pub passes_again_at: Option<String>,
    /// The loop that landed the test that broke it, or the broken test, again.
    pub mended_by: Option<LoopId>,
    /// The commit of that landing.
    pub mended_with: Option<String>,
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
    let types: Vec<&str> = ODD.into_iter().chain(["test_passed", "regression_cleared"]).collect();
    let events = tx.events_of_types(&types, since)?;
    let landed = landed(tx, &events)?;
    let mut broke: Vec<Broke> = Vec::new();
    for row in tx.regressions(false)? {
        if row.detected_at < since && row.resolved_at.is_some_and(|at| at < since) {
            continue;
        }
        let passes_again_at = row.resolved_at.and_then(|_| passes_again_at(&events, &row));
        let mended_by =
            row.resolved_at.and_then(|at| mended_by(&landed, &row, at)).map(|work| (work.loop_id.clone(), work.commit.clone()));
        let (mended_by, mended_with) = mended_by.unzip();
        broke.push(Broke { row, passes_again_at, mended_by, mended_with });
    }
    let mut blocked = tx.tests(None, Some(TestStatus::Blocked))?;
    blocked.extend(tx.tests(None, Some(TestStatus::Failed))?);
    Ok(Report {
        since,
        until: tx.now(),
        landed,
        waiting: Waiting {
            questions: questions(tx, tx.decisions(true)?)?,
            alerts: tx.alerts(true)?.into_iter().filter(|alert| !alert.acknowledged).collect(),
            blocked,
            holds: tx.all_holds()?,
        },
        broke,
        cost: cost::look(tx, Some(since), &config.budget)?,
        odd: events.iter().filter(|event| is_odd(event)).map(odd).collect(),
        lanes: lanes::look(tx, since)?.from_first_activity(),
    })
}

fn passes_again_at(events: &[Event], row: &Regression) -> Option<String> {
    events
        .iter()
        .filter(|event| event.event_type == "regression_cleared" && event.timestamp >= row.detected_at)
        .find(|event| event.payload["test_id"].as_str() == Some(row.test_id.as_str()))
        .and_then(|event| event.payload["commit"].as_str().map(str::to_owned))
}

/// The work that mended a regression: the last landing of the test that broke it, or of the broken test, before it was over.
fn mended_by<'a>(landed: &'a [Landed], row: &Regression, resolved_at: Timestamp) -> Option<&'a Landed> {
    let is_of = |work: &&Landed| Some(work.test_id.as_str()) == row.blamed_test.as_deref() || work.test_id == row.test_id;
    landed.iter().rev().filter(|work| work.at >= row.detected_at && work.at <= resolved_at).find(is_of)
}

fn landed(tx: &ReadTx<'_>, events: &[Event]) -> Result<Vec<Landed>, Error> {
    let mut landed: Vec<Landed> = Vec::new();
    for event in events {
        let Ok(Payload::TestPassed(passed)) = event.parse() else { continue };
        let test = tx.find_test(passed.test_id.as_str())?;
        let used = tx.usage_of_test(&passed.test_id)?;
        // The use of a test is all that it took; it stands beside its last landing.
        for earlier in landed.iter_mut().filter(|earlier| earlier.test_id == passed.test_id) {
            (earlier.tokens_estimated, earlier.cost_microusd, earlier.is_last) = (0, 0, false);
        }
        let TestPassed { test_id, loop_id, attempt, commit, duration_seconds, verification_checks, .. } = passed;
        landed.push(Landed {
            at: event.timestamp,
            title: test.as_ref().map(title).unwrap_or_default(),
            test_id,
            loop_id,
            commit,
            attempt,
            checks: verification_checks.keys().cloned().collect(),
            duration_seconds,
            tokens_estimated: used.tokens_estimated,
            cost_microusd: used.cost_microusd,
            is_last: true,
            event_id: event.id.clone(),
        });
    }
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

#[cfg(test)]
mod tests {
    use coord_db::RegressionStatus;

    use super::*;

    fn landed(second: i64, test: &str, loop_id: &str) -> Landed {
        Landed {
            at: Timestamp::from_millis(second * 1000),
            test_id: test.parse().unwrap(),
            loop_id: loop_id.parse().unwrap(),
            title: String::new(),
            commit: format!("c{second}"),
            attempt: 1,
            checks: Vec::new(),
            duration_seconds: 0,
            tokens_estimated: 0,
            cost_microusd: 0,
            is_last: true,
            event_id: "e".parse().unwrap(),
        }
    }

    #[test]
    fn who_lands_the_broken_or_the_breaking_test_again_has_mended_it() {
        let row = Regression {
            id: "r".to_owned(),
            test_id: "broken".parse().unwrap(),
            check_name: "suite".to_owned(),
            last_good_commit: "a".to_owned(),
            bad_commit: "b".to_owned(),
            first_bad_commit: None,
            blamed_loop: Some("store".to_owned()),
            blamed_test: Some("breaking".to_owned()),
            status: RegressionStatus::Cleared,
            bisect: None,
            output_tail: String::new(),
            detected_at: Timestamp::from_millis(10_000),
            resolved_at: Some(Timestamp::from_millis(30_000)),
            event_id: None,
        };
        let all = [
            landed(5, "breaking", "store"),
            landed(20, "breaking", "store"),
            landed(25, "other", "core"),
            landed(40, "broken", "core"),
        ];
        let at = |second: i64| mended_by(&all, &row, Timestamp::from_millis(second * 1000)).map(|work| work.commit.as_str());
        assert_eq!((at(30), at(15), at(50)), (Some("c20"), None, Some("c40")));
    }
}
