//! Loops that have been dead for long: their queues are moved to other loops, or the human is asked.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::payload::DecisionOption;
use coord_db::{ActorId, DecisionStatus, Loop, LoopId, LoopStatus, NewDecision, Test, TestId};
use serde_json::json;

use super::{Act, Work};
use crate::snapshot::lost_at;

/// Moves the queues of lost loops.
pub(super) fn hand_on(work: &mut Work<'_>) {
    close_alerts(work);
    let mut load: BTreeMap<LoopId, i64> = BTreeMap::new();
    for row in work.at.loops.values().filter(|row| row.status == LoopStatus::Error) {
        let due = lost_at(work.config, work.at, row);
        if due > work.at.now {
            work.plan.look_again(due);
            continue;
        }
        let Some(queue) = work.at.queues.get(&row.id) else { continue };
        if let Some(until) = work.at.grace_until {
            work.plan.look_again(until);
            continue;
        }
        // This pass skips the queue, so there is nothing to move.
        let skipped = work.plan.actions.iter().any(|action| match &action.act {
            Act::Resolve { then, .. } | Act::Announce { then, .. } => {
                then.iter().any(|act| matches!(act, Act::SkipQueue { loop_id, .. } if *loop_id == row.id))
            }
            _ => false,
        });
        if skipped {
            continue;
        }
        let takers: Vec<&Loop> = work.at.loops.values().filter(|taker| can_take(work, taker)).collect();
        if takers.is_empty() {
            ask(work, row, queue);
            continue;
        }
        let mut moves = Vec::new();
        for group in groups(queue) {
            let loaded = |taker: &Loop| {
                let queued = work.at.progress.get(&taker.id).map_or(0, |row| row.pending + row.in_progress);
                queued + load.get(&taker.id).copied().unwrap_or_default()
            };
            let Some(taker) = takers.iter().min_by_key(|taker| (loaded(taker), taker.priority, &taker.id)) else { continue };
            *load.entry(taker.id.clone()).or_default() += i64::try_from(group.len()).unwrap_or(i64::MAX);
            moves.extend(group.into_iter().map(|test| (test, taker.id.clone())));
        }
        moves.sort();
        let why = format!("{} is dead", row.id);
        work.act(Act::HandOn { from: row.id.clone(), kind: "reassigned", why, moves }, work.at.deaths.get(&row.id));
    }
}

/// True for a running loop that is driven and not prevented from working.
pub(super) fn can_take(work: &Work<'_>, row: &Loop) -> bool {
    row.status == LoopStatus::Running
        && !work.at.paused.contains(&row.id)
        && !work.held(&row.id)
        && (!work.config.agent_of(&row.id).command.is_empty() || work.at.beating.contains(&row.id))
}

/// Groups tests that depend on each other; in the order of their smallest ids.
fn groups(queue: &[Test]) -> Vec<Vec<TestId>> {
    let by_id: BTreeMap<&TestId, usize> = queue.iter().enumerate().map(|(at, test)| (&test.id, at)).collect();
    let mut neighbours: Vec<Vec<usize>> = vec![Vec::new(); queue.len()];
    for (at, test) in queue.iter().enumerate() {
        if let Some(&other) = test.depends_on.as_ref().and_then(|id| by_id.get(id)) {
            neighbours[at].push(other);
            neighbours[other].push(at);
        }
    }
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for start in by_id.values().copied() {
        if !seen.insert(start) {
            continue;
        }
        let (mut group, mut open) = (Vec::new(), vec![start]);
        while let Some(at) = open.pop() {
            group.push(queue[at].id.clone());
            open.extend(neighbours[at].iter().copied().filter(|next| seen.insert(*next)));
        }
        group.sort();
        groups.push(group);
    }
    groups
}

fn ask(work: &mut Work<'_>, row: &Loop, queue: &[Test]) {
    let fingerprint = format!("lost:{}", row.id);
    let died = row.died_at.unwrap_or(row.updated_at);
    let last = work.at.questions.get(&fingerprint);
    if last.is_some_and(|last| last.status == DecisionStatus::Pending || last.requested_at >= died) {
        return;
    }
    let Ok(pm) = "pm".parse::<ActorId>() else { return };
    let tests: Vec<&TestId> = queue.iter().map(|test| &test.id).collect();
    let option = |id: &str, description: String| DecisionOption { id: id.to_owned(), description };
    let question = NewDecision {
        decision_type: "lost_loop".to_owned(),
        summary: format!(
            "{} has been dead since {died}; {} of its tests are left, and no running loop can take them",
            row.id,
            queue.len()
        ),
        options: vec![
            option("wait", format!("wait until {} or another loop runs (default)", row.id)),
            option("skip_tests", "skip them; tests that depend on them stay blocked".to_owned()),
        ],
        default_option: Some("wait".to_owned()),
        context: json!({ "loop_id": row.id, "tests": tests }),
        timeout_minutes: Some(work.config.pm.decision_timeout_minutes.max(0)),
        requested_by: pm,
        fingerprint: Some(fingerprint),
    };
    work.ask(question, work.at.deaths.get(&row.id));
}

/// Closes the alerts about moved tests of loops that are no longer lost.
fn close_alerts(work: &mut Work<'_>) {
    for alert in &work.at.alerts {
        let Some(fingerprint) = &alert.fingerprint else { continue };
        let Some(id) = fingerprint.strip_prefix("reassigned:") else { continue };
        let lost = work.at.loops.values().any(|row| row.id.as_str() == id && row.status == LoopStatus::Error);
        if !lost {
            work.act(Act::CloseAlert { fingerprint: fingerprint.clone() }, None);
        }
    }
}
