//! Tests that depend on each other in a cycle: what follows from the answer to deadlock-detector's question, and when the
//! question has become idle.

use coord_db::{Test, TestId, TestStatus};
use serde_json::Value;

use super::{Act, Work};
use crate::matters::tests_in_cycle;

fn depends(test: &Test, on: &str) -> bool {
    test.depends_on.as_ref().map(TestId::as_str) == Some(on)
}

/// Why the cycle no longer stands, if it does not.
pub(super) fn gone(work: &Work<'_>, context: &Value) -> Option<String> {
    tests_in_cycle(context).find_map(|(id, on)| match work.test(id) {
        None => Some(format!("test {id} is not there any more")),
        Some(test) if test.status != TestStatus::Pending => Some(format!("test {id} is {}", test.status)),
        Some(test) if !depends(test, on) => Some(format!("test {id} no longer waits for test {on}")),
        Some(_) => None,
    })
}

/// What an answer comes to, for people.
pub(super) fn told(context: &Value, choice: &str) -> Option<String> {
    let (what, id) = choice.split_once(':')?;
    let (test, on) = tests_in_cycle(context).find(|(known, _)| *known == id)?;
    match what {
        "drop" => Some(format!("test {test} goes first and no longer waits for test {on}")),
        "skip" => Some(format!("test {test} is taken out of its queue")),
        _ => None,
    }
}

/// What follows from an answer, `drop:TEST` or `skip:TEST`, while the cycle stands.
pub(super) fn follow(work: &Work<'_>, context: &Value, choice: &str, reason: String) -> Vec<Act> {
    if gone(work, context).is_some() {
        return Vec::new();
    }
    let test = |id: &str| tests_in_cycle(context).find(|(known, _)| *known == id).and_then(|_| work.test(id));
    if let Some(test) = choice.strip_prefix("drop:").and_then(test) {
        return vec![Act::ClearDependency { test: test.id.clone() }];
    }
    if let Some(test) = choice.strip_prefix("skip:").and_then(test) {
        return vec![Act::SkipTest { test: test.id.clone(), reason }];
    }
    Vec::new()
}
