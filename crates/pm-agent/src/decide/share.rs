//! Shares the queues of overloaded loops with idle loops.
//!
//! Only tests without an attempt and without dependents are moved, and never from a loop that owns resources, because
//! its tests may be about them. The donor keeps at least as many tests as each taker gets, so tests do not move back
//! and forth.

use std::collections::BTreeSet;

use coord_db::{LoopId, Test, TestId};

use super::lost::can_take;
use super::{Act, Work};

/// The movable tests of a queue, in the queue's order.
fn movable(queue: &[Test]) -> Vec<&Test> {
    let needed: BTreeSet<&TestId> = queue.iter().filter_map(|test| test.depends_on.as_ref()).collect();
    let fresh = |test: &&Test| {
        test.attempts == 0
            && test.last_attempt_at.is_none()
            && test.automatable
            && test.depends_on.is_none()
            && !needed.contains(&test.id)
    };
    queue.iter().filter(fresh).collect()
}

/// Moves tests from overloaded to idle loops.
pub(super) fn share(work: &mut Work<'_>) {
    close_alerts(work);
    if work.at.grace_until.is_some() {
        return;
    }
    let mut takers: Vec<LoopId> = work
        .at
        .idle
        .iter()
        .filter(|id| work.at.loops.get(id).is_some_and(|row| can_take(work, row)))
        .filter(|id| !takes_already(work, id))
        .cloned()
        .collect();
    takers.sort_by_key(|id| (work.at.loops.get(id).map(|row| row.priority), id.clone()));
    for (donor, queue) in &work.at.overloaded {
        if takers.is_empty() {
            return;
        }
        let share = queue.len() / (takers.len() + 1);
        let mut free = movable(queue).into_iter().rev();
        let mut moves: Vec<(TestId, LoopId)> = Vec::new();
        for taker in &takers {
            // From the end: the donor is about to start the first ones.
            moves.extend(free.by_ref().take(share).map(|test| (test.id.clone(), taker.clone())));
        }
        if moves.is_empty() {
            continue;
        }
        let cause = moves.iter().find_map(|(_, to)| work.at.ran_dry.get(to));
        takers.retain(|taker| moves.iter().all(|(_, to)| to != taker));
        moves.sort();
        let why = format!("{donor} had {} tests in its queue while other loops were idle", queue.len());
        work.act(Act::HandOn { from: donor.clone(), kind: "shared", why, moves }, cause);
    }
}

/// True if this pass moves tests of a dead loop to it.
fn takes_already(work: &Work<'_>, id: &LoopId) -> bool {
    work.plan.actions.iter().any(|action| match &action.act {
        Act::HandOn { moves, .. } => moves.iter().any(|(_, to)| to == id),
        _ => false,
    })
}

/// Closes the alerts about shared tests of donors that have ended their work.
fn close_alerts(work: &mut Work<'_>) {
    for alert in &work.at.alerts {
        let Some(id) = alert.fingerprint.as_deref().and_then(|fingerprint| fingerprint.strip_prefix("shared:")) else {
            continue;
        };
        let known = work.at.loops.keys().find(|known| known.as_str() == id);
        if known.is_none_or(|id| work.at.running(id).is_none() || !work.at.current_tests.contains_key(id)) {
            work.act(Act::CloseAlert { fingerprint: format!("shared:{id}") }, None);
        }
    }
}
