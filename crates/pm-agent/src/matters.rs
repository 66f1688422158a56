//! Types, fingerprints and context keys of questions, shared by snapshot and decision.

use std::collections::BTreeMap;

use coord_db::payload::ResourceWarning;
use coord_db::{
    BASE_QUESTION, BASE_SLOW_QUESTION, Decision, GREEN_BEFORE_QUESTION, HOLD_QUESTION, LoopId, NO_CHANGE_QUESTION, Test,
};
use serde_json::Value;
use supervisor::Inbound;

/// A text in a decision's context.
pub(crate) fn text_of<'a>(context: &'a Value, key: &str) -> Option<&'a str> {
    context.get(key).and_then(Value::as_str)
}

/// The loops that a decision's context names under `loops`.
pub(crate) fn loops_of(context: &Value) -> Vec<LoopId> {
    let listed = context.get("loops").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok()).collect()
}

/// Type of deadlock-detector's question about a cycle of test dependencies.
pub(crate) const CYCLE_OF_TESTS: &str = "dependency_cycle";

/// Questions of loops whose answers pm applies: they concern attempts, other tests and other loops.
const OF_LOOPS: &[&str] = &[HOLD_QUESTION, NO_CHANGE_QUESTION, GREEN_BEFORE_QUESTION, BASE_QUESTION, BASE_SLOW_QUESTION];

/// True for questions whose answers pm applies: its own, those of deadlock-detector about tests, and those of loops
/// about attempts.
pub(crate) fn is_own(decision: &Decision) -> bool {
    match decision.requested_by.as_deref() {
        Some("pm") => true,
        Some("deadlock-detector") => decision.decision_type == CYCLE_OF_TESTS,
        Some(_) => OF_LOOPS.contains(&decision.decision_type.as_str()),
        None => false,
    }
}

/// The fingerprint of all questions about one test.
pub(crate) fn about_test(test: &str) -> String {
    format!("test:{test}")
}

/// Type of the question about a commit that broke something.
pub(crate) const REGRESSION: &str = "regression";

/// Fingerprint of this question: the commit, or the test if the commit is unknown.
pub(crate) fn about_commit(matter: &str) -> String {
    format!("regression:{matter}")
}

/// Fingerprint of an exhausted budget: of a loop's test, or of a day.
pub(crate) fn budget_fingerprint(
    inbound: &Inbound,
    payload: &ResourceWarning,
    current_tests: &BTreeMap<LoopId, Test>,
) -> String {
    match &payload.loop_id {
        Some(loop_id) => {
            let named = text_of(&inbound.event.payload, "test_id");
            let test = named.or_else(|| current_tests.get(loop_id).map(|test| test.id.as_str())).unwrap_or("-");
            format!("budget:{loop_id}:{}:{test}", payload.resource)
        }
        None => format!("budget:day:{}:{}", payload.resource, &inbound.event.timestamp.to_rfc3339()[..10]),
    }
}

/// Fingerprint of the question that pauses all loops.
pub(crate) const SYSTEM: &str = "system";

/// The tests in the question, each with its dependency at that time.
pub(crate) fn tests_in_cycle(context: &Value) -> impl Iterator<Item = (&str, &str)> {
    let tests = context.get("tests").and_then(Value::as_array);
    tests.into_iter().flatten().filter_map(|test| Some((text_of(test, "test_id")?, text_of(test, "depends_on")?)))
}
