//! What broke, and what mended it.

use coord_db::{Error, Event, LoopId, ReadTx, Regression, TestId, Timestamp};
use serde::Serialize;

/// The types of the events that tell what became of a regression.
pub const TYPES: [&str; 2] = ["test_passed", "regression_cleared"];

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
    /// The test that it landed.
    pub mended_test: Option<TestId>,
    /// The commit of that landing.
    pub mended_with: Option<String>,
}

impl Broke {
    /// What became of a regression, as the events tell that have happened since.
    #[must_use]
    pub fn of(row: Regression, events: &[Event]) -> Self {
        let mender = row.resolved_at.and_then(|at| mender(&row, events, at));
        let named = |key: &str| mender.and_then(|event| event.payload[key].as_str());
        Self {
            passes_again_at: row.resolved_at.and_then(|_| passes_again_at(&row, events)),
            mended_by: named("loop_id").and_then(|id| id.parse().ok()),
            mended_test: named("test_id").and_then(|id| id.parse().ok()),
            mended_with: named("commit").map(str::to_owned),
            row,
        }
    }

    /// The regressions of a test, the oldest first.
    ///
    /// # Errors
    /// What the database reports.
    pub fn of_test(tx: &ReadTx<'_>, test: &TestId) -> Result<Vec<Self>, Error> {
        let rows: Vec<Regression> = tx.regressions(false)?.into_iter().filter(|row| row.test_id == *test).collect();
        let over = rows.iter().filter(|row| row.resolved_at.is_some());
        let events = match over.map(|row| row.detected_at).min() {
            Some(first) => tx.events_of_types(&TYPES, first)?,
            None => Vec::new(),
        };
        Ok(rows.into_iter().map(|row| Self::of(row, &events)).collect())
    }
}

fn passes_again_at(row: &Regression, events: &[Event]) -> Option<String> {
    events
        .iter()
        .filter(|event| event.event_type == "regression_cleared" && event.timestamp >= row.detected_at)
        .find(|event| event.payload["test_id"].as_str() == Some(row.test_id.as_str()))
        .and_then(|event| event.payload["commit"].as_str().map(str::to_owned))
}

/// The work that mended a regression: the last landing of the test that broke it, or of the broken test, before it was over.
fn mender<'a>(row: &Regression, events: &'a [Event], resolved_at: Timestamp) -> Option<&'a Event> {
    let is_its = |test: &str| Some(test) == row.blamed_test.as_deref() || test == row.test_id.as_str();
    events
        .iter()
        .rev()
        .filter(|event| event.event_type == "test_passed")
        .filter(|event| event.timestamp >= row.detected_at && event.timestamp <= resolved_at)
        .find(|event| event.payload["test_id"].as_str().is_some_and(is_its))
}

#[cfg(test)]
mod tests {
    use coord_db::RegressionStatus;
    use serde_json::json;
    use test_support::sample_event;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn event(second: i64, event_type: &str, test: &str, loop_id: &str) -> Event {
        Event {
            timestamp: at(second),
            source: loop_id.to_owned(),
            event_type: event_type.to_owned(),
            payload: json!({ "test_id": test, "loop_id": loop_id, "commit": format!("c{second}") }),
            ..sample_event(&format!("e{second}"))
        }
    }

    #[test]
    fn who_lands_the_broken_or_the_breaking_test_again_has_mended_it() {
        let row = |resolved: Option<i64>| Regression {
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
            detected_at: at(10),
            resolved_at: resolved.map(at),
            event_id: None,
        };
        let all = [
            event(5, "test_passed", "breaking", "store"),
            event(20, "test_passed", "breaking", "store"),
            event(25, "test_passed", "other", "core"),
            event(30, "regression_cleared", "broken", "regression-checker"),
            event(40, "test_passed", "broken", "core"),
        ];
        let mended = |resolved: Option<i64>| {
            let broke = Broke::of(row(resolved), &all);
            (broke.mended_with, broke.mended_by.map(|id| id.to_string()), broke.mended_test.map(|id| id.to_string()))
        };
        let by = |commit: &str, loop_id: &str, test: &str| {
            (Some(commit.to_owned()), Some(loop_id.to_owned()), Some(test.to_owned()))
        };
        assert_eq!(mended(Some(30)), by("c20", "store", "breaking"));
        assert_eq!(mended(Some(50)), by("c40", "core", "broken"));
        assert_eq!(mended(Some(15)), (None, None, None), "what landed later has not mended it");
        assert_eq!(mended(None), (None, None, None), "it still fails");
        assert_eq!(Broke::of(row(Some(30)), &all).passes_again_at.as_deref(), Some("c30"));
        assert_eq!(Broke::of(row(None), &all).passes_again_at, None);
    }
}
