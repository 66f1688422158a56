use coord_db::payload::{FileConflict, HumanMessage, ResourceWarning, StuckDetected, TestBlocked};
use coord_db::{
    Conflict, Decision, DecisionStatus, Event, Loop, LoopProgress, LoopStatus, Pause, Payload, TestStatus, Timestamp,
};

use super::*;
use crate::snapshot::{OpenConflict, OwnPause};

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
    Loop {
        id: id(name),
        name: name.to_owned(),
        priority,
        branch: None,
        status,
        current_test_id: None,
        pid: None,
        created_at: at(-90_000),
        updated_at: at(-90_000),
        died_at: (status == LoopStatus::Error).then(|| at(-1000)),
    }
}

fn test(name: &str, of: &str, status: TestStatus) -> Test {
    Test {
        id: id(name),
        loop_id: id(of),
        category: String::new(),
        status,
        attempts: 3,
        max_attempts: 3,
        last_result: None,
        depends_on: None,
        automatable: true,
        notes: None,
        spec_content: None,
        last_attempt_at: Some(at(-600)),
        passed_at: None,
        verified_at: None,
        created_at: at(-90_000),
        scope: serde_json::from_str("[]").unwrap(),
        last_error: Some("first line\nsecond line".to_owned()),
        error_category: None,
        not_before: None,
        commit_hash: None,
        give_backs: 0,
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

    /// A running loop with a test in hand.
    fn busy(mut self, name: &str, priority: i64) -> Self {
        let hand = test(&format!("T-{name}"), name, TestStatus::InProgress);
        self.at.in_hand.insert(id(name), hand.clone());
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
        let seq = i64::try_from(self.at.inbox.len()).unwrap();
        let event = Event {
            id: id(&format!("e{seq}")),
            timestamp: at(-1),
            source: source.to_owned(),
            event_type: payload.event_type().to_owned(),
            payload: payload.to_value(),
            correlation_id: None,
            priority: 5,
            acknowledged: false,
            acknowledged_by: None,
            acknowledged_at: None,
            caused_by: None,
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

    /// A conflict that was settled: the loser waits for the winner's test in hand.
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
            id: id(name),
            decision_type: kind.to_owned(),
            summary: String::new(),
            options: json!(options),
            default_option: default.map(str::to_owned),
            context,
            timeout_minutes: Some(60),
            status: DecisionStatus::Pending,
            requested_at: at(-600),
            requested_by: Some("pm".to_owned()),
            decided_at: None,
            decided_by: None,
            choice: None,
            comment: None,
            fingerprint: Some(format!("of:{name}")),
            expires_at: None,
            event_id: Some(id("asked")),
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
        Act::SkipTest { test, .. } => format!("skip {test}"),
        Act::SkipQueue { loop_id, .. } => format!("skip queue of {loop_id}"),
        Act::HoldTest { test, until } => format!("hold {test} until {}", until.seconds_since(at(0))),
        Act::TellOfSystem { .. } => "tell of the system".to_owned(),
        Act::ClearDependency { test } => format!("free {test}"),
        Act::HandOn { from, moves, .. } => {
            let moves: Vec<String> = moves.iter().map(|(test, to)| format!("{test}>{to}")).collect();
            format!("hand on {from}: {}", moves.join(" "))
        }
        Act::Supersede { id, by } => format!("{by} replaces {id}"),
        Act::AnswerChange { id, to, .. } => format!("{id} {to}"),
        Act::CloseAlert { fingerprint } => format!("close {fingerprint}"),
        Act::Notify { id, .. } => id.clone(),
        Act::Ignore(_) => "ignore".to_owned(),
    }
}

#[test]
fn the_more_important_loop_goes_first_then_the_further_one_then_the_earlier_one() {
    World::new().busy("a", 5).busy("b", 1).conflict("f", "a", "b").expect(&["conflict f: b before a", "pause a"]);
    let equal = || World::new().busy("a", 5).busy("b", 5);
    equal().progress("a", 1, 9).progress("b", 2, 3).conflict("f", "a", "b").expect(&["conflict f: b before a", "pause a"]);
    // The first loop that the event names came first.
    equal().conflict("f", "b", "a").expect(&["conflict f: b before a", "pause a"]);
    equal().conflict("f", "a", "b").expect(&["conflict f: a before b", "pause b"]);
}

#[test]
fn nobody_is_paused_for_a_conflict_that_is_over_at_once() {
    let idle = || World::new().busy("a", 1).with_loop("b", 5, LoopStatus::Running);
    idle().conflict("f", "a", "b").expect(&["conflict f: over"]);
    let paused = World::new().busy("a", 5).with_loop("b", 1, LoopStatus::Paused);
    paused.conflict("f", "a", "b").expect(&["conflict f: over"]);
    World::new().busy("a", 5).conflict("f", "a", "gone").expect(&["conflict f: over"]);
    World::new().busy("a", 5).conflict("f", "a", "a").expect(&["ignore"]);
}

#[test]
fn a_conflict_that_stands_is_not_opened_twice() {
    let world = World::new().busy("a", 1).busy("b", 5).settled("f", "a", "b");
    world.conflict("f", "b", "a").expect(&["ignore"]);
    let world = World::new().busy("a", 1).busy("b", 5).conflict("f", "a", "b");
    world.conflict("f", "b", "a").expect(&["conflict f: a before b", "pause b", "ignore"]);
}

#[test]
fn a_loser_goes_on_when_the_winners_test_has_ended() {
    World::new().busy("a", 1).busy("b", 5).settled("f", "a", "b").expect(&[]);
    let ended = |status| {
        let world = World::new().busy("a", 1).with_loop("b", 5, LoopStatus::Paused).settled("f", "a", "b");
        world.with_test(test("T-a", "a", status))
    };
    for status in [TestStatus::Passed, TestStatus::Pending, TestStatus::Blocked, TestStatus::Skipped] {
        ended(status).expect(&["c-f: over", "resume b"]);
    }
    for status in [LoopStatus::Paused, LoopStatus::Error, LoopStatus::Stopped] {
        let world = World::new().busy("a", 1).with_loop("a", 1, status).busy("b", 5).settled("f", "a", "b");
        world.expect(&["c-f: over", "resume b"]);
    }
    World::new().busy("b", 5).settled("f", "a", "b").expect(&["c-f: over", "resume b"]);
}

#[test]
fn a_loser_of_two_conflicts_waits_for_both() {
    let world = World::new().busy("a", 1).busy("z", 1).with_loop("b", 5, LoopStatus::Paused);
    let world = world.settled("f", "a", "b").settled("g", "z", "b");
    let world = world.with_test(test("T-a", "a", TestStatus::Passed));
    assert_eq!(world.acts(), ["c-f: over"]);
    world.with_test(test("T-z", "z", TestStatus::Passed)).expect(&["c-f: over", "c-g: over", "resume b"]);
}

#[test]
fn what_the_human_has_resumed_is_left_alone() {
    let mut world = World::new().busy("a", 1).busy("b", 5).settled("f", "a", "b");
    world.at.conflicts[0].resumed_by_human = Some(id("resumed"));
    world.expect(&["c-f: over"]);
}

#[test]
fn waits_never_form_a_circle() {
    // b waits for a. However important b is, c does not wait for it.
    let world = World::new().busy("a", 1).busy("b", 1).busy("c", 9).settled("f", "a", "b");
    world.conflict("g", "b", "c").expect(&["conflict g: c before b", "pause b"]);
    // A winner may lose to one that waits for nobody.
    let world = World::new().busy("a", 5).busy("b", 5).busy("c", 1).settled("f", "a", "b");
    world.conflict("g", "a", "c").expect(&["conflict g: c before a", "pause a"]);
    // Two that wait already are settled when one of them works again.
    let world = World::new().busy("a", 5).busy("b", 5).busy("c", 1).settled("f", "a", "b").settled("g", "a", "c");
    world.conflict("h", "b", "c").expect(&["conflict h: later"]);
    // All at once: somebody always works.
    let world = World::new().busy("a", 1).busy("b", 2).busy("c", 3);
    let world = world.conflict("f", "b", "c").conflict("g", "c", "a").conflict("h", "a", "b");
    world.expect(&[
        "conflict f: b before c",
        "pause c",
        "conflict g: a before c",
        "pause c",
        "conflict h: a before b",
        "pause b",
    ]);
}

#[test]
fn circles_never_form_whatever_conflicts_come() {
    let names = ["a", "b", "c", "d", "e"];
    let mut random: u64 = 42;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    for _ in 0..300 {
        let mut world = World::new();
        for name in names {
            world = world.busy(name, i64::try_from(next(3)).unwrap() + 1);
        }
        for round in 0..3 {
            for file in 0..3 {
                let (one, other) = (next(5), next(5));
                if one != other {
                    world = world.conflict(&format!("f{round}{file}"), names[one], names[other]);
                }
            }
            for action in decide(&world.config, &world.at).actions {
                if let Act::OpenConflict { file, verdict: Verdict::Settle(settlement), .. } = action.act {
                    world = world.settled(&file, settlement.winner.as_str(), settlement.loser.as_str());
                }
            }
            world.at.inbox.clear();
            let mut held: BTreeSet<&str> = BTreeSet::new();
            // Whoever waits only for loops that wait for nobody goes on in the end; with a circle some never would.
            let waits: Vec<(&str, &str)> = world
                .at
                .conflicts
                .iter()
                .map(|open| (open.row.loser.as_ref().unwrap().as_str(), open.row.winner.as_ref().unwrap().as_str()))
                .collect();
            held.extend(waits.iter().map(|(loser, _)| *loser));
            loop {
                let before = held.len();
                held = held
                    .iter()
                    .copied()
                    .filter(|name| waits.iter().any(|(loser, winner)| loser == name && held.contains(winner)))
                    .collect();
                if held.len() == before {
                    break;
                }
            }
            assert!(held.is_empty(), "{waits:?}");
        }
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
    assert_eq!(question.summary, "test B of a is blocked after 3 attempts; last error: first line; waiting for it: C, D");
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
    // Never to one that is paused or told to pause, or that nobody drives.
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
