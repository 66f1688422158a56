use coord_db::{Component, Loop};
use test_support::{NOW, sample_alert, sample_component, sample_lease, sample_loop};

use super::*;
use crate::snapshot::Sweep;

fn ago(millis: i64) -> Timestamp {
    NOW.plus_millis(-millis)
}

fn health(id: &str, beat: Option<Timestamp>) -> Component {
    Component { last_heartbeat: beat, pid: Some(7), pid_start_time: Some(1), ..sample_component(id) }
}

fn loop_row(id: &str, status: LoopStatus, pid: Option<i64>) -> Loop {
    Loop { status, pid, ..sample_loop(id) }
}

/// A loop at work that sent a heartbeat `millis` milliseconds ago.
fn beating(millis: i64) -> Subject {
    Subject {
        id: "loop-1".to_owned(),
        health: Some(health("loop-1", Some(ago(millis)))),
        loop_row: Some(loop_row("loop-1", LoopStatus::Running, Some(7))),
        liveness: Some(Liveness::Alive),
        alert: None,
        leftover: None,
    }
}

/// A loop at work that never beat.
fn silent(pid: Option<i64>, liveness: Option<Liveness>) -> Subject {
    Subject { health: None, loop_row: Some(loop_row("loop-1", LoopStatus::Running, pid)), liveness, ..beating(0) }
}

/// The same, after it was said that it is degraded or dead.
fn told(mut subject: Subject, status: HealthStatus) -> Subject {
    subject.alert = Some(Alert {
        context: json!({"component": subject.id, "status": status, "incarnation": incarnation(&subject)}),
        fingerprint: Some(format!("component:{}", subject.id)),
        ..sample_alert("a")
    });
    if let Some(health) = &mut subject.health {
        health.status = status;
    }
    subject
}

fn world(subject: Subject) -> HeartbeatSnapshot {
    HeartbeatSnapshot {
        now: NOW,
        clock_change: ClockChange::None,
        clock_changes: Vec::new(),
        clock_seen_at: Some(NOW),
        in_grace: false,
        grace_until: None,
        subjects: vec![subject],
        orphan_alerts: Vec::new(),
        open_operations: Vec::new(),
        operation_alerts: Vec::new(),
        expired: Vec::new(),
        next_expiry: None,
        abandoned_tests: Vec::new(),
        sweep: None,
    }
}

fn plan(snapshot: &HeartbeatSnapshot) -> Plan<Action> {
    decide(&HeartbeatConfig::default(), snapshot)
}

fn actions(subject: Subject) -> Vec<Action> {
    plan(&world(subject)).actions
}

fn judged(status: HealthStatus, cause: &str) -> Vec<Action> {
    vec![Action::Judge { subject: 0, status, cause: cause.to_owned() }]
}

#[test]
fn the_thresholds_are_exact() {
    assert_eq!(actions(beating(59_999)), []);
    assert_eq!(actions(beating(60_000)), judged(HealthStatus::Degraded, "no heartbeat for 60 s"));
    assert_eq!(actions(beating(299_999)), judged(HealthStatus::Degraded, "no heartbeat for 299 s"));
    assert_eq!(actions(beating(300_000)), judged(HealthStatus::Dead, "no heartbeat for 300 s"));
}

#[test]
fn it_asks_again_when_the_next_threshold_is_crossed() {
    assert_eq!(plan(&world(beating(10_000))).look_again_at, Some(NOW.plus_seconds(50)));
    let mut snapshot = world(told(beating(100_000), HealthStatus::Degraded));
    snapshot.clock_seen_at = None;
    assert_eq!(plan(&snapshot).look_again_at, Some(NOW.plus_seconds(200)));
}

#[test]
fn a_process_that_is_proven_gone_is_dead_at_once_and_an_unknown_one_is_not() {
    let mut gone = beating(1_000);
    gone.liveness = Some(Liveness::Gone);
    assert_eq!(actions(gone), judged(HealthStatus::Dead, "its process has ended"));
    let mut hidden = beating(1_000);
    hidden.liveness = Some(Liveness::Unknown);
    assert_eq!(actions(hidden), []);
    let mut hidden = beating(300_000);
    hidden.liveness = Some(Liveness::Unknown);
    assert_eq!(actions(hidden), judged(HealthStatus::Dead, "no heartbeat for 300 s"));
    let mut unseen = beating(1_000);
    unseen.liveness = None;
    assert_eq!(actions(unseen), []);
}

#[test]
fn after_the_machine_slept_beats_count_against_nobody_but_an_ended_process_does() {
    let until = NOW.plus_seconds(30);
    let asleep = |subject| HeartbeatSnapshot { in_grace: true, grace_until: Some(until), ..world(subject) };
    let quiet = plan(&asleep(beating(300_000)));
    assert_eq!((quiet.actions, quiet.look_again_at), (vec![], Some(until)));
    // What was said before the sleep stands.
    assert_eq!(plan(&asleep(told(beating(1_000), HealthStatus::Degraded))).actions, []);
    let mut gone = beating(300_000);
    gone.liveness = Some(Liveness::Gone);
    assert_eq!(plan(&asleep(gone)).actions, judged(HealthStatus::Dead, "its process has ended"));
}

#[test]
fn the_clocks_are_written_down_at_a_change_and_now_and_then() {
    let mut snapshot = world(beating(1_000));
    for (change, seen, expected) in [
        (ClockChange::None, Some(ago(59_999)), vec![]),
        (ClockChange::None, Some(ago(60_000)), vec![Action::ObserveClock]),
        (ClockChange::None, None, vec![Action::ObserveClock]),
        (ClockChange::Jumped(-5_000), Some(NOW), vec![Action::ObserveClock]),
        (ClockChange::Rebooted, Some(NOW), vec![Action::ObserveClock]),
    ] {
        snapshot.clock_change = change;
        snapshot.clock_seen_at = seen;
        assert_eq!(plan(&snapshot).actions, expected, "{change:?} {seen:?}");
    }
}

#[test]
fn what_has_stopped_in_an_orderly_way_is_left_alone() {
    let mut stopped = beating(9_999_999);
    stopped.health.as_mut().unwrap().status = HealthStatus::Unknown;
    stopped.loop_row.as_mut().unwrap().status = LoopStatus::Stopped;
    assert_eq!(actions(stopped.clone()), []);
    // Someone drives it by hand now.
    stopped.loop_row = Some(loop_row("loop-1", LoopStatus::Running, None));
    stopped.liveness = None;
    assert_eq!(actions(stopped.clone()), []);
    let late = told(beating(9_999_999), HealthStatus::Degraded);
    stopped.alert = late.alert;
    assert_eq!(actions(stopped), [Action::CloseAlert { component: "loop-1".to_owned() }]);
}

#[test]
fn an_unmanaged_loop_is_never_judged_and_one_that_beat_once_is() {
    assert_eq!(actions(silent(None, None)), []);
    let mut beat_once = beating(300_000);
    beat_once.loop_row.as_mut().unwrap().pid = None;
    beat_once.health.as_mut().unwrap().pid = None;
    beat_once.liveness = None;
    assert_eq!(actions(beat_once), judged(HealthStatus::Dead, "no heartbeat for 300 s"));
}

#[test]
fn a_loop_without_a_health_row_is_judged_by_its_process_alone() {
    assert_eq!(actions(silent(Some(9), Some(Liveness::Alive))), []);
    assert_eq!(actions(silent(Some(9), Some(Liveness::Gone))), judged(HealthStatus::Dead, "its process has ended"));
    let mut stopped = silent(Some(9), Some(Liveness::Gone));
    stopped.loop_row.as_mut().unwrap().status = LoopStatus::Stopped;
    assert_eq!(actions(stopped), []);
}

#[test]
fn each_verdict_is_said_once() {
    assert_eq!(actions(told(beating(100_000), HealthStatus::Degraded)), []);
    assert_eq!(actions(told(beating(300_000), HealthStatus::Degraded)), judged(HealthStatus::Dead, "no heartbeat for 300 s"));
    assert_eq!(actions(told(beating(9_300_000), HealthStatus::Dead)), []);
    // A new life that has ended too is another death.
    let mut again = told(beating(300_000), HealthStatus::Dead);
    again.health.as_mut().unwrap().pid = Some(8);
    assert_eq!(actions(again), judged(HealthStatus::Dead, "no heartbeat for 300 s"));
}

#[test]
fn what_is_driven_by_hand_after_a_death_is_not_cleaned_up_again() {
    let mut by_hand = told(beating(300_000), HealthStatus::Dead);
    by_hand.liveness = Some(Liveness::Gone);
    by_hand.loop_row.as_mut().unwrap().pid = None;
    assert_eq!(actions(by_hand.clone()), []);
    // The row still names the dead process.
    by_hand.loop_row.as_mut().unwrap().pid = Some(7);
    assert_eq!(actions(by_hand), [Action::CleanUp { subject: 0 }]);
}

#[test]
fn one_that_beats_again_is_back() {
    let mut back = told(beating(400_000), HealthStatus::Dead);
    back.health.as_mut().unwrap().last_heartbeat = Some(NOW);
    assert_eq!(actions(back), [Action::Recover { subject: 0, down_for_seconds: 400 }]);
    // Only the row says so, and nothing was reported.
    let mut odd = beating(0);
    odd.health.as_mut().unwrap().status = HealthStatus::Dead;
    assert_eq!(actions(odd), [Action::Correct { subject: 0, status: HealthStatus::Healthy }]);
    // What it says of itself is its own.
    let mut unwell = beating(0);
    unwell.health.as_mut().unwrap().status = HealthStatus::Degraded;
    assert_eq!(actions(unwell), []);
}

#[test]
fn expired_leases_are_swept_but_not_after_a_sleep() {
    let lease = Lease { expires_at: Some(NOW), ..sample_lease("a", "loop-1") };
    let mut snapshot = world(beating(0));
    snapshot.expired = vec![lease.clone()];
    snapshot.next_expiry = Some(NOW.plus_seconds(5));
    let swept = plan(&snapshot);
    assert_eq!((swept.actions, swept.look_again_at), (vec![Action::EndLease(lease)], Some(NOW.plus_seconds(5))));
    snapshot.in_grace = true;
    assert_eq!(plan(&snapshot).actions, []);
}

#[test]
fn edges_go_when_they_are_over_and_orphans_a_while_later() {
    let edge = |waiter: &str, since: i64, until: Option<i64>| WaitEdge {
        waiter: waiter.to_owned(),
        holder: "h".to_owned(),
        resource: serde_json::from_value(json!("a")).unwrap(),
        waiting_since: ago(since),
        wait_until: until.map(ago),
        seq: since,
    };
    let over = edge("loop-1", 1_000, Some(0));
    let orphan = edge("stranger", 60_000, Some(0));
    let mut snapshot = world(beating(0));
    snapshot.sweep = Some(Sweep {
        edges: vec![over.clone(), orphan.clone(), edge("stranger", 59_999, Some(0)), edge("stranger", 90_000, None)],
        requests: Vec::new(),
        ..Sweep::default()
    });
    assert_eq!(plan(&snapshot).actions, [Action::DeleteEdge(over), Action::DeleteEdge(orphan)]);
}

#[test]
fn requests_go_with_their_loop_or_a_while_after_their_time() {
    let request = |loop_id: &str, until: i64| LeaseRequest {
        id: format!("{loop_id}{until}"),
        loop_id: serde_json::from_value(json!(loop_id)).unwrap(),
        paths: coord_db::StringList(vec![]),
        test_id: None,
        waiting_since: ago(90_000),
        wait_until: ago(until),
        freed_at: None,
    };
    let (recent, old, unknown) = (request("loop-1", 59_999), request("loop-1", 60_000), request("stranger", -90_000));
    let mut snapshot = world(beating(0));
    snapshot.sweep =
        Some(Sweep { edges: Vec::new(), requests: vec![recent.clone(), old.clone(), unknown.clone()], ..Sweep::default() });
    assert_eq!(plan(&snapshot).actions, [Action::WithdrawRequest(old), Action::WithdrawRequest(unknown)]);
    snapshot.subjects[0].loop_row.as_mut().unwrap().status = LoopStatus::Error;
    assert_eq!(plan(&snapshot).actions.len(), 3);
}

#[test]
fn time_slept_is_subtracted_for_each_component() {
    let asleep = |beat: i64, seen: i64, millis: i64| {
        let mut snapshot = world(beating(beat));
        snapshot.clock_changes = vec![coord_db::ClockChangeSeen { seen_at: ago(seen), millis }];
        verdict(&HeartbeatConfig::default(), &snapshot, &snapshot.subjects[0])
    };
    let hour = 3_600_000;
    // Silent for an hour and 40 s, of which an hour was slept: 40 s. One that beat after the wake-up gains nothing.
    assert_eq!(asleep(hour + 40_000, 35_000, hour), Verdict::Healthy);
    assert_eq!(asleep(hour + 70_000, 35_000, hour), Verdict::Degraded);
    assert_eq!(asleep(hour + 300_000, 290_000, hour), Verdict::Silent);
    assert_eq!(asleep(61_000, 62_000, hour), Verdict::Degraded);
    // It beat after the wake-up and before that was seen: counted from the seeing.
    assert_eq!(asleep(70_000, 65_000, hour), Verdict::Degraded);
    assert_eq!(asleep(70_000, 55_000, hour), Verdict::Healthy);
    // The clock was set back: a beat from before lies in the future, and counts as old as the jump.
    assert_eq!(asleep(-hour, 59_000, -hour), Verdict::Healthy);
    assert_eq!(asleep(-hour, 61_000, -hour), Verdict::Degraded);
    assert_eq!(asleep(-hour, 301_000, -hour), Verdict::Silent);
}

/// A component that runs on a host, or has.
fn on_host(id: &str, host: &str, status: HealthStatus, beat_ago: i64) -> Subject {
    let row = Component { status, host: Some(host.to_owned()), ..health(id, Some(ago(beat_ago))) };
    Subject {
        id: id.to_owned(),
        health: Some(row),
        loop_row: None,
        liveness: Some(Liveness::Unknown),
        alert: None,
        leftover: None,
    }
}

/// The heartbeats whose rows are removed.
fn forgotten(subjects: Vec<Subject>) -> Vec<String> {
    let plan = plan(&HeartbeatSnapshot { subjects, ..world(beating(0)) });
    plan.actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Forget(row) => Some(row.component),
            _ => None,
        })
        .collect()
}

#[test]
fn a_heartbeat_that_no_longer_runs_is_forgotten_once_nothing_else_runs_on_its_host() {
    let long_ago = 3_600_000;
    let of = |status, ago| on_host("heartbeat.b.1", "b/1", status, ago);
    assert_eq!(forgotten(vec![of(HealthStatus::Unknown, 0)]), ["heartbeat.b.1"], "it has stopped");
    assert_eq!(forgotten(vec![of(HealthStatus::Healthy, 0)]), [""; 0], "it runs");
    assert_eq!(forgotten(vec![of(HealthStatus::Healthy, long_ago)]), [""; 0], "its death is reported first");
    assert_eq!(forgotten(vec![of(HealthStatus::Dead, long_ago)]), ["heartbeat.b.1"]);
    for (status, is_kept) in [(HealthStatus::Healthy, true), (HealthStatus::Dead, true), (HealthStatus::Unknown, false)] {
        let subjects = vec![of(HealthStatus::Dead, long_ago), on_host("x", "b/1", status, long_ago)];
        assert_eq!(forgotten(subjects).is_empty(), is_kept, "{status}");
    }
    let elsewhere = vec![of(HealthStatus::Dead, long_ago), on_host("x", "a/1", HealthStatus::Healthy, 0)];
    assert_eq!(forgotten(elsewhere), ["heartbeat.b.1"]);
    assert_eq!(forgotten(vec![on_host("heartbeats", "b/1", HealthStatus::Unknown, 0)]), [""; 0], "another component");
}

#[test]
fn what_the_landing_train_does_is_the_loops_that_acts_for_it() {
    let entry = |runs_as: &str| JournalEntry {
        id: "j".to_owned(),
        operation: "judge".to_owned(),
        loop_id: None,
        steps: coord_db::JournalSteps {
            intent: json!({"owner": {"pid": 7, "runs_as": runs_as}}),
            ..coord_db::JournalSteps::default()
        },
        status: coord_db::JournalStatus::InProgress,
        started_at: ago(3_600_000),
        completed_at: None,
        component: Some("landing-train".to_owned()),
        event_id: None,
    };
    let lost = |runs_as: &str| {
        let plan = plan(&HeartbeatSnapshot { open_operations: vec![entry(runs_as)], ..world(beating(0)) });
        plan.actions.iter().any(|action| matches!(action, Action::ReportOperations { component, .. } if component == runs_as))
    };
    assert!(!lost("loop-1"), "the loop works");
    assert!(lost("loop-2"), "it does not");
}
