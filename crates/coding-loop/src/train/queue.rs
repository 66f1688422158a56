//! The order of the queue, and whether a batch waits for more.

use std::collections::BTreeMap;

use coord_db::{Landing, LoopId};

/// Number of landings of others after which a work goes before those with a higher priority.
const MAX_PASSED_OVER: i64 = 3;

/// The ids of queued works in their order: first what mends landed work, then works that were passed over too often, then by
/// priority of the loop, then by age.
#[must_use]
pub fn ranked(landings: &[Landing], priorities: &BTreeMap<LoopId, i64>) -> Vec<String> {
    let mut sorted: Vec<&Landing> = landings.iter().collect();
    sorted.sort_by_key(|landing| {
        let is_overdue = landing.passed_over >= MAX_PASSED_OVER;
        let priority = if is_overdue { 0 } else { priorities.get(&landing.loop_id).copied().unwrap_or(i64::MAX) };
        (!landing.urgent, !is_overdue, priority, landing.queued_at, landing.id.clone())
    });
    sorted.into_iter().map(|landing| landing.id.clone()).collect()
}

/// True if an attempt's own judgement is expected to end within a tenth of the suite's time. `left` has for each judgement
/// the time in milliseconds that it still needs; negative if it takes longer than before.
pub(super) fn expects_more(left: &[i64], suite_ms: i64) -> bool {
    let soon = suite_ms / 10;
    left.iter().any(|left| (-soon..=soon).contains(left))
}

#[cfg(test)]
mod tests {
    use coord_db::{LandingState, StringList, Timestamp};

    use super::*;

    fn landing(id: &str, of: &str, queued_at: i64) -> Landing {
        Landing {
            id: id.to_owned(),
            test_id: id.parse().unwrap(),
            loop_id: of.parse().unwrap(),
            attempt: 1,
            state: LandingState::Queued,
            urgent: false,
            passed_over: 0,
            base_tree: String::new(),
            tree: String::new(),
            head: String::new(),
            commit_hash: String::new(),
            theirs: None,
            proof: String::new(),
            checks: serde_json::Value::Null,
            seconds: 0,
            tokens: None,
            files: StringList::default(),
            batch: None,
            reason: None,
            clashes: StringList::default(),
            queued_at: Timestamp::from_millis(queued_at),
            ended_at: None,
        }
    }

    #[test]
    fn mends_go_first_then_the_overdue_then_priority_then_age() {
        let priorities: BTreeMap<LoopId, i64> = [("a".parse().unwrap(), 5), ("b".parse().unwrap(), 1)].into();
        let mut all = vec![landing("1", "a", 1), landing("2", "a", 2), landing("3", "b", 3), landing("4", "b", 4)];
        assert_eq!(ranked(&all, &priorities), ["3", "4", "1", "2"]);
        all[1].passed_over = MAX_PASSED_OVER;
        assert_eq!(ranked(&all, &priorities), ["2", "3", "4", "1"]);
        all[0].urgent = true;
        assert_eq!(ranked(&all, &priorities), ["1", "2", "3", "4"]);
    }

    #[test]
    fn a_batch_waits_for_what_ends_within_a_tenth_of_the_suite() {
        assert!(!expects_more(&[], 1000));
        assert!(expects_more(&[500, 100], 1000));
        assert!(expects_more(&[-100], 1000));
        assert!(!expects_more(&[101, -101], 1000));
    }
}
