//! Two loops that have changed one file, both with work that has not landed.
//!
//! Only the present state of the workspaces counts: a landed file is no change any more, so two loops that change a
//! file one after the other have no conflict. For a loop without a workspace its leases stand for its changes.
//!
//! Leases matter too: a loop that changes a file leased by another loop, and neither holds a lease on it nor queues for
//! one, is in conflict with the holder even if the holder has not changed the file yet.

use std::collections::BTreeMap;

use coord_db::payload::FileConflict;
use coord_db::{AlertType, LeasePath, LoopStatus, Severity, Timestamp};
use serde_json::{Value, json};

use super::{AlertEvent, Finding, Work};
use crate::snapshot::{LoopView, prefix};

/// Maximum number of conflicts reported for one pair of loops: more would add nothing, and pm handles each of them.
pub const MAX_PER_PAIR: usize = 10;
/// Time that a loop has to queue for the lease after it changed a leased file, or to put its work aside after it lost a
/// lease.
pub const QUEUE_SECONDS: i64 = 30;

/// By path: the index of each loop that has changed it, and when.
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
    let trespasses = trespasses(work);
    changes.retain(|_, loops| loops.len() > 1);
    let mut reported = keep_open(work, &changes, &trespasses);
    for trespass in &trespasses {
        let (holder, other) = (&at.loops[trespass.holder], &at.loops[trespass.other]);
        let name = name_of(trespass, work);
        if work.open(&name).is_some() || !can_be_told(other) {
            continue;
        }
        let of_pair = reported.entry(pair(trespass)).or_default();
        if *of_pair < MAX_PER_PAIR {
            *of_pair += 1;
            let text = format!(
                "{} has changed {} without waiting for the lease that {} holds",
                other.row.id, trespass.path, holder.row.id
            );
            let (held, changed) = ((holder, trespass.since), (other, trespass.changed_at));
            let (a, b) = if trespass.holder < trespass.other { (held, changed) } else { (changed, held) };
            raise(work, name, ("leased", text), trespass.path, a, b);
        }
    }
    let window = work.config.monitor.conflict_window_minutes.saturating_mul(60_000);
    for (path, loops) in &changes {
        for (first, one) in loops.iter().enumerate() {
            for other in &loops[first + 1..] {
                let (a, b) = (&at.loops[one.0], &at.loops[other.0]);
                let name = name(path, a.row.id.as_str(), b.row.id.as_str());
                let close = one.1.millis_since(other.1).abs() <= window;
                let known = work.open(&name).is_some() || work.kept.contains(&name);
                if !close || known || !can_be_told(a) || !can_be_told(b) {
                    continue;
                }
                let of_pair = reported.entry((one.0, other.0)).or_default();
                if *of_pair < MAX_PER_PAIR {
                    *of_pair += 1;
                    let text = format!("{} and {} have both changed {path}, and neither has landed it", a.row.id, b.row.id);
                    raise(work, name, ("changed", text), path, (a, one.1), (b, other.1));
                }
            }
        }
    }
}

fn name(path: &str, a: &str, b: &str) -> String {
    format!("{}{path}:{a}:{b}", prefix::CONFLICT)
}

/// True if the loop works on a test and its workspace was read after the last move of integration; landed files differ
/// no longer.
fn can_be_told(view: &LoopView) -> bool {
    view.row.status == LoopStatus::Running && view.current.is_some() && (!view.files.observed || view.files.fresh)
}

/// Keeps the alerts whose files still differ in both workspaces. Returns the number for each pair.
fn keep_open(work: &mut Work<'_>, changes: &Changes<'_>, trespasses: &[Trespass<'_>]) -> BTreeMap<(usize, usize), usize> {
    let at = work.at;
    let mut reported: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (path, loops) in changes {
        for (first, one) in loops.iter().enumerate() {
            for other in &loops[first + 1..] {
                let name = name(path, at.loops[one.0].row.id.as_str(), at.loops[other.0].row.id.as_str());
                if work.open(&name).is_some() {
                    *reported.entry((one.0, other.0)).or_default() += 1;
                    work.keep(&name);
                }
            }
        }
    }
    for trespass in trespasses {
        let name = name_of(trespass, work);
        if work.open(&name).is_some() && !work.kept.contains(&name) {
            *reported.entry(pair(trespass)).or_default() += 1;
            work.keep(&name);
        }
    }
    reported
}

/// A change of a file that another loop has leased. Loops are given by index.
struct Trespass<'a> {
    path: &'a str,
    holder: usize,
    /// When the lease was acquired.
    since: Timestamp,
    other: usize,
    changed_at: Timestamp,
}

fn pair(trespass: &Trespass<'_>) -> (usize, usize) {
    (trespass.holder.min(trespass.other), trespass.holder.max(trespass.other))
}

fn name_of(trespass: &Trespass<'_>, work: &Work<'_>) -> String {
    let (a, b) = pair(trespass);
    name(trespass.path, work.at.loops[a].row.id.as_str(), work.at.loops[b].row.id.as_str())
}

/// Changes of files that another running loop has leased, made without queueing. A change long before the lease was
/// acquired does not count: the holder came later.
fn trespasses<'a>(work: &mut Work<'a>) -> Vec<Trespass<'a>> {
    let at = work.at;
    let window = work.config.monitor.conflict_window_minutes.saturating_mul(60);
    let mut files: BTreeMap<&str, (usize, Timestamp)> = BTreeMap::new();
    let mut subtrees: Vec<(&LeasePath, usize, Timestamp)> = Vec::new();
    for (place, view) in at.loops.iter().enumerate().filter(|(_, view)| view.row.status == LoopStatus::Running) {
        for claim in &view.leases {
            if claim.path.is_subtree() {
                subtrees.push((&claim.path, place, claim.since));
            } else {
                files.insert(claim.path.as_str(), (place, claim.since));
            }
        }
    }
    let mut found = Vec::new();
    for (other, view) in at.loops.iter().enumerate().filter(|(_, view)| view.files.observed) {
        for row in &view.files.rows {
            let Ok(path) = row.file_path.parse::<LeasePath>() else { continue };
            let below =
                || subtrees.iter().find(|(subtree, ..)| subtree.overlaps(&path)).map(|(_, place, since)| (*place, *since));
            let Some((holder, since)) = files.get(path.as_str()).copied().or_else(below).filter(|(holder, _)| *holder != other)
            else {
                continue;
            };
            let own = view.leases.iter().map(|claim| &claim.path).chain(&view.queued).any(|own| own.overlaps(&path));
            if own || row.last_changed_at < since.plus_seconds(-window) {
                continue;
            }
            let told_at = row.first_seen_at.max(since).plus_seconds(QUEUE_SECONDS);
            if told_at > at.now {
                work.plan.look_again(told_at);
                continue;
            }
            found.push(Trespass { path: &row.file_path, holder, since, other, changed_at: row.last_changed_at });
        }
    }
    found
}

fn raise(
    work: &mut Work<'_>,
    name: String,
    (word, message): (&str, String),
    path: &str,
    (a, time_a): (&LoopView, Timestamp),
    (b, time_b): (&LoopView, Timestamp),
) {
    let later = if time_b >= time_a { b } else { a };
    let cause = later.current_test().and_then(|seen| seen.started.clone());
    let payload =
        FileConflict { file_path: path.to_owned(), loop_a: a.row.id.clone(), loop_b: b.row.id.clone(), time_a, time_b };
    let test = |view: &LoopView| view.current_test().map_or(Value::Null, |seen| json!(seen.test.id));
    let finding = Finding {
        fingerprint: name,
        severity: Severity::Warning,
        alert_type: AlertType::Conflict,
        message,
        context: json!({
            "file_path": path, "loop_a": a.row.id, "loop_b": b.row.id, "test_a": test(a), "test_b": test(b),
            "time_a": time_a, "time_b": time_b, "reasons": [word],
        }),
    };
    work.raise(finding, Some(AlertEvent::new(payload, cause).with("reasons", json!([word]))));
}
