//! Conflicts of two loops that have changed the same file: which one continues, which one waits, and until when.
//!
//! There is no deadlock: a loop that pm has paused never wins, so each loser waits for a loop that waits for nobody,
//! and the waits cannot form a cycle. A winner may lose another conflict later; when it pauses, it has no current test,
//! and the loops that waited for it are resumed.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use coord_db::{EventId, Loop, LoopId, Payload, Test, TestStatus, Timestamp};

use super::{Act, Settlement, Verdict, Work};
use crate::snapshot::OpenConflict;

/// The reason why a settled conflict has ended, if it has.
fn over(work: &Work<'_>, open: &OpenConflict, winner: &LoopId, loser: &LoopId) -> Option<String> {
    if open.resumed_by_human.is_some() {
        return Some(format!("the human has resumed {loser}"));
    }
    match work.at.loops.get(winner) {
        None => return Some(format!("{winner} is no longer registered")),
        Some(row) if work.at.running(winner).is_none() => return Some(format!("{winner} is {}", row.status)),
        Some(_) => {}
    }
    let Some(id) = &open.row.winner_test else {
        return (!work.at.current_tests.contains_key(winner)).then(|| format!("{winner} has no current test any more"));
    };
    match work.at.tests.get(id) {
        None => Some(format!("test {id} of {winner} no longer exists")),
        Some(test) if test.loop_id != *winner => Some(format!("test {id} no longer belongs to {winner}")),
        Some(test) if test.status != TestStatus::InProgress => Some(format!("test {id} of {winner} is {}", test.status)),
        Some(_) => None,
    }
}

/// Ends finished conflicts, and resumes loops that wait for nothing else.
pub(super) fn end_conflicts(work: &mut Work<'_>) {
    let mut free: BTreeMap<&LoopId, (String, Option<EventId>)> = BTreeMap::new();
    for open in &work.at.conflicts {
        let (Some(winner), Some(loser)) = (&open.row.winner, &open.row.loser) else { continue };
        let Some(why) = over(work, open, winner, loser) else { continue };
        let passed = work.at.inbox.iter().find_map(|inbound| match &inbound.payload {
            Payload::TestPassed(payload) if Some(&payload.test_id) == open.row.winner_test.as_ref() => Some(&inbound.event.id),
            _ => None,
        });
        let cause = open.resumed_by_human.as_ref().or(passed).or(open.row.event_id.as_ref()).cloned();
        work.ended.insert(open.row.id.clone());
        work.act(Act::JudgeConflict { id: open.row.id.clone(), verdict: Verdict::Over(why.clone()) }, cause.as_ref());
        if open.resumed_by_human.is_none() {
            let reason = format!("{why}; {loser} continues with {}", open.row.file_path);
            free.insert(loser, (reason, cause));
        }
    }
    for (loser, (reason, cause)) in free {
        if work.at.loops.contains_key(loser) && !work.held(loser) {
            work.resumed.insert(loser.clone());
            work.act(Act::Resume { loop_id: loser.clone(), reason }, cause.as_ref());
        }
    }
}

/// Settles new and postponed conflicts.
pub(super) fn judge(work: &mut Work<'_>) {
    for open in &work.at.conflicts {
        if open.row.winner.is_some() && open.row.loser.is_some() {
            continue;
        }
        let verdict = verdict(work, &open.row.file_path, [&open.row.loop_a, &open.row.loop_b], open.times.as_ref());
        if verdict != Verdict::Later {
            let id = open.row.id.clone();
            carry_out(work, Act::JudgeConflict { id, verdict: verdict.clone() }, &verdict, open.row.event_id.as_ref());
        }
    }
    for inbound in &work.at.inbox {
        let Payload::FileConflict(payload) = &inbound.payload else { continue };
        if payload.loop_a == payload.loop_b {
            work.ignore(inbound, "a loop cannot be in conflict with itself");
            continue;
        }
        let (one, other) = if payload.loop_a < payload.loop_b {
            (&payload.loop_a, &payload.loop_b)
        } else {
            (&payload.loop_b, &payload.loop_a)
        };
        let stands = work.at.conflicts.iter().any(|open| {
            open.row.file_path == payload.file_path
                && open.row.loop_a == *one
                && open.row.loop_b == *other
                && !work.ended.contains(&open.row.id)
        });
        if stands || !work.opened.insert((payload.file_path.clone(), one.clone(), other.clone())) {
            work.ignore(inbound, "this conflict is already open");
            continue;
        }
        let times = [(payload.loop_a.clone(), payload.time_a), (payload.loop_b.clone(), payload.time_b)];
        let verdict = verdict(work, &payload.file_path, [one, other], Some(&times));
        let act = Act::OpenConflict {
            file: payload.file_path.clone(),
            one: one.clone(),
            other: other.clone(),
            verdict: verdict.clone(),
        };
        carry_out(work, act, &verdict, Some(&inbound.event.id));
    }
}

fn carry_out(work: &mut Work<'_>, act: Act, verdict: &Verdict, cause: Option<&EventId>) {
    work.act(act, cause);
    if let Verdict::Settle(settlement) = verdict {
        work.newly_held.insert(settlement.loser.clone());
        let pause = Act::Pause { loop_id: settlement.loser.clone(), reason: settlement.reason.clone(), by_human: false };
        work.act(pause, cause);
    }
}

struct Side<'a> {
    row: &'a Loop,
    test: &'a Test,
    passed: i64,
    total: i64,
    since: Option<Timestamp>,
    held: bool,
}

fn side<'a>(work: &Work<'a>, id: &LoopId, times: Option<&[(LoopId, Timestamp); 2]>) -> Result<Side<'a>, String> {
    let row = work.at.loops.get(id).ok_or_else(|| format!("{id} is not registered"))?;
    if work.at.running(id).is_none() {
        return Err(format!("{id} is {}", row.status));
    }
    let test = work.at.current_tests.get(id).ok_or_else(|| format!("{id} has no current test"))?;
    let progress = work.at.progress.get(id);
    Ok(Side {
        row,
        test,
        passed: progress.map_or(0, |progress| progress.passed),
        total: progress.map_or(1, |progress| progress.total.max(1)),
        since: times.and_then(|times| times.iter().find(|(named, _)| named == id)).map(|(_, at)| *at),
        held: work.held(id),
    })
}

/// Compares two loops; the smaller one wins.
fn compare(one: &Side<'_>, other: &Side<'_>) -> (Ordering, String) {
    let by_priority = one.row.priority.cmp(&other.row.priority);
    let share = |side: &Side<'_>, of: i64| i128::from(side.passed) * i128::from(of);
    let by_progress = share(other, one.total).cmp(&share(one, other.total));
    let by_time = match (one.since, other.since) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => Ordering::Equal,
    };
    let (first, second) = if by_priority.then(by_progress).is_gt() { (other, one) } else { (one, other) };
    if one.held != other.held {
        (one.held.cmp(&other.held), "the other already waits".to_owned())
    } else if by_priority.is_ne() {
        (by_priority, format!("priority {} before {}", first.row.priority, second.row.priority))
    } else if by_progress.is_ne() {
        let percent = |side: &Side<'_>| 100 * i128::from(side.passed) / i128::from(side.total);
        (by_progress, format!("{} % of its tests passed against {} %", percent(first), percent(second)))
    } else if by_time.is_ne() {
        (by_time, "it changed the file first".to_owned())
    } else {
        (one.row.id.cmp(&other.row.id), "all else is equal, so the order of their ids decides".to_owned())
    }
}

fn verdict(work: &Work<'_>, file: &str, pair: [&LoopId; 2], times: Option<&[(LoopId, Timestamp); 2]>) -> Verdict {
    let sides = (side(work, pair[0], times), side(work, pair[1], times));
    let (one, other) = match sides {
        (Ok(one), Ok(other)) => (one, other),
        (Err(why), _) | (_, Err(why)) => return Verdict::Over(format!("{why}; no loop has to wait")),
    };
    if one.held && other.held {
        return Verdict::Later;
    }
    let (order, why) = compare(&one, &other);
    let (first, second) = if order.is_gt() { (other, one) } else { (one, other) };
    Verdict::Settle(Settlement {
        winner: first.row.id.clone(),
        loser: second.row.id.clone(),
        winner_test: first.test.id.clone(),
        reason: format!(
            "{} and {} have both changed {file}; {} continues ({why}), and {} waits until test {} has ended",
            first.row.id, second.row.id, first.row.id, second.row.id, first.test.id
        ),
    })
}

/// Lifts pauses of pm that have no cause any more.
pub(super) fn lift_idle_pauses(work: &mut Work<'_>) {
    for pause in &work.at.own_pauses {
        let id = &pause.row.loop_id;
        if pause.lifted || work.held(id) || work.resumed.contains(id) || !work.at.loops.contains_key(id) {
            continue;
        }
        let reason = format!("the pause of {id} has no cause any more ({})", pause.row.reason);
        work.act(Act::Resume { loop_id: id.clone(), reason }, pause.row.event_id.as_ref());
    }
}
