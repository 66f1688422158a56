//! What ended a run of the agent: limits, outages and set-up that cost no attempt, claims without a change, runs in vain.

use crate::common::{CHECK, World};
use coord_db::{Decision, HoldKind, TestStatus};
use test_support::wait_until;

/// The agent counts its runs in `$FOLDER/runs`, does what `say` says, and then honest work.
fn world(say: &str) -> World {
    let world = World::new("cat >/dev/null; echo run >> $FOLDER/runs; . $FOLDER/say; echo > $TEST_ID\n", CHECK);
    world.configure(|config| config.replacen("[agent]\n", "[agent]\nenvironment = [\"PATH\", \"FOLDER\"]\n", 1));
    tell(&world, say);
    world
}

fn tell(world: &World, say: &str) {
    std::fs::write(world.folder().join("say"), say).unwrap();
}

fn runs(world: &World) -> usize {
    std::fs::read_to_string(world.folder().join("runs")).unwrap_or_default().lines().count()
}

fn questions(world: &World) -> Vec<Decision> {
    world.db.read(|tx| tx.decisions(true)).unwrap()
}

fn states(world: &World, ids: &[&str]) -> Vec<(TestStatus, i64)> {
    ids.iter().map(|id| world.test(id)).map(|test| (test.status, test.attempts)).collect()
}

#[test]
fn a_usage_limit_costs_no_attempt_and_all_loops_of_the_agent_wait_for_its_end() {
    let world = world("echo 'You have hit your limit · resets 11:59pm (UTC)'; exit 1");
    for (of, tests) in [("one", ["t1", "t2"]), ("two", ["u1", "u2"])] {
        world.add_loop(of);
        for test in tests {
            world.add_test(test, of);
        }
        assert_eq!(world.once(of).status.code(), Some(0));
    }
    assert_eq!(states(&world, &["t1", "t2", "u1", "u2"]), [(TestStatus::Pending, 0); 4]);
    // The second loop is held before its first run: they run the same agent.
    assert_eq!(runs(&world), 1);
    let limited = world.events("agent_limited");
    assert_eq!(limited.len(), 1);
    assert_eq!(limited[0].caused_by.as_ref(), Some(&world.events("test_started")[0].id));
    let holds = world.db.read(|tx| tx.all_holds()).unwrap();
    assert_eq!((holds.len(), holds[0].kind), (1, HoldKind::Limit));
    assert!(holds[0].until.unwrap() > world.db.now());
    assert_eq!(questions(&world), []);
    world.assert_tidy();
}

#[test]
fn when_the_limit_is_over_one_loop_finds_out_and_all_go_on_alone() {
    let world = world("echo 'Rate limit reached. Please try again in 1s.'; exit 1");
    world.add_loop("one");
    world.add_test("t1", "one");
    let running = world.start("one");
    wait_until("the limit", || !world.events("agent_limited").is_empty());
    tell(&world, "");
    // The margin on the agent's own time is longer than a test should wait.
    world.db.write(|tx| tx.probe_holds(&"one".parse().unwrap())).unwrap();
    world.sql("UPDATE holds SET until = strftime('%Y-%m-%d %H:%M:%f', 'now')");
    wait_until("the test to pass", || world.test("t1").status == TestStatus::Passed);
    assert_eq!((world.test("t1").attempts, runs(&world)), (1, 2));
    assert_eq!(world.events("agent_available").len(), 1);
    assert_eq!(world.db.read(|tx| tx.all_holds()).unwrap(), []);
    drop(running);
}

#[test]
fn an_outage_backs_off_longer_each_time_and_costs_no_attempt() {
    let world = world("echo 'API Error: 529 {\"type\":\"overloaded_error\"}'; exit 1");
    world.add_loop("one");
    world.add_test("t1", "one");
    let mut pauses = Vec::new();
    for _ in 0..3 {
        assert_eq!(world.once("one").status.code(), Some(0));
        let hold = world.db.read(|tx| tx.all_holds()).unwrap().remove(0);
        assert_eq!(hold.kind, HoldKind::Outage);
        pauses.push(hold.until.unwrap().seconds_since(world.db.now()) > 90);
        world.sql("UPDATE holds SET until = strftime('%Y-%m-%d %H:%M:%f', 'now')");
    }
    assert_eq!(pauses, [false, true, true]);
    assert_eq!((states(&world, &["t1"]), runs(&world)), (vec![(TestStatus::Pending, 0)], 3));
    // An hour later it is the human's business too.
    assert_eq!(questions(&world), []);
    world.sql("UPDATE holds SET since = '2020-01-01 00:00:00.000'");
    world.once("one");
    assert_eq!(questions(&world).len(), 1);
}

#[test]
fn what_a_human_has_to_mend_stops_the_agent_and_asks_once() {
    let world = world("echo \"error: unexpected argument '--full-auto' found\"; exit 2");
    for of in ["one", "two"] {
        world.add_loop(of);
        world.add_test(&format!("t-{of}"), of);
        assert_eq!(world.once(of).status.code(), Some(1));
    }
    world.once("one");
    assert_eq!((states(&world, &["t-one", "t-two"]), runs(&world)), (vec![(TestStatus::Pending, 0); 2], 1));
    let asked = questions(&world);
    assert_eq!(asked.len(), 1);
    assert!(asked[0].summary.contains("--full-auto"), "{}", asked[0].summary);
    assert_eq!((asked[0].default_option.as_deref(), asked[0].timeout_minutes), (None, None));
}

#[test]
fn a_program_that_is_missing_is_nobodys_attempt() {
    let world = World::with_test("", CHECK);
    world.configure(|config| config.replacen("\"sh\", ", "\"no-such-agent\", ", 1));
    world.once("one");
    assert_eq!(states(&world, &["t1"]), [(TestStatus::Pending, 0)]);
    assert!(questions(&world)[0].summary.contains("no-such-agent"), "{:?}", questions(&world));
}

#[test]
fn a_claim_without_a_change_asks_once_and_then_counts() {
    let world = world("echo 'all is well'; exit 0");
    world.add_loop("one");
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0));
    assert!(test.not_before.unwrap() > world.db.now());
    let asked = questions(&world);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].option_ids(), ["pass", "retry", "skip"]);
    assert!(asked[0].summary.contains("all is well"), "{}", asked[0].summary);
    // The answer "retry", as pm applies it.
    world.sql("UPDATE decisions SET status = 'decided', choice = 'retry', decided_at = requested_at, decided_by = 'human'; UPDATE tests SET not_before = NULL");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").attempts, 2);
    assert!(!questions(&world).iter().any(|question| question.decision_type == "no_change"), "asked once");
    assert_eq!(world.test("t1").status, TestStatus::Blocked);
}

#[test]
fn what_the_human_accepts_goes_to_the_gate_without_a_run() {
    let world = world("exit 0");
    world.add_loop("one");
    world.add_test("shared", "one");
    world.once("one");
    assert_eq!(runs(&world), 1);
    let id = "shared".parse().unwrap();
    world.db.write(|tx| tx.accept_no_change(&id)).unwrap();
    // The check looks for a file of the test's name, which is there.
    world.once("one");
    let test = world.test("shared");
    assert_eq!((test.status, test.attempts, runs(&world)), (TestStatus::Passed, 1, 1));
    assert_eq!(world.db.read(|tx| tx.proofs(&id, None)).unwrap().len(), 1);
    world.assert_tidy();
}

#[test]
fn a_test_can_allow_claims_without_a_change() {
    let world = world("exit 0");
    world.add_loop("one");
    world.add_test("shared", "one");
    world.sql("UPDATE tests SET no_change = 'allowed'");
    world.once("one");
    let test = world.test("shared");
    assert_eq!((test.status, questions(&world)), (TestStatus::Passed, vec![]));
    assert_eq!(test.commit_hash, Some(world.git(&["rev-parse", "coding-loops/integration"])));
    assert_eq!(world.git(&["rev-list", "--count", "main..coding-loops/integration"]), "0");
}

#[test]
fn giving_up_honestly_is_about_the_specification() {
    let world = world("echo 'docs/api.md and docs/db.md contradict each other'; exit 3");
    world.add_loop("one");
    world.add_test("t1", "one");
    world.attempt("one");
    let test = world.test("t1");
    assert_eq!(test.error_category, Some(coord_db::ErrorCategory::Spec));
    assert_eq!(test.last_error.as_deref(), Some("the agent gave up: docs/api.md and docs/db.md contradict each other"));
}

#[test]
fn three_runs_in_vain_stop_the_loop_whatever_the_reason() {
    let world = world("echo 'Segmentation fault in plugin'; exit 139");
    world.add_loop("one");
    for test in ["t1", "t2", "t3"] {
        world.add_test(test, "one");
    }
    assert_eq!(world.once("one").status.code(), Some(1));
    assert_eq!(runs(&world), 3);
    let asked = questions(&world);
    let hold = asked.iter().find(|question| question.decision_type == "hold").unwrap();
    assert!(
        hold.summary.contains("3 attempts in a row of loop one") && hold.summary.contains("Segmentation fault"),
        "{}",
        hold.summary
    );
    world.once("one");
    assert_eq!(runs(&world), 3, "held");
    // What pm does with the answer.
    world.db.write(|tx| tx.lift_hold("loop:one")).unwrap();
    tell(&world, "");
    world.once("one");
    assert!(["t1", "t2", "t3"].iter().any(|test| world.test(test).status == TestStatus::Passed));
    assert_eq!(world.db.read(|tx| tx.loop_row(&"one".parse().unwrap())).unwrap().vain_runs, 0);
}

#[test]
fn a_deleted_folder_is_created_again_and_is_nobodys_fault_once() {
    let world = world("d=$PWD; cd /; rm -rf \"$d\"; exit 0");
    world.add_loop("one");
    world.add_test("t1", "one");
    world.once("one");
    assert_eq!(states(&world, &["t1"]), [(TestStatus::Blocked, 2)]);
    assert_eq!(runs(&world), 3);
    let failed: Vec<_> = world.events("test_failed").into_iter().map(|event| event.payload["error_category"].clone()).collect();
    assert_eq!(failed, ["transient", "code", "code"]);
}

#[test]
fn work_counts_without_the_agents_git() {
    let world = world("echo precious > precious; rm -rf .git");
    world.add_loop("one");
    world.add_test("t1", "one");
    world.once("one");
    assert_eq!(states(&world, &["t1"]), [(TestStatus::Passed, 1)]);
    assert_eq!(world.git(&["show", "coding-loops/integration:precious"]), "precious");
}

#[test]
fn a_change_in_the_users_checkout_instead_is_reported() {
    let world = world("echo leak >> $FOLDER/repository/shared; exit 0");
    world.add_loop("one");
    world.add_test("t1", "one");
    world.once("one");
    let asked = questions(&world).remove(0);
    assert!(asked.summary.contains("while shared in your own checkout changed"), "{}", asked.summary);
    assert_eq!(checkout_alerts(&world, "IS NULL"), 1);
}

fn checkout_alerts(world: &World, closed: &str) -> usize {
    let sql = format!("SELECT count(*) FROM alerts WHERE fingerprint = 'checkout:one' AND closed_at {closed}");
    world.sql(&sql).parse().unwrap()
}

#[test]
fn what_a_failed_attempt_left_in_the_users_checkout_is_an_alert_until_the_next_pass() {
    let world = world("cd $FOLDER/repository; rm deep/gone; echo x >ignored; echo x >coding-loops/x; echo x >deep/new; exit 7");
    std::fs::create_dir(world.repository.join("deep")).unwrap();
    std::fs::write(world.repository.join("deep/gone"), "x").unwrap();
    std::fs::write(world.repository.join(".gitignore"), "/coding-loops/\nignored\n").unwrap();
    world.git(&["add", "."]);
    world.git(&["commit", "--quiet", "--amend", "--no-edit"]);
    // The user's own, from before.
    std::fs::write(world.repository.join("shared"), "the user's own edit\n").unwrap();
    world.add_loop("one");
    world.add_test("t1", "one");
    assert!(world.command("one").args(["--max-tests", "1"]).env("FOLDER", world.folder()).status().unwrap().success());
    let message = world.sql("SELECT message FROM alerts WHERE fingerprint = 'checkout:one'");
    assert!(message.starts_with("deep/gone, deep/new in your own checkout changed while one worked on t1"), "{message}");
    std::fs::write(world.folder().join("agent.sh"), "cat >/dev/null; echo x >$TEST_ID\n").unwrap();
    world.once("one");
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
    assert_eq!((checkout_alerts(&world, "IS NULL"), checkout_alerts(&world, "IS NOT NULL")), (0, 1));
}

#[test]
fn an_agent_that_kills_its_loop_is_not_started_for_ever() {
    // The loop is the parent of the keeper, which is the agent's.
    let world = world("kill -9 $(awk '{print $4}' /proc/$PPID/stat); sleep 600");
    world.add_loop("one");
    world.add_test("t1", "one");
    let ends: Vec<Option<i32>> = (0..8).map(|_| world.once("one").status.code()).collect();
    assert_eq!((runs(&world), &ends[5..]), (5, &[Some(1); 3][..]), "{ends:?}");
    assert_eq!(states(&world, &["t1"]), [(TestStatus::Pending, 0)]);
    let asked = questions(&world);
    assert_eq!(asked.len(), 1);
    assert!(asked[0].summary.contains("the loop was killed while its agent ran"), "{}", asked[0].summary);
}
