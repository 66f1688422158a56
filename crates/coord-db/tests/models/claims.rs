//! Claims: which test a loop gets, what its attempts cost it, and that nobody has two in hand.

use coord_db::{
    CheckOutcome, Error, ErrorCategory, FailedAttempt, LoopId, LoopStatus, NewLoop, NewTest, PassedAttempt, Proof, TestId,
    TestStatus, Timestamp,
};
use coord_db::{Database, new_id};
use proptest::prelude::*;

use crate::{Answer, START, Story, column, config, room};

const LOOPS: [&str; 2] = ["x", "y"];
const TESTS: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];

/// Whose fault, and whether an attempt that failed so is given back.
const CATEGORIES: [(ErrorCategory, bool); 6] = [
    (ErrorCategory::Code, false),
    (ErrorCategory::Conflict, false),
    (ErrorCategory::Permanent, false),
    (ErrorCategory::Transient, true),
    (ErrorCategory::System, true),
    (ErrorCategory::Dependency, true),
];

#[derive(Debug, Clone)]
enum Step {
    Claim { by: usize, automatable_only: bool },
    Pass { by: usize, test: usize },
    Fail { by: usize, test: usize, category: usize },
    GiveBack { by: usize, test: usize },
    Skip { test: usize },
    Reset { test: usize },
    ClearDependency { test: usize },
    HandOn { test: usize, to: usize },
    Delay { test: usize, seconds: i64 },
    Set { which: usize, status: usize },
    Wait { seconds: i64 },
}

const STATUSES: [LoopStatus; 3] = [LoopStatus::Running, LoopStatus::Paused, LoopStatus::Stopped];

fn step() -> impl Strategy<Value = Step> {
    let by = || 0..LOOPS.len();
    let test = || 0..TESTS.len() + 1;
    prop_oneof![
        8 => (by(), prop::bool::weighted(0.3)).prop_map(|(by, automatable_only)| Step::Claim { by, automatable_only }),
        4 => (by(), test()).prop_map(|(by, test)| Step::Pass { by, test }),
        4 => (by(), test(), 0..CATEGORIES.len()).prop_map(|(by, test, category)| Step::Fail { by, test, category }),
        2 => (by(), test()).prop_map(|(by, test)| Step::GiveBack { by, test }),
        1 => test().prop_map(|test| Step::Skip { test }),
        1 => test().prop_map(|test| Step::Reset { test }),
        1 => test().prop_map(|test| Step::ClearDependency { test }),
        1 => (test(), by()).prop_map(|(test, to)| Step::HandOn { test, to }),
        1 => (test(), 1..60_i64).prop_map(|(test, seconds)| Step::Delay { test, seconds }),
        2 => (by(), 0..STATUSES.len()).prop_map(|(which, status)| Step::Set { which, status }),
        3 => (1..120_i64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

#[derive(Debug, Clone)]
struct Seed {
    of: usize,
    after: Option<usize>,
    most: i64,
    automatable: bool,
}

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let one = |at: usize| {
        (0..LOOPS.len(), prop::option::of(0..at.max(1)), 1..4_i64, prop::bool::weighted(0.8))
            .prop_map(move |(of, after, most, automatable)| Seed { of, after: after.filter(|_| at > 0), most, automatable })
    };
    (0..TESTS.len()).map(one).collect::<Vec<_>>()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Pending,
    InProgress,
    Passed,
    Failed,
    Blocked,
    Skipped,
}

#[derive(Debug, Clone)]
struct Goal {
    of: usize,
    after: Option<usize>,
    most: i64,
    automatable: bool,
    is: Is,
    attempts: i64,
    give_backs: i64,
    not_before: Option<Timestamp>,
    begun: usize,
    passes: usize,
    failures: usize,
}

struct Model {
    goals: Vec<Goal>,
    loops: [LoopStatus; 2],
    now: Timestamp,
}

impl Model {
    fn in_hand(&self, by: usize) -> Option<usize> {
        self.goals.iter().position(|goal| goal.of == by && goal.is == Is::InProgress)
    }

    fn ready(&self, by: usize, automatable_only: bool) -> Option<usize> {
        self.goals.iter().position(|goal| {
            goal.of == by
                && goal.is == Is::Pending
                && goal.after.is_none_or(|after| self.goals[after].is == Is::Passed)
                && goal.not_before.is_none_or(|at| at <= self.now)
                && (goal.automatable || !automatable_only)
        })
    }

    /// The answer to a move of a test in hand; done only for the loop that has it.
    fn held(&self, by: usize, test: usize) -> Answer {
        match self.goals.get(test) {
            None => Answer::NotFound,
            Some(goal) if goal.of != by => Answer::Refused,
            Some(goal) if goal.is != Is::InProgress => Answer::Illegal,
            Some(_) => Answer::Done,
        }
    }

    fn moved(&mut self, test: usize, may: impl Fn(Is) -> bool, act: impl FnOnce(&mut Goal)) -> Answer {
        match self.goals.get_mut(test) {
            None => Answer::NotFound,
            Some(goal) if !may(goal.is) => Answer::Illegal,
            Some(goal) => {
                act(goal);
                Answer::Done
            }
        }
    }
}

fn apply(db: &Database, model: &mut Model, step: &Step) -> ((Answer, Option<String>), (Answer, Option<String>)) {
    let loop_id = |at: usize| -> LoopId { LOOPS[at].parse().unwrap() };
    let test_id = |at: usize| -> TestId { TESTS.get(at).copied().unwrap_or("unknown").parse().unwrap() };
    let now = model.now;
    let plain = |seen: Answer, expected: Answer| ((seen, None), (expected, None));
    match step {
        Step::Wait { .. } => plain(Answer::Done, Answer::Done),
        Step::Set { which, status } => {
            let result = db.write(|tx| tx.set_loop_status(&loop_id(*which), STATUSES[*status]));
            model.loops[*which] = STATUSES[*status];
            plain(Answer::of(&result), Answer::Done)
        }
        Step::Claim { by, automatable_only } => {
            let result = db.write(|tx| tx.claim_next_test(&loop_id(*by), *automatable_only));
            let got = result.as_ref().ok().and_then(|test| test.as_ref().map(|test| test.id.to_string()));
            if model.loops[*by] == LoopStatus::Paused || model.in_hand(*by).is_some() {
                return ((Answer::of(&result), got), (Answer::Refused, None));
            }
            let ready = model.ready(*by, *automatable_only);
            if let Some(at) = ready {
                let goal = &mut model.goals[at];
                (goal.is, goal.not_before) = (Is::InProgress, None);
                goal.attempts += 1;
                goal.begun += 1;
                model.loops[*by] = LoopStatus::Running;
            }
            ((Answer::of(&result), got), (Answer::Done, ready.map(|at| TESTS[at].to_owned())))
        }
        Step::Pass { by, test } => {
            let attempt = PassedAttempt {
                commit: "c".repeat(40),
                checks: vec![("tests".to_owned(), true)],
                duration_seconds: 1,
                tokens_estimated: None,
                files_modified: Vec::new(),
            };
            let result = db.write(|tx| {
                let event = tx.record_passed(&test_id(*test), &loop_id(*by), &attempt)?;
                tx.add_proof(&Proof {
                    id: new_id(),
                    test_id: test_id(*test),
                    attempt: 1,
                    commit_hash: "c".repeat(40),
                    tree_hash: "d".repeat(40),
                    check_name: "tests".to_owned(),
                    outcome: CheckOutcome::Pass,
                    exit_code: Some(0),
                    duration_ms: 1,
                    output_sha256: String::new(),
                    output_tail: String::new(),
                    created_at: tx.now(),
                })?;
                Ok::<_, Error>(event)
            });
            let expected = model.held(*by, *test);
            if expected == Answer::Done {
                model.goals[*test].is = Is::Passed;
                model.goals[*test].passes += 1;
            }
            plain(Answer::of(&result), expected)
        }
        Step::Fail { by, test, category } => {
            let (category, given_back) = CATEGORIES[*category];
            let attempt = FailedAttempt { category, message: "m".to_owned(), caused_by: None };
            let result = db.write(|tx| tx.record_failed(&test_id(*test), &loop_id(*by), &attempt));
            let expected = model.held(*by, *test);
            if expected == Answer::Done {
                let goal = &mut model.goals[*test];
                goal.failures += 1;
                if given_back {
                    // 5 s, twice as long each time, 5 minutes at most.
                    let wait = (0..goal.give_backs).fold(5, |wait, _| (wait * 2).min(300));
                    (goal.is, goal.not_before) = (Is::Pending, Some(now.plus_seconds(wait)));
                    goal.attempts -= 1;
                    goal.give_backs += 1;
                } else {
                    goal.give_backs = 0;
                    goal.is = match category {
                        ErrorCategory::Permanent => Is::Failed,
                        _ if goal.attempts >= goal.most => Is::Blocked,
                        _ => Is::Pending,
                    };
                }
            }
            plain(Answer::of(&result), expected)
        }
        Step::GiveBack { by, test } => {
            let result = db.write(|tx| tx.give_back(&test_id(*test), &loop_id(*by), "enough"));
            let expected = model.held(*by, *test);
            if expected == Answer::Done {
                let goal = &mut model.goals[*test];
                goal.is = Is::Pending;
                goal.attempts -= 1;
                goal.give_backs += 1;
            }
            plain(Answer::of(&result), expected)
        }
        Step::Skip { test } => {
            let result = db.write(|tx| tx.skip_test(&test_id(*test), None));
            plain(
                Answer::of(&result),
                model.moved(*test, |is| !matches!(is, Is::Passed | Is::Skipped), |goal| goal.is = Is::Skipped),
            )
        }
        Step::Reset { test } => {
            let result = db.write(|tx| tx.reset_test(&test_id(*test)));
            let act = |goal: &mut Goal| {
                (goal.is, goal.attempts, goal.give_backs, goal.not_before) = (Is::Pending, 0, 0, None);
            };
            plain(Answer::of(&result), model.moved(*test, |is| is != Is::InProgress, act))
        }
        Step::ClearDependency { test } => {
            let result = db.write(|tx| tx.clear_dependency(&test_id(*test)));
            plain(
                Answer::of(&result),
                model.moved(*test, |is| !matches!(is, Is::Passed | Is::InProgress), |goal| goal.after = None),
            )
        }
        Step::HandOn { test, to } => {
            let result = db.write(|tx| tx.move_test(&test_id(*test), &loop_id(*to)));
            plain(Answer::of(&result), model.moved(*test, |is| is == Is::Pending, |goal| goal.of = *to))
        }
        Step::Delay { test, seconds } => {
            let until = now.plus_seconds(*seconds);
            let result = db.write(|tx| tx.delay_test(&test_id(*test), until));
            plain(Answer::of(&result), model.moved(*test, |is| is == Is::Pending, |goal| goal.not_before = Some(until)))
        }
    }
}

fn run(seeds: &[Seed], steps: &[Step]) -> Result<(), TestCaseError> {
    let (db, clock) = room();
    db.write(|tx| {
        for id in LOOPS {
            tx.add_loop(&NewLoop { id: id.parse()?, name: String::new(), priority: 5, branch: None })?;
            tx.set_loop_status(&id.parse()?, LoopStatus::Running)?;
        }
        let tests: Vec<NewTest> = seeds
            .iter()
            .enumerate()
            .map(|(at, seed)| NewTest {
                id: TESTS[at].parse().unwrap(),
                loop_id: LOOPS[seed.of].parse().unwrap(),
                category: "build".to_owned(),
                max_attempts: seed.most,
                depends_on: seed.after.map(|after| TESTS[after].parse().unwrap()),
                automatable: seed.automatable,
                notes: None,
                spec_content: None,
                scope: Vec::new(),
            })
            .collect();
        assert_eq!(tx.import_tests(&tests)?, []);
        Ok::<_, Error>(())
    })
    .unwrap();
    let goal = |seed: &Seed| Goal {
        of: seed.of,
        after: seed.after,
        most: seed.most,
        automatable: seed.automatable,
        is: Is::Pending,
        attempts: 0,
        give_backs: 0,
        not_before: None,
        begun: 0,
        passes: 0,
        failures: 0,
    };
    let mut model =
        Model { goals: seeds.iter().map(goal).collect(), loops: [LoopStatus::Running, LoopStatus::Running], now: START };
    let mut story = Story::default();
    for step in steps {
        if let Step::Wait { seconds } = step {
            clock.advance_millis(seconds * 1_000);
            model.now = model.now.plus_seconds(*seconds);
        }
        let (seen, expected) = apply(&db, &mut model, step);
        story.expect(step, &seen, &expected)?;
        let rows: Vec<_> = db
            .read(|tx| tx.tests(None, None))
            .unwrap()
            .into_iter()
            .map(|test| {
                let is = match test.status {
                    TestStatus::Pending => Is::Pending,
                    TestStatus::InProgress => Is::InProgress,
                    TestStatus::Passed => Is::Passed,
                    TestStatus::Failed => Is::Failed,
                    TestStatus::Blocked => Is::Blocked,
                    TestStatus::Skipped => Is::Skipped,
                };
                (test.loop_id.to_string(), is, test.attempts, test.not_before, test.depends_on.map(|id| id.to_string()))
            })
            .collect();
        let wanted: Vec<_> = model
            .goals
            .iter()
            .map(|goal| {
                let after = goal.after.map(|after| TESTS[after].to_owned());
                (LOOPS[goal.of].to_owned(), goal.is, goal.attempts, goal.not_before, after)
            })
            .collect();
        story.holds(&rows, &wanted)?;
        let hands = column(&db, "SELECT current_test_id FROM loops ORDER BY id");
        let wanted: Vec<String> = (0..LOOPS.len()).map(|by| model.in_hand(by).map_or("-", |at| TESTS[at]).to_owned()).collect();
        story.holds(&hands, &wanted)?;
        // Each beginning and each end is said once.
        for (kind, count) in [
            ("test_started", model.goals.iter().map(|goal| goal.begun).sum::<usize>()),
            ("test_passed", model.goals.iter().map(|goal| goal.passes).sum()),
            ("test_failed", model.goals.iter().map(|goal| goal.failures).sum()),
        ] {
            let said = column(&db, &format!("SELECT count(*) FROM events WHERE event_type = '{kind}'"));
            story.holds(&said, &vec![count.to_string()])?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config(300))]
    #[test]
    fn claims_do_what_the_model_does(seeds in seeds(), steps in prop::collection::vec(step(), 1..50)) {
        run(&seeds, &steps)?;
    }
}
