//! What the work has cost: sums, budgets, and rework charged to the loop that caused it.

use std::sync::Arc;

use coord_db::config::BudgetConfig;
use coord_db::payload::{FileConflict, ForceRelease, PauseRequested, RegressionDetected, RollbackTriggered};
use coord_db::{
    ActorId, Config, Database, Error, ErrorCategory, EventId, FailedAttempt, LoopId, ManualClock, ModelUse, NewEvent, NewRun,
    NewTest, PassedAttempt, Payload, Rework, ReworkCause, RunOf, TestId, Timestamp, UsageKey, UsageLine,
};
use test_support::{new_loop, new_test};

struct World {
    db: Database,
    clock: Arc<ManualClock>,
}

fn loop_id(id: &str) -> LoopId {
    id.parse().unwrap()
}

fn test_id(id: &str) -> TestId {
    id.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-11-22 10:00:00.000".parse::<Timestamp>().unwrap()));
        let db = test_support::in_memory(clock.clone());
        let world = Self { db, clock };
        for id in ["a", "b", "c"] {
            let new = new_loop(id);
            world.db.write(|tx| tx.add_loop(&new)).unwrap();
            let test = NewTest { max_attempts: 9, ..new_test(&format!("t-{id}"), id) };
            assert_eq!(world.db.write(|tx| tx.import_tests(&[test])).unwrap(), []);
        }
        world
    }

    /// The loop takes its test.
    fn claim(&self, id: &str) {
        self.clock.advance_millis(3_600_000);
        let claimed = self.db.write(|tx| tx.claim_next_test(&loop_id(id), false));
        assert!(claimed.unwrap().is_some());
        self.clock.advance_millis(60_000);
    }

    fn spend(&self, id: &str, tokens: i64) {
        let (loop_id, test) = (loop_id(id), test_id(&format!("t-{id}")));
        self.db
            .write(|tx| tx.record_usage(Some(&loop_id), Some(&test), &ModelUse::of_tokens(tokens), tokens / 10, &[]))
            .unwrap();
    }

    fn pass(&self, id: &str, tokens: i64) -> EventId {
        self.spend(id, tokens);
        let passed = PassedAttempt {
            commit: format!("c{tokens}"),
            checks: Vec::new(),
            duration_seconds: 1,
            tokens_estimated: None,
            files_modified: Vec::new(),
        };
        self.db.write(|tx| tx.record_passed(&test_id(&format!("t-{id}")), &loop_id(id), &passed)).unwrap()
    }

    fn fail(&self, id: &str, tokens: i64, category: ErrorCategory, caused_by: Option<EventId>) {
        self.spend(id, tokens);
        let failed = FailedAttempt { caused_by, ..FailedAttempt::new(category, "no") };
        self.db.write(|tx| tx.record_failed(&test_id(&format!("t-{id}")), &loop_id(id), &failed)).unwrap();
    }

    /// The loop obeys an order: the attempt is given back without a word.
    fn give_back(&self, id: &str, tokens: i64) {
        self.clock.advance_millis(1_000);
        self.spend(id, tokens);
        self.db.write(|tx| tx.give_back(&test_id(&format!("t-{id}")), &loop_id(id), "an order")).unwrap();
    }

    fn say(&self, by: &str, payload: impl Into<Payload>, cause: Option<&EventId>) -> EventId {
        let by: ActorId = by.parse().unwrap();
        self.db.write(|tx| tx.publish(&NewEvent::new(by, payload).caused_by_id(cause.cloned()))).unwrap()
    }

    fn rework(&self) -> Vec<(String, String, ReworkCause, i64)> {
        let of = |row: Rework| {
            (
                row.loop_id.map(|id| id.to_string()).unwrap_or_default(),
                row.charged_to.to_string(),
                row.cause,
                row.tokens_estimated,
            )
        };
        self.db.read(|tx| tx.rework(None)).unwrap().into_iter().map(of).collect()
    }

    fn report(&self, by: UsageKey) -> Vec<UsageLine> {
        self.db.read(|tx| tx.usage_report(by, None, &budgets())).unwrap()
    }
}

fn budgets() -> BudgetConfig {
    Config::default().budget
}

fn charge(by: &str, to: &str, cause: ReworkCause, tokens: i64) -> (String, String, ReworkCause, i64) {
    (by.to_owned(), to.to_owned(), cause, tokens)
}

#[test]
fn an_attempt_lost_to_a_conflict_is_charged_to_the_loop_that_landed_first() {
    let world = World::new();
    world.claim("a");
    world.claim("b");
    let landed = world.pass("b", 500);
    world.fail("a", 100, ErrorCategory::Conflict, Some(landed));
    world.claim("a");
    // The agent's own failure is its own, even if an event led to it.
    let landed = world.say(
        "b",
        FileConflict {
            file_path: "x".into(),
            loop_a: loop_id("a"),
            loop_b: loop_id("b"),
            time_a: now(&world),
            time_b: now(&world),
        },
        None,
    );
    world.fail("a", 30, ErrorCategory::Code, Some(landed));
    world.claim("a");
    world.fail("a", 20, ErrorCategory::Conflict, None);
    world.claim("a");
    world.pass("a", 400);
    assert_eq!(world.rework(), [charge("a", "b", ReworkCause::Conflict, 100)]);
    let report = world.report(UsageKey::Loop);
    let (a, b) = (&report[0], &report[1]);
    assert_eq!(
        (&*a.used.key, a.used.tokens_estimated, a.rework_suffered_tokens, a.rework_caused_tokens, a.passed),
        ("a", 550, 100, 0, 1)
    );
    assert_eq!(
        (&*b.used.key, b.used.tokens_estimated, b.rework_suffered_tokens, b.rework_caused_tokens, b.passed),
        ("b", 500, 0, 100, 1)
    );
    // What a verified test of each has truly cost.
    assert_eq!((a.tokens_per_passed, b.tokens_per_passed), (Some(450), Some(600)));
    assert_eq!((a.seconds_per_passed, b.seconds_per_passed), (Some(45), Some(60)));
    let by_test = world.report(UsageKey::Test);
    assert_eq!(
        (&*by_test[0].used.key, by_test[0].rework_suffered_tokens, by_test[0].tokens_per_passed),
        ("t-a", 100, Some(450))
    );
    let by_day = world.report(UsageKey::Day);
    assert_eq!((&*by_day[0].used.key, by_day[0].passed, by_day[0].rework_suffered_tokens), ("2026-11-22", 2, 100));
}

fn now(world: &World) -> Timestamp {
    world.db.read(|tx| Ok::<_, Error>(tx.now())).unwrap()
}

#[test]
fn orders_are_followed_back_to_the_loop_that_led_to_them() {
    let world = World::new();
    // A deadlock: in equal parts.
    world.claim("a");
    let (reason, locks_held) = (String::new(), Vec::new());
    let cycle = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    world.say(
        "deadlock-detector",
        ForceRelease { loop_id: loop_id("a"), reason, locks_held, must_rollback: true, cycle },
        None,
    );
    world.give_back("a", 101);
    // A conflict that pm settled by a pause of the loser.
    world.claim("a");
    let conflict = FileConflict {
        file_path: "x".into(),
        loop_a: loop_id("a"),
        loop_b: loop_id("c"),
        time_a: now(&world),
        time_b: now(&world),
    };
    let conflict = world.say("monitor", conflict, None);
    let pause = PauseRequested { loop_id: loop_id("a"), reason: String::new(), requested_by: "pm".parse().unwrap() };
    world.say("pm", pause.clone(), Some(&conflict));
    world.give_back("a", 40);
    // A pause of the human is nobody's doing, and so is a rollback; an order from before the attempt does not count.
    world.say("human", PauseRequested { requested_by: ActorId::human(), ..pause }, None);
    world.claim("a");
    let rollback =
        RollbackTriggered { loop_id: loop_id("a"), checkpoint_id: None, reason: String::new(), triggered_by: ActorId::human() };
    world.say("human", rollback, None);
    world.give_back("a", 7);
    world.claim("a");
    world.give_back("a", 5);
    assert_eq!(
        world.rework(),
        [
            charge("a", "b", ReworkCause::Deadlock, 51),
            charge("a", "c", ReworkCause::Deadlock, 50),
            charge("a", "c", ReworkCause::Conflict, 40),
        ]
    );
    let caused: Vec<i64> = world.report(UsageKey::Loop).iter().map(|line| line.rework_caused_tokens).collect();
    assert_eq!(caused, [0, 51, 90]);
}

#[test]
fn what_a_regression_makes_be_done_again_is_charged_to_the_blamed_loop_until_the_next_pass() {
    let world = World::new();
    for id in ["a", "b"] {
        world.claim(id);
        world.pass(id, 100);
    }
    let regression = RegressionDetected {
        test_id: test_id("t-a"),
        last_passed_commit: "c".into(),
        current_commit: "d".into(),
        first_bad_commit: None,
        blamed_loop: Some(loop_id("b")),
        blamed_test: Some(test_id("t-b")),
        output_tail: String::new(),
    };
    world.say("regression-checker", regression, None);
    for id in ["a", "b"] {
        world.db.write(|tx| tx.reset_test(&test_id(&format!("t-{id}")))).unwrap();
        world.claim(id);
        world.fail(id, 10, ErrorCategory::Code, None);
        world.claim(id);
        world.pass(id, 60);
        // Done once more for another reason: on its own account.
        world.db.write(|tx| tx.reset_test(&test_id(&format!("t-{id}")))).unwrap();
        world.claim(id);
        world.pass(id, 1000);
    }
    assert_eq!(world.rework(), [charge("a", "b", ReworkCause::Regression, 70), charge("b", "b", ReworkCause::Regression, 70)]);
    let report = world.report(UsageKey::Loop);
    // What b mends itself is in its own use already.
    assert_eq!((report[0].rework_suffered_tokens, report[1].rework_suffered_tokens), (70, 0));
    assert_eq!(report[1].rework_caused_tokens, 70);
    assert_eq!(report.iter().map(|line| line.used.tokens_estimated).sum::<i64>(), 2340);
}

#[test]
fn use_stands_beside_its_budget() {
    let world = World::new();
    world.claim("a");
    world.spend("a", 400_000);
    world.db.write(|tx| tx.record_usage(None, None, &ModelUse::of_tokens(11), 5, &[])).unwrap();
    let budget = |line: &UsageLine, name: &str| {
        line.budgets.iter().find(|part| part.budget == name).map(|part| (part.used, part.limit, part.percent))
    };
    let by_test = world.report(UsageKey::Test);
    assert_eq!(by_test.iter().map(|line| &*line.used.key).collect::<Vec<_>>(), ["", "t-a"]);
    assert_eq!(budget(&by_test[1], "tokens_per_test"), Some((400_000, 500_000, 80)));
    assert_eq!(budget(&by_test[1], "minutes_per_test"), Some((666, 120, 555)));
    assert_eq!(by_test[1].tokens_per_passed, None);
    let by_day = world.report(UsageKey::Day);
    assert_eq!(budget(&by_day[0], "tokens_per_day"), Some((400_011, 5_000_000, 8)));
    assert_eq!(budget(&by_day[0], "tests_per_day"), Some((1, 100, 1)));
    let by_loop = world.report(UsageKey::Loop);
    assert_eq!(budget(&by_loop[1], "tokens_per_day"), Some((400_000, 5_000_000, 8)));
    world.clock.advance_millis(86_400_000);
    assert_eq!(budget(&world.report(UsageKey::Loop)[1], "tokens_per_day"), Some((0, 5_000_000, 0)));
    assert_eq!(budget(&world.report(UsageKey::Day)[0], "tests_per_day"), None, "that is known of today only");
    // No limit, nothing to be beside.
    let none = BudgetConfig { tokens_per_day: 0, ..budgets() };
    assert_eq!(world.db.read(|tx| tx.usage_report(UsageKey::Loop, None, &none)).unwrap()[1].budgets, []);
}

#[test]
fn what_the_agent_counts_itself_stands_in_place_of_an_estimate() {
    let world = World::new();
    let (a, test) = (loop_id("a"), test_id("t-a"));
    let attempt = |tokens: i64, seconds: i64, own: &dyn Fn(&World)| {
        let begun = world.db.read(|tx| tx.test(&test)).unwrap().last_attempt_at;
        let run = NewRun {
            loop_id: &a,
            test_id: Some(&test),
            attempt: 1,
            kind: RunOf::Agent,
            session: None,
            name: "agent",
            log: "log",
        };
        let used = [ModelUse { agent: Some("generic".to_owned()), ..ModelUse::of_tokens(tokens) }];
        let run = world.db.write(|tx| tx.begin_run(&run)).unwrap();
        world.clock.advance_millis(10);
        own(&world);
        for _ in 0..2 {
            world.db.write(|tx| tx.end_agent_run(&run, &used, 10, "exit code 0")).unwrap();
        }
        world.db.write(|tx| tx.record_attempt_usage(&a, &test, begun, seconds, &["f".to_owned()])).unwrap()
    };
    world.claim("a");
    assert_eq!(attempt(70, 30, &|_| ()), 70, "once, however often its end is recorded");
    world.give_back("a", 0);
    world.claim("a");
    assert_eq!(attempt(70, 300, &|world| world.spend("a", 1000)), 1000);
    let used = world.db.read(|tx| tx.usage_of_test(&test)).unwrap();
    assert_eq!((used.tokens_estimated, used.duration_seconds), (1070, 330));
}

#[test]
fn records_of_any_size_have_sums() {
    let world = World::new();
    world.claim("a");
    for _ in 0..3 {
        let huge = ModelUse { cost_microusd: Some(i64::MAX), ..ModelUse::of_tokens(i64::MAX) };
        world.db.write(|tx| tx.record_usage(Some(&loop_id("a")), Some(&test_id("t-a")), &huge, i64::MAX, &[])).unwrap();
    }
    world.pass("a", 1);
    for by in [UsageKey::Loop, UsageKey::Test, UsageKey::Day, UsageKey::Model] {
        assert!(world.report(by).iter().any(|line| line.used.tokens_estimated == i64::MAX), "{by:?}");
    }
    let (test, begun) = (test_id("t-a"), world.db.read(|tx| tx.test(&test_id("t-a"))).unwrap().last_attempt_at);
    assert_eq!(world.db.write(|tx| tx.record_attempt_usage(&loop_id("a"), &test, begun, 5, &[])).unwrap(), i64::MAX);
}
