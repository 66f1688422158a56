//! `loopctl regressions` and `loopctl status TEST` on what the standing check has left.

use crate::common::Place;

fn world() -> Place {
    let world = Place::new();
    world.sql(
        "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'stopped');
         INSERT INTO tests(id, loop_id, status, verified_at) VALUES
           ('good', 'a', 'passed', datetime('now')), ('bad', 'a', 'passed', datetime('now')),
           ('shaky', 'a', 'passed', datetime('now')), ('dark', 'a', 'passed', datetime('now')),
           ('mended', 'a', 'passed', datetime('now')), ('steady', 'a', 'passed', datetime('now'));
         INSERT INTO passing_tests(test_id, commit_hash, passed_at)
           SELECT id, 'c0', datetime('now', '-2 hours') FROM tests;
         INSERT INTO regressions(id, test_id, check_name, last_good_commit, bad_commit, first_bad_commit, blamed_loop, status, resolved_at)
           VALUES ('r1', 'bad', 'tests', 'c0', 'c2', 'c1', 'a', 'regressed', NULL),
             ('r2', 'shaky', 'tests', 'c0', 'c2', NULL, NULL, 'flaky', datetime('now', '-1 hour')),
             ('r3', 'dark', 'tests', 'c0', 'c2', NULL, NULL, 'unknown', NULL),
             ('r4', 'mended', 'tests', 'c0', 'c2', 'c1', 'a', 'cleared', datetime('now', '-1 hour')),
             ('r5', 'steady', 'tests', 'c0', 'c2', 'c1', 'a', 'cleared', datetime('now', '-1 hour'));
         INSERT INTO passing_tests(test_id, commit_hash, passed_at) VALUES ('steady', 'c3', datetime('now'))",
    );
    world
}

#[test]
fn the_ledger_tells_five_states() {
    let world = world();
    let rows = world.json(&["regressions", "--ledger"]);
    let states: Vec<(&str, &str)> =
        rows.as_array().unwrap().iter().map(|row| (row["test_id"].as_str().unwrap(), row["state"].as_str().unwrap())).collect();
    assert_eq!(
        states,
        [
            ("bad", "regressed"),
            ("dark", "unknown"),
            ("good", "good"),
            ("mended", "cleared"),
            ("shaky", "flaky"),
            ("steady", "good")
        ]
    );
    let standing = world.json(&["regressions"]);
    let standing: Vec<&str> = standing.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(standing, ["r1", "r2", "r3", "r4"]);
    assert_eq!(world.json(&["regressions", "--all"]).as_array().unwrap().len(), 5);
}

#[test]
fn the_status_of_a_test_says_what_the_ledger_knows() {
    let world = world();
    assert_eq!(world.json(&["status", "bad"])["ledger"]["state"], "regressed");
    let text = world.run(&["status", "bad"]).ok().stdout;
    assert!(text.contains("regressed; passed at c0") && text.contains("broken by c1 of a"), "{text}");
    assert_eq!(world.json(&["status", "steady"])["ledger"]["good_commit"], "c3");
}
