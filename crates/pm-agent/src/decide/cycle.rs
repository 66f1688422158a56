//! Cycles of test dependencies: the consequences of the answer to deadlock-detector's question, and when the question
//! is obsolete.

use coord_db::{Test, TestId, TestStatus};
use serde_json::Value;

use super::{Act, Work};
use crate::matters::tests_in_cycle;

fn depends(test: &Test, on: &str) -> bool {
    test.depends_on.as_ref().map(TestId::as_str) == Some(on)
}

/// The reason why the cycle no longer exists, if it does not.
pub(super) fn obsolete(work: &Work<'_>, context: &Value) -> Option<String> {
    tests_in_cycle(context).find_map(|(id, on)| match work.test(id) {
        None => Some(format!("test {id} no longer exists")),
        Some(test) if test.status != TestStatus::Pending => Some(format!("test {id} is {}", test.status)),
        Some(test) if !depends(test, on) => Some(format!("test {id} no longer depends on test {on}")),
        Some(_) => None,
    })
}

/// Describes the effect of an answer.
pub(super) fn describe(context: &Value, choice: &str) -> Option<String> {
    let (what, id) = choice.split_once(':')?;
    let (test, on) = tests_in_cycle(context).find(|(known, _)| *known == id)?;
    match what {
        "drop" => Some(format!("test {test} no longer depends on test {on} and runs first")),
        "skip" => Some(format!("test {test} is skipped")),
        _ => None,
    }
}

/// The consequences of the answer `drop:TEST` or `skip:TEST` while the cycle exists.
pub(super) fn follow(work: &Work<'_>, context: &Value, choice: &str, reason: String) -> Vec<Act> {
    if obsolete(work, context).is_some() {
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
