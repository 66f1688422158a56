//! The landing train: works that finish are judged together, what fails together is found, and nothing is lost when the
//! judge dies or somebody interferes.

use std::fs;

use coord_db::{
    Acquire, AcquireRequest, ActorId, Batch, BatchOutcome, Error, ErrorCategory, Landing, LandingState, LeasePath, LoopId,
    TestStatus, UnlockCause,
};
use test_support::{Process, Signal, wait_for, wait_until};

use crate::common::World;

/// Writes the file that is named after its test. On a second try it repairs what `broken_together` says.
const AGENT: &str = "cat >../../../prompt-$TEST_ID; if [ -e $TEST_ID ]; then echo >fixed; touch ../../../came-back-$TEST_ID; fi
    echo >$TEST_ID\n";

/// The suite as `{top}/suite.sh`. With `TEST_ID` it judges one work alone.
const SUITE: &str =
    "[[gate.check]]\nname = \"suite\"\ncommand = [\"sh\", \"{top}/suite.sh\"]\nper_test = false\n[regression]\nretries = 1\n";

/// Passes alone, and together with `t2` only once `go` exists.
const HELD: &str =
    "test -n \"$TEST_ID\" || ! test -e t2 || { touch $top/judging; while ! test -e $top/go; do sleep 0.05; done; }";

struct Train {
    world: World,
    running: Vec<(String, Process)>,
}

impl Train {
    /// Loops `a`, `b`, … with one test each: `t1`, `t2`, …; the suite runs in the check-out, with `top` for this world.
    fn new(loops: usize, suite: &str, settings: &str) -> Self {
        let world = World::new(AGENT, "");
        let top = world.folder().display().to_string();
        fs::write(world.folder().join("suite.sh"), format!("top={top}\n{suite}\n")).unwrap();
        world.configure(|text| format!("{text}\n{}\n{settings}", SUITE.replace("{top}", &top)));
        for number in 1..=loops {
            world.add_loop(&name(number));
            world.add_test(&format!("t{number}"), &name(number));
        }
        Self { world, running: Vec::new() }
    }

    /// Finished works of which some are being judged, until [`Train::go`].
    fn judging(loops: usize, settings: &str) -> Self {
        let mut train = Self::new(loops, HELD, settings);
        train.queue(loops);
        train.release();
        wait_for("the judge", || train.world.exists("judging"));
        train
    }

    fn go(&self) {
        fs::write(self.world.folder().join("go"), "").unwrap();
    }

    /// The place of the judge among the running processes.
    fn judge(&self) -> usize {
        let lease = self.world.db.read(|tx| tx.lease(&LeasePath::integration())).unwrap().unwrap();
        self.running.iter().position(|(name, _)| *name == lease.locked_by).unwrap()
    }

    fn terminate(&mut self) {
        for (_, process) in std::mem::take(&mut self.running) {
            assert_eq!(process.terminate().code(), Some(0));
        }
    }

    fn start(&mut self, loops: impl IntoIterator<Item = usize>) {
        for number in loops {
            self.running.push((name(number), self.world.start(&name(number))));
        }
    }

    /// Nothing lands until this is released.
    fn hold(&self) {
        let request = AcquireRequest {
            loop_id: LoopId::human(),
            paths: vec![LeasePath::integration()],
            ttl_seconds: 600,
            reason: None,
            test_id: None,
            automatic: false,
        };
        let held = self.world.db.write(|tx| tx.acquire(&request, 5)).unwrap();
        assert!(matches!(held, Acquire::Granted(_)), "{held:?}");
    }

    fn release(&self) {
        let by = ActorId::human();
        self.world.db.write(|tx| tx.release_everything("human", &by, UnlockCause::Released, None)).unwrap();
    }

    /// The loops finish while nothing lands.
    fn queue(&mut self, loops: usize) {
        self.hold();
        self.start(1..=loops);
        wait_until("all works to be queued", || self.queued().len() == loops);
    }

    fn queued(&self) -> Vec<Landing> {
        self.world.db.read(|tx| tx.open_landings()).unwrap()
    }

    fn batches(&self) -> Vec<Batch> {
        let mut batches = self.world.db.read(|tx| tx.batches(100)).unwrap();
        batches.reverse();
        batches
    }

    fn passed(&self, test: &str) {
        wait_until(&format!("{test} to pass"), || self.world.test(test).status == TestStatus::Passed);
    }

    fn end(mut self) {
        self.terminate();
        self.world.assert_tidy();
    }
}

fn name(number: usize) -> String {
    char::from(b'a' + u8::try_from(number - 1).unwrap()).to_string()
}

#[test]
fn works_that_wait_together_land_with_one_run() {
    let mut train = Train::new(4, "test -n \"$TEST_ID\" || echo run >>$top/together", "");
    train.queue(4);
    fs::remove_file(train.world.folder().join("together")).unwrap();
    train.release();
    ["t1", "t2", "t3", "t4"].into_iter().for_each(|test| train.passed(test));
    let runs = fs::read_to_string(train.world.folder().join("together")).unwrap();
    assert_eq!(runs.lines().count(), 1, "{:?}", train.batches());
    let landed: Vec<Batch> = train.batches().into_iter().filter(|batch| batch.landed_at.is_some()).collect();
    assert_eq!(landed.len(), 1);
    assert_eq!((landed[0].outcome, landed[0].tests.0.len(), landed[0].reused), (BatchOutcome::Passed, 4, false));
    let head = train.world.git(&["rev-parse", "coding-loops/integration"]);
    assert_eq!(landed[0].commit_hash, head);
    // Each has a commit, trailers and proofs of its own.
    for number in 1..=4 {
        let test = train.world.test(&format!("t{number}"));
        let commit = test.commit_hash.unwrap();
        let body = train.world.git(&["show", "--no-patch", "--format=%B", &commit]);
        assert!(body.contains(&format!("Test: t{number}")) && body.contains(&format!("Loop: {}", name(number))), "{body}");
        let proofs = train.world.db.read(|tx| tx.proofs(&test.id, None)).unwrap();
        let stages: Vec<&str> =
            train.world.db.read(|tx| tx.proof_runs(&test.id)).unwrap().iter().map(|run| run.stage.as_str()).collect();
        assert!(stages.contains(&"alone") && stages.contains(&"batch"), "{stages:?}");
        assert!(proofs.iter().any(|proof| proof.commit_hash == head), "the batch's proof is of the state that landed");
    }
    train.end();
}

#[test]
fn alone_each_lands_by_itself() {
    let mut train = Train::new(3, "true", "[landing]\nbatch = 1\n");
    train.queue(3);
    train.release();
    ["t1", "t2", "t3"].into_iter().for_each(|test| train.passed(test));
    let landed: Vec<usize> =
        train.batches().iter().filter(|batch| batch.landed_at.is_some()).map(|batch| batch.tests.0.len()).collect();
    assert_eq!(landed, [1, 1, 1]);
    train.end();
}

#[test]
fn two_that_fail_only_together_are_found_and_the_second_goes_back_without_an_attempt() {
    let mut train = Train::new(4, "test -e fixed || ! { test -e t2 && test -e t3; }", "");
    train.queue(4);
    train.release();
    ["t1", "t2", "t3", "t4"].into_iter().for_each(|test| train.passed(test));
    let returned: Vec<Landing> = ["t1", "t2", "t3", "t4"]
        .iter()
        .flat_map(|test| train.world.db.read(|tx| tx.landings_of(&test.parse()?)).unwrap())
        .filter(|landing| landing.state == LandingState::Returned)
        .collect();
    let [returned] = returned.as_slice() else { panic!("{returned:?}") };
    let other = if returned.test_id == *"t2" { "t3" } else { "t2" };
    assert_eq!(returned.clashes.0, [other], "{returned:?}");
    let test = train.world.test(returned.test_id.as_str());
    assert_eq!(test.attempts, 1, "the clash cost no attempt");
    assert!(train.world.exists(&format!("came-back-{}", test.id)).is_some(), "its change was in the workspace again");
    let prompt = fs::read_to_string(train.world.folder().join(format!("prompt-{}", test.id))).unwrap();
    assert!(prompt.contains(&format!("fails together with {other} of loop")) && prompt.contains("check suite"), "{prompt}");
    let failed = train
        .world
        .db
        .read(|tx| tx.events(&coord_db::EventFilter { event_type: Some("test_failed".to_owned()), ..Default::default() }));
    let failed = failed.unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].payload["error_category"], ErrorCategory::Conflict.as_str());
    assert!(failed[0].caused_by.is_some(), "by the pass of the other");
    train.end();
}

#[test]
fn no_two_judgements_share_a_check_out() {
    // A run that finds files of another one when it ends has shared its folder. A lock ends with a run that is killed.
    let suite = "exec 9>$top/busy-$(basename $PWD); flock --nonblock 9 || touch $top/shared; before=$(ls); sleep 0.3
        test \"$before\" = \"$(ls)\" || touch $top/shared
        for pair in 't1 t2' 't3 t4' 't5 t6'; do set -- $pair; test -e fixed || ! test -e $1 || ! test -e $2 || exit 1; done";
    let mut train = Train::new(6, suite, "[landing]\nbatch = 2\n[gate]\nparallel = 2\n");
    train.queue(6);
    train.release();
    (1..=6).for_each(|number| train.passed(&format!("t{number}")));
    assert!(train.world.exists("shared").is_none(), "{:?}", train.batches());
    for batch in train.batches().iter().filter(|batch| batch.landed_at.is_some()) {
        let files = train.world.store(&["ls-tree", "--name-only", &batch.commit_hash]);
        let has = |name: &str| files.lines().any(|file| file == name);
        let clashes = [("t1", "t2"), ("t3", "t4"), ("t5", "t6")].iter().any(|(one, other)| has(one) && has(other));
        assert!(has("fixed") || !clashes, "{files}");
    }
    train.end();
}

#[test]
fn a_failure_by_chance_is_reported_and_blames_nobody() {
    let suite = "if test -z \"$TEST_ID\" && test -e t1 && test -e t2 && ! test -e $top/once; then touch $top/once; exit 1; fi";
    let mut train = Train::new(3, suite, "");
    train.queue(3);
    train.release();
    ["t1", "t2", "t3"].into_iter().for_each(|test| train.passed(test));
    assert!(train.world.exists("once").is_some());
    for number in 1..=3 {
        let id = format!("t{number}").parse().unwrap();
        let landings = train.world.db.read(|tx| tx.landings_of(&id)).unwrap();
        assert_eq!(landings.iter().map(|landing| landing.state).collect::<Vec<_>>(), [LandingState::Landed], "{landings:?}");
    }
    train.end();
}

#[test]
fn when_the_judge_is_killed_another_one_lands_the_works() {
    let mut train = Train::judging(3, "");
    let at = train.judge();
    let states: Vec<LandingState> = train.queued().iter().map(|landing| landing.state).collect();
    assert!(states.contains(&LandingState::Judging), "{states:?}");
    train.running.remove(at).1.kill();
    train.go();
    ["t1", "t2", "t3"].into_iter().for_each(|test| train.passed(test));
    assert_eq!(train.world.git(&["rev-list", "--count", "main..coding-loops/integration"]), "3", "each landed once");
    train.terminate();
}

#[test]
fn when_the_judge_stands_still_another_one_lands_the_works() {
    let mut train = Train::judging(3, "[lease]\nttl_seconds = 3\n");
    let at = train.judge();
    train.running[at].1.signal(Signal::SIGSTOP);
    train.go();
    ["t1", "t2", "t3"].into_iter().for_each(|test| train.passed(test));
    // Awake again, it lands nothing twice.
    train.running[at].1.signal(Signal::SIGCONT);
    train.terminate();
    assert_eq!(train.world.git(&["rev-list", "--count", "main..coding-loops/integration"]), "3", "each landed once");
    assert_eq!(train.world.db.read(|tx| tx.open_journal(None)).unwrap().len(), 0);
}

#[test]
fn new_commits_of_the_user_come_in_between() {
    let follow = "[repository]\nfollow = \"main\"\nfollow_automatically = true\n";
    let mut train = Train::judging(2, follow);
    let theirs = test_support::commit(&train.world.repository, "by the user", &[("theirs", "1\n")]);
    train.go();
    ["t1", "t2"].into_iter().for_each(|test| train.passed(test));
    let contains = || {
        let between = format!("coding-loops/integration..{theirs}");
        train.world.git(&["rev-list", "--count", &between]) == "0"
    };
    wait_until("the user's commit to come in", contains);
    train.terminate();
    let names = train.world.git(&["ls-tree", "--name-only", "coding-loops/integration", "t1", "t2", "theirs"]);
    assert_eq!(names.lines().collect::<Vec<_>>(), ["t1", "t2", "theirs"]);
}

#[test]
fn what_is_judged_is_not_reset_or_skipped_and_lands_although_its_loop_is_paused() {
    let train = Train::judging(2, "");
    let judging = train.queued().into_iter().find(|landing| landing.state == LandingState::Judging).unwrap();
    for refused in [
        train.world.db.write(|tx| tx.reset_test(&judging.test_id)),
        train.world.db.write(|tx| tx.skip_test(&judging.test_id, None)),
    ] {
        assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("judged for landing")), "{refused:?}");
    }
    let loop_id = judging.loop_id.clone();
    let pause = coord_db::payload::PauseRequested { loop_id, reason: "a break".to_owned(), requested_by: ActorId::human() };
    train.world.db.write(|tx| tx.publish(&coord_db::NewEvent::new(ActorId::human(), pause))).unwrap();
    train.go();
    ["t1", "t2"].into_iter().for_each(|test| train.passed(test));
    train.end();
}

#[test]
fn what_waits_can_be_skipped_and_its_files_are_free_again() {
    let mut train = Train::new(2, "true", "");
    train.queue(2);
    let file: LeasePath = "t1".parse().unwrap();
    let holder = |train: &Train| train.world.db.read(|tx| tx.lease(&file)).unwrap().map(|lease| lease.locked_by);
    assert_eq!(holder(&train).as_deref(), Some("landing-train"));
    train.world.db.write(|tx| tx.skip_test(&"t1".parse()?, Some("not needed"))).unwrap();
    assert_eq!(holder(&train), None);
    // The work is saved at once.
    let saved = train.world.db.read(|tx| tx.checkpoints(Some(&"a".parse()?), false)).unwrap().remove(0);
    assert_eq!((saved.test_id.unwrap().as_str(), saved.reason.as_deref()), ("t1", Some("the test was skipped")));
    assert_eq!(train.world.store(&["ls-tree", "--name-only", &saved.git_ref, "t1"]), "t1");
    train.release();
    train.passed("t2");
    assert_eq!(train.world.test("t1").status, TestStatus::Skipped);
    assert_eq!(train.world.git(&["ls-tree", "--name-only", "coding-loops/integration", "t1", "t2"]), "t2");
    train.end();
}

#[test]
fn no_other_program_settles_a_test_whose_work_waits() {
    let mut train = Train::new(2, "true", "");
    train.queue(2);
    for statement in [
        "UPDATE tests SET status = 'passed', verified_at = datetime('now') WHERE id = 't1'",
        "UPDATE tests SET loop_id = 'b' WHERE id = 't1'",
        "REPLACE INTO tests (id, loop_id, status, verified_at) VALUES ('t1', 'a', 'passed', datetime('now'))",
        "DELETE FROM tests WHERE id = 't1'",
    ] {
        let refused = test_support::try_sql(&train.world.path, statement).unwrap_err();
        assert!(refused.contains("waits to land (loopctl landings): loopctl reset or loopctl skip"), "{statement}: {refused}");
    }
    train.release();
    ["t1", "t2"].into_iter().for_each(|test| train.passed(test));
    train.end();
}

#[test]
fn a_head_that_fails_stops_the_train_and_asks() {
    let mut train = Train::new(2, "test -n \"$TEST_ID\" || ! test -e $top/broken", "");
    train.queue(2);
    fs::write(train.world.folder().join("broken"), "").unwrap();
    train.release();
    let asked = || {
        let open = train.world.db.read(|tx| tx.decisions(true)).unwrap();
        open.into_iter().find(|decision| decision.decision_type == coord_db::BASE_QUESTION)
    };
    // A loop that would start its next test finds the failing base.
    train.world.add_test("t9", "a");
    let question = wait_for("the question", asked);
    let ended = train.world.db.read(|tx| tx.ended_landings(10)).unwrap();
    assert!(!train.queued().is_empty() && ended.iter().all(|landing| landing.state == LandingState::Landed), "{ended:?}");
    fs::remove_file(train.world.folder().join("broken")).unwrap();
    train.world.db.write(|tx| tx.answer(&question.id, "try_again", None, &ActorId::human(), "test")).unwrap();
    ["t1", "t2", "t9"].into_iter().for_each(|test| train.passed(test));
    train.end();
}

/// Nothing lands and nobody is blamed while the suite ends like this, which one alert says.
fn halts(end: &str, why: &str) {
    let mut train = Train::new(2, &format!("test -n \"$TEST_ID\" || ! test -e $top/halt || {end}"), "");
    train.queue(2);
    let halt = train.world.folder().join("halt");
    fs::write(&halt, "").unwrap();
    train.release();
    let alerts = |open| train.world.db.read(|tx| tx.alerts(open)).unwrap();
    let alert = wait_for("the alert", || alerts(true).pop());
    assert!(alert.message.starts_with("finished work cannot land: check suite") && alert.message.contains(why), "{alert:?}");
    assert_eq!(train.queued().len(), 2);
    fs::remove_file(&halt).unwrap();
    ["t1", "t2"].into_iter().for_each(|test| train.passed(test));
    assert!(train.world.events("test_failed").is_empty());
    assert_eq!((alerts(true).len(), alerts(false).len()), (0, 1), "{:?}", alerts(false));
    train.end();
}

#[test]
fn a_check_that_is_killed_halts_the_train_until_it_can_run() {
    halts("kill -9 $$", "killed by signal 9");
}

#[test]
fn a_check_whose_program_is_missing_halts_the_train_until_it_can_run() {
    halts("no-such-program", "a program that it runs is missing");
}

#[test]
fn works_that_kill_a_check_only_together_are_found() {
    let suite = "test -n \"$TEST_ID\" || test -e fixed || ! test -e t1 || ! test -e t2 || kill -9 $$";
    let mut train = Train::new(3, suite, "");
    train.queue(3);
    train.release();
    ["t1", "t2", "t3"].into_iter().for_each(|test| train.passed(test));
    let failed = train.world.events("test_failed");
    assert!(failed[0].payload["error_message"].as_str().unwrap().contains("killed by signal 9"), "{failed:?}");
    assert_eq!((failed.len(), train.world.test("t1").attempts + train.world.test("t2").attempts), (1, 2));
    assert!(train.world.db.read(|tx| tx.alerts(false)).unwrap().is_empty());
    train.end();
}

#[test]
fn a_loop_takes_its_next_test_while_its_work_waits() {
    let mut train = Train::new(1, "true", "");
    train.world.add_test("u1", "a");
    train.hold();
    train.start([1]);
    wait_until("both works to be queued", || train.queued().len() == 2);
    train.release();
    ["t1", "u1"].into_iter().for_each(|test| train.passed(test));
    train.end();
}
