//! The real binary on a real repository: the outcome of an attempt.

use crate::common::{CHECK, World};
use coord_db::TestStatus;
use test_support::wait_for;

const HONEST: &str = "cat >/dev/null; echo $TEST_ID > $TEST_ID\n";

#[test]
fn verified_work_lands_with_its_proofs_and_nothing_of_the_users_is_touched() {
    let world = World::with_test(HONEST, CHECK);
    world.add_test("t2", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    for id in ["t1", "t2"] {
        let test = world.test(id);
        assert_eq!((test.status, test.attempts), (TestStatus::Passed, 1));
        assert!(test.verified_at.is_some());
        let proofs = world.db.read(|tx| tx.proofs(&test.id, None)).unwrap();
        assert_eq!(proofs.len(), 1);
        assert_eq!(Some(&proofs[0].commit_hash), test.commit_hash.as_ref());
        assert_eq!(proofs[0].output_tail, "there\n");
    }
    assert_eq!(
        world.git(&[
            "log",
            "--format=%(trailers:key=Loop,valueonly)%(trailers:key=Test,valueonly)",
            "-1",
            "coding-loops/integration"
        ]),
        "one\nt2"
    );
    assert_eq!(world.git(&["show", "coding-loops/integration:t1"]), "t1");
    assert_eq!(world.events("test_passed").len(), 2);
    world.assert_tidy();
}

#[test]
fn a_claim_that_is_wrong_is_found_out_and_the_test_blocks_at_its_last_attempt() {
    let world = World::with_test("cat >/dev/null; echo wrong > other\n", CHECK);
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Blocked, 2));
    assert!(test.last_error.unwrap().starts_with("check file failed with exit code 1"));
    assert_eq!(world.events("test_failed").len(), 2);
    assert_eq!(world.events("test_blocked").len(), 1);
    // The work of both attempts is kept.
    assert_eq!(world.store(&["for-each-ref", "--format=x", "refs/coding-loops/saved/"]).lines().count(), 2);
    assert_eq!(world.git(&["rev-parse", "coding-loops/integration"]), world.git(&["rev-parse", "main"]));
    world.assert_tidy();
}

#[test]
fn without_checks_nothing_ever_passes() {
    let world = World::with_test(HONEST, "");
    world.attempt("one");
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0));
    assert!(test.last_error.unwrap().starts_with("no checks are configured"));
    world.assert_tidy();
}

#[test]
fn a_check_that_is_missing_is_neither_pass_nor_fail() {
    let world = World::with_test(HONEST, "[[gate.check]]\nname = \"x\"\ncommand = [\"no-such-program\"]\nper_test = true\n");
    world.attempt("one");
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0));
    assert!(test.last_error.unwrap().contains("no-such-program is missing"));
}

#[test]
fn a_check_that_changes_tracked_files_fails() {
    let world = World::with_test(
        HONEST,
        "[[gate.check]]\nname = \"x\"\ncommand = [\"sh\", \"-c\", \"echo more >> shared; true\"]\nper_test = true\n",
    );
    world.attempt("one");
    assert!(world.test("t1").last_error.unwrap().contains("changed tracked files: shared"));
}

#[test]
fn an_agent_that_is_killed_costs_no_attempt() {
    let world = World::with_test("cat >/dev/null; if mkdir ../../../first; then kill -9 $$; fi; echo > $TEST_ID\n", CHECK);
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Passed, 1));
    assert_eq!(world.events("test_failed")[0].payload["error_category"], "transient");
}

#[test]
fn what_the_agent_receives() {
    let world = World::with_test("cat > prompt; env | sort > environment; cp $TEST_SPEC_FILE spec; echo > $TEST_ID\n", CHECK);
    assert_eq!(world.once("one").status.code(), Some(0));
    let show = |file: &str| world.git(&["show", &format!("coding-loops/integration:{file}")]);
    assert!(show("prompt").contains("Your task is test t1 (attempt 1 of 2)"));
    assert_eq!(show("spec"), "make t1");
    let environment = show("environment");
    for line in ["LOOP_ID=one", "TEST_ID=t1", "ATTEMPT=1"] {
        assert!(environment.lines().any(|have| have == line), "{line} in {environment}");
    }
    assert!(!environment.contains("FOLDER="), "what is not named is left out");
}

/// An interruption since then has left another error.
#[test]
fn why_a_passed_test_is_done_again_outlives_an_interrupted_attempt() {
    let world = World::with_test("cat > prompt; echo > $TEST_ID\n", CHECK);
    world.sql(
        "UPDATE tests SET last_error = 'paused by pm' WHERE id = 't1';
         INSERT INTO regressions (id, test_id, check_name, last_good_commit, bad_commit, first_bad_commit, blamed_loop, blamed_test,
           status, output_tail)
         VALUES ('r', 'other', 'suite', 'a', 'b', 'b5821fcf', 'one', 't1', 'regressed', '12 is not 1,200')",
    );
    assert_eq!(world.once("one").status.code(), Some(0));
    let prompt = world.git(&["show", "coding-loops/integration:prompt"]);
    let expected =
        "Regressions to mend, in what has landed:\n- test other fails suite since commit b5821fcf: 12 is not 1,200\n";
    assert!(prompt.contains("paused by pm") && prompt.contains(expected), "{prompt}");
}

#[test]
fn two_loops_on_one_file_both_land_one_after_the_other() {
    // Each changes its own line of the shared file; the second lands on the first's result.
    let world = World::new(
        "cat >/dev/null
         if [ $LOOP_ID = one ]; then sed -i 's/^1$/one/' shared; else sed -i 's/^9$/two/' shared; fi
         echo > $TEST_ID; touch ../../../$LOOP_ID
         while ! [ -e ../../../one ] || ! [ -e ../../../two ]; do sleep 0.05; done\n",
        CHECK,
    );
    world.add_loop("one");
    world.add_loop("two");
    world.add_test("t1", "one");
    world.add_test("t2", "two");
    let (one, two) = (world.start("one"), world.start("two"));
    wait_for("both to pass", || {
        (world.test("t1").status == TestStatus::Passed && world.test("t2").status == TestStatus::Passed).then_some(())
    });
    for running in [one, two] {
        assert_eq!(running.terminate().code(), Some(0));
    }
    assert_eq!(world.git(&["show", "coding-loops/integration:shared"]), "one\n2\n3\n4\n5\n6\n7\n8\ntwo");
    world.assert_tidy();
}

#[test]
fn a_rebase_conflict_names_the_files_and_the_other_and_the_work_is_kept() {
    let world = World::new(
        "cat >/dev/null
         echo $LOOP_ID $ATTEMPT > shared; echo > $TEST_ID; touch ../../../$LOOP_ID
         while ! [ -e ../../../one ] || ! [ -e ../../../two ]; do sleep 0.05; done\n",
        CHECK,
    );
    world.add_loop("one");
    world.add_loop("two");
    world.add_test("t1", "one");
    world.add_test("t2", "two");
    let _running = (world.start("one"), world.start("two"));
    wait_for("both to pass", || {
        (world.test("t1").status == TestStatus::Passed && world.test("t2").status == TestStatus::Passed).then_some(())
    });
    let failed = world.events("test_failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].payload["error_category"], "conflict");
    let message = failed[0].payload["error_message"].as_str().unwrap();
    assert!(message.contains("conflicts in shared with t"), "{message}");
    assert_eq!(world.store(&["for-each-ref", "--format=x", "refs/coding-loops/saved/"]).lines().count(), 1);
}

#[test]
fn hostile_file_names_land_or_are_refused_in_words() {
    let world =
        World::with_test("cat >/dev/null; echo > $TEST_ID; echo > '-rf'; echo > \"$(printf 'a\\nb')\"; echo > '*?'\n", CHECK);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    world.assert_tidy();
}
