//! What follows from the answers to questions about checks that fail, or take very long, before any agent has started.

use crate::common::World;
use coord_db::{ActorId, BaseRun, BaseState, RedCheck, Timestamp};

const TREE: &str = "1234567890123456789012345678901234567890";
const COMMIT: &str = "abcdefabcdefabcdefabcdefabcdefabcdefabcd";

fn run(state: BaseState) -> BaseRun {
    BaseRun {
        tree_hash: TREE.to_owned(),
        check_hash: "h".to_owned(),
        check_name: "suite".to_owned(),
        commit_hash: COMMIT.to_owned(),
        state,
        why: "check suite failed with exit code 1".to_owned(),
        exit_code: Some(1),
        runs: 3,
        duration_ms: 5,
        output_sha256: String::new(),
        output_tail: "FAILED test_login".to_owned(),
        proof_id: None,
        ran_at: Timestamp::from_millis(1_000_000),
        failures: None,
    }
}

/// A loop whose suite fails at the base, and that has asked.
fn asked() -> World {
    let world = World::filled("INSERT INTO loops (id, name, priority, status) VALUES ('one', 'One', 5, 'running')");
    let red = RedCheck {
        name: "suite".to_owned(),
        words: "check suite failed with exit code 1: FAILED test_login".to_owned(),
        output_tail: "FAILED test_login".to_owned(),
        categories: vec!["web".to_owned()],
    };
    let ask = |tx: &coord_db::WriteTx<'_>| {
        tx.record_base_run(&run(BaseState::Red))?;
        tx.ask_about_base(&"one".parse()?, COMMIT, TREE, std::slice::from_ref(&red))?;
        tx.ask_about_base(&"one".parse()?, COMMIT, TREE, std::slice::from_ref(&red))
    };
    world.db.write(ask).unwrap();
    world.once();
    assert_eq!(
        world.sql("SELECT status || (SELECT count(*) FROM events WHERE event_type = 'base_red') FROM decisions"),
        "pending1"
    );
    world
}

fn answer(world: &World, choice: &str) {
    let open = world.db.read(|tx| tx.decisions(true)).unwrap().remove(0);
    world.db.write(|tx| tx.answer(&open.id, choice, None, &ActorId::human(), "cli")).unwrap();
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM decisions WHERE status = 'pending'"), "0");
}

#[test]
fn a_test_is_created_that_mends_it() {
    let world = asked();
    answer(&world, "mend");
    let row = world.sql("SELECT id, loop_id, category, status FROM tests WHERE id IN (SELECT test_id FROM base_mends)");
    assert_eq!(row, "mend-base-12345678|one|web|pending");
    assert!(world.sql("SELECT spec_content FROM tests").contains("FAILED test_login"));
}

#[test]
fn what_fails_is_let_through_or_run_again() {
    let world = asked();
    answer(&world, "ignore");
    assert_eq!(world.sql("SELECT check_name FROM ignored_checks"), "suite");
    assert!(world.db.read(|tx| tx.red_base()).unwrap().is_empty());
    let world = asked();
    answer(&world, "try_again");
    assert_eq!(world.sql("SELECT count(*) FROM base_runs"), "0");
}

#[test]
fn a_question_that_is_over_is_withdrawn() {
    let world = asked();
    world.db.write(|tx| tx.record_base_run(&run(BaseState::Green))).unwrap();
    world.once();
    assert_eq!(world.sql("SELECT status, comment FROM decisions"), "expired|the checks now pass at the head of integration");
}

#[test]
fn who_does_not_wait_for_a_slow_check_need_not() {
    let slow = || {
        let world = World::filled("INSERT INTO loops (id, name, priority, status) VALUES ('one', 'One', 5, 'running')");
        world.db.write(|tx| tx.ask_about_slow_base(&"one".parse()?, COMMIT, TREE, ("suite", "h"), 30)).unwrap();
        world.once();
        assert_eq!(world.sql("SELECT status FROM decisions"), "pending");
        world
    };
    let world = slow();
    answer(&world, "skip");
    assert_eq!(world.sql("SELECT check_name, check_hash, state FROM base_runs"), "suite|h|skipped");
    // It has ended by itself.
    let world = slow();
    world.db.write(|tx| tx.record_base_run(&run(BaseState::Green))).unwrap();
    world.once();
    assert_eq!(world.sql("SELECT status, comment FROM decisions"), "expired|the check has ended");
}
