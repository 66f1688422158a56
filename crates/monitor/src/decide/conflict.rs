//! Two loops in one file, both with work that has not landed.
//!
//! What counts is what is true in the worktrees now: a file that a loop has landed differs no longer from the merge base,
//! so two that change a file one after the other are in no conflict. A loop without a worktree of its own has only its
//! leases to tell by; what its passed tests have changed has landed.

use std::collections::BTreeMap;

use coord_db::payload::FileConflict;
use coord_db::{AlertType, LoopStatus, Severity, Timestamp};
use serde_json::{Value, json};

use super::{Finding, Said, Work};
use crate::snapshot::{LoopView, prefix};

/// So many files of one pair of loops are told; more would say nothing new, and each is a matter for pm.
pub const MOST_OF_A_PAIR: usize = 10;

/// By path: which loops have changed it, by their place in the list, and when.
type Changes<'a> = BTreeMap<&'a str, Vec<(usize, Timestamp)>>;

pub(super) fn judge(work: &mut Work<'_>) {
    let at = work.at;
    let mut changes: Changes<'_> = BTreeMap::new();
    for (place, view) in at.loops.iter().enumerate() {
        let rows = view.files.rows.iter().map(|row| (row.file_path.as_str(), row.last_changed_at));
        let leased = view.files.leased.iter().map(|(path, since)| (path.as_str(), *since));
        for (path, changed_at) in rows.chain(leased) {
            changes.entry(path).or_default().push((place, changed_at));
        }
    }
    changes.retain(|_, loops| loops.len() > 1);
    let mut told = keep_open(work, &changes);
    let window = work.config.monitor.conflict_window_minutes.saturating_mul(60_000);
    for (path, loops) in &changes {
        for (first, one) in loops.iter().enumerate() {
            for other in &loops[first + 1..] {
                let (a, b) = (&at.loops[one.0], &at.loops[other.0]);
                let name = name(path, a.row.id.as_str(), b.row.id.as_str());
                let close = one.1.millis_since(other.1).abs() <= window;
                if !close || work.open(&name).is_some() || !can_be_told(a) || !can_be_told(b) {
                    continue;
                }
                let of_pair = told.entry((one.0, other.0)).or_default();
                if *of_pair < MOST_OF_A_PAIR {
                    *of_pair += 1;
                    raise(work, name, path, (a, one.1), (b, other.1));
                }
            }
        }
    }
}

fn name(path: &str, a: &str, b: &str) -> String {
    format!("{}{path}:{a}:{b}", prefix::CONFLICT)
}

/// At work on something, and seen since the integration branch moved last: what it landed then differs no longer.
fn can_be_told(view: &LoopView) -> bool {
    view.row.status == LoopStatus::Running && view.in_hand.is_some() && (!view.files.observed || view.files.fresh)
}

/// Keeps the alerts whose files still differ in both; how many there are of each pair.
fn keep_open(work: &mut Work<'_>, changes: &Changes<'_>) -> BTreeMap<(usize, usize), usize> {
    let at = work.at;
    let mut told: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (path, loops) in changes {
        for (first, one) in loops.iter().enumerate() {
            for other in &loops[first + 1..] {
                let name = name(path, at.loops[one.0].row.id.as_str(), at.loops[other.0].row.id.as_str());
                if work.open(&name).is_some() {
                    *told.entry((one.0, other.0)).or_default() += 1;
                    work.keep(&name);
                }
            }
        }
    }
    told
}

fn raise(
    work: &mut Work<'_>,
    name: String,
    path: &str,
    (a, time_a): (&LoopView, Timestamp),
    (b, time_b): (&LoopView, Timestamp),
) {
    let later = if time_b >= time_a { b } else { a };
    let cause = later.in_hand().and_then(|seen| seen.started.clone());
    let payload =
        FileConflict { file_path: path.to_owned(), loop_a: a.row.id.clone(), loop_b: b.row.id.clone(), time_a, time_b };
    let test = |view: &LoopView| view.in_hand().map_or(Value::Null, |seen| json!(seen.test.id));
    let finding = Finding {
        fingerprint: name,
        severity: Severity::Warning,
        alert_type: AlertType::Conflict,
        message: format!("{} and {} have both changed {path}, and neither has landed it", a.row.id, b.row.id),
        context: json!({
            "file_path": path, "loop_a": a.row.id, "loop_b": b.row.id, "test_a": test(a), "test_b": test(b),
            "time_a": time_a, "time_b": time_b,
        }),
    };
    work.raise(finding, Some(Said::new(payload, cause)));
}
