//! Claims: which test each loop gets, how an attempt ends, and that nothing else is possible.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{
    ActorId, Error, ErrorCategory, EventFilter, FailedAttempt, LoopStatus, NewTest, PassedAttempt, TestId, TestStatus,
};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::support::{START, Story, World, check, death, loop_id};
use test_support::new_loop;

const LOOPS: [&str; 3] = ["a", "b", "c"];
/// Every test that may be imported; "t0" to "t7".
const TESTS: usize = 8;
const COMMITS: [&str; 2] = ["c0ffee", "decade"];

#[derive(Debug, Clone)]
struct Import {
    test: usize,
    by: usize,
    most: i64,
    after: Option<usize>,
    automatable: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Import(Vec<Import>),
    Claim { by: usize, automatable_only: bool },
    Pass { by: usize, test: Option<usize>, commit: usize },
    Fail { by: usize, test: Option<usize>, category: ErrorCategory },
    GiveBack { by: usize, test: Option<usize> },
    Adopt { by: usize, test: usize, commit: usize },
    Skip(usize),
    Reset(usize),
    Move { test: usize, to: usize },
    Delay { test: usize, seconds: i64 },
    ClearDependency(usize),
    Pause(usize),
    Resume(usize),
    Die(usize),
    Stop(usize),
    Time(i64),
}

fn op() -> impl Strategy<Value = Op> {
    // One more than there are: a loop or test that nobody has registered.
    let by = || prop_oneof![20 => 0..LOOPS.len(), 1 => Just(LOOPS.len())];
    let test = || prop_oneof![3 => 0..4_usize, 2 => 0..TESTS];
    // Mostly the loop's current test.
    let mine = move || prop_oneof![3 => Just(None), 1 => test().prop_map(Some)];
    let import = (test(), 0..LOOPS.len(), 0..4_i64, option::weighted(0.4, test()), prop::bool::weighted(0.8)).prop_map(
        |(test, by, most, after, automatable)| Import { test, by, most: most.max(i64::from(test != 7)), after, automatable },
    );
    let category = || prop_oneof![1 => select(ErrorCategory::ALL.to_vec()), 2 => Just(ErrorCategory::Code)];
    prop_oneof![
        10 => prop::collection::vec(import, 1..5).prop_map(Op::Import),
        24 => (by(), any::<bool>()).prop_map(|(by, automatable_only)| Op::Claim { by, automatable_only }),
        10 => (by(), mine(), 0..2_usize).prop_map(|(by, test, commit)| Op::Pass { by, test, commit }),
        12 => (by(), mine(), category()).prop_map(|(by, test, category)| Op::Fail { by, test, category }),
        4 => (by(), mine()).prop_map(|(by, test)| Op::GiveBack { by, test }),
        3 => (by(), test(), 0..2_usize).prop_map(|(by, test, commit)| Op::Adopt { by, test, commit }),
        3 => test().prop_map(Op::Skip),
        3 => test().prop_map(Op::Reset),
        3 => (test(), by()).prop_map(|(test, to)| Op::Move { test, to }),
        2 => (test(), 1..100_i64).prop_map(|(test, seconds)| Op::Delay { test, seconds }),
        2 => test().prop_map(Op::ClearDependency),
        2 => (0..LOOPS.len()).prop_map(Op::Pause),
        3 => (0..LOOPS.len()).prop_map(Op::Resume),
        3 => (0..LOOPS.len()).prop_map(Op::Die),
        2 => (0..LOOPS.len()).prop_map(Op::Stop),
        6 => select(vec![1, 4, 5, 60, 400]).prop_map(Op::Time),
    ]
}

/// How an operation ended: what it gave, or what kind of refusal it was.
type Answer = Result<String, &'static str>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    by: usize,
    status: TestStatus,
    attempts: i64,
    most: i64,
    after: Option<usize>,
    automatable: bool,
    /// Seconds since the beginning.
    not_before: Option<i64>,
    last_result: Option<&'static str>,
    category: Option<ErrorCategory>,
    given_back: i64,
    commit: Option<usize>,
}

#[derive(Debug, Default)]
struct Model {
    now: i64,
    tests: BTreeMap<usize, Row>,
    status: BTreeMap<usize, LoopStatus>,
    paused: BTreeSet<usize>,
    baselines: BTreeSet<(usize, usize)>,
    said: Vec<String>,
}

impl Model {
    fn begin() -> Self {
        Self { status: (0..LOOPS.len()).map(|by| (by, LoopStatus::Stopped)).collect(), ..Self::default() }
    }

    fn has(&self, by: usize) -> Result<(), &'static str> {
        if by < LOOPS.len() { Ok(()) } else { Err("not found") }
    }

    fn current_test(&self, by: usize) -> Option<usize> {
        self.tests.iter().find(|(_, row)| row.by == by && row.status == TestStatus::InProgress).map(|(test, _)| *test)
    }

    fn say(&mut self, what: &str, test: usize, by: usize, attempt: i64) {
        self.said.push(format!("{what} t{test} {} {attempt}", LOOPS[by]));
    }

    /// All of them, or none if anything is wrong with any.
    fn import(&mut self, batch: &[Import]) -> Answer {
        let first = |test: usize| batch.iter().position(|other| other.test == test);
        for (at, one) in batch.iter().enumerate() {
            let known = self.tests.contains_key(&one.test);
            let twice = first(one.test) != Some(at);
            // Following what it waits for inside the batch; what is there already waits for nothing in it.
            let mut next = one.after;
            let mut steps = 0;
            while let Some(position) = next.and_then(first).filter(|_| steps <= batch.len()) {
                if batch[position].test == one.test {
                    break;
                }
                next = batch[position].after;
                steps += 1;
            }
            let cycle = next == Some(one.test);
            let unknown = one.after.is_some_and(|after| first(after).is_none() && !self.tests.contains_key(&after));
            if known || twice || cycle || unknown || one.most < 1 {
                return Ok("wrong".to_owned());
            }
        }
        for one in batch {
            let row = Row {
                by: one.by,
                status: TestStatus::Pending,
                attempts: 0,
                most: one.most,
                after: one.after,
                automatable: one.automatable,
                not_before: None,
                last_result: None,
                category: None,
                given_back: 0,
                commit: None,
            };
            self.tests.insert(one.test, row);
        }
        Ok(format!("{} imported", batch.len()))
    }

    fn claim(&mut self, by: usize, automatable_only: bool) -> Answer {
        self.has(by)?;
        if self.status[&by] == LoopStatus::Paused || self.current_test(by).is_some() {
            return Err("refused");
        }
        let passed = |test: usize| self.tests.get(&test).is_some_and(|row| row.status == TestStatus::Passed);
        let ready = self.tests.iter().find(|(_, row)| {
            row.by == by
                && row.status == TestStatus::Pending
                && row.after.is_none_or(passed)
                && row.not_before.is_none_or(|at| at <= self.now)
                && (row.automatable || !automatable_only)
        });
        let Some(test) = ready.map(|(test, _)| *test) else { return Ok("nothing".to_owned()) };
        // A loop that rests goes to work, unless it is to pause.
        if self.paused.contains(&by) {
            return Err("refused");
        }
        self.status.insert(by, LoopStatus::Running);
        let row = self.tests.get_mut(&test).unwrap();
        row.status = TestStatus::InProgress;
        row.attempts += 1;
        row.not_before = None;
        let attempt = row.attempts;
        self.say("test_started", test, by, attempt);
        Ok(format!("t{test}, attempt {attempt}"))
    }

    fn working(&mut self, by: usize, test: usize) -> Result<&mut Row, &'static str> {
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        if row.by != by {
            return Err("refused");
        }
        if row.status != TestStatus::InProgress {
            return Err("illegal");
        }
        Ok(row)
    }

    fn pass(&mut self, by: usize, test: usize, commit: usize) -> Answer {
        let row = self.working(by, test)?;
        row.status = TestStatus::Passed;
        row.last_result = Some("pass");
        row.category = None;
        row.commit = Some(commit);
        let attempt = row.attempts;
        self.baselines.insert((test, commit));
        self.say("test_passed", test, by, attempt);
        Ok("passed".to_owned())
    }

    fn fail(&mut self, by: usize, test: usize, category: ErrorCategory) -> Answer {
        use ErrorCategory::{Dependency, Permanent, Resource, System, Transient};
        let now = self.now;
        let row = self.working(by, test)?;
        let attempt = row.attempts;
        row.category = Some(category);
        if [Transient, System, Resource, Dependency].contains(&category) {
            // Not the agent's fault: the attempt is given back, and waits longer each time.
            row.status = TestStatus::Pending;
            row.attempts -= 1;
            let waits = match category {
                Resource => [30, 60, 120, 240, 480, 960, 1800],
                _ => [5, 10, 20, 40, 80, 160, 300],
            };
            row.not_before = Some(now + waits[usize::try_from(row.given_back.min(6)).unwrap()]);
            row.given_back += 1;
        } else {
            row.given_back = 0;
            row.not_before = None;
            (row.status, row.last_result) = match category {
                Permanent => (TestStatus::Failed, Some("fail")),
                _ if row.attempts >= row.most => (TestStatus::Blocked, Some("blocked")),
                _ => (TestStatus::Pending, Some("fail")),
            };
        }
        let status = row.status;
        self.say("test_failed", test, by, attempt);
        if status != TestStatus::Pending {
            self.say("test_blocked", test, by, attempt);
        }
        Ok(status.to_string())
    }

    fn back(row: &mut Row) {
        row.status = TestStatus::Pending;
        row.attempts -= 1;
        row.given_back += 1;
    }

    fn give_back(&mut self, by: usize, test: usize) -> Answer {
        Self::back(self.working(by, test)?);
        Ok("given back".to_owned())
    }

    /// What is on the branch already has passed, whatever became of the test in between.
    fn adopt(&mut self, by: usize, test: usize, commit: usize) -> Answer {
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        match row.status {
            TestStatus::Passed if row.commit == Some(commit) => return Ok("stays".to_owned()),
            TestStatus::Passed if row.by == by => return Err("illegal"),
            TestStatus::Passed => return Err("refused"),
            TestStatus::InProgress => {}
            _ if by >= LOOPS.len() => return Err("another error"),
            TestStatus::Pending => {
                row.attempts += 1;
                row.not_before = None;
                (row.by, row.status) = (by, TestStatus::InProgress);
            }
            _ => (row.by, row.status) = (by, TestStatus::InProgress),
        }
        self.pass(by, test, commit)
    }

    fn skip(&mut self, test: usize) -> Answer {
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        if matches!(row.status, TestStatus::Passed | TestStatus::Skipped) {
            return Err("illegal");
        }
        row.status = TestStatus::Skipped;
        Ok("skipped".to_owned())
    }

    fn reset(&mut self, test: usize) -> Answer {
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        if row.status == TestStatus::InProgress {
            return Err("illegal");
        }
        row.status = TestStatus::Pending;
        (row.attempts, row.given_back) = (0, 0);
        (row.not_before, row.last_result, row.category, row.commit) = (None, None, None, None);
        Ok("reset".to_owned())
    }

    fn hand_on(&mut self, test: usize, to: usize) -> Answer {
        self.has(to)?;
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        if row.status != TestStatus::Pending {
            return Err("illegal");
        }
        row.by = to;
        Ok("handed on".to_owned())
    }

    fn delay(&mut self, test: usize, seconds: i64) -> Answer {
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        if row.status != TestStatus::Pending {
            return Err("illegal");
        }
        row.not_before = Some(self.now + seconds);
        Ok("held back".to_owned())
    }

    fn clear(&mut self, test: usize) -> Answer {
        let row = self.tests.get_mut(&test).ok_or("not found")?;
        if matches!(row.status, TestStatus::Passed | TestStatus::InProgress) {
            return Err("illegal");
        }
        Ok(if row.after.take().is_some() { "free" } else { "it waits for none" }.to_owned())
    }

    fn pause(&mut self, by: usize) {
        self.paused.insert(by);
        self.status.insert(by, LoopStatus::Paused);
    }

    fn resume(&mut self, by: usize) {
        self.paused.remove(&by);
        if self.status[&by] == LoopStatus::Paused {
            self.status.insert(by, LoopStatus::Running);
        }
    }

    /// Its current test is pending again, and the attempt does not count.
    fn end(&mut self, by: usize, dies: bool) {
        if let Some(test) = self.current_test(by) {
            let row = self.tests.get_mut(&test).unwrap();
            let attempt = row.attempts;
            Self::back(row);
            if dies {
                self.say("test_failed", test, by, attempt);
            }
        }
        self.status.insert(by, if dies { LoopStatus::Error } else { LoopStatus::Stopped });
    }

    /// Pending tests that wait for what will not pass by itself.
    fn stalled(&self) -> Vec<String> {
        let hopeless = |test: usize| {
            self.tests
                .get(&test)
                .is_none_or(|row| matches!(row.status, TestStatus::Skipped | TestStatus::Failed | TestStatus::Blocked))
        };
        let stalled = |row: &Row| row.status == TestStatus::Pending && row.after.is_some_and(hopeless);
        self.tests.iter().filter(|(_, row)| stalled(row)).map(|(test, _)| format!("t{test}")).collect()
    }
}

struct Run<'w> {
    world: &'w World,
    model: Model,
    story: Story,
    position: i64,
}

fn name(by: usize) -> &'static str {
    LOOPS.get(by).copied().unwrap_or("nobody")
}

fn id(test: usize) -> TestId {
    format!("t{test}").parse().unwrap()
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::NotFound { .. } => "not found",
        Error::Refused(_) => "refused",
        Error::IllegalMove { .. } => "illegal",
        _ => "another error",
    }
}

impl Run<'_> {
    fn test_of(&self, by: usize, test: Option<usize>) -> usize {
        test.or_else(|| self.model.current_test(by)).unwrap_or(0)
    }

    /// With the loop's current test filled in.
    fn named(&self, op: &Op) -> Op {
        let mut op = op.clone();
        if let Op::Pass { by, test, .. } | Op::Fail { by, test, .. } | Op::GiveBack { by, test } = &mut op {
            *test = Some(self.test_of(*by, *test));
        }
        op
    }

    fn line(&self, op: &Op) -> String {
        match op {
            Op::Import(batch) => {
                let one = |one: &Import| {
                    let after = one.after.map(|after| format!(" after t{after}")).unwrap_or_default();
                    let by_hand = if one.automatable { "" } else { " by hand" };
                    format!("t{} for {}{after}{by_hand}, at most {}", one.test, name(one.by), one.most)
                };
                format!("import [{}]", batch.iter().map(one).collect::<Vec<_>>().join("; "))
            }
            Op::Claim { by, automatable_only } => {
                format!("{} claims{}", name(*by), if *automatable_only { " what an agent can do" } else { "" })
            }
            Op::Pass { by, test, commit } => {
                format!("{} passes t{} at {}", name(*by), self.test_of(*by, *test), COMMITS[*commit])
            }
            Op::Fail { by, test, category } => format!("{} fails t{} ({category})", name(*by), self.test_of(*by, *test)),
            Op::GiveBack { by, test } => format!("{} gives t{} back", name(*by), self.test_of(*by, *test)),
            Op::Adopt { by, test, commit } => format!("{} finds t{test} landed at {}", name(*by), COMMITS[*commit]),
            Op::Skip(test) => format!("t{test} is skipped"),
            Op::Reset(test) => format!("t{test} is reset"),
            Op::Move { test, to } => format!("t{test} is handed to {}", name(*to)),
            Op::Delay { test, seconds } => format!("t{test} is held back {seconds} s"),
            Op::ClearDependency(test) => format!("t{test} need wait for none"),
            Op::Pause(by) => format!("{} is paused", name(*by)),
            Op::Resume(by) => format!("{} is resumed", name(*by)),
            Op::Die(by) => format!("{} dies", name(*by)),
            Op::Stop(by) => format!("{} stops", name(*by)),
            Op::Time(seconds) => format!("{seconds} s pass"),
        }
    }

    fn act(&self, op: &Op) -> Result<String, Error> {
        let db = &self.world.db;
        let by_id = |by: usize| loop_id(name(by));
        let attempt = |commit: usize| PassedAttempt {
            commit: COMMITS[commit].to_owned(),
            checks: vec![("check".to_owned(), true)],
            duration_seconds: 1,
            tokens_estimated: None,
            files_modified: Vec::new(),
        };
        let done = |text: &str| {
            let text = text.to_owned();
            move |()| text
        };
        match op {
            Op::Import(batch) => {
                let tests: Vec<NewTest> = batch
                    .iter()
                    .map(|one| NewTest {
                        id: id(one.test),
                        loop_id: by_id(one.by),
                        category: "build".to_owned(),
                        max_attempts: one.most,
                        depends_on: one.after.map(id),
                        automatable: one.automatable,
                        notes: None,
                        spec_content: None,
                        scope: Vec::new(),
                        allow_no_change: false,
                    })
                    .collect();
                let problems = db.write(|tx| tx.import_tests(&tests))?;
                Ok(if problems.is_empty() { format!("{} imported", tests.len()) } else { "wrong".to_owned() })
            }
            Op::Claim { by, automatable_only } => {
                let test = db.write(|tx| tx.claim_next_test(&by_id(*by), *automatable_only))?;
                Ok(test.map_or_else(|| "nothing".to_owned(), |test| format!("{}, attempt {}", test.id, test.attempts)))
            }
            Op::Pass { by, test, commit } => {
                let test = id(self.test_of(*by, *test));
                db.write(|tx| tx.record_passed(&test, &by_id(*by), &attempt(*commit))).map(|_| "passed".to_owned())
            }
            Op::Fail { by, test, category } => {
                let failed = FailedAttempt::new(*category, "no");
                let test = id(self.test_of(*by, *test));
                db.write(|tx| tx.record_failed(&test, &by_id(*by), &failed)).map(|status| status.to_string())
            }
            Op::GiveBack { by, test } => {
                let test = id(self.test_of(*by, *test));
                db.write(|tx| tx.give_back(&test, &by_id(*by), "no more")).map(done("given back"))
            }
            Op::Adopt { by, test, commit } => {
                let said = db.write(|tx| tx.adopt_landed(&id(*test), &by_id(*by), &attempt(*commit)))?;
                Ok(if said.is_some() { "passed" } else { "stays" }.to_owned())
            }
            Op::Skip(test) => db.write(|tx| tx.skip_test(&id(*test), None)).map(done("skipped")),
            Op::Reset(test) => db.write(|tx| tx.reset_test(&id(*test))).map(done("reset")),
            Op::Move { test, to } => db.write(|tx| tx.move_test(&id(*test), &by_id(*to))).map(done("handed on")),
            Op::Delay { test, seconds } => {
                db.write(|tx| tx.delay_test(&id(*test), tx.now().plus_seconds(*seconds))).map(done("held back"))
            }
            Op::ClearDependency(test) => {
                let had = db.write(|tx| tx.clear_dependency(&id(*test)))?;
                Ok(if had { "free" } else { "it waits for none" }.to_owned())
            }
            Op::Pause(by) => db
                .write(|tx| {
                    tx.add_pause(&by_id(*by), &ActorId::human(), "", None)?;
                    tx.apply_pauses(&by_id(*by), &tx.pauses(Some(&by_id(*by)))?).map(drop)
                })
                .map(done("done")),
            Op::Resume(by) => db
                .write(|tx| {
                    tx.lift_pauses(&by_id(*by), &ActorId::human())?;
                    tx.apply_pauses(&by_id(*by), &[]).map(drop)
                })
                .map(done("done")),
            Op::Die(by) => db.write(|tx| tx.clean_up_loop(&by_id(*by), &death(), None)).map(done("done")),
            Op::Stop(by) => db.write(|tx| tx.stop_loop(&by_id(*by), "enough")).map(done("done")),
            Op::Time(seconds) => {
                self.world.clock.advance_millis(seconds * 1000);
                Ok("done".to_owned())
            }
        }
    }

    fn predict(&mut self, op: &Op) -> Answer {
        let test_of = |by: &usize, test: &Option<usize>| self.test_of(*by, *test);
        let done = Ok("done".to_owned());
        match op {
            Op::Import(batch) => self.model.import(batch),
            Op::Claim { by, automatable_only } => self.model.claim(*by, *automatable_only),
            Op::Pass { by, test, commit } => self.model.pass(*by, test_of(by, test), *commit),
            Op::Fail { by, test, category } => self.model.fail(*by, test_of(by, test), *category),
            Op::GiveBack { by, test } => self.model.give_back(*by, test_of(by, test)),
            Op::Adopt { by, test, commit } => self.model.adopt(*by, *test, *commit),
            Op::Skip(test) => self.model.skip(*test),
            Op::Reset(test) => self.model.reset(*test),
            Op::Move { test, to } => self.model.hand_on(*test, *to),
            Op::Delay { test, seconds } => self.model.delay(*test, *seconds),
            Op::ClearDependency(test) => self.model.clear(*test),
            Op::Pause(by) => {
                self.model.pause(*by);
                done
            }
            Op::Resume(by) => {
                self.model.resume(*by);
                done
            }
            Op::Die(by) => {
                self.model.end(*by, true);
                done
            }
            Op::Stop(by) => {
                self.model.end(*by, false);
                done
            }
            Op::Time(seconds) => {
                self.model.now += seconds;
                done
            }
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        let op = &self.named(op);
        let line = self.line(op);
        let model = self.predict(op);
        let unchanged = model.as_ref().map_or(true, |gave| gave == "wrong" || gave == "nothing" || gave == "stays");
        let before = unchanged.then(|| self.world.rows());
        let database = self.act(op).map_err(|error| kind(&error));
        self.story.tell(match &database {
            Ok(gave) => format!("{line} -> {gave}"),
            Err(kind) => format!("{line} -> {kind}"),
        });
        self.story.agrees(self.world, database, model, before)?;
        self.compare()
    }

    fn compare(&mut self) -> Result<(), String> {
        let db = &self.world.db;
        let filter = EventFilter { after_position: Some(self.position), ..EventFilter::default() };
        let (tests, loops, stalled, events) = db
            .read(|tx| Ok::<_, Error>((tx.tests(None, None)?, tx.loops()?, tx.stalled_tests()?, tx.events(&filter)?)))
            .map_err(|error| self.story.wrong(&error.to_string()))?;
        let number = |id: &TestId| id.as_str()[1..].parse::<usize>().unwrap();
        let loop_number = |id: &str| LOOPS.iter().position(|name| *name == id).unwrap();
        for test in &tests {
            let verified = test.verified_at.is_some() && test.passed_at.is_some() && test.commit_hash.is_some();
            self.story.holds("passed, but not verified", verified || test.status != TestStatus::Passed)?;
        }
        let found: BTreeMap<usize, Row> = tests
            .iter()
            .map(|test| {
                let row = Row {
                    by: loop_number(test.loop_id.as_str()),
                    status: test.status,
                    attempts: test.attempts,
                    most: test.max_attempts,
                    after: test.depends_on.as_ref().map(number),
                    automatable: test.automatable,
                    not_before: test.not_before.map(|at| at.seconds_since(START)),
                    last_result: test.last_result.map(|result| result.as_str()),
                    category: test.error_category,
                    given_back: test.give_backs,
                    commit: COMMITS.iter().position(|commit| test.commit_hash.as_deref() == Some(commit)),
                };
                (number(&test.id), row)
            })
            .collect();
        for (test, row) in &found {
            self.story.same(&format!("t{test}"), Some(row), self.model.tests.get(test))?;
        }
        self.story.same("how many tests there are", found.len(), self.model.tests.len())?;
        for row in &loops {
            let by = loop_number(row.id.as_str());
            let at_work: Vec<usize> = found
                .iter()
                .filter(|(_, test)| test.by == by && test.status == TestStatus::InProgress)
                .map(|(test, _)| *test)
                .collect();
            self.story.holds(&format!("{} works on {at_work:?} at once", row.id), at_work.len() < 2)?;
            let current = row.current_test_id.as_ref().map(number);
            self.story.same(&format!("what {} works on", row.id), current, self.model.current_test(by))?;
            self.story.same(&format!("what {} does", row.id), row.status, self.model.status[&by])?;
        }
        let stalled: Vec<String> = stalled.iter().map(|test| test.id.to_string()).collect();
        self.story.same("the tests that wait in vain", stalled, self.model.stalled())?;
        let said: Vec<String> = events
            .iter()
            .filter(|event| event.event_type.starts_with("test_"))
            .map(|event| {
                let text = |field: &str| event.payload[field].as_str().unwrap_or_default().to_owned();
                let attempt =
                    event.payload.get("attempt").or(event.payload.get("attempts")).and_then(serde_json::Value::as_i64);
                format!("{} {} {} {}", event.event_type, text("test_id"), text("loop_id"), attempt.unwrap_or(-1))
            })
            .collect();
        self.story.same("what was said", said, std::mem::take(&mut self.model.said))?;
        self.position = db.read(|tx| tx.last_event_position()).map_err(|error: Error| error.to_string())?;
        let found = self.world.query("SELECT test_id, commit_hash FROM passing_tests ORDER BY 1, 2");
        let expected = self.model.baselines.iter().map(|(test, commit)| format!("t{test} {}", COMMITS[*commit])).collect();
        self.story.same("the baselines", found, expected)
    }
}

fn run(world: &World, ops: &[Op]) -> Result<(), String> {
    let position = world.db.read(|tx| tx.last_event_position()).map_err(|error: Error| error.to_string())?;
    let mut run = Run { world, model: Model::begin(), story: Story::default(), position };
    for op in ops {
        run.step(op)?;
        world.note();
    }
    Ok(())
}

#[test]
fn claims_are_as_the_model_has_them() {
    let world = |server| {
        let world = World::new(server);
        world
            .db
            .write(|tx| {
                for name in LOOPS {
                    tx.add_loop(&new_loop(name))?;
                }
                Ok::<_, Error>(())
            })
            .unwrap();
        world
    };
    check(400, op(), 1..40, world, run);
}
