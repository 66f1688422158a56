use coord_db::payload::{FileConflict, HumanMessage, RegressionDetected, ResourceWarning, StuckDetected, TestBlocked};
use coord_db::{
    Conflict, Decision, DecisionStatus, Event, Loop, LoopProgress, LoopStatus, Pause, Payload, TestStatus, Timestamp,
};
use test_support::{sample_decision, sample_event, sample_loop, sample_test};

use super::*;
use crate::snapshot::{OpenConflict, OwnPause};

mod conflicts;
mod failures;

fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000).plus_seconds(seconds)
}

fn row(name: &str, priority: i64, status: LoopStatus) -> Loop {
    let died_at = (status == LoopStatus::Error).then(|| at(-1000));
    Loop { priority, status, created_at: at(-90_000), updated_at: at(-90_000), died_at, ..sample_loop(name) }
}

fn test(name: &str, of: &str, status: TestStatus) -> Test {
    Test {
        status,
        attempts: 3,
        last_attempt_at: Some(at(-600)),
        created_at: at(-90_000),
        last_error: Some("first line\nsecond line".to_owned()),
        ..sample_test(name, of)
    }
}

fn waiting(name: &str, of: &str, on: &str) -> Test {
    Test { depends_on: Some(id(on)), ..test(name, of, TestStatus::Pending) }
}

/// A world under construction; `decide` gives what pm would do, in short words.
struct World {
    config: Config,
    at: PmSnapshot,
}

impl World {
    fn new() -> Self {
        Self { config: Config::default(), at: PmSnapshot::at(at(0)) }
    }

    fn with_loop(mut self, name: &str, priority: i64, status: LoopStatus) -> Self {
        self.at.loops.insert(id(name), row(name, priority, status));
        self
    }

    /// A running loop with a current test.
    fn busy(mut self, name: &str, priority: i64) -> Self {
        let hand = test(&format!("T-{name}"), name, TestStatus::InProgress);
        self.at.current_tests.insert(id(name), hand.clone());
        self.at.tests.insert(hand.id.clone(), hand);
        self.with_loop(name, priority, LoopStatus::Running)
    }

    fn with_test(mut self, test: Test) -> Self {
        self.at.tests.insert(test.id.clone(), test);
        self
    }

    fn progress(mut self, name: &str, passed: i64, pending: i64) -> Self {
        let row = LoopProgress {
            loop_id: id(name),
            total: passed + pending,
            passed,
            blocked: 0,
            failed: 0,
            skipped: 0,
            in_progress: 0,
            pending,
        };
        self.at.progress.insert(id(name), row);
        self
    }

    fn said(mut self, payload: impl Into<Payload>) -> Self {
        self.hear("human", payload.into());
        self
    }

    fn hear(&mut self, source: &str, payload: Payload) {
        let event = Event {
            timestamp: at(-1),
            source: source.to_owned(),
            event_type: payload.event_type().to_owned(),
            payload: payload.to_value(),
            ..sample_event(&format!("e{}", self.at.inbox.len()))
        };
        self.at.inbox.push(Inbound { event, payload });
    }

    fn conflict(self, file: &str, one: &str, other: &str) -> Self {
        self.said(FileConflict {
            file_path: file.to_owned(),
            loop_a: id(one),
            loop_b: id(other),
            time_a: at(-20),
            time_b: at(-10),
        })
    }

    /// A conflict that was settled: the loser waits for the winner's current test.
    fn settled(mut self, file: &str, winner: &str, loser: &str) -> Self {
        let (a, b) = if winner < loser { (winner, loser) } else { (loser, winner) };
        let row = Conflict {
            id: format!("c-{file}"),
            file_path: file.to_owned(),
            loop_a: id(a),
            loop_b: id(b),
            detected_at: at(-60),
            event_id: Some(id("said")),
            winner: Some(id(winner)),
            loser: Some(id(loser)),
            winner_test: Some(id(&format!("T-{winner}"))),
            resolved_at: None,
            resolution: None,
        };
        self.at.conflicts.push(OpenConflict { row, times: None, resumed_by_human: None });
        self
    }

    fn decision(mut self, name: &str, kind: &str, options: &[&str], default: Option<&str>, context: Value) -> Self {
        self.at.decisions.push(Decision {
            decision_type: kind.to_owned(),
            options: json!(options),
            default_option: default.map(str::to_owned),
            context,
            timeout_minutes: Some(60),
            requested_at: at(-600),
            requested_by: Some("pm".to_owned()),
            fingerprint: Some(format!("of:{name}")),
            event_id: Some(id("asked")),
            ..sample_decision(name)
        });
        self
    }

    fn answer(self, decision: &str, choice: &str) -> Self {
        self.said(HumanMessage {
            message_type: "decision_response".to_owned(),
            decision_id: Some(id(decision)),
            choice: Some(choice.to_owned()),
            comment: None,
            source: "cli".to_owned(),
        })
    }

    /// What is done, a word or two for each act.
    fn acts(&self) -> Vec<String> {
        decide(&self.config, &self.at).actions.iter().map(|action| word(&action.act)).collect()
    }

    fn expect(self, acts: &[&str]) {
        assert_eq!(self.acts(), acts);
    }
}

fn word(act: &Act) -> String {
    let judged = |verdict: &Verdict| match verdict {
        Verdict::Settle(settlement) => format!("{} before {}", settlement.winner, settlement.loser),
        Verdict::Over(_) => "over".to_owned(),
        Verdict::Later => "later".to_owned(),
    };
    match act {
        Act::OpenConflict { file, verdict, .. } => format!("conflict {file}: {}", judged(verdict)),
        Act::JudgeConflict { id, verdict } => format!("{id}: {}", judged(verdict)),
        Act::Pause { loop_id, by_human, .. } => format!("pause {loop_id}{}", if *by_human { " by human" } else { "" }),
        Act::Resume { loop_id, .. } => format!("resume {loop_id}"),
        Act::Restart { loop_id, .. } => format!("restart {loop_id}"),
        Act::Ask(question) => format!("ask {} {}", question.decision_type, question.fingerprint.as_deref().unwrap_or("")),
        Act::Resolve { id, choice, then, .. } => {
            let then: Vec<String> = then.iter().map(word).collect();
            format!("settle {id}={} [{}]", choice.as_deref().unwrap_or("-"), then.join(", "))
        }
        Act::Announce { id, then } => {
            let then: Vec<String> = then.iter().map(word).collect();
            format!("announce {id} [{}]", then.join(", "))
        }
        Act::ResetTest { test } => format!("reset {test}"),
        Act::RedoTest { test, .. } => format!("redo {test}"),
        Act::RollBack { test, to, commit, undone, .. } => {
            let undone = undone.as_ref().map(|undone| format!(", then {undone}")).unwrap_or_default();
            format!("{to} takes {commit} back for {test}{undone}")
        }
        Act::SkipTest { test, .. } => format!("skip {test}"),
        Act::SkipQueue { loop_id, .. } => format!("skip queue of {loop_id}"),
        Act::HoldTest { test, until } => format!("hold {test} until {}", until.seconds_since(at(0))),
        Act::AcceptNoChange { test } => format!("accept {test}"),
        Act::LiftHold { subject } => format!("lift {subject}"),
        Act::FollowBase { answer, .. } => format!("{answer:?}"),
        Act::ReportSystemError { .. } => "tell of the system".to_owned(),
        Act::ClearDependency { test } => format!("free {test}"),
        Act::HandOn { from, moves, .. } => {
            let moves: Vec<String> = moves.iter().map(|(test, to)| format!("{test}>{to}")).collect();
            format!("hand on {from}: {}", moves.join(" "))
        }
        Act::Supersede { id, by } => format!("{by} replaces {id}"),
        Act::AnswerChange { id, to, .. } => format!("{id} {to}"),
        Act::CloseAlert { fingerprint } => format!("close {fingerprint}"),
        Act::Notify { id, .. } => id.clone(),
        Act::BeginReports { id, .. } => format!("begin {id}"),
        Act::Ignore(_) => "ignore".to_owned(),
    }
}

#[test]
fn only_an_idle_pause_of_its_own_is_lifted() {
    let pause = |lifted| OwnPause {
        row: Pause { loop_id: id("b"), requested_by: "pm".into(), reason: "x".into(), event_id: None, since: at(-9) },
        lifted,
    };
    let mut world = World::new().busy("a", 1).with_loop("b", 5, LoopStatus::Paused);
    world.at.own_pauses = vec![pause(true)];
    assert_eq!(world.acts(), [""; 0]);
    world.at.own_pauses = vec![pause(false)];
    assert_eq!(world.acts(), ["resume b"]);
    world.settled("f", "a", "b").expect(&[]);
    let mut world = World::new().with_loop("b", 5, LoopStatus::Paused);
    world.at.own_pauses = vec![pause(false)];
    world.at.stopped_by_budget.insert(id("b"));
    world.expect(&[]);
}

fn blocked_said(name: &str) -> TestBlocked {
    let error = "first line\nsecond line".to_owned();
    TestBlocked { test_id: id(name), loop_id: id("a"), attempts: 3, last_error: error, blocking_dependents: vec![] }
}

#[test]
fn a_blocked_test_is_asked_about_once() {
    let blocked = || World::new().busy("a", 1).with_test(test("B", "a", TestStatus::Blocked));
    let mut world = blocked().said(blocked_said("B"));
    world.at.blocked = vec![test("B", "a", TestStatus::Blocked)];
    world.at.dependents.insert(id("B"), vec![id("C"), id("D")]);
    let plan = decide(&world.config, &world.at);
    let [Action { act: Act::Ask(question), cause }] = &plan.actions[..] else { panic!("{:?}", world.acts()) };
    assert_eq!(
        question.summary,
        "test B of a is blocked after 3 attempts; last error: first line; tests that depend on it: C, D"
    );
    assert_eq!(question.default_option.as_deref(), Some("leave"));
    assert_eq!(question.timeout_minutes, Some(60));
    assert_eq!(cause.as_ref().map(|event| event.as_str()), Some("e0"));
    // The row alone says as much.
    world.at.inbox.clear();
    world.expect(&["ask blocked test:B"]);
    let mut asked = blocked().decision("d", "blocked", &["leave"], None, json!({"test_id": "B"})).said(blocked_said("B"));
    asked.at.decisions[0].fingerprint = Some("test:B".to_owned());
    asked.expect(&["ignore"]);
    World::new().busy("a", 1).with_test(test("B", "a", TestStatus::Pending)).said(blocked_said("B")).expect(&["ignore"]);
    World::new().busy("a", 1).said(blocked_said("B")).expect(&["ignore"]);
}

#[test]
fn the_word_of_an_event_counts_where_the_row_never_says_more() {
    let minimal = Test { last_attempt_at: None, attempts: 0, ..test("B", "a", TestStatus::Pending) };
    World::new().busy("a", 1).with_test(minimal).said(blocked_said("B")).expect(&["ask blocked test:B"]);
}

fn stuck_said(name: Option<&str>) -> StuckDetected {
    StuckDetected { loop_id: id("a"), test_id: name.map(id), consecutive_failures: 3, stuck_for_minutes: 31, last_error: None }
}

#[test]
fn a_stuck_loop_is_asked_about_unless_it_is_over() {
    World::new().busy("a", 1).said(stuck_said(Some("T-a"))).expect(&["ask stuck test:T-a"]);
    World::new().busy("a", 1).said(stuck_said(None)).expect(&["ask stuck stuck:a"]);
    World::new().busy("a", 1).with_loop("a", 1, LoopStatus::Paused).said(stuck_said(Some("T-a"))).expect(&["ignore"]);
    let over = World::new().busy("a", 1).with_test(test("T-a", "a", TestStatus::Blocked));
    over.said(stuck_said(Some("T-a"))).expect(&["ignore"]);
    // One question at a time, and the one whose options fit.
    let mut world = World::new().busy("a", 1).with_test(test("T-a", "a", TestStatus::Blocked));
    world = world.decision("d", "stuck", &["wait"], Some("wait"), json!({"test_id": "T-a", "loop_id": "a"}));
    world.at.decisions[0].fingerprint = Some("test:T-a".to_owned());
    world.said(blocked_said("T-a")).expect(&["settle d=- []", "ask blocked test:T-a"]);
}

#[test]
fn answers_are_applied_once_and_only_where_they_fit() {
    let options = ["retry", "skip", "leave"];
    let world = || {
        let world = World::new().busy("a", 1).with_test(test("B", "a", TestStatus::Blocked));
        world.decision("d", "blocked", &options, Some("leave"), json!({"test_id": "B", "loop_id": "a"}))
    };
    world().expect(&[]);
    world().answer("d", "retry").expect(&["settle d=retry [reset B]"]);
    world().answer("d", "skip").expect(&["settle d=skip [skip B]"]);
    world().answer("d", "leave").expect(&["settle d=leave []"]);
    world().answer("d", "retry").answer("d", "skip").expect(&["settle d=retry [reset B]", "ignore"]);
    world().answer("d", "nonsense").expect(&["ignore"]);
    world().answer("unknown", "retry").expect(&["ignore"]);
    // Another's question: settled, and nothing else.
    let mut foreign = world().answer("d", "retry");
    foreign.at.decisions[0].requested_by = None;
    foreign.expect(&["settle d=retry []"]);
    // A loop does not answer for the human.
    let mut world = world().answer("d", "retry");
    world.at.inbox[0].event.source = "a".to_owned();
    world.expect(&["ignore"]);
}

#[test]
fn time_limits_choose_the_default_or_nothing() {
    let due = |default: Option<&str>| {
        let mut world = World::new().decision("d", "other", &["x", "y"], default, json!({}));
        world.at.now = at(3000);
        world
    };
    due(Some("y")).expect(&["settle d=y []"]);
    due(None).expect(&["settle d=- []"]);
    due(Some("no option")).expect(&["settle d=- []"]);
    due(Some("y")).answer("d", "x").expect(&["settle d=x []"]);
    let mut early = due(None);
    early.at.now = at(2999);
    let plan = decide(&early.config, &early.at);
    assert_eq!((plan.actions.len(), plan.look_again_at), (0, Some(at(3000))));
}

#[test]
fn a_question_whose_matter_is_settled_expires() {
    let context = json!({"test_id": "B", "loop_id": "a"});
    let ask = |kind: &str, world: World| world.decision("d", kind, &["wait", "leave"], None, context.clone());
    ask("blocked", World::new().busy("a", 1).with_test(test("B", "a", TestStatus::Pending))).expect(&["settle d=- []"]);
    ask("blocked", World::new().busy("a", 1)).expect(&["settle d=- []"]);
    ask("stuck", World::new().busy("a", 1).with_test(test("B", "a", TestStatus::Passed))).expect(&["settle d=- []"]);
    ask("stuck", World::new().busy("a", 1).with_test(test("B", "a", TestStatus::InProgress))).expect(&[]);
    ask("lost_loop", World::new().busy("a", 1)).expect(&["settle d=- []"]);
}

#[test]
fn answers_about_loops() {
    let world = |kind: &str, choice: &str| {
        let world = World::new().busy("a", 1).decision(
            "d",
            kind,
            &["restart", "pause", "skip"],
            None,
            json!({"test_id": "T-a", "loop_id": "a"}),
        );
        world.answer("d", choice)
    };
    world("stuck", "restart").expect(&["settle d=restart [restart a]"]);
    world("stuck", "pause").expect(&["settle d=pause [pause a by human]"]);
    world("stuck", "skip").expect(&["settle d=skip [skip T-a, restart a]"]);
}

#[test]
fn a_regression_is_fixed_by_the_blamed_test_if_it_is_known() {
    let world = |context: Value| {
        let world = World::new().with_test(test("R", "a", TestStatus::Passed)).with_test(test("B", "b", TestStatus::Passed));
        world.decision("d", "regression", &["fix_forward", "accept"], Some("fix_forward"), context)
    };
    let blamed = json!({"test_id": "R", "blamed_test": "B", "first_bad_commit": "c0ffee"});
    world(blamed.clone()).answer("d", "fix_forward").expect(&["settle d=fix_forward [redo B]"]);
    world(json!({"test_id": "R"})).answer("d", "fix_forward").expect(&["settle d=fix_forward [redo R]"]);
    world(blamed.clone()).answer("d", "accept").expect(&["settle d=accept []"]);
    let cleared = coord_db::payload::RegressionCleared { test_id: id("R"), commit: "x".to_owned() };
    world(blamed).said(cleared).expect(&["settle d=accept []"]);
}

#[test]
fn a_blamed_loop_waits_until_the_outcome_of_the_commit_is_decided() {
    let world = || {
        World::new().busy("b", 1).with_test(test("R", "a", TestStatus::Passed)).with_test(test("B", "b", TestStatus::Passed))
    };
    let said = RegressionDetected {
        test_id: id("R"),
        last_passed_commit: "g00d".to_owned(),
        current_commit: "bad".to_owned(),
        first_bad_commit: Some("c0ffee".to_owned()),
        blamed_loop: Some(id("b")),
        blamed_test: Some(id("B")),
        output_tail: String::new(),
    };
    world().said(said.clone()).expect(&["ask regression regression:c0ffee", "pause b"]);
    // The same commit broke another test: one question, one pause.
    let context = json!({"test_id": "R", "loop_id": "b", "loops": ["b"], "blamed_test": "B", "first_bad_commit": "c0ffee"});
    let options = ["roll_back", "fix_forward", "accept"];
    let open = || {
        let world = world().with_loop("b", 1, LoopStatus::Paused);
        let mut world = world.decision("d", "regression", &options, Some("fix_forward"), context.clone());
        world.at.decisions[0].fingerprint = Some("regression:c0ffee".to_owned());
        world
    };
    open().said(said.clone()).expect(&["ignore"]);
    open().answer("d", "roll_back").expect(&["settle d=roll_back [b takes c0ffee back for R, then B]"]);
    open().answer("d", "fix_forward").expect(&["settle d=fix_forward [redo B]"]);
    // One more test that the same commit broke is found after the answer: it holds as long as its work goes on.
    let answered = |choice: &str, mends: &str, status: TestStatus| {
        let mut world = open();
        let mut decision = world.at.decisions.pop().unwrap();
        decision.status = DecisionStatus::Decided;
        decision.choice = Some(choice.to_owned());
        world.at.questions.insert("regression:c0ffee".to_owned(), decision);
        world.at.tests.get_mut(&id::<TestId>(mends)).unwrap().status = status;
        world.said(RegressionDetected { test_id: id("R2"), ..said.clone() })
    };
    answered("fix_forward", "B", TestStatus::Pending).expect(&["ignore"]);
    answered("roll_back", "R", TestStatus::InProgress).expect(&["ignore"]);
    answered("fix_forward", "B", TestStatus::Passed).expect(&["ask regression regression:c0ffee"]);
    answered("accept", "B", TestStatus::Passed).expect(&["ask regression regression:c0ffee"]);
    // Nobody to pause, nothing to take back.
    let unknown = RegressionDetected { first_bad_commit: None, blamed_loop: None, blamed_test: None, ..said };
    world().said(unknown).expect(&["ask regression regression:R"]);
}

fn over_budget(of: Option<&str>, resource: &str, percentage: i64) -> ResourceWarning {
    ResourceWarning { loop_id: of.map(id), resource: resource.to_owned(), current: 10, limit: 10, percentage }
}

#[test]
fn a_used_up_budget_pauses_and_asks() {
    let world = || World::new().busy("a", 1).busy("b", 1).with_loop("c", 1, LoopStatus::Paused);
    world().said(over_budget(Some("a"), "tokens", 100)).expect(&["ask budget budget:a:tokens:T-a", "pause a"]);
    world().said(over_budget(None, "tests", 120)).expect(&["ask budget budget:day:tests:2001-09-09", "pause a", "pause b"]);
    world().said(over_budget(Some("a"), "tokens", 99)).expect(&[]);
    world().said(over_budget(None, "disk_bytes", 100)).expect(&[]);
    world().said(over_budget(Some("c"), "tokens", 100)).expect(&["ignore"]);
}

#[test]
fn a_budget_answer_lifts_the_pause_or_leaves_it() {
    let world = |choice: &str| {
        let world = World::new().with_loop("a", 1, LoopStatus::Paused).busy("b", 1);
        let world = world.decision("d", "budget", &["continue", "stop"], Some("stop"), json!({"loops": ["a", "gone"]}));
        world.answer("d", choice)
    };
    world("continue").expect(&["settle d=continue [resume a]"]);
    world("stop").expect(&["settle d=stop []"]);
    // A conflict that it has lost still holds it.
    world("continue").settled("f", "b", "a").expect(&["settle d=continue []"]);
    // The end of the conflict does not lift what the budget asks for.
    let world = World::new().with_loop("a", 1, LoopStatus::Paused).with_loop("b", 1, LoopStatus::Stopped);
    let world = world.decision("d", "budget", &["continue", "stop"], Some("stop"), json!({"loops": ["a"]}));
    world.settled("f", "b", "a").expect(&["c-f: over"]);
}

#[test]
fn a_stalled_test_is_asked_about_after_a_while_and_at_once_if_it_waits_for_a_skipped_one() {
    let world = |status| {
        let mut world = World::new().busy("a", 1).with_test(test("D", "a", status));
        world.at.stalled = vec![waiting("W", "a", "D")];
        world
    };
    world(TestStatus::Skipped).expect(&["ask dependency test:W"]);
    let early = world(TestStatus::Blocked);
    let plan = decide(&early.config, &early.at);
    assert_eq!((plan.actions.len(), plan.look_again_at), (0, Some(at(1200))));
    let mut late = world(TestStatus::Blocked);
    late.at.now = at(1200);
    assert_eq!(late.acts(), ["ask dependency test:W"]);
    // While the human is asked about the dependency itself, nothing is asked about who waits for it.
    late.at.blocked = vec![test("D", "a", TestStatus::Blocked)];
    late.expect(&["ask blocked test:D"]);
    // Once for each state of the dependency.
    let mut asked = world(TestStatus::Skipped);
    let context = json!({"test_id": "W", "dependency": "D", "dependency_status": "skipped"});
    let question = World::new().decision("d", "dependency", &["wait"], None, context).at.decisions.remove(0);
    asked.at.questions.insert("test:W".to_owned(), Decision { status: DecisionStatus::AutoResolved, ..question });
    asked.expect(&[]);
    let answered = |choice: &str| {
        let context = json!({"test_id": "W", "dependency": "D"});
        let world = world(TestStatus::Skipped).with_test(waiting("W", "a", "D"));
        let mut world = world.decision("d", "dependency", &["run_anyway", "skip"], None, context).answer("d", choice);
        world.at.stalled.clear();
        world
    };
    answered("run_anyway").expect(&["settle d=run_anyway [free W]"]);
    answered("skip").expect(&["settle d=skip [skip W]"]);
}

#[test]
fn the_answer_about_tests_in_a_circle_is_applied_while_the_circle_stands() {
    let world = |choice: &str| {
        let tests = json!([
            {"test_id": "T", "loop_id": "a", "depends_on": "U"}, {"test_id": "U", "loop_id": "b", "depends_on": "T"},
        ]);
        let world = World::new().busy("a", 1).busy("b", 1).with_test(waiting("T", "a", "U")).with_test(waiting("U", "b", "T"));
        let options = ["drop:T", "drop:U", "skip:T", "drop:X"];
        let mut world = world.decision("d", "dependency_cycle", &options, Some("drop:T"), json!({"tests": tests}));
        world.at.decisions[0].requested_by = Some("deadlock-detector".to_owned());
        if choice.is_empty() { world } else { world.answer("d", choice) }
    };
    world("drop:U").expect(&["settle d=drop:U [free U]"]);
    world("skip:T").expect(&["settle d=skip:T [skip T]"]);
    // What the question does not name is nobody's.
    world("drop:X").with_test(waiting("X", "a", "T")).expect(&["settle d=drop:X []"]);
    world("").expect(&[]);
    let mut late = world("");
    late.at.now = at(3600);
    late.expect(&["settle d=drop:T [free T]"]);
    // Somebody else was first: an answer changes nothing any more, and without one the question is over.
    let opened = |choice: &str| world(choice).with_test(waiting("U", "b", "V"));
    opened("drop:T").expect(&["settle d=drop:T []"]);
    opened("").expect(&["settle d=- []"]);
    world("").with_test(test("T", "a", TestStatus::Skipped)).expect(&["settle d=- []"]);
    // Only what deadlock-detector asks is meant.
    let mut foreign = world("drop:U");
    foreign.at.decisions[0].requested_by = Some("a".to_owned());
    foreign.expect(&["settle d=drop:U []"]);
}

#[test]
fn a_lost_loops_tests_go_to_the_least_loaded_and_stay_together() {
    let world = || {
        let mut world = World::new().with_loop("dead", 1, LoopStatus::Error).busy("x", 1).busy("y", 5).busy("z", 1);
        world = world.progress("x", 0, 2).progress("y", 0, 0).progress("z", 0, 0);
        let queue =
            vec![waiting("Q1", "dead", "Q3"), test("Q2", "dead", TestStatus::Pending), test("Q3", "dead", TestStatus::Pending)];
        world.at.queues.insert(id("dead"), queue);
        world.at.beating = ["x", "y", "z"].map(id).into_iter().collect();
        world
    };
    world().expect(&["hand on dead: Q1>z Q2>y Q3>z"]);
    // Never to a loop that is paused, has been asked to pause, or has no driver.
    let mut paused = world().settled("f", "x", "z");
    paused.at.paused.insert(id("y"));
    assert_eq!(paused.acts(), ["hand on dead: Q1>x Q2>x Q3>x"]);
    paused.at.beating.clear();
    assert_eq!(paused.acts(), ["ask lost_loop lost:dead"]);
    let mut grace = world();
    grace.at.grace_until = Some(at(30));
    assert_eq!(grace.acts(), [""; 0]);
    let mut early = world();
    early.at.now = at(-701);
    let plan = decide(&early.config, &early.at);
    assert_eq!((plan.actions.len(), plan.look_again_at), (0, Some(at(-700))));
}

#[test]
fn nobody_left_is_asked_about_once_for_each_death() {
    let mut world = World::new().with_loop("dead", 1, LoopStatus::Error);
    world.at.queues.insert(id("dead"), vec![test("Q1", "dead", TestStatus::Pending)]);
    assert_eq!(world.acts(), ["ask lost_loop lost:dead"]);
    let question = World::new().decision("d", "lost_loop", &["wait"], None, json!({"loop_id": "dead"})).at.decisions.remove(0);
    let old = Decision { status: DecisionStatus::AutoResolved, ..question.clone() };
    world.at.questions.insert("lost:dead".to_owned(), old.clone());
    assert_eq!(world.acts(), [""; 0]);
    world.at.questions.insert("lost:dead".to_owned(), Decision { requested_at: at(-2000), ..old });
    assert_eq!(world.acts(), ["ask lost_loop lost:dead"]);
    world.at.decisions = vec![Decision { options: json!(["wait", "skip_tests"]), ..question }];
    world.answer("d", "skip_tests").expect(&["settle d=skip_tests [skip queue of dead]"]);
}

#[test]
fn the_human_is_notified_where_there_is_a_command() {
    let mut world = World::new().decision("d", "other", &["x"], None, json!({}));
    world.at.unnotified = vec![Unnotified::Decision(world.at.decisions[0].clone())];
    assert_eq!(world.acts(), [""; 0]);
    world.config.notify.command = vec!["ring".to_owned()];
    assert_eq!(world.acts(), ["notify:decision:d"]);
    world.answer("d", "x").expect(&["settle d=x []"]);
}
