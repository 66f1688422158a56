//! What fires, and what must not.

mod digression;
mod elsewhere;
mod resource;

use coord_db::{Component, Loop, Test, TestStatus, Timestamp};
use test_support::{NOW, sample_alert, sample_component, sample_loop, sample_test};

use super::*;
use crate::observe::Disk;
use crate::output::Repeated;
use crate::snapshot::Spent;
use crate::snapshot::{AgentActivity, Claim, Files, TestView};
use crate::trail::{Failures, LoopTrail};

fn ago(minutes: i64) -> Timestamp {
    NOW.plus_seconds(-60 * minutes)
}

fn test(id: &str, loop_id: &str) -> Test {
    Test {
        status: TestStatus::InProgress,
        attempts: 1,
        last_attempt_at: Some(ago(1)),
        created_at: ago(600),
        ..sample_test(id, loop_id)
    }
}

/// A loop at work on a test that it began a minute ago.
fn at_work(id: &str) -> LoopView {
    let row = Loop { pid: Some(7), created_at: ago(6000), updated_at: ago(600), ..sample_loop(id) };
    let seen = TestView {
        test: test(&format!("t-{id}"), id),
        failures: Failures::default(),
        attempt_since: Some(ago(1)),
        started: Some(format!("started-{id}").parse().unwrap()),
        spent: Spent::default(),
        seconds: 0,
        seconds_in_attempt: 0,
    };
    LoopView {
        row,
        tests: vec![seen],
        current: Some(0),
        waiting: false,
        elsewhere: false,
        held: false,
        excused_at: None,
        last_event: None,
        used_at: None,
        beat_at: None,
        started_at: Some(ago(500)),
        ready_since: None,
        passed_at: None,
        trail: LoopTrail { settled_at: Some(ago(2)), began_at: Some(ago(1)), begun: 1, resumed_at: None },
        files: Files { observed: true, fresh: true, ..Files::default() },
        output: None,
        leases: Vec::new(),
        queued: Vec::new(),
    }
}

/// Since when the attempt runs and nothing was heard.
fn begun(id: &str, minutes: i64) -> LoopView {
    let mut view = at_work(id);
    view.tests[0].attempt_since = Some(ago(minutes));
    view.trail = LoopTrail { settled_at: Some(ago(minutes + 1)), began_at: Some(ago(minutes)), begun: 1, resumed_at: None };
    view
}

/// Output that was written then, and says nothing new.
fn heard(written_at: Timestamp) -> AgentActivity {
    AgentActivity { written_at, news_at: ago(6000), repeated: None, store: None }
}

fn changed(view: &mut LoopView, path: &str, at: Timestamp) {
    view.files.rows.push(WorktreeChange {
        loop_id: view.row.id.clone(),
        file_path: path.to_owned(),
        first_seen_at: at,
        last_changed_at: at,
        fingerprint: "base:x".to_owned(),
    });
}

fn world(loops: Vec<LoopView>) -> MonitorSnapshot {
    MonitorSnapshot {
        now: NOW,
        in_grace: false,
        write_clock: false,
        grace_until: None,
        loops,
        gone: Vec::new(),
        gone_outputs: Vec::new(),
        holds: Vec::new(),
        alerts: std::collections::BTreeMap::new(),
        heartbeat: None,
        day: "2027-01-15".to_owned(),
        next_day: NOW.plus_seconds(3600),
        tests_today: 0,
        used_today: Spent::default(),
        database_bytes: 0,
        disk: None,
        host: None,
        look_again_at: None,
    }
}

fn settings() -> Config {
    Config::default()
}

fn plan(snapshot: &MonitorSnapshot) -> Vec<Action> {
    decide(&settings(), snapshot).actions
}

/// One line for each action.
fn told(snapshot: &MonitorSnapshot) -> Vec<String> {
    plan(snapshot)
        .into_iter()
        .map(|action| match action {
            Action::Raise(finding, said) => {
                let said = said.map_or_else(|| "nothing".to_owned(), |said| said.event_type);
                format!("raise {} say {said}", finding.fingerprint)
            }
            Action::Escalate(finding, said) => format!("escalate {} say {}", finding.fingerprint, said.event_type),
            Action::Amend(finding) => format!("amend {}", finding.fingerprint),
            Action::Close { fingerprint } => format!("close {fingerprint}"),
            Action::StoreFiles { loop_id, rows } => format!("store {loop_id} {}", rows.len()),
            Action::StoreOutput(row) => format!("heard {} {}", row.loop_id, row.read_bytes),
            Action::ForgetOutput(loop_id) => format!("forget {loop_id}"),
            Action::Excuse(loops) => format!("excuse {}", loops.iter().map(LoopId::as_str).collect::<Vec<_>>().join(" ")),
            Action::WriteClock { .. } => "clock".to_owned(),
        })
        .collect()
}

/// What was raised stands as open alerts, as the transaction leaves it.
fn after(snapshot: &MonitorSnapshot) -> MonitorSnapshot {
    let mut next = snapshot.clone();
    for action in plan(snapshot) {
        match action {
            Action::Raise(finding, _) | Action::Escalate(finding, _) | Action::Amend(finding) => {
                next.alerts.insert(finding.fingerprint.clone(), alert(finding));
            }
            Action::Close { fingerprint } => {
                next.alerts.remove(&fingerprint);
            }
            _ => {}
        }
    }
    next
}

fn alert(finding: Finding) -> Alert {
    Alert {
        severity: finding.severity,
        alert_type: finding.alert_type,
        source: "monitor".to_owned(),
        message: finding.message,
        context: finding.context,
        fingerprint: Some(finding.fingerprint.clone()),
        ..sample_alert(&finding.fingerprint)
    }
}

fn nothing(snapshot: &MonitorSnapshot) {
    assert_eq!(told(snapshot), [] as [&str; 0]);
}

const STUCK: &str = "raise stuck:a:t-a say stuck_detected";

// ---- stuck ----

#[test]
fn a_loop_at_work_is_fine_and_is_asked_about_when_it_could_be_silent() {
    let snapshot = world(vec![at_work("a")]);
    nothing(&snapshot);
    assert_eq!(decide(&settings(), &snapshot).look_again_at, Some(NOW.plus_seconds(30)));
    let mut config = settings();
    config.monitor.interval_seconds = 3600;
    assert_eq!(decide(&config, &snapshot).look_again_at, Some(ago(1).plus_seconds(600)));
}

#[test]
fn three_failures_in_a_row_are_told_once_with_their_cause() {
    let mut view = at_work("a");
    let last_event: Option<EventId> = Some("failed-3".parse().unwrap());
    view.tests[0].failures = Failures { count: 2, since: Some(ago(9)), last_event, last_error: Some("no\nway".to_owned()) };
    nothing(&world(vec![view.clone()]));
    view.tests[0].failures.count = 3;
    let snapshot = world(vec![view]);
    assert_eq!(told(&snapshot), [STUCK]);
    let Some(Action::Raise(finding, Some(said))) = plan(&snapshot).pop() else { panic!() };
    assert_eq!(finding.message, "a makes no progress on test t-a: 3 consecutive failures; last error: no");
    assert_eq!(said.caused_by.unwrap().as_str(), "failed-3");
    assert_eq!((&said.payload["consecutive_failures"], &said.payload["stuck_for_minutes"]), (&3.into(), &9.into()));
    let mut told_once = after(&snapshot);
    nothing(&told_once);
    told_once.loops[0].tests[0].failures.count = 4;
    assert_eq!(told(&told_once), ["amend stuck:a:t-a"]);
    nothing(&after(&told_once));
}

#[test]
fn an_alert_closes_with_a_pass_a_reset_or_a_block_and_not_with_a_pause() {
    let mut view = at_work("a");
    view.tests[0].failures.count = 3;
    let open = after(&world(vec![view]));
    let mut passed = open.clone();
    (passed.loops[0].tests, passed.loops[0].current) = (Vec::new(), None);
    assert_eq!(told(&passed), ["close stuck:a:t-a"]);
    let mut reset = open.clone();
    reset.loops[0].tests[0].failures = Failures::default();
    assert_eq!(told(&reset), ["close stuck:a:t-a"]);
    let mut paused = open.clone();
    paused.loops[0].row.status = LoopStatus::Paused;
    assert_eq!(told(&paused), ["excuse a"]);
    let mut gone = open.clone();
    gone.loops.clear();
    assert_eq!(told(&gone), ["close stuck:a:t-a"]);
    let mut of_another = open;
    of_another.alerts.get_mut("stuck:a:t-a").unwrap().source = "somebody".to_owned();
    of_another.loops.clear();
    nothing(&of_another);
}

#[test]
fn one_attempt_without_end_is_stuck_however_much_it_writes_unless_it_does_something_new() {
    let mut view = begun("a", 29);
    view.output = Some(heard(NOW));
    nothing(&world(vec![view.clone()]));
    view.tests[0].attempt_since = Some(ago(30));
    let snapshot = world(vec![view.clone()]);
    assert_eq!(told(&snapshot), [STUCK]);
    let new: [fn(&mut LoopView); 2] =
        [|view| view.output.as_mut().unwrap().news_at = ago(29), |view| changed(view, "a.rs", ago(29))];
    for new in new {
        let mut at_work = view.clone();
        at_work.tests[0].attempt_since = Some(ago(90));
        new(&mut at_work);
        nothing(&world(vec![at_work.clone()]));
        let mut again = after(&snapshot);
        again.loops[0] = at_work.clone();
        assert_eq!(told(&again), ["close stuck:a:t-a"]);
        let mut long_ago = world(vec![at_work]);
        long_ago.now = NOW.plus_seconds(60);
        long_ago.loops[0].output.as_mut().unwrap().written_at = NOW;
        assert_eq!(told(&long_ago), [STUCK]);
    }
}

#[test]
fn the_duration_is_updated_every_ten_minutes() {
    let mut open = after(&world(vec![begun("a", 10)]));
    open.now = NOW.plus_seconds(599);
    nothing(&open);
    open.now = NOW.plus_seconds(600);
    assert_eq!(told(&open), ["amend stuck:a:t-a"]);
    assert!(after(&open).alerts["stuck:a:t-a"].message.contains("no activity for 20 minutes"));
    nothing(&after(&open));
}

#[test]
fn silence_is_stuck_and_any_sign_of_life_is_not() {
    let view = begun("a", 10);
    let snapshot = world(vec![view.clone()]);
    assert_eq!(told(&snapshot), [STUCK]);
    nothing(&after(&snapshot));
    let lives: [fn(&mut LoopView); 6] = [
        // A long compile whose output grows.
        |view| view.output = Some(heard(ago(2))),
        |view| changed(view, "a.rs", ago(3)),
        |view| view.files.active_at = Some(ago(3)),
        |view| view.last_event = Some(("e".parse().unwrap(), ago(9))),
        |view| view.used_at = Some(ago(1)),
        |view| view.beat_at = Some(ago(1)),
    ];
    for live in lives {
        let mut view = view.clone();
        live(&mut view);
        nothing(&world(vec![view.clone()]));
        let mut again = after(&snapshot);
        again.loops[0] = view;
        assert_eq!(told(&again), ["close stuck:a:t-a"]);
    }
}

#[test]
fn who_waits_is_paused_or_has_slept_is_not_stuck() {
    let rests: [fn(&mut MonitorSnapshot); 3] =
        [|at| at.loops[0].waiting = true, |at| at.loops[0].row.status = LoopStatus::Paused, |at| at.in_grace = true];
    for rest in rests {
        let mut view = begun("a", 500);
        view.tests[0].failures.count = 9;
        let mut snapshot = world(vec![view]);
        rest(&mut snapshot);
        assert_eq!(told(&snapshot), ["excuse a"]);
        snapshot.loops[0].excused_at = Some(NOW.plus_seconds(-59));
        nothing(&snapshot);
        // Its time begins again afterwards.
        let mut over = snapshot.clone();
        over.in_grace = false;
        over.loops[0].waiting = false;
        over.loops[0].row.status = LoopStatus::Running;
        over.loops[0].tests[0].failures.count = 0;
        nothing(&over);
        over.loops[0].excused_at = Some(ago(10));
        assert_eq!(told(&over), [STUCK]);
    }
}

#[test]
fn a_rest_is_no_progress_and_leaves_the_alert_open() {
    let mut snapshot = after(&world(vec![begun("a", 40)]));
    snapshot.loops[0].waiting = true;
    assert_eq!(told(&snapshot), ["excuse a"]);
    snapshot.loops[0].waiting = false;
    snapshot.loops[0].excused_at = Some(NOW);
    nothing(&snapshot);
}

#[test]
fn a_stopped_or_dead_loop_is_not_stuck() {
    for status in [LoopStatus::Stopped, LoopStatus::Error] {
        let mut view = begun("a", 500);
        view.tests[0].failures.count = 9;
        view.row.status = status;
        nothing(&world(vec![view]));
    }
}

#[test]
fn no_pass_for_long_is_stuck_only_while_there_is_work() {
    let mut view = at_work("a");
    (view.tests, view.current) = (Vec::new(), None);
    view.trail = LoopTrail { settled_at: Some(ago(31)), began_at: None, begun: 0, resumed_at: None };
    nothing(&world(vec![view.clone()]));
    view.ready_since = Some(ago(600));
    assert_eq!(told(&world(vec![view.clone()])), ["raise stuck:a:- say stuck_detected"]);
    let stands: [fn(&mut LoopView); 6] = [
        // The work has only just come.
        |view| view.ready_since = Some(ago(29)),
        |view| view.started_at = Some(ago(3)),
        |view| view.trail.resumed_at = Some(ago(3)),
        |view| view.trail.settled_at = Some(ago(29)),
        |view| view.passed_at = Some(ago(1)),
        |view| view.row.status = LoopStatus::Stopped,
    ];
    for change in stands {
        let mut view = view.clone();
        change(&mut view);
        nothing(&world(vec![view]));
    }
}

#[test]
fn no_pass_and_a_long_attempt_are_reported_once() {
    let mut long = begun("a", 30);
    long.output = Some(heard(NOW));
    let mut early = long.clone();
    early.tests[0].attempt_since = Some(ago(29));
    early.trail.settled_at = Some(ago(40));
    (early.trail.began_at, early.trail.begun) = (Some(ago(31)), 3);
    let snapshot = world(vec![early]);
    assert_eq!(told(&snapshot), ["raise stuck:a:- say stuck_detected"]);
    let mut later = after(&snapshot);
    later.loops[0].tests[0].attempt_since = Some(ago(31));
    nothing(&later);
    let first = world(vec![long]);
    assert_eq!(told(&first), [STUCK]);
    nothing(&after(&first));
}

#[test]
fn rows_that_know_no_time_are_judged_from_their_making() {
    let mut view = at_work("a");
    view.tests[0].attempt_since = None;
    view.trail = LoopTrail::default();
    view.row.updated_at = ago(9);
    nothing(&world(vec![view.clone()]));
    (view.row.updated_at, view.tests[0].test.created_at) = (ago(11), ago(12));
    assert_eq!(told(&world(vec![view])), [STUCK]);
}

// ---- conflict ----

fn both(minutes_a: i64, minutes_b: i64) -> MonitorSnapshot {
    let (mut a, mut b) = (at_work("a"), at_work("b"));
    changed(&mut a, "x.rs", ago(minutes_a));
    changed(&mut b, "x.rs", ago(minutes_b));
    world(vec![a, b])
}

const CONFLICT: &str = "raise conflict:x.rs:a:b say file_conflict";

#[test]
fn two_in_one_file_within_the_window_are_told_once() {
    let snapshot = both(7, 3);
    assert_eq!(told(&snapshot), [CONFLICT]);
    let Some(Action::Raise(_, Some(said))) = plan(&snapshot).pop() else { panic!() };
    assert_eq!(said.caused_by.unwrap().as_str(), "started-b");
    assert_eq!((&said.payload["loop_a"], &said.payload["time_b"]), (&"a".into(), &json!(ago(3))));
    let open = after(&snapshot);
    nothing(&open);
    let mut edited = open.clone();
    edited.loops[0].files.rows[0].last_changed_at = NOW;
    edited.loops[0].leases = vec![Claim { path: "x.rs".parse().unwrap(), since: ago(60) }];
    nothing(&edited);
    let mut landed = open;
    landed.loops[0].files.rows.clear();
    assert_eq!(told(&landed), ["close conflict:x.rs:a:b"]);
}

#[test]
fn what_is_no_conflict() {
    nothing(&both(20, 3));
    let cases: [fn(&mut MonitorSnapshot); 5] = [
        // The one has landed it before the other came.
        |at| at.loops[0].files.rows.clear(),
        |at| at.loops[0].files.rows[0].file_path = "y.rs".to_owned(),
        // What it differs in now is not known since the branch has moved.
        |at| at.loops[1].files.fresh = false,
        |at| at.loops[1].current = None,
        |at| at.loops[1].row.status = LoopStatus::Stopped,
    ];
    for change in cases {
        let mut at = both(2, 1);
        change(&mut at);
        nothing(&at);
    }
}

#[test]
fn a_loop_without_a_workspace_is_judged_by_its_leases() {
    let (mut a, mut b) = (at_work("a"), at_work("b"));
    a.files = Files { leased: vec![("x.rs".to_owned(), ago(2))], ..Files::default() };
    changed(&mut b, "x.rs", ago(1));
    let snapshot = world(vec![a, b]);
    assert_eq!(told(&snapshot), [CONFLICT]);
    let mut released = after(&snapshot);
    released.loops[0].files.leased.clear();
    assert_eq!(told(&released), ["close conflict:x.rs:a:b"]);
}

/// b changes, an hour after a leased it, what a has leased and not touched.
fn trespass(leased: &str) -> MonitorSnapshot {
    let (mut a, mut b) = (at_work("a"), at_work("b"));
    a.leases = vec![Claim { path: leased.parse().unwrap(), since: ago(60) }];
    changed(&mut b, "src/x.rs", ago(1));
    world(vec![a, b])
}

#[test]
fn a_change_in_what_another_has_leased_is_a_conflict_once_nobody_queues() {
    for leased in ["src/x.rs", "src/"] {
        let mut snapshot = trespass(leased);
        assert_eq!(told(&snapshot), ["raise conflict:src/x.rs:a:b say file_conflict"], "{leased}");
        let Some(Action::Raise(finding, Some(said))) = plan(&snapshot).pop() else { panic!() };
        assert_eq!(finding.message, "b has changed src/x.rs without waiting for the lease that a holds");
        assert_eq!((&said.payload["time_a"], &said.payload["time_b"]), (&json!(ago(60)), &json!(ago(1))));
        let mut open = after(&snapshot);
        nothing(&open);
        open.loops[0].leases.clear();
        assert_eq!(told(&open), ["close conflict:src/x.rs:a:b"]);
        // Its own loop has a moment to queue.
        snapshot.loops[1].files.rows[0].first_seen_at = NOW.plus_seconds(-29);
        nothing(&snapshot);
        assert_eq!(decide(&settings(), &snapshot).look_again_at, Some(NOW.plus_seconds(1)));
    }
}

#[test]
fn what_is_no_trespass() {
    let cases: [fn(&mut MonitorSnapshot); 7] = [
        |at| at.loops[1].queued = vec!["src/x.rs".parse().unwrap()],
        |at| at.loops[1].leases = vec![Claim { path: "src/x.rs".parse().unwrap(), since: ago(1) }],
        |at| at.loops[0].leases[0].path = "src/y.rs".parse().unwrap(),
        // It was there long before.
        |at| at.loops[1].files.rows[0].last_changed_at = ago(66),
        |at| at.loops[0].row.status = LoopStatus::Stopped,
        |at| at.loops[1].files.fresh = false,
        |at| at.loops[1].current = None,
    ];
    for change in cases {
        let mut at = trespass("src/x.rs");
        change(&mut at);
        nothing(&at);
    }
}

#[test]
fn of_two_loops_in_a_thousand_files_only_some_are_told() {
    let (mut a, mut b) = (at_work("a"), at_work("b"));
    for file in 0..15 {
        for view in [&mut a, &mut b] {
            changed(view, &format!("{file:02}.rs"), ago(1));
        }
    }
    let snapshot = world(vec![a, b]);
    assert_eq!(told(&snapshot).len(), conflict::MAX_PER_PAIR);
    nothing(&after(&snapshot));
}

#[test]
fn three_in_one_file_are_three_conflicts() {
    let mut snapshot = both(1, 1);
    let mut c = at_work("c");
    changed(&mut c, "x.rs", NOW);
    snapshot.loops.push(c);
    assert_eq!(told(&snapshot).len(), 3);
}

// ---- digression ----

#[test]
fn no_pass_counts_from_the_end_of_a_good_attempt_unless_it_tries_again_and_again() {
    let mut view = begun("a", 45);
    (view.current, view.ready_since) = (None, Some(ago(600)));
    view.tests[0].test.status = TestStatus::Pending;
    view.row.updated_at = ago(1);
    nothing(&world(vec![view.clone()]));
    view.row.updated_at = ago(30);
    assert_eq!(told(&world(vec![view.clone()])), ["raise stuck:a:- say stuck_detected"]);
    (view.row.updated_at, view.trail.begun) = (ago(1), 3);
    assert_eq!(told(&world(vec![view])), ["raise stuck:a:- say stuck_detected"]);
    // The same while an attempt runs that does something new.
    let mut view = begun("a", 45);
    changed(&mut view, "a.rs", ago(1));
    nothing(&world(vec![view.clone()]));
    view.trail.begun = 3;
    assert_eq!(told(&world(vec![view])), ["raise stuck:a:- say stuck_detected"]);
}

#[test]
fn only_the_loss_of_heartbeat_itself_is_noticed_and_only_as_an_alert() {
    let heartbeat = |seconds: i64, status| Component {
        last_heartbeat: Some(NOW.plus_seconds(-seconds)),
        status,
        ..sample_component("heartbeat")
    };
    let mut snapshot = world(Vec::new());
    nothing(&snapshot);
    snapshot.heartbeat = Some(heartbeat(299, HealthStatus::Healthy));
    nothing(&snapshot);
    assert_eq!(decide(&settings(), &snapshot).look_again_at, Some(NOW.plus_seconds(1)));
    snapshot.heartbeat = Some(heartbeat(9999, HealthStatus::Unknown));
    nothing(&snapshot);
    snapshot.heartbeat = Some(heartbeat(300, HealthStatus::Healthy));
    let mut asleep = snapshot.clone();
    asleep.in_grace = true;
    nothing(&asleep);
    assert_eq!(told(&snapshot), ["raise component:heartbeat say nothing"]);
    let mut open = after(&snapshot);
    nothing(&open);
    open.heartbeat = Some(heartbeat(1, HealthStatus::Healthy));
    assert_eq!(told(&open), ["close component:heartbeat"]);
}

// ---- files ----

#[test]
fn what_was_seen_is_written_down_and_that_of_loops_that_are_gone_is_deleted() {
    let mut view = at_work("a");
    view.files.store = true;
    let mut snapshot = world(vec![view]);
    snapshot.gone = vec!["z".parse().unwrap()];
    assert_eq!(told(&snapshot), ["store a 0", "store z 0"]);
}

#[test]
fn an_agent_that_cannot_work_is_one_alert_until_it_works_again() {
    let hold = |subject: &str, until| coord_db::Hold {
        subject: subject.to_owned(),
        kind: coord_db::HoldKind::Limit,
        reason: "usage limit".to_owned(),
        since: ago(1),
        until,
        tries: 1,
        loop_id: "a".parse().unwrap(),
        probe_loop: None,
        event_id: None,
    };
    let mut seen = world(vec![]);
    seen.holds = vec![hold("agent:claude", Some(NOW.plus_seconds(60))), hold("loop:a", None)];
    let [Action::Raise(finding, None)] = &plan(&seen)[..] else { panic!("{:?}", plan(&seen)) };
    assert_eq!(finding.fingerprint, "agent:claude");
    assert!(finding.message.starts_with("agent claude has reached a limit of its account; its loops start no attempt before "));
    let mut next = after(&seen);
    assert_eq!(plan(&next), []);
    next.holds[0].until = Some(NOW.plus_seconds(600));
    assert!(matches!(&plan(&next)[..], [Action::Amend(_)]));
    next.holds.clear();
    assert!(matches!(&plan(&next)[..], [Action::Close { .. }]));
}
