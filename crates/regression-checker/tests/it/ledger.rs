//! What the ledger says of tests that had passed, as the branch moves and the real program re-runs them.

use crate::common::World;
use coord_db::LedgerState::{self, Cleared, Flaky, Good, Regressed, Unknown};

fn states(world: &World) -> Vec<(String, LedgerState)> {
    let lines = world.db.read(|tx| tx.ledger(None)).unwrap();
    lines.into_iter().map(|line| (line.test_id.to_string(), line.state)).collect()
}

#[track_caller]
fn check(world: &World, expected: &[(&str, LedgerState)]) {
    assert_eq!(states(world), expected.iter().map(|(test, state)| ((*test).to_owned(), *state)).collect::<Vec<_>>());
}

#[test]
fn a_test_goes_from_good_to_regressed_to_cleared_to_good() {
    let world = World::with_baseline();
    world.passed("t2", "a", &world.head());
    check(&world, &[("t1", Good), ("t2", Good)]);
    let bad = world.commit("t1", "broken", "Loop: b\nTest: t9");
    world.once();
    check(&world, &[("t1", Regressed), ("t2", Good)]);
    let line = world.db.read(|tx| tx.ledger(Some(&"t1".parse().unwrap()))).unwrap().remove(0);
    assert_eq!((line.first_bad_commit, line.blamed_loop), (Some(bad), Some("b".to_owned())));
    let fixed = world.commit("t1", "ok", "");
    world.once();
    check(&world, &[("t1", Cleared), ("t2", Good)]);
    let line = world.db.read(|tx| tx.ledger(Some(&"t1".parse().unwrap()))).unwrap().remove(0);
    assert_eq!(line.good_commit, fixed);
    world.commit("other", "ok", "");
    world.once();
    check(&world, &[("t1", Good), ("t2", Good)]);
}

#[test]
fn what_is_broken_and_mended_between_two_looks_is_nobodys_fault() {
    let world = World::with_baseline();
    world.commit("t1", "broken", "Loop: b");
    world.commit("t1", "ok", "Loop: a");
    world.once();
    check(&world, &[("t1", Good)]);
    assert_eq!(world.sql("SELECT count(*) FROM regressions"), "0");
}

#[test]
fn of_what_was_broken_mended_and_broken_again_the_last_commit_is_blamed() {
    let world = World::with_baseline();
    world.configure("[regression]\nparallel = 3");
    for content in ["ok 1", "broken", "broken 1", "ok", "ok", "ok"] {
        world.commit("t1", content, "Loop: a");
    }
    let bad = world.commit("t1", "broken", "Loop: b");
    world.commit("other", "ok", "Loop: a");
    world.once();
    assert_eq!(world.sql("SELECT status, first_bad_commit, blamed_loop FROM regressions"), format!("regressed|{bad}|b"));
}

#[test]
fn a_second_break_is_reported_once_the_first_is_mended() {
    let world = World::with_baseline();
    world.configure_with(&world.script("! grep -q broken state/*"), "");
    world.passed("t2", "b", &world.head());
    let first = world.commit("x", "broken", "Loop: b\nTest: t2");
    world.once();
    assert_eq!(world.sql("SELECT first_bad_commit, blamed_test FROM regressions WHERE test_id = 't1'"), format!("{first}|t2"));
    // Before that is mended somebody else breaks it too, which changes nothing that is known; nor do more commits of the same
    // attempt, which landed before the failure was seen.
    let more = world.commit("y", "broken", "Loop: a");
    world.sql(&format!("UPDATE tests SET commit_hash = '{more}', verified_at = datetime('now', '-1 hour') WHERE id = 't2'"));
    world.once();
    assert_eq!(world.events("regression_detected").len(), 2, "for each of the two tests");
    let mended = world.commit("x", "ok", "Loop: b\nTest: t2");
    world.sql(&format!(
        "UPDATE tests SET commit_hash = '{mended}', verified_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = 't2'"
    ));
    world.once();
    let rows = "SELECT status, first_bad_commit FROM regressions WHERE test_id = 't1' ORDER BY detected_at, id";
    assert_eq!(world.sql(rows), format!("cleared|{first}\nunknown|"));
    let told = world.sql("SELECT message FROM alerts WHERE message LIKE '%t1 %' AND message LIKE '%was done again in%'");
    assert!(told.contains("was done again in") && told.contains("the test still fails"), "{told}");
    // Once is enough.
    let said = world.events("regression_detected").len();
    world.commit("z", "ok", "");
    world.once();
    assert_eq!(world.events("regression_detected").len(), said);
    world.commit("y", "ok", "");
    world.once();
    check(&world, &[("t1", Cleared), ("t2", Cleared)]);
}

/// Passes each third time for `t2`, beside a test that fails for good.
const SHAKY: &str = r#"
if [ "$TEST_ID" = t2 ]; then printf x >> "$RUNS"; [ $(( $(wc -c < "$RUNS") % 3 )) -eq 0 ]; exit; fi
test "$(cat state/t1)" = ok"#;

#[test]
fn a_flaky_test_is_flaky_beside_one_that_is_broken_and_good_again_once_it_is_steady() {
    let world = World::with_baseline();
    world.passed("t2", "a", &world.head());
    world.configure_with(&world.script(SHAKY), "");
    world.commit("t1", "broken", "Loop: b");
    world.once();
    check(&world, &[("t1", Regressed), ("t2", Flaky)]);
    assert_eq!(world.events("regression_detected").len(), 1, "nobody is blamed for t2");
    world.commit("other", "ok", "");
    world.once();
    check(&world, &[("t1", Regressed), ("t2", Flaky)]);
    assert_eq!(world.sql("SELECT count(*) FROM regressions WHERE test_id = 't2'"), "1", "it is one matter");
    world.configure("");
    for (content, state) in [("ok", Flaky), ("ok 2", Flaky), ("ok 3", Good)] {
        world.commit("t1", "ok", "");
        world.commit("other", content, "");
        world.sql("UPDATE check_runs SET ran_at = datetime(ran_at, '-1 hour')");
        world.once();
        assert_eq!(states(&world)[1], ("t2".to_owned(), state));
    }
}

#[test]
fn an_uncertain_cause_is_unknown_in_the_ledger() {
    let world = World::with_baseline();
    world.commit("t1", "untestable", "Loop: b");
    world.commit("t1", "broken", "Loop: b");
    world.once();
    check(&world, &[("t1", Unknown)]);
}

#[test]
fn what_the_change_touches_is_asked_about_first() {
    let world = World::new();
    for test in ["a", "b", "c", "d"] {
        world.commit(test, "ok", "");
        world.passed(test, "a", &world.head());
    }
    // The whole says only that something fails.
    let script = r#"
echo "${TEST_ID:-suite}" >> "$RUNS"
if [ -n "$TEST_ID" ]; then grep -q '^ok' "state/$TEST_ID"; else ! grep -q broken state/*; fi"#;
    world.configure_with(&world.script(script), "[regression]\nretries = 0\nparallel = 1");
    world.once();
    world.sql("UPDATE tests SET scope = '[\"state/d\"]' WHERE id = 'd'");
    world.sql("INSERT INTO usage(id, loop_id, test_id, files_modified) VALUES ('u', 'a', 'c', '[\"state/c\"]')");
    world.forget_runs();
    world.commit("c", "ok 2", "");
    world.commit("d", "broken", "Loop: b");
    world.once();
    let asked: Vec<String> = world.runs().into_iter().filter(|run| run.len() == 1).take(4).collect();
    assert_eq!(asked, ["c", "d", "a", "b"]);
    assert_eq!(world.sql("SELECT test_id FROM regressions"), "d");
    assert_eq!(world.sql("SELECT test_id, outcome FROM baseline_runs ORDER BY 1"), "a|pass\nb|pass\nc|pass\nd|fail");
}

#[test]
fn many_tests_are_asked_about_in_several_entries_and_each_once() {
    let world = World::new();
    let head = world.head();
    let mut sql = String::new();
    for n in 0..300 {
        sql += &format!(
            "INSERT INTO tests(id, loop_id, category, status, verified_at) VALUES ('m{n}', 'a', 'build', 'passed', datetime('now'));
             INSERT INTO passing_tests(test_id, commit_hash, passed_at) VALUES ('m{n}', '{head}', datetime('now', '-1 hour'));"
        );
    }
    world.sql(&sql);
    let script = r#"[ "$TEST_ID" ] || { test "$(cat state/t1)" = ok; exit; }; [ "$TEST_ID" != m299 ]"#;
    world.configure_with(&world.script(script), "[regression]\nretries = 0\nshare_percent = 100");
    let bad = world.commit("t1", "broken", "Loop: b");
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM baseline_runs WHERE runs = 1"), "300");
    assert!(world.sql("SELECT count(*) FROM transaction_log WHERE operation = 'ask_tests'").parse::<i64>().unwrap() >= 2);
    assert_eq!(world.sql("SELECT test_id, status FROM regressions"), "m299|unknown");
    let unexplained = "SELECT count(*) FROM alerts WHERE fingerprint = 'check_fails:tests'";
    assert_eq!(world.sql(unexplained), "0", "that it fails for no test is not said before all have been asked about");
    assert_eq!(world.sql(&format!("SELECT count(*) FROM passing_tests WHERE commit_hash = '{bad}'")), "299");
}

#[test]
fn what_is_to_be_done_again_is_not_expected_to_pass() {
    let world = World::with_baseline();
    world.passed("t2", "a", &world.head());
    let bad = world.commit("t1", "broken", "Loop: b\nTest: t2");
    world.commit("t2", "broken", "");
    world.sql("UPDATE tests SET status = 'pending', verified_at = NULL WHERE id = 't2'");
    world.once();
    assert_eq!(world.sql("SELECT test_id, status, first_bad_commit FROM regressions"), format!("t1|regressed|{bad}"));
    // Done again: watched again.
    world.sql("UPDATE tests SET status = 'passed', verified_at = datetime('now') WHERE id = 't2'");
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM regressions WHERE test_id = 't2'"), "1");
}
