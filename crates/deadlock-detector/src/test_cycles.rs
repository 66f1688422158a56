//! Tests that depend on each other in a cycle. No victim can end this kind of cycle: the human decides which test runs first.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::payload::DecisionOption;
use coord_db::{Decision, DecisionStatus, Wait, WaitKind, WaitNode};
use serde_json::json;

/// Type of the decision. pm applies its answer.
pub const DEPENDENCY_CYCLE: &str = "dependency_cycle";
/// Maximum number of tests offered to run first, or to be skipped.
const MAX_OFFERED: usize = 4;
/// Maximum number of tests named in the question; the answer applies only while their dependencies are unchanged.
const MAX_NAMED: usize = 50;
/// Maximum number of questions asked in one pass.
pub(crate) const MAX_ASKED: usize = 20;

/// One test of a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleTest {
    /// Its id.
    pub id: String,
    /// The loop whose queue contains it.
    pub loop_id: String,
}

/// Tests each of which depends on the next one, and the last one on the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestCycle {
    /// The tests in the order of their dependencies, beginning with the smallest id.
    pub tests: Vec<CycleTest>,
}

impl TestCycle {
    /// Identifies the cycle. No test is in two cycles.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("ring:{}", self.tests.first().map_or("", |test| test.id.as_str()))
    }

    /// The same cycle, beginning with another test.
    fn from(&self, first: usize) -> Self {
        let mut tests = self.tests.clone();
        tests.rotate_left(first);
        Self { tests }
    }
}

/// The cycles of dependencies among these waits, in order. They are disjoint, because a test depends on at most one
/// other.
#[must_use]
pub fn test_cycles(waits: &[Wait]) -> Vec<TestCycle> {
    let mut needs: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for wait in waits {
        if let (WaitKind::Dependency, WaitNode::Test { id, loop_id }) = (&wait.kind, &wait.waiter)
            && let WaitNode::Test { id: holder, .. } = &wait.holder
        {
            needs.insert(id, (holder, loop_id));
        }
    }
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for &start in needs.keys() {
        let mut path: Vec<&str> = Vec::new();
        let mut place: BTreeMap<&str, usize> = BTreeMap::new();
        let mut at = start;
        while !done.contains(at) && !place.contains_key(at) {
            let Some((next, _)) = needs.get(at) else { break };
            place.insert(at, path.len());
            path.push(at);
            at = next;
        }
        if let Some(&from) = place.get(at) {
            let tests: Vec<CycleTest> =
                path[from..].iter().map(|id| CycleTest { id: (*id).to_owned(), loop_id: needs[id].1.to_owned() }).collect();
            let first = (0..tests.len()).min_by_key(|at| &tests[*at].id).unwrap_or(0);
            found.push(TestCycle { tests }.from(first));
        }
        done.extend(path);
    }
    found.sort_by(|one, other| one.tests[0].id.cmp(&other.tests[0].id));
    found
}

/// A question about a cycle; the caller adds the time limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Identifies the cycle.
    pub fingerprint: String,
    /// The question.
    pub summary: String,
    /// `drop:TEST` and `skip:TEST`.
    pub options: Vec<DecisionOption>,
    /// The option applied without an answer.
    pub default: String,
    /// The tests with their loops and dependencies.
    pub context: serde_json::Value,
}

/// True if the question about a cycle is open, or is answered and pm has not yet applied the answer.
pub(crate) fn is_asked(questions: &BTreeMap<String, Decision>, cycle: &TestCycle) -> bool {
    questions.get(&cycle.fingerprint()).is_some_and(|last| {
        last.status == DecisionStatus::Pending || last.choice.is_some() && last.context.get("resolved_event").is_none()
    })
}

/// Words the question. The test of the most important loop is offered first and is the default, so without an answer no
/// test is skipped and the gate still verifies each of them.
#[must_use]
pub fn question(cycle: &TestCycle, priority_of: impl Fn(&str) -> Option<i64>) -> Question {
    let priority = |test: &CycleTest| priority_of(&test.loop_id).unwrap_or(i64::MAX);
    let count = cycle.tests.len();
    let first = (0..count).min_by_key(|at| (priority(&cycle.tests[*at]), &cycle.tests[*at].id)).unwrap_or(0);
    let rotated = cycle.from(first);
    let tests = &rotated.tests;
    let needs = |at: usize| &tests[(at + 1) % count];
    let waiting = |at: usize| &tests[(at + count - 1) % count];
    let offered = count.min(MAX_OFFERED);
    let option = |id: String, description: String| DecisionOption { id, description };
    let mut options: Vec<DecisionOption> = (0..offered)
        .map(|at| {
            let (test, needed) = (&tests[at], needs(at));
            let default = if at == 0 { " (default)" } else { "" };
            let description = format!(
                "remove the dependency of {} of {} on {}, so that it runs first and the others follow in order{default}",
                test.id, test.loop_id, needed.id
            );
            option(format!("drop:{}", test.id), description)
        })
        .collect();
    options.extend((0..offered).map(|at| {
        let description = format!(
            "skip {} of {}; you will be asked about {}, which depends on it and stays blocked",
            tests[at].id,
            tests[at].loop_id,
            waiting(at).id
        );
        option(format!("skip:{}", tests[at].id), description)
    }));
    let shown: Vec<String> =
        (0..offered).map(|at| format!("{} of {} depends on {}", tests[at].id, tests[at].loop_id, needs(at).id)).collect();
    let more =
        if count > offered { format!(", and so on through {count} tests back to {}", tests[0].id) } else { String::new() };
    Question {
        fingerprint: cycle.fingerprint(),
        summary: format!(
            "{count} tests depend on each other in a cycle, so none of them can start: {}{more}. Which one runs first?",
            shown.join(", ")
        ),
        default: format!("drop:{}", tests[0].id),
        options,
        context: json!({
            "kind": DEPENDENCY_CYCLE, "count": count,
            "tests": (0..count.min(MAX_NAMED))
                .map(|at| json!({"test_id": tests[at].id, "loop_id": tests[at].loop_id, "depends_on": needs(at).id}))
                .collect::<Vec<_>>(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use coord_db::Timestamp;

    use super::*;

    /// `"t>u"`: t depends on u; both are of the loop `l`.
    fn found(text: &str) -> Vec<String> {
        let node = |id: &str| WaitNode::Test { id: id.to_owned(), loop_id: "l".to_owned() };
        let waits: Vec<Wait> = text
            .split(' ')
            .filter_map(|pair| pair.split_once('>'))
            .map(|(waiter, holder)| Wait {
                waiter: node(waiter),
                holder: node(holder),
                kind: WaitKind::Dependency,
                since: Timestamp::from_millis(0),
            })
            .collect();
        test_cycles(&waits).iter().map(|cycle| cycle.tests.iter().map(|test| test.id.as_str()).collect()).collect()
    }

    #[test]
    fn each_cycle_is_found_once_and_begins_with_its_first_test() {
        assert_eq!(found("a>b b>c"), Vec::<String>::new());
        assert_eq!(found("b>a a>b"), ["ab"]);
        assert_eq!(found("x>c c>a a>b b>c y>x"), ["abc"]);
        assert_eq!(found("d>e e>d a>c c>a f>a"), ["ac", "de"]);
    }
}
