//! The real program on real repositories and databases that only the `sqlite3` shell has filled.

use crate::common;
use crate::common::World;
use test_support::{git, is_alive, wait_until};

const REGRESSIONS: &str =
    "SELECT test_id, status, first_bad_commit, blamed_loop, blamed_test FROM regressions ORDER BY 1, rowid";

#[test]
fn a_good_head_moves_the_baseline_on_and_is_not_checked_again() {
    let world = World::with_baseline();
    let head = world.commit("other", "ok", "");
    world.once();
    assert_eq!(world.sql("SELECT check_name, commit_hash, outcome, runs FROM check_runs"), format!("tests|{head}|pass|1"));
    assert_eq!(world.sql("SELECT count(*) FROM passing_tests WHERE test_id = 't1'"), "2");
    assert_eq!(world.sql("SELECT commit_hash FROM passing_tests ORDER BY passed_at DESC LIMIT 1"), head);
    assert_eq!(world.sql(REGRESSIONS) + &world.alerts(), "");
    assert_eq!(world.runs(), [format!("suite {head}")]);
    assert_eq!(world.sql("SELECT status FROM component_health"), "unknown");
    world.let_interval_pass();
    world.once();
    assert_eq!(world.runs().len(), 1);
}

#[test]
fn the_commit_in_the_middle_is_blamed_by_its_trailers() {
    let world = World::with_baseline();
    let good = world.head();
    let commits = world.history(8, 5);
    // The copy of integration in the user's repository says nothing.
    git(&world.repository, ["branch", common::BRANCH, "main"]);
    let cause = world.say_passed("t-5", "b", &commits[4]);
    world.passed("t2", "a", &good);
    let before = git(&world.repository, ["status", "--porcelain=v2", "--branch"]);
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{}|b|t-5", commits[4]));
    let said = world.events("regression_detected");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].source, "regression-checker");
    assert_eq!(said[0].caused_by.as_ref().map(coord_db::EventId::as_str), Some(cause.as_str()));
    assert_eq!(said[0].correlation_id.as_deref(), Some(cause.as_str()));
    let payload = &said[0].payload;
    assert_eq!(
        [&payload["test_id"], &payload["last_passed_commit"], &payload["current_commit"], &payload["first_bad_commit"]],
        ["t1", &good, &commits[7], &commits[4]]
    );
    assert_eq!([&payload["blamed_loop"], &payload["blamed_test"]], ["b", "t-5"]);
    assert!(payload["output_tail"].as_str().unwrap().contains("state/t1 is broken"));
    assert_eq!(world.alerts(), "regression:t1|error");
    assert_eq!(world.sql("SELECT outcome, runs FROM check_runs"), "fail|3");
    // Only the other test moves on.
    assert_eq!(world.sql("SELECT test_id, count(*) FROM passing_tests GROUP BY 1"), "t1|1\nt2|2");
    assert_eq!(git(&world.repository, ["status", "--porcelain=v2", "--branch"]), before);
    let mut left: Vec<_> = std::fs::read_dir(world.layout.checker()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["0", "0.git", "0.lock"], "what only a search needs is removed");
    assert_eq!(world.sql("SELECT child_pid IS NULL FROM component_health"), "1");

    world.forget_runs();
    world.once();
    assert_eq!((world.events("regression_detected").len(), world.runs().len()), (1, 0));
    // Still broken at the same head: one run tells, and one for what is in doubt.
    world.let_interval_pass();
    world.once();
    let again = [format!("suite {}", commits[7]), format!("t1 {}", commits[7])];
    assert_eq!((world.events("regression_detected").len(), world.runs()), (1, again.to_vec()));
}

#[test]
fn a_commit_without_trailers_is_nobodys() {
    let world = World::with_baseline();
    world.commit("other", "ok", "Loop: b");
    let bad = world.commit("t1", "broken", "");
    world.commit("other", "ok 2", "Loop: b");
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{bad}||"));
    let payload = &world.events("regression_detected")[0].payload;
    assert!(payload["blamed_loop"].is_null() && payload["blamed_test"].is_null());
}

#[test]
fn one_new_commit_is_the_first_bad_without_a_search() {
    let world = World::with_baseline();
    world.configure("[regression]\nparallel = 1");
    let bad = world.commit("t1", "broken", "Loop: b\nTest: t9");
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{bad}|b|t9"));
    let suite = format!("suite {bad}");
    // Before somebody is blamed, the last good commit shows that it still is good, each time, and the bad one that it is bad.
    let good = world.in_store(&["rev-parse", &format!("{bad}^")]);
    let (bad, good) = (format!("t1 {bad}"), format!("t1 {good}"));
    assert_eq!(
        world.runs(),
        [&suite, &suite, &suite, &bad, &bad, &bad, &good, &bad, &good, &bad, &good, &good].map(String::clone)
    );
}

#[test]
fn a_later_fix_clears_it() {
    let world = World::with_baseline();
    world.history(3, 2);
    world.once();
    let detected = world.events("regression_detected").remove(0);
    let fixed = world.commit("t1", "ok", "Loop: a");
    world.once();
    assert_eq!(world.sql("SELECT test_id, status, resolved_at IS NULL FROM regressions"), "t1|cleared|0");
    let cleared = world.events("regression_cleared");
    assert_eq!(cleared.len(), 1);
    assert_eq!((&cleared[0].payload["test_id"], &cleared[0].payload["commit"]), (&"t1".into(), &fixed.as_str().into()));
    assert_eq!(cleared[0].caused_by.as_ref(), Some(&detected.id));
    assert_eq!(world.alerts(), "");
    assert_eq!(world.sql("SELECT commit_hash FROM passing_tests ORDER BY passed_at DESC LIMIT 1"), fixed);

    // The same commit again: the branch goes back before the fix. Nothing is said twice.
    world.sql("DELETE FROM check_runs");
    world.move_to(&format!("{fixed}~1"));
    world.once();
    assert_eq!(world.events("regression_detected").len(), 1);
    assert_eq!(world.sql("SELECT status, first_bad_commit IS NULL FROM regressions WHERE resolved_at IS NULL"), "regressed|1");
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM regressions"), "2");
}

#[test]
fn a_flaky_check_is_no_regression() {
    let world = World::with_baseline();
    // Each second run in the check-out passes; the cache is ignored by git.
    let flaky = "if [ -e cache/ran ]; then rm cache/ran; else mkdir -p cache; touch cache/ran; exit 1; fi";
    world.configure_with(&world.script(flaky), "");
    let head = world.commit("other", "ok", "");
    world.once();
    assert_eq!(world.sql("SELECT outcome, runs FROM check_runs"), "flaky|2");
    assert_eq!(world.sql(REGRESSIONS), "");
    assert_eq!(world.alerts(), "flaky:tests|info");
    assert_eq!(world.sql(&format!("SELECT count(*) FROM passing_tests WHERE commit_hash = '{head}'")), "0");
    world.configure("");
    world.let_interval_pass();
    world.once();
    assert_eq!((world.alerts(), world.sql("SELECT outcome FROM check_runs")), (String::new(), "pass".to_owned()));
    assert_eq!(world.events("regression_detected").len() + world.events("regression_cleared").len(), 0);
}

#[test]
fn a_check_that_cannot_be_run_tells_nothing() {
    let world = World::with_baseline();
    world.configure_with("[\"./no-such-check\"]", "");
    world.commit("t1", "broken", "Loop: b");
    world.once();
    assert_eq!(world.sql("SELECT outcome FROM check_runs"), "error");
    assert_eq!((world.sql(REGRESSIONS), world.alerts()), (String::new(), "check_error:tests|warning".to_owned()));
    assert_eq!(
        world.sql("SELECT alert_type, source, json_extract(context, '$.kind') FROM alerts"),
        "regression|regression-checker|check_error"
    );
    world.once();
    world.configure("");
    world.let_interval_pass();
    world.once();
    assert_eq!(world.alerts(), "regression:t1|error");
}

#[test]
fn several_commits_at_once_take_fewer_rounds() {
    let mut rounds = Vec::new();
    for parallel in [1, 4] {
        let world = World::with_baseline();
        // It does not say what it has looked at.
        let script = r#"echo "${TEST_ID:-suite}" >> "$RUNS"; test "$(cat state/t1)" = ok"#;
        world.configure_with(&world.script(script), &format!("[regression]\nparallel = {parallel}"));
        let commits = world.history(24, 11);
        world.once();
        assert_eq!(world.sql("SELECT first_bad_commit FROM regressions"), commits[10]);
        let told: Vec<i64> = world
            .sql("SELECT json_extract(bisect, '$.rounds'), json_extract(bisect, '$.runs') FROM regressions")
            .split('|')
            .map(|number| number.parse().unwrap())
            .collect();
        // Three runs of the whole and three for the test come before the search.
        assert_eq!(i64::try_from(world.runs().len()).unwrap() - 6, told[1]);
        rounds.push(told[0]);
    }
    assert!(rounds[0] >= 4, "{rounds:?}");
    assert!(rounds[1] <= 2, "{rounds:?}");
}

#[test]
fn a_batch_that_has_landed_is_a_known_good_point() {
    let world = World::with_baseline();
    let script = r#"echo "$(git rev-parse HEAD)" >> "$RUNS"; test "$(cat state/t1)" = ok"#;
    world.configure_with(&world.script(script), "[regression]\nparallel = 1");
    let commits = world.history(16, 11);
    // The sixth to the tenth landed together.
    let tree = world.in_store(&["rev-parse", &format!("{}^{{tree}}", commits[9])]);
    let check = "tests";
    world.sql(&format!(
        "INSERT INTO base_runs(tree_hash, check_hash, check_name, commit_hash, state) VALUES ('{tree}', 'h', '{check}', '{head}', 'green');
         INSERT INTO batches(id, base_commit, commit_hash, tree_hash, tests, outcome, judged_by, landed_at)
         VALUES ('b', '{base}', '{head}', '{tree}', '[]', 'passed', 'b', datetime('now'))",
        head = commits[9],
        base = commits[4],
    ));
    world.once();
    assert_eq!(world.sql("SELECT first_bad_commit FROM regressions"), commits[10]);
    let runs = world.runs();
    assert!(commits[..9].iter().all(|commit| !runs.contains(commit)), "nothing before it is tried: {runs:?}");
}

#[test]
fn a_commit_that_breaks_two_tests_is_searched_for_once() {
    let world = World::with_baseline();
    world.passed("t2", "a", &world.head());
    // Blind to TEST_ID.
    let blind = r#"echo run >> "$RUNS"; test "$(cat state/t1)" = ok"#;
    world.configure_with(&world.script(blind), "[regression]\nparallel = 1");
    let commits = world.history(30, 17);
    world.once();
    let bad = &commits[16];
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{bad}|b|t-17\nt2|regressed|{bad}|b|t-17"));
    assert_eq!(world.events("regression_detected").len(), 2);
    assert_eq!(world.sql("SELECT json_extract(bisect, '$.runs') FROM regressions WHERE test_id = 't2'"), "10");
}

#[test]
fn two_checks_that_fail_since_one_commit_are_said_once() {
    let world = World::with_baseline();
    let again = world.script("test \"$(cat state/t1)\" = ok");
    world.configure_with(&again, &format!("[[gate.check]]\nname = \"again\"\ncommand = {again}"));
    let bad = world.commit("t1", "broken", "Loop: b");
    world.once();
    assert_eq!(world.events("regression_detected").len(), 1);
    assert_eq!(
        world.sql("SELECT status, first_bad_commit FROM regressions ORDER BY first_bad_commit"),
        format!("regressed|\nregressed|{bad}")
    );
    world.commit("t1", "ok", "");
    world.once();
    assert_eq!(world.sql("SELECT DISTINCT status FROM regressions"), "cleared");
    assert_eq!((world.events("regression_cleared").len(), world.alerts()), (1, String::new()));
}

#[test]
fn an_uncertain_cause_is_unknown() {
    // Commits that cannot be judged hide it.
    let world = World::with_baseline();
    world.configure("[regression]\nparallel = 2");
    world.commit("other", "ok", "");
    let hidden = world.commit("t1", "untestable", "Loop: b");
    let bad = world.commit("t1", "broken", "Loop: b");
    world.commit("other", "ok 2", "");
    world.once();
    assert_eq!(world.sql(REGRESSIONS), "t1|unknown|||");
    let payload = &world.events("regression_detected")[0].payload;
    assert!(payload["first_bad_commit"].is_null() && payload["blamed_loop"].is_null());
    assert_eq!(world.sql("SELECT json_extract(bisect, '$.suspects') FROM regressions"), format!("[\"{hidden}\",\"{bad}\"]"));
    world.once();
    assert_eq!(world.events("regression_detected").len(), 1);
    assert_eq!(world.alerts(), "regression:t1|error");

    // The world has changed, not the code: it fails where it had passed, too.
    let world = World::with_baseline();
    world.history(6, 99);
    let flag = world.path.with_file_name("down");
    world.configure_with(&world.script(&format!("test ! -e '{}'", flag.display())), "");
    std::fs::write(&flag, "").unwrap();
    world.once();
    assert_eq!(world.sql(REGRESSIONS), "t1|unknown|||");
    std::fs::remove_file(&flag).unwrap();
    world.let_interval_pass();
    world.once();
    assert_eq!((world.sql("SELECT status FROM regressions"), world.alerts()), ("cleared".to_owned(), String::new()));

    // It never passed on this branch.
    let world = World::new();
    git(&world.repository, ["commit", "--quiet", "--allow-empty", "-m", "Elsewhere"]);
    world.passed("t1", "a", &git(&world.repository, ["rev-parse", "main"]));
    world.commit("t1", "broken", "Loop: b");
    world.once();
    assert_eq!(world.sql(REGRESSIONS), "t1|unknown|||");
    assert_eq!(world.events("regression_detected").len(), 1);
}

#[test]
fn a_failure_of_nothing_that_had_passed_is_an_alert_only() {
    let world = World::with_baseline();
    world.commit("fresh", "broken", "Loop: b");
    world.once();
    assert_eq!((world.sql(REGRESSIONS), world.alerts()), (String::new(), "check_fails:tests|warning".to_owned()));
    assert_eq!(world.sql("SELECT count(*) FROM passing_tests"), "2");
}

#[test]
fn categories_choose_the_checks() {
    let world = World::with_baseline();
    world.configure_with(&world.script("exit 1"), "");
    let path = world.path.with_file_name("config.toml");
    let text =
        std::fs::read_to_string(&path).unwrap().replacen("name = \"tests\"", "name = \"tests\"\ncategories = [\"docs\"]", 1);
    std::fs::write(&path, text).unwrap();
    world.commit("other", "ok", "");
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM check_runs"), "0");
    let unchecked = "SELECT severity, message FROM alerts WHERE fingerprint = 'unchecked' AND closed_at IS NULL";
    assert_eq!(
        world.sql(unchecked),
        "info|1 passed tests are not checked again when the integration branch moves, because no check with baseline = true \
         covers them (checks with baseline = false, which run only in the gate: never): t1"
    );
    world.once();
    world.sql("UPDATE tests SET category = 'docs'");
    world.once();
    assert_eq!(world.sql(unchecked), "", "it says so until it is checked");
    assert_eq!(world.sql("SELECT outcome FROM check_runs"), "fail");
    assert_eq!(world.events("regression_detected").len(), 1);
}

#[test]
fn nothing_to_check_is_no_error() {
    let world = World::new();
    world.once();
    assert_eq!((world.runs().len(), world.sql("SELECT count(*) FROM check_runs")), (0, "0".to_owned()));
    world.passed("t1", "a", &world.head());
    // Before there is a store nothing has landed.
    std::fs::remove_dir_all(world.layout.root()).unwrap();
    let log = world.once();
    assert!(!log.contains("WARN"), "{log}");
    let unchecked = "SELECT message FROM alerts WHERE fingerprint = 'unchecked' AND closed_at IS NULL";
    let told = world.sql(unchecked);
    assert!(told.starts_with("passed tests are not checked again: the store /"), "{told}");
    assert!(told.ends_with("1 tests have passed: t1"), "{told}");
    // What is no store is reported.
    std::fs::create_dir_all(world.layout.store_path()).unwrap();
    let log = world.once();
    assert!(log.contains("WARN"), "{log}");
    assert_eq!(world.sql("SELECT count(*) FROM check_runs"), "0");
    std::fs::remove_dir_all(world.layout.root()).unwrap();
    world.make_store();
    world.once();
    assert_eq!((world.sql(unchecked), world.sql("SELECT outcome FROM check_runs")), (String::new(), "pass".to_owned()));
}

#[test]
fn foreign_rows_are_tolerated() {
    let world = World::with_baseline();
    let head = world.commit("orphan", "ok", "");
    world.sql(&format!(
        "PRAGMA foreign_keys = off;
         INSERT INTO passing_tests(test_id, commit_hash) VALUES ('orphan', '{short}'), ('no test; touch /tmp/no-such-file-x', '{head}'), ('t2', 'HEAD'),
           ('t3', 'gone');
         INSERT INTO transaction_log(id, operation, steps, component) VALUES
           ('j1', 'rm', '{{\"command\":[\"touch\",\"x\"]}}', 'regression-checker'), ('j2', 'check_head', '[]', 'regression-checker'),
           ('j3', 'check_head', '{{\"check\":\"never\",\"commit\":\"{head}\"}}', 'regression-checker'),
           ('j4', 'bisect', '{{\"regression\":\"r9\",\"round\":0}}', 'regression-checker');
         INSERT INTO regressions(id, test_id, check_name, last_good_commit, bad_commit, status) VALUES
           ('r1', 't1', 'gone', 'x', 'y', 'bisecting'), ('r2', 'not a test', 'tests', 'x', 'y', 'suspected'),
           ('r3', 't4', 'tests', 'x', 'y', 'suspected');
         INSERT INTO regressions(id, test_id, check_name, last_good_commit, bad_commit, status, bisect) VALUES
           ('r4', 't5', 'tests', '{head}', '{head}', 'bisecting', '[1]');",
        short = &head[..10],
    ));
    world.commit("orphan", "broken", "");
    let bad = world.commit("other", "ok", "");
    world.once();
    assert!(!std::path::Path::new("/tmp/no-such-file-x").exists());
    let rows = world.sql("SELECT test_id, check_name, status FROM regressions ORDER BY test_id, check_name");
    assert_eq!(
        rows,
        "not a test|tests|suspected\norphan|tests|regressed\nt1|gone|cleared\nt3|tests|unknown\nt4|tests|unknown\nt5|tests|unknown"
    );
    assert_eq!(world.sql(&format!("SELECT outcome FROM check_runs WHERE commit_hash = '{bad}'")), "fail");
    let said = world.events("regression_detected").len();
    world.once();
    assert_eq!(world.events("regression_detected").len(), said);
}

#[test]
fn a_daemon_sees_the_branch_move_and_stops_when_told() {
    let world = World::with_baseline();
    let daemon = world.daemon();
    world.until("SELECT outcome FROM check_runs", "pass");
    let bad = world.commit("t1", "broken", "Loop: b\nTest: t9");
    world.say_passed("t9", "b", &bad);
    world.until("SELECT status, first_bad_commit FROM regressions", &format!("regressed|{bad}"));
    assert_eq!(world.events("regression_detected")[0].caused_by.as_ref().unwrap().as_str(), "passed-t9");
    assert_eq!(world.sql("SELECT DISTINCT event_id FROM transaction_log WHERE event_id IS NOT NULL"), "passed-t9");
    let fixed = world.commit("t1", "ok", "");
    world.say_passed("t8", "b", &fixed);
    world.until("SELECT status FROM regressions", "cleared");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert_eq!(world.sql("SELECT status FROM component_health"), "unknown");
    assert_eq!(world.events("component_stopped").len(), 1);
}

#[test]
fn a_daemon_sees_a_store_that_is_made_later() {
    let world = World::with_baseline();
    std::fs::remove_dir_all(world.layout.root()).unwrap();
    let daemon = world.daemon();
    world.until("SELECT count(*) FROM alerts WHERE fingerprint = 'unchecked' AND closed_at IS NULL", "1");
    let head = world.make_store().integration().unwrap().unwrap();
    world.say_passed("t1", "a", head.as_str());
    world.until("SELECT commit_hash, outcome FROM check_runs", &format!("{head}|pass"));
    // A store that is created again in its place as well.
    std::fs::rename(world.layout.store_path(), world.layout.root().join("old")).unwrap();
    let store = world.make_store();
    let next = world.commit("other", "ok", "");
    assert_eq!(store.integration().unwrap().unwrap().as_str(), next);
    world.say_passed("t2", "a", &next);
    world.until(&format!("SELECT outcome FROM check_runs WHERE commit_hash = '{next}'"), "pass");
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn killed_in_the_middle_of_a_search_it_goes_on_and_says_it_once() {
    let world = World::with_baseline();
    let hold = world.path.with_file_name("hold");
    // The second round waits until it is let go.
    let script = format!(
        r#"echo "${{TEST_ID:-suite}}" >> "$RUNS"
        if [ "$(grep -c t1 "$RUNS")" -ge 5 ] && [ -e '{hold}' ]; then touch '{hold}.reached'; sleep 1000; fi
        test "$(cat state/t1)" = ok"#,
        hold = hold.display()
    );
    world.configure_with(&world.script(&script), "[regression]\nparallel = 1");
    let commits = world.history(16, 7);
    std::fs::write(&hold, "").unwrap();
    let daemon = world.daemon();
    let reached = hold.with_file_name("hold.reached");
    wait_until("the search is under way", || reached.exists());
    world
        .until("SELECT count(*) FROM transaction_log, json_tree(steps) WHERE status = 'in_progress' AND key LIKE 'try/%'", "1");
    assert_eq!(world.sql("SELECT child_pid IS NULL FROM component_health"), "0");
    daemon.kill();
    std::fs::remove_file(&hold).unwrap();
    assert_eq!(world.events("regression_detected").len(), 0);
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{}|b|t-7", commits[6]));
    assert_eq!(world.events("regression_detected").len(), 1);
    // Three of the whole, three for the test, four rounds, the one that was killed, and eight to be sure.
    assert_eq!(world.runs().len(), 19);
}

#[test]
fn killed_over_and_over_it_comes_to_the_same_end() {
    let world = World::with_baseline();
    world.passed("t2", "a", &world.head());
    world.configure("[regression]\nparallel = 2");
    let commits = world.history(12, 4);
    let bad = world.commit("t2", "broken", "Loop: a\nTest: t-b");
    let mut lives = 0;
    let settled = || world.sql("SELECT count(*) FROM regressions WHERE status = 'regressed'") == "2";
    while !settled() {
        let before = world.runs().len();
        let daemon = world.daemon();
        // At least one run of each life is over by then.
        wait_until("it goes on", || world.runs().len() >= before + 3 || settled());
        daemon.kill();
        lives += 1;
        assert!(lives < 30);
    }
    assert!(lives > 2, "{lives}");
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{}|b|t-4\nt2|regressed|{bad}|a|t-b", commits[3]));
    assert_eq!(world.events("regression_detected").len(), 2);
    assert_eq!(world.sql("SELECT outcome, runs FROM check_runs"), "fail|3");
    assert_eq!(world.alerts(), "regression:t1|error\nregression:t2|error");
}

#[test]
fn killed_between_runs_it_does_not_repeat_them_and_leaves_nothing_running() {
    let world = World::with_baseline();
    let hold = world.path.with_file_name("hold");
    let script = format!(
        r#"echo run >> "$RUNS"
        if [ "$(grep -c run "$RUNS")" -eq 2 ]; then echo $$ > '{hold}'; sleep 1000; fi
        ! grep -q broken state/t1"#,
        hold = hold.display()
    );
    world.configure_with(&world.script(&script), "");
    let bad = world.commit("t1", "broken", "Loop: b");
    let daemon = world.daemon();
    let pid = || std::fs::read_to_string(&hold).unwrap_or_default().trim().to_owned();
    wait_until("the second run is under way", || !pid().is_empty());
    daemon.kill();
    let run = pid().parse().unwrap();
    world.once();
    // Its new parent may not have reaped it yet.
    assert!(!is_alive(run));
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{bad}|b|"));
    // The first, the killed one, that one again, the third, three for the test, four at the last good commit, and two more.
    assert_eq!(world.runs().len(), 13);
    assert_eq!(world.sql("SELECT count(*) FROM transaction_log WHERE json_extract(steps, '$.progress') IS NOT NULL"), "0");
}

/// The check as a whole has been flaky.
const WAS_FLAKY: &str = "INSERT INTO alerts(id, severity, alert_type, source, message, fingerprint, closed_at)
     VALUES ('a', 'info', 'regression', 'regression-checker', '', 'flaky:tests', datetime('now'))";

#[test]
fn a_check_that_is_flaky_at_times_has_to_say_it_twice() {
    let world = World::with_baseline();
    world.sql(WAS_FLAKY);
    // It passes at `shaky` once.
    let script = r#"case "$(cat state/t1)" in ok) ;; shaky) test ! -e "$RUNS" && touch "$RUNS" ;; *) exit 1 ;; esac"#;
    world.configure_with(&world.script(script), "[regression]\nparallel = 1");
    let commits: Vec<_> = [("t1", "ok"), ("t1", "shaky"), ("t1", "broken"), ("other", "ok")]
        .map(|(test, content)| world.commit(test, content, "Loop: b"))
        .to_vec();
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{}|b|", commits[1]));

    let world = World::with_baseline();
    world.sql(WAS_FLAKY);
    let commits = world.history(8, 5);
    world.once();
    assert_eq!(world.sql(REGRESSIONS), format!("t1|regressed|{}|b|t-5", commits[4]));
}

#[test]
fn what_passed_at_the_very_commit_blames_no_earlier_one() {
    let world = World::with_baseline();
    world.commit("other", "ok", "Loop: b");
    let bad = world.commit("t1", "broken", "Loop: b");
    world.sql(&format!("INSERT INTO passing_tests(test_id, commit_hash) VALUES ('t1', '{bad}')"));
    world.once();
    assert_eq!(world.sql(REGRESSIONS), "t1|unknown|||");
}

#[test]
fn a_daemon_looks_again_by_itself_while_something_is_in_doubt() {
    let world = World::with_baseline();
    let flag = world.path.with_file_name("down");
    std::fs::write(&flag, "").unwrap();
    world.configure_with(&world.script(&format!("test ! -e '{}'", flag.display())), "[regression]\ninterval_seconds = 1");
    let daemon = world.daemon();
    world.until("SELECT status FROM regressions", "unknown");
    std::fs::remove_file(&flag).unwrap();
    world.until("SELECT status FROM regressions", "cleared");
    assert_eq!((world.events("regression_detected").len(), world.events("regression_cleared").len()), (1, 1));
    assert_eq!(daemon.terminate().code(), Some(0));
}

#[test]
fn a_stop_leaves_a_check_at_once_and_the_next_start_resumes_it() {
    let world = World::with_baseline();
    let hold = world.path.with_file_name("hold");
    let script =
        format!(r#"echo run >> "$RUNS"; if [ ! -e '{hold}' ]; then echo $$ > '{hold}'; sleep 1000; fi"#, hold = hold.display());
    world.configure_with(&world.script(&script), "");
    let old = world.head();
    let daemon = world.daemon();
    let pid = || std::fs::read_to_string(&hold).unwrap_or_default().trim().to_owned();
    wait_until("the check runs", || !pid().is_empty());
    // The head moves meanwhile: what runs is finished first.
    let new = world.commit("other", "ok", "");
    // It does not wait for the check, which takes longer than anything here is waited for.
    assert_eq!(daemon.terminate().code(), Some(0));
    let process = std::path::PathBuf::from(format!("/proc/{}", pid()));
    wait_until("nothing is left running", || !process.exists());
    assert_eq!(world.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'"), "1");
    world.once();
    assert_eq!(world.sql("SELECT commit_hash, outcome FROM check_runs ORDER BY rowid"), format!("{old}|pass\n{new}|pass"));
    assert_eq!(world.runs().len(), 3);
}

#[test]
fn baselines_do_not_pile_up() {
    let world = World::with_baseline();
    let first = world.head();
    world.sql(&format!(
        "UPDATE tests SET commit_hash = '{first}';
         WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO passing_tests(test_id, commit_hash, passed_at) SELECT 't1', 'old-' || i, datetime('now', '-1 day') FROM n;"
    ));
    world.commit("other", "ok", "");
    world.once();
    assert_eq!(world.sql("SELECT count(*) <= 21 FROM passing_tests"), "1");
    assert_eq!(world.sql(&format!("SELECT count(*) FROM passing_tests WHERE commit_hash = '{first}'")), "1");
}

#[test]
fn a_branch_that_is_moved_back_is_an_alert_until_it_holds_every_passed_test_again() {
    let world = World::with_baseline();
    let (before, landed) = (world.head(), world.commit("other", "ok", ""));
    world.passed("t2", "a", &landed);
    world.sql(&format!("UPDATE tests SET commit_hash = '{landed}' WHERE id = 't2'"));
    world.once();
    let lost = "SELECT severity, message FROM alerts WHERE fingerprint = 'integration:lost' AND closed_at IS NULL";
    assert_eq!(world.sql(lost), "");
    world.move_to(&before);
    world.once();
    let said = world.sql(lost);
    assert!(said.starts_with("error|") && said.contains("passed tests: t2;") && said.contains(&before[..12]), "{said}");
    world.once();
    assert_eq!(world.sql("SELECT count(*) FROM alerts WHERE fingerprint = 'integration:lost'"), "1", "once");
    world.move_to(&landed);
    world.once();
    assert_eq!(world.sql(lost), "");
    // A test that is to be done again is not lost.
    world.move_to(&before);
    world.sql("UPDATE tests SET status = 'pending' WHERE id = 't2'");
    world.once();
    assert_eq!(world.sql(lost), "");
}
