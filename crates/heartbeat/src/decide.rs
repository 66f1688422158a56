//! Decides the health of each component, and what has to be cleaned up. Pure.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::HeartbeatConfig;
use coord_db::process::Liveness;
use coord_db::{
    Alert, ClockChange, Component, HealthStatus, JournalEntry, Lease, LeaseRequest, LoopId, LoopStatus, ON_EACH_HOST,
    StaleDeliveries, Test, Timestamp, WaitEdge, supervisor_of,
};
use serde_json::{Value, json};
use supervisor::Plan;

use crate::snapshot::{HeartbeatSnapshot, MAX_ROWS, OPERATIONS, Subject};

/// Maximum interval between two records of the clocks, so that a later jump can be distinguished from drift.
pub const CLOCK_EVERY_MILLIS: i64 = 60_000;
/// Delay before an expired row is deleted, so that its owner still learns from it that it has expired.
pub const DELETE_DELAY_SECONDS: i64 = 60;

/// The health of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It sends heartbeats.
    Healthy,
    /// It has sent no heartbeat for `degraded_seconds`.
    Degraded,
    /// Its process has provably ended.
    Exited,
    /// It has sent no heartbeat for `dead_seconds` and counts as dead.
    Silent,
    /// It has recorded its shutdown.
    Stopped,
    /// A loop driven by hand: it sends no heartbeats and is never judged.
    Unmanaged,
    /// Unknown; the last report stays valid.
    Unjudged,
}

/// One action of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Store the clocks; after a suspend or a jump this starts the grace period.
    ObserveClock,
    /// Report a degraded or dead component; clean up after a dead one.
    Judge {
        /// Index of the component in the snapshot.
        subject: usize,
        /// Its health.
        status: HealthStatus,
        /// The reason.
        cause: String,
    },
    /// Report a recovered component.
    Recover {
        /// Index of the component.
        subject: usize,
        /// Seconds since its last heartbeat before the loss.
        down_for_seconds: i64,
    },
    /// Correct the health row.
    Correct {
        /// Index of the component.
        subject: usize,
        /// The correct value.
        status: HealthStatus,
    },
    /// Clean up rows that still refer to a dead process after its death was handled.
    CleanUp {
        /// Index of the component.
        subject: usize,
    },
    /// End processes left by the agent of a dead loop.
    EndLeftovers {
        /// Index of the loop.
        subject: usize,
    },
    /// Report unfinished operations of a component that does not run.
    ReportOperations {
        /// The component.
        component: String,
        /// The operations, and what to do.
        message: String,
    },
    /// Close the alert about such operations.
    CloseOperations {
        /// Fingerprint of the alert.
        fingerprint: String,
    },
    /// Close the alert about a component that has stopped or was removed.
    CloseAlert {
        /// The component.
        component: String,
    },
    /// Delete an expired lease.
    EndLease(Lease),
    /// Remove the row of a heartbeat that no longer runs, of a host on which nothing else does.
    Forget(Component),
    /// Return a test that no loop works on to its queue.
    PutBack(Test),
    /// Delete a wait edge that has expired or whose waiter is dead.
    DeleteEdge(WaitEdge),
    /// Delete a queued request that has expired or whose loop is dead or unknown.
    WithdrawRequest(LeaseRequest),
    /// Set old unread deliveries aside, and report them.
    SetAside(StaleDeliveries),
    /// Close the alert about unread deliveries of a subscriber that has returned or was removed.
    CloseUnread {
        /// Fingerprint of the alert.
        fingerprint: String,
    },
}

/// Decides what to do for this snapshot.
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
    plan.actions.extend(unneeded(config, snapshot).cloned().map(Action::Forget));
    for test in &snapshot.abandoned_tests {
        plan.act(Action::PutBack(test.clone()));
    }
    // In the grace period nobody takes over an expired lease either, because its holder may have been asleep.
    if !snapshot.in_grace {
        for lease in snapshot.expired.iter().take(MAX_ROWS) {
            plan.act(Action::EndLease(lease.clone()));
        }
        if let Some(at) = snapshot.next_expiry {
            plan.look_again(at);
        }
        sweep(snapshot, &mut plan);
    }
    plan
}

/// The heartbeats that no longer run, of hosts on which nothing else does. Hosts may come and go each day, as containers do.
fn unneeded<'a>(config: &'a HeartbeatConfig, snapshot: &'a HeartbeatSnapshot) -> impl Iterator<Item = &'a Component> {
    let heartbeats = snapshot.subjects.iter().filter(|subject| supervisor_of(&subject.id) == ON_EACH_HOST);
    heartbeats.filter_map(move |subject| {
        let health = subject.health.as_ref()?;
        let is_over = match verdict(config, snapshot, subject) {
            Verdict::Stopped => true,
            // Reported first.
            Verdict::Exited | Verdict::Silent => health.status == HealthStatus::Dead,
            _ => false,
        };
        let is_needed = snapshot.subjects.iter().any(|other| {
            let runs_there = |other: &Component| other.host == health.host && other.status != HealthStatus::Unknown;
            supervisor_of(&other.id) != ON_EACH_HOST && other.health.as_ref().is_some_and(runs_there)
        });
        (is_over && !is_needed).then_some(health)
    })
}

/// Reports operations of components that do not run; they are settled only when their component starts again.
fn operations(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot, plan: &mut Plan<Action>) {
    let mut lost: BTreeMap<&str, Vec<&JournalEntry>> = BTreeMap::new();
    for entry in &snapshot.open_operations {
        // The landing train is no process: a loop acts for it.
        let by = entry.steps.runs_as().or(entry.component.as_deref()).or(entry.loop_id.as_ref().map(LoopId::as_str));
        let by = by.unwrap_or("nobody");
        let there = snapshot.subjects.iter().find(|subject| subject.id == by).is_some_and(|subject| {
            !matches!(verdict(config, snapshot, subject), Verdict::Exited | Verdict::Silent | Verdict::Stopped)
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
            _ if is_loop => format!("start coding-loop {by}, with --once to stop afterwards"),
            _ => format!("start {}", supervisor_of(by)),
        };
        let message = format!(
            "{by} ended during {} ({} unfinished operations); they are finished or undone when it starts: {start}",
            names.into_iter().collect::<Vec<_>>().join(", "),
            entries.len()
        );
        let is_reported = snapshot.operation_alerts.iter().any(|alert| {
            alert.fingerprint.as_deref().and_then(|fingerprint| fingerprint.strip_prefix(OPERATIONS)) == Some(by)
                && alert.message == message
        });
        if !is_reported {
            plan.act(Action::ReportOperations { component: by.to_owned(), message });
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

/// The health of a component at the time of the snapshot.
#[must_use]
pub fn verdict(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot, subject: &Subject) -> Verdict {
    let stopped = subject.health.as_ref().is_some_and(|health| health.status == HealthStatus::Unknown);
    let status = subject.loop_row.as_ref().map(|row| row.status);
    let at_work = matches!(status, Some(LoopStatus::Running | LoopStatus::Paused));
    // A row of an external tool may claim that a process works although its health says that it has stopped, or has no
    // health row.
    let claims_to_run = at_work || subject.health.is_some() && !stopped;
    if subject.liveness == Some(Liveness::Gone) && claims_to_run {
        return Verdict::Exited;
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

/// Identifies one incarnation of a component; a restart or a new heartbeat starts another one. An incarnation that was
/// judged dead has been cleaned up, so later rows under its name belong to somebody who drives it by hand.
pub(crate) fn incarnation(subject: &Subject) -> Value {
    let pid = subject.health.as_ref().and_then(|health| health.pid);
    json!({
        "pid": pid.or_else(|| subject.loop_row.as_ref().and_then(|row| row.pid)),
        "last_heartbeat": subject.health.as_ref().and_then(|health| health.last_heartbeat),
    })
}

fn reported_status(subject: &Subject) -> Option<HealthStatus> {
    subject.alert.as_ref()?.context.get("status")?.as_str()?.parse().ok()
}

fn judge(config: &HeartbeatConfig, snapshot: &HeartbeatSnapshot, index: usize, plan: &mut Plan<Action>) {
    let subject = &snapshot.subjects[index];
    let verdict = verdict(config, snapshot, subject);
    let beat = subject.health.as_ref().and_then(|health| health.last_heartbeat);
    match verdict {
        Verdict::Exited | Verdict::Silent => {
            let status = HealthStatus::Dead;
            let known = reported_status(subject) == Some(status)
                && subject.alert.as_ref().and_then(|alert| alert.context.get("incarnation")) == Some(&incarnation(subject));
            if !known {
                let cause = match (verdict, beat) {
                    (Verdict::Silent, Some(beat)) => silence(snapshot, beat),
                    _ => "its process has ended".to_owned(),
                };
                plan.act(Action::Judge { subject: index, status, cause });
                return;
            }
            if verdict == Verdict::Exited && subject.loop_row.as_ref().is_some_and(|row| row.pid.is_some()) {
                plan.act(Action::CleanUp { subject: index });
            }
            correct(subject, index, status, plan);
        }
        Verdict::Degraded => {
            if let Some(beat) = beat {
                plan.look_again(snapshot.silent_since(beat).plus_seconds(config.dead_seconds));
                if reported_status(subject) != Some(HealthStatus::Degraded) {
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
                // An external tool wrote only the heartbeat.
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
        format!("no heartbeat for {silent} s, without {slept} s in which the machine slept or its clock was set")
    } else {
        format!("no heartbeat for {silent} s")
    }
}

/// The last heartbeat before the loss.
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
            // Expired, or its waiter is dead; the query returns no other edges of registered loops.
            true
        } else {
            // A waiter that is not a loop deletes its edge itself or sets its end.
            edge.wait_until.is_some_and(|until| over(until, 0)) && over(edge.waiting_since, DELETE_DELAY_SECONDS)
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
        if dead || over(request.wait_until, DELETE_DELAY_SECONDS) {
            plan.act(Action::WithdrawRequest(request.clone()));
        }
    }
    for stale in &sweep.stale {
        plan.act(Action::SetAside(stale.clone()));
    }
    for fingerprint in sweep.unread_alerts.iter().filter_map(|alert| alert.fingerprint.clone()) {
        plan.act(Action::CloseUnread { fingerprint });
    }
}

#[cfg(test)]
mod tests;
