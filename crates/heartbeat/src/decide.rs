//! Judges each component, and says what has to be swept. Pure.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::HeartbeatConfig;
use coord_db::process::Liveness;
use coord_db::{
    Alert, ClockChange, HealthStatus, JournalEntry, Lease, LeaseRequest, LoopId, LoopStatus, StaleDeliveries, Test, Timestamp,
    WaitEdge,
};
use serde_json::{Value, json};
use supervisor::Plan;

use crate::snapshot::{HeartbeatSnapshot, MOST_ROWS, OPERATIONS, Subject};

/// The clocks are written down at least this often, so that a later jump can be told from their drift.
pub const CLOCK_EVERY_MILLIS: i64 = 60_000;
/// What nobody takes away after its end is swept so much later: its owner still learns from the row that it is over.
pub const LEFT_SECONDS: i64 = 60;

/// What can be said of a component now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It beats.
    Healthy,
    /// It has not beaten for a while.
    Degraded,
    /// Its process is proven gone.
    Gone,
    /// It has not beaten for so long that it counts as dead.
    Silent,
    /// It has stopped in an orderly way.
    Stopped,
    /// A loop that somebody drives by hand: it never beats, and is never judged.
    Unmanaged,
    /// Nothing can be said; what was said before stands.
    Unjudged,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write down what the clocks say; after a suspend or a jump the grace begins.
    ObserveClock,
    /// Say that a component is degraded or dead; clean up after a dead one.
    Judge {
        /// Whom, as an index into the snapshot's subjects.
        subject: usize,
        /// How it is.
        status: HealthStatus,
        /// Why, for people.
        cause: String,
    },
    /// Say that a component is back.
    Recover {
        /// Whom.
        subject: usize,
        /// Since its last beat before the loss.
        down_for_seconds: i64,
    },
    /// Make the health row say what was said already.
    Correct {
        /// Whose.
        subject: usize,
        /// What it is to say.
        status: HealthStatus,
    },
    /// Clean up what still names a dead process although its death was handled.
    CleanUp {
        /// After whom.
        subject: usize,
    },
    /// End what a dead loop's agent has left running.
    EndLeftovers {
        /// Whose.
        subject: usize,
    },
    /// Say that a component which is not there has begun something outside of the database and not ended it.
    TellOperations {
        /// Whose.
        component: String,
        /// What, and what to do about it.
        message: String,
    },
    /// Close the alert about such operations.
    CloseOperations {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// Close the alert about a component that has stopped, or is no more.
    CloseAlert {
        /// Whose.
        component: String,
    },
    /// End a lease whose time is over.
    EndLease(Lease),
    /// Put a test back that nobody works on.
    PutBack(Test),
    /// Delete an edge that is over, or whose waiter is dead.
    DeleteEdge(WaitEdge),
    /// Delete an acquire that is over, or whose loop is dead or unknown.
    WithdrawRequest(LeaseRequest),
    /// Set deliveries aside that nobody has taken for so long, and say so.
    SetAside(StaleDeliveries),
    /// Close the alert about deliveries whose subscriber is back, or is no more.
    CloseUntaken {
        /// The alert's.
        fingerprint: String,
    },
}

/// Judges everything at the snapshot's moment.
#[must_use]
pub fn decide(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot) -> Plan<Action> {
    let mut plan = Plan::default();
    clock(snapshot, &mut plan);
    for index in 0..snapshot.subjects.len() {
        judge(config, snapshot, index, &mut plan);
        if let Some(leftover) = snapshot.subjects[index].leftover {
            if leftover.due <= snapshot.now {
                plan.act(Action::EndLeftovers { subject: index });
            } else {
                plan.look_again(leftover.due);
            }
        }
    }
    for alert in &snapshot.orphan_alerts {
        if let Some(component) = alert.context.get("component").and_then(Value::as_str) {
            plan.act(Action::CloseAlert { component: component.to_owned() });
        }
    }
    operations(config, snapshot, &mut plan);
    for test in &snapshot.abandoned_tests {
        plan.act(Action::PutBack(test.clone()));
    }
    // Nobody else takes an expired lease in the grace either: its holder may have slept.
    if !snapshot.in_grace {
        for lease in snapshot.expired.iter().take(MOST_ROWS) {
            plan.act(Action::EndLease(lease.clone()));
        }
        if let Some(at) = snapshot.next_expiry {
            plan.look_again(at);
        }
        sweep(snapshot, &mut plan);
    }
    plan
}

/// What was begun by somebody who is not there is settled when that one starts again, and only then.
fn operations(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot, plan: &mut Plan<Action>) {
    let mut lost: BTreeMap<&str, Vec<&JournalEntry>> = BTreeMap::new();
    for entry in &snapshot.open_operations {
        let by = entry.component.as_deref().or(entry.loop_id.as_ref().map(LoopId::as_str)).unwrap_or("nobody");
        let there = snapshot.subjects.iter().find(|subject| subject.id == by).is_some_and(|subject| {
            !matches!(verdict(config, snapshot, subject), Verdict::Gone | Verdict::Silent | Verdict::Stopped)
                && subject.loop_row.as_ref().is_none_or(|row| row.status != LoopStatus::Error)
        });
        if there {
            continue;
        }
        let due = entry.started_at.plus_seconds(config.dead_seconds);
        if due > snapshot.now {
            plan.look_again(due);
        } else {
            lost.entry(by).or_default().push(entry);
        }
    }
    for alert in &snapshot.operation_alerts {
        let Some(fingerprint) = alert.fingerprint.clone() else { continue };
        if !fingerprint.strip_prefix(OPERATIONS).is_some_and(|by| lost.contains_key(by)) {
            plan.act(Action::CloseOperations { fingerprint });
        }
    }
    for (by, entries) in lost {
        let names: BTreeSet<&str> = entries.iter().map(|entry| entry.operation.as_str()).collect();
        let is_loop = snapshot.subjects.iter().any(|subject| subject.id == by && subject.loop_row.is_some());
        let start = match by {
            "pm" => "start pm-agent".to_owned(),
            _ if is_loop => format!("start coding-loop {by}, with --once if it is not to go on"),
            _ => format!("start {by}"),
        };
        let message = format!(
            "{by} ended in the middle of what it had begun outside of the database ({}, {} in all): it is finished or undone when it \
             starts again, so {start}",
            names.into_iter().collect::<Vec<_>>().join(", "),
            entries.len()
        );
        let told = snapshot.operation_alerts.iter().any(|alert| {
            alert.fingerprint.as_deref().and_then(|fingerprint| fingerprint.strip_prefix(OPERATIONS)) == Some(by)
                && alert.message == message
        });
        if !told {
            plan.act(Action::TellOperations { component: by.to_owned(), message });
        }
    }
}

fn clock(snapshot: &HeartbeatSnapshot, plan: &mut Plan<Action>) {
    let due = snapshot.clock_seen_at.map(|seen| seen.plus_millis(CLOCK_EVERY_MILLIS));
    if snapshot.clock_change != ClockChange::None || due.is_none_or(|due| due <= snapshot.now) {
        plan.act(Action::ObserveClock);
    } else if let Some(due) = due {
        plan.look_again(due);
    }
    if snapshot.in_grace
        && let Some(until) = snapshot.grace_until
    {
        plan.look_again(until);
    }
}

/// What can be said of a component at the snapshot's moment.
#[must_use]
pub fn verdict(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot, subject: &Subject) -> Verdict {
    let stopped = subject.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unknown);
    let status = subject.loop_row.as_ref().map(|row| row.status);
    let at_work = matches!(status, Some(LoopStatus::Running | LoopStatus::Paused));
    // A row that another tool wrote may claim to work and name a process although its health says that it has stopped,
    // or although it has none.
    let claims_to_run = at_work || subject.health.is_some() && !stopped;
    if subject.liveness == Some(Liveness::Gone) && claims_to_run {
        return Verdict::Gone;
    }
    if stopped {
        return Verdict::Stopped;
    }
    let Some(beat) = subject.health.as_ref().and_then(|health| health.last_heartbeat) else {
        return if at_work { Verdict::Unmanaged } else { Verdict::Unjudged };
    };
    if snapshot.in_grace {
        return Verdict::Unjudged;
    }
    match snapshot.silent_millis(beat) {
        age if age >= config.dead_seconds.saturating_mul(1000) => Verdict::Silent,
        age if age >= config.degraded_seconds.saturating_mul(1000) => Verdict::Degraded,
        _ => Verdict::Healthy,
    }
}

/// What names this life of a component: after a restart or a new beat it is another. One that was judged dead in this life
/// has been cleaned up after, and what stands in its name now is somebody else's, driving it by hand.
pub(crate) fn incarnation(subject: &Subject) -> Value {
    let pid = subject.health.as_ref().and_then(|health| health.pid);
    json!({
        "pid": pid.or_else(|| subject.loop_row.as_ref().and_then(|row| row.pid)),
        "last_heartbeat": subject.health.as_ref().and_then(|health| health.last_heartbeat),
    })
}

fn said(subject: &Subject) -> Option<HealthStatus> {
    subject.alert.as_ref()?.context.get("status")?.as_str()?.parse().ok()
}

fn judge(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot, index: usize, plan: &mut Plan<Action>) {
    let subject = &snapshot.subjects[index];
    let verdict = verdict(config, snapshot, subject);
    let beat = subject.health.as_ref().and_then(|health| health.last_heartbeat);
    match verdict {
        Verdict::Gone | Verdict::Silent => {
            let status = HealthStatus::Dead;
            let known = said(subject) == Some(status)
                && subject.alert.as_ref().and_then(|alert| alert.context.get("incarnation")) == Some(&incarnation(subject));
            if !known {
                let cause = match (verdict, beat) {
                    (Verdict::Silent, Some(beat)) => silence(snapshot, beat),
                    _ => "its process has ended".to_owned(),
                };
                plan.act(Action::Judge { subject: index, status, cause });
                return;
            }
            if verdict == Verdict::Gone && subject.loop_row.as_ref().is_some_and(|row| row.pid.is_some()) {
                plan.act(Action::CleanUp { subject: index });
            }
            correct(subject, index, status, plan);
        }
        Verdict::Degraded => {
            if let Some(beat) = beat {
                plan.look_again(snapshot.silent_since(beat).plus_seconds(config.dead_seconds));
                if said(subject) != Some(HealthStatus::Degraded) {
                    let cause = silence(snapshot, beat);
                    plan.act(Action::Judge { subject: index, status: HealthStatus::Degraded, cause });
                    return;
                }
            }
            correct(subject, index, HealthStatus::Degraded, plan);
        }
        Verdict::Healthy | Verdict::Unmanaged => {
            if let Some(beat) = beat {
                plan.look_again(snapshot.silent_since(beat).plus_seconds(config.degraded_seconds));
            }
            if let Some(alert) = &subject.alert {
                let down_for_seconds = snapshot.now.seconds_since(lost_at(alert)).max(0);
                plan.act(Action::Recover { subject: index, down_for_seconds });
            } else if subject.health.as_ref().is_some_and(|health| health.status == HealthStatus::Dead) {
                // Another tool wrote only its beat.
                plan.act(Action::Correct { subject: index, status: HealthStatus::Healthy });
            }
        }
        Verdict::Stopped => {
            if subject.alert.is_some() {
                plan.act(Action::CloseAlert { component: subject.id.clone() });
            }
        }
        Verdict::Unjudged => {}
    }
}

fn correct(subject: &Subject, index: usize, status: HealthStatus, plan: &mut Plan<Action>) {
    if subject.health.as_ref().is_some_and(|health| health.status != status) {
        plan.act(Action::Correct { subject: index, status });
    }
}

fn silence(snapshot: &HeartbeatSnapshot, beat: Timestamp) -> String {
    let silent = snapshot.silent_millis(beat) / 1000;
    let slept = snapshot.now.seconds_since(beat) - silent;
    if slept > 0 {
        format!("no beat for {silent} s, not counting {slept} s in which the machine slept or its clock was set")
    } else {
        format!("no beat for {silent} s")
    }
}

/// The last beat before the loss.
fn lost_at(alert: &Alert) -> Timestamp {
    let beat = alert.context.get("incarnation").and_then(|life| life.get("last_heartbeat")).and_then(Value::as_str);
    beat.and_then(|text| text.parse().ok()).unwrap_or(alert.created_at)
}

fn sweep(snapshot: &HeartbeatSnapshot, plan: &mut Plan<Action>) {
    let Some(sweep) = &snapshot.sweep else { return };
    let loops = snapshot.loop_ids();
    let over = |until: Timestamp, slack: i64| until.plus_seconds(slack) <= snapshot.now;
    for edge in &sweep.edges {
        let delete = if loops.contains(edge.waiter.as_str()) {
            // Over, or its waiter is dead; the query gives nothing else of a registered loop.
            true
        } else {
            // Whoever waits without being a loop says itself when it no longer does, or for how long it will.
            edge.wait_until.is_some_and(|until| over(until, 0)) && over(edge.waiting_since, LEFT_SECONDS)
        };
        if delete {
            plan.act(Action::DeleteEdge(edge.clone()));
        }
    }
    for request in &sweep.requests {
        let dead = snapshot
            .subjects
            .iter()
            .find(|subject| subject.id == request.loop_id.as_str())
            .is_none_or(|subject| subject.loop_row.as_ref().is_none_or(|row| row.status == LoopStatus::Error));
        if dead || over(request.wait_until, LEFT_SECONDS) {
            plan.act(Action::WithdrawRequest(request.clone()));
        }
    }
    for stale in &sweep.stale {
        plan.act(Action::SetAside(stale.clone()));
    }
    for fingerprint in sweep.taken_again.iter().filter_map(|alert| alert.fingerprint.clone()) {
        plan.act(Action::CloseUntaken { fingerprint });
    }
}

#[cfg(test)]
mod tests;
