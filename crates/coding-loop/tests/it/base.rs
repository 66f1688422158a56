//! The base first, through the real binaries: no agent is paid while the checks fail at the head of integration, and what fails
//! there is nobody's fault.

use crate::common::World;
use coord_db::{BASE_QUESTION, BaseAnswer, BaseState, Decision, ErrorCategory, LoopId, ProofStage, Test, TestStatus};
use test_support::{wait_for, wait_until};

/// Writes each of its runs down.
const AGENT: &str = "cat >/dev/null; echo $TEST_ID >> FOLDER/agents; echo $TEST_ID > $TEST_ID\n";

fn world(agent: &str, checks: &str) -> World {
    let world = World::new("", &format!("[regression]\nretries = 2\n{checks}"));
    let agent = agent.replace("FOLDER", &world.folder().display().to_string());
    std::fs::write(world.folder().join("agent.sh"), agent).unwrap();
    world
}

/// A check `name` that runs a shell script, in which FOLDER is the world's folder, three above the check-out's.
fn check(name: &str, text: &str, more: &str) -> String {
    let text = text.replace("FOLDER", "../../..");
    format!("[[gate.check]]\nname = \"{name}\"\ncommand = [\"sh\", \"-c\", {text:?}]\n{more}\n")
}

fn lines(world: &World, file: &str) -> usize {
    std::fs::read_to_string(world.folder().join(file)).unwrap_or_default().lines().count()
}

fn open_questions(world: &World) -> Vec<Decision> {
    world.db.read(|tx| tx.decisions(true)).unwrap()
}

/// Answers the only open question, and does what pm does then.
fn answer(world: &World, choice: &str) {
    let question = open_questions(world).pop().unwrap();
    let test = || question.context["test_id"].as_str().unwrap_or_default().parse();
    let done = world.db.write(|tx| {
        tx.resolve_decision(&question.id, Some(choice), true, None, None)?;
        let loops: Vec<LoopId> = tx.loops()?.into_iter().map(|row| row.id).collect();
        match BaseAnswer::of(&question, choice, &loops) {
            Some(answer) => tx.apply_base_answer(&answer, "the human has said so"),
            None if choice == "pass" => tx.accept_no_change(&test()?),
            None => tx.delay_test(&test()?, tx.now()),
        }
    });
    done.unwrap();
    assert!(open_questions(world).is_empty());
}

fn given_back(test: &Test) {
    assert_eq!((test.status, test.attempts), (TestStatus::Pending, 0), "{:?}", test.last_error);
}

/// A world with a loop and its test.
fn with_test(checks: &str) -> World {
    let world = world(AGENT, checks);
    world.add_loop("one");
    world.add_test("t1", "one");
    world
}

#[test]
fn no_agent_is_paid_while_the_base_is_red_and_the_human_is_asked_once() {
    let suite = "echo run >> FOLDER/runs; echo FAILED test_login; exit 1";
    let world = world(AGENT, &(check("suite", suite, "") + &check("own", "test -f $TEST_ID", "")));
    for id in ["one", "two"] {
        world.add_loop(id);
        world.add_test(&format!("{id}-1"), id);
        assert_eq!(world.once(id).status.code(), Some(1));
    }
    assert_eq!((lines(&world, "agents"), lines(&world, "runs")), (0, 3), "three runs for both loops, and no agent");
    for id in ["one-1", "two-1"] {
        given_back(&world.test(id));
        assert!(world.events("test_started").is_empty());
    }
    let questions = open_questions(&world);
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].option_ids(), ["mend", "ignore", "try_again"]);
    let summary = &questions[0].summary;
    assert!(summary.contains("check suite failed with exit code 1: FAILED test_login"), "{summary}");
    assert_eq!(world.events("base_red").len(), 1);
    assert_eq!(questions[0].event_id.as_ref(), world.events("decision_needed").first().map(|event| &event.id));
    // Nothing has changed: nothing is run again.
    world.once("one");
    assert_eq!(lines(&world, "runs"), 3);
    // It runs again on the human's word.
    answer(&world, "try_again");
    world.once("two");
    assert_eq!((lines(&world, "agents"), lines(&world, "runs"), open_questions(&world).len()), (0, 6, 1));
    world.assert_tidy();
}

#[test]
fn a_loop_that_ends_beside_an_open_question_names_it_and_takes_the_answer_without_pm() {
    let world = with_test(&(check("suite", "echo FAILED test_login; exit 1", "") + &check("own", "test -f $TEST_ID", "")));
    let output = world.once("one");
    let question = open_questions(&world).remove(0);
    let said = String::from_utf8(output.stderr).unwrap();
    let command = format!("loopctl decide {} mend|ignore|try_again", question.id);
    assert!(said.contains(&command) && !said.contains("no test is left"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    let stopped = world.events("component_stopped").pop().unwrap();
    assert!(stopped.payload["reason"].as_str().unwrap().contains(&command), "{:?}", stopped.payload);
    // pm is not there: the loop applies the answer by itself.
    let human = coord_db::ActorId::human();
    world.db.write(|tx| tx.answer(&question.id, "ignore", None, &human, "cli")).unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let question = world.db.read(|tx| tx.decision(&question.id)).unwrap();
    assert_eq!((question.choice.as_deref(), question.decided_by.as_deref()), (Some("ignore"), Some("human")));
    assert!(!world.db.read(|tx| tx.ignored_checks()).unwrap().is_empty());
    world.assert_tidy();
}

#[test]
fn the_loop_withdraws_a_question_whose_cause_has_ended() {
    let suite = "test -f good && exit 0; test -f worse && exit 1; echo FAILED test_login; exit 1";
    let other = check("other", "! test -f worse", "");
    let world = with_test(&(check("suite", suite, "") + &other));
    world.once("one");
    let first = open_questions(&world).remove(0);
    // Somebody else moves integration to what fails in another way, and then to what passes.
    let mut head = "HEAD".to_owned();
    for file in ["worse", "good"] {
        head = world.commit_elsewhere(&head, file, |clone| {
            let _ = std::fs::remove_file(clone.join("worse"));
            std::fs::write(clone.join(file), "").unwrap();
        });
        world.store(&["update-ref", "refs/heads/coding-loops/integration", &head]);
        world.once("one");
        let questions = open_questions(&world);
        match file {
            "worse" => {
                assert_eq!(questions.len(), 1);
                assert_ne!(questions[0].id, first.id);
                assert_eq!(questions[0].context["checks"], serde_json::json!(["suite", "other"]));
            }
            _ => assert!(questions.is_empty(), "{questions:?}"),
        }
    }
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let comments = world.sql("SELECT group_concat(comment, '|') FROM decisions");
    let expected = "other checks now fail at the head of integration|the checks now pass at the head of integration";
    assert_eq!(comments, expected);
}

#[test]
fn what_fails_at_the_base_is_mended_by_a_test_of_its_own() {
    let agent = "cat > $TEST_ID.prompt; echo $TEST_ID >> FOLDER/agents; grep -q 'FAILED test_login' $TEST_ID.prompt && \
                 echo mended > mended; rm $TEST_ID.prompt; echo $TEST_ID > $TEST_ID\n";
    let suite = "echo run >> FOLDER/runs; test -f mended || { echo FAILED test_login; exit 1; }";
    let world = world(agent, &check("suite", suite, "categories = [\"web\"]"));
    world.add_loop("one");
    world.add_test("t1", "one");
    world.sql("UPDATE tests SET category = 'web'");
    world.once("one");
    answer(&world, "mend");
    let mending = world.db.read(|tx| tx.mending_tests()).unwrap();
    assert_eq!(mending.len(), 1);
    assert_eq!((mending[0].loop_id.as_str(), mending[0].category.as_str()), ("one", "web"));
    world.once("one");
    assert_eq!(world.test(mending[0].id.as_str()).status, TestStatus::Passed);
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let agents = std::fs::read_to_string(world.folder().join("agents")).unwrap();
    assert_eq!(agents, format!("{}\nt1\n", mending[0].id), "the mending test first");
    // Three at the base, and one for each work: the landing of the first is the base of the second.
    assert_eq!(lines(&world, "runs"), 5);
    assert!(open_questions(&world).is_empty());
    world.assert_tidy();
}

#[test]
fn a_mending_test_that_fails_spends_its_attempts() {
    let world = with_test(&check("suite", "exit 1", ""));
    world.once("one");
    answer(&world, "mend");
    let id = world.db.read(|tx| tx.mending_tests()).unwrap().remove(0).id;
    world.attempt("one");
    let test = world.test(id.as_str());
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Pending, 1, Some(ErrorCategory::Code)));
    given_back(&world.test("t1"));
}

#[test]
fn an_ignored_check_is_let_through_until_it_passes_again() {
    let suite = "test -f good || exit 1";
    let world = with_test(&(check("suite", suite, "") + &check("own", "test -f $TEST_ID", "")));
    world.once("one");
    answer(&world, "ignore");
    world.once("one");
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let passed = world.events("test_passed");
    assert_eq!(passed[0].payload["verification_checks"], serde_json::json!({"suite": false, "own": true}));
    let runs = world.db.read(|tx| tx.proof_runs(&"t1".parse()?)).unwrap();
    assert!(runs.iter().any(|run| run.let_through));
    // Work makes it pass: from then on it counts.
    std::fs::write(world.folder().join("agent.sh"), "cat >/dev/null; echo > good; echo > $TEST_ID\n").unwrap();
    world.add_test("t2", "one");
    world.once("one");
    std::fs::write(world.folder().join("agent.sh"), "cat >/dev/null; rm good; echo > $TEST_ID\n").unwrap();
    world.add_test("t3", "one");
    world.attempt("one");
    assert_eq!(world.test("t2").status, TestStatus::Passed);
    let test = world.test("t3");
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Pending, 1, Some(ErrorCategory::Code)));
    assert!(world.db.read(|tx| tx.ignored_checks()).unwrap().is_empty());
    world.assert_tidy();
}

/// A suite that prints what fails: test_login always, what is named in `broken` too.
const NAMES: &str = "echo run >> FOLDER/runs; test -e good && exit 0; echo FAILED test_login in 0.$(date +%N)s; \
                     cat broken 2>/dev/null; exit 1";

#[test]
fn an_ignored_check_lets_nothing_through_that_the_base_does_not_fail() {
    let world = with_test(&(check("suite", NAMES, "") + &check("own", "test -f $TEST_ID", "")));
    world.once("one");
    let question = open_questions(&world).remove(0);
    let ignore = question.options[1]["description"].as_str().unwrap().to_owned();
    assert!(ignore.contains("fails beyond that is the work's own"), "{ignore}");
    answer(&world, "ignore");
    world.once("one");
    assert_eq!((world.test("t1").status, lines(&world, "runs")), (TestStatus::Passed, 4));
    // Work that breaks more is charged; what the landing has shown is the base, so that it is not run there again.
    std::fs::write(world.folder().join("agent.sh"), "cat >/dev/null; echo FAILED test_pay > broken; echo > $TEST_ID\n")
        .unwrap();
    world.add_test("t2", "one");
    world.attempt("one");
    let test = world.test("t2");
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Pending, 1, Some(ErrorCategory::Code)));
    let error = test.last_error.unwrap();
    assert!(error.contains("it fails differently than at the base: not printed at the base: FAILED test_pay"), "{error}");
    assert_eq!(lines(&world, "runs"), 5);
    let runs = world.db.read(|tx| tx.proof_runs(&"t2".parse()?)).unwrap();
    assert!(runs.iter().all(|run| !run.let_through), "{runs:?}");
    world.assert_tidy();
}

#[test]
fn a_failure_that_says_nothing_is_let_through_with_a_word_in_the_proof() {
    let world = with_test(&(check("suite", "exit 1", "") + &check("own", "test -f $TEST_ID", "")));
    world.once("one");
    answer(&world, "ignore");
    world.once("one");
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let runs = world.db.read(|tx| tx.proof_runs(&"t1".parse()?)).unwrap();
    let run = runs.iter().find(|run| run.let_through).unwrap();
    assert!(run.why.contains("it is unclear whether it fails as at the base"), "{}", run.why);
}

#[test]
fn an_ignored_check_that_is_green_at_the_head_counts_at_once() {
    let world = with_test(&(check("suite", NAMES, "") + &check("own", "test -f $TEST_ID", "")));
    world.once("one");
    answer(&world, "ignore");
    // Somebody else makes it pass while the agent works, who fails the check as it failed before.
    let agent = "cat >/dev/null; echo >> FOLDER/agents; while ! [ -e FOLDER/moved ]; do sleep 0.05; done; rm -f good; echo > $TEST_ID\n";
    let agent = agent.replace("FOLDER", &world.folder().display().to_string());
    std::fs::write(world.folder().join("agent.sh"), agent).unwrap();
    let running = world.start("one");
    wait_until("the agent", || lines(&world, "agents") == 1);
    let commit = world.commit_elsewhere("HEAD", "mends it", |clone| std::fs::write(clone.join("good"), "").unwrap());
    world.store(&["update-ref", "refs/heads/coding-loops/integration", &commit]);
    std::fs::write(world.folder().join("moved"), "").unwrap();
    wait_until("the work to land", || world.test("t1").status == TestStatus::Passed);
    assert_eq!(running.terminate().code(), Some(0));
    let passed = world.events("test_passed");
    assert_eq!(passed[0].payload["verification_checks"], serde_json::json!({"suite": true, "own": true}));
    // What fails now as it failed before is no longer let through.
    std::fs::write(world.folder().join("agent.sh"), "cat >/dev/null; rm good; echo > $TEST_ID\n").unwrap();
    world.add_test("t2", "one");
    world.attempt("one");
    let test = world.test("t2");
    assert_eq!((test.status, test.error_category), (TestStatus::Pending, Some(ErrorCategory::Code)));
    assert!(world.db.read(|tx| tx.ignored_checks()).unwrap().is_empty());
}

#[test]
fn a_base_that_fails_by_chance_is_reported_and_stops_nobody() {
    let suite = "echo run >> FOLDER/runs; [ $(wc -l < FOLDER/runs) -ne 1 ]";
    let world = with_test(&check("suite", suite, ""));
    world.once("one");
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let alerts = world.db.read(|tx| tx.alerts(true)).unwrap();
    assert!(alerts.iter().any(|alert| alert.message.starts_with("check suite is flaky")), "{alerts:?}");
    assert_eq!(world.events("base_proven")[0].payload["flaky"], serde_json::json!(["suite"]));
    assert!(open_questions(&world).is_empty());
    // Once it has proven steady, the alert closes by itself.
    for test in ["t2", "t3", "t4"] {
        let is_open = !world.db.read(|tx| tx.open_alerts_of("coding-loop")).unwrap().is_empty();
        assert!(is_open, "before {test}");
        world.add_test(test, "one");
        world.once("one");
        assert_eq!(world.test(test).status, TestStatus::Passed);
    }
    let alerts = world.db.read(|tx| tx.open_alerts_of("coding-loop")).unwrap();
    assert!(alerts.is_empty(), "{alerts:?}");
}

#[test]
fn a_check_that_is_known_to_fail_by_chance_costs_no_attempt() {
    for is_known in [true, false] {
        // It fails once for the work of t1.
        let suite =
            "test -z $TEST_ID && exit 0; test -f FOLDER/failed && exit 0; echo > FOLDER/failed; echo FAILED by chance; exit 1";
        let world = with_test(&check("suite", suite, ""));
        if is_known {
            world.sql(
                "INSERT INTO baseline_runs (check_name, test_id, commit_hash, outcome) VALUES ('suite', 't0', 'c', 'flaky')",
            );
        }
        world.attempt("one");
        let test = world.test("t1");
        if !is_known {
            assert_eq!((test.status, test.attempts), (TestStatus::Pending, 1));
            continue;
        }
        assert_eq!((test.status, test.attempts), (TestStatus::Passed, 1), "{:?}", test.last_error);
        let runs = world.db.read(|tx| tx.proof_runs(&"t1".parse()?)).unwrap();
        let said: Vec<&str> = runs.iter().map(|run| run.why.as_str()).collect();
        let expected = ["check suite failed with exit code 1", "suite is flaky: it failed in 1 of 2 runs on these files"];
        assert_eq!(said, expected);
        world.assert_tidy();
    }
}

#[test]
fn a_check_that_is_known_to_fail_by_chance_and_fails_each_time_is_charged() {
    let world = with_test(&check("suite", "test -z $TEST_ID && exit 0; echo run >> FOLDER/runs; exit 1", ""));
    world.sql("INSERT INTO baseline_runs (check_name, test_id, commit_hash, outcome) VALUES ('suite', 't0', 'c', 'flaky')");
    world.attempt("one");
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts, lines(&world, "runs")), (TestStatus::Pending, 1, 3));
}

#[test]
fn the_others_go_on_when_the_loop_that_runs_the_base_is_killed() {
    let suite = "echo $LOOP_ID >> FOLDER/runs; [ $(wc -l < FOLDER/runs) -ne 1 ] || exec sleep 300";
    let world = world(AGENT, &check("suite", suite, ""));
    for id in ["a", "b"] {
        world.add_loop(id);
        world.add_test(&format!("{id}-1"), id);
    }
    let a = world.start("a");
    wait_until("the suite", || lines(&world, "runs") == 1);
    let b = world.start("b");
    wait_until("the other to run", || world.db.read(|tx| tx.loops()).unwrap().iter().all(|row| row.pid.is_some()));
    a.signal(nix::sys::signal::Signal::SIGKILL);
    drop(a);
    wait_until("the other's test to pass", || world.test("b-1").status == TestStatus::Passed);
    assert_eq!(b.terminate().code(), Some(0));
}

#[test]
fn one_loop_runs_the_checks_for_all_and_each_landing_proves_the_next_head() {
    // The suite waits until all loops are there.
    let suite = "echo run >> FOLDER/runs; while ! [ -e FOLDER/go ]; do sleep 0.05; done";
    let world = world(AGENT, &check("suite", suite, ""));
    let ids = ["a", "b", "c"];
    for id in ids {
        world.add_loop(id);
        world.add_test(&format!("{id}-1"), id);
    }
    let loops = ids.map(|id| world.start(id));
    wait_until("the suite", || lines(&world, "runs") == 1);
    let leases = world.db.read(|tx| tx.leases(true)).unwrap();
    assert!(leases.iter().any(|lease| lease.file_path.as_str().starts_with("gate:base:")), "{leases:?}");
    wait_for("all loops to run", || {
        let running = world.db.read(|tx| tx.loops()).unwrap();
        running.iter().all(|row| row.pid.is_some()).then_some(())
    });
    std::fs::write(world.folder().join("go"), "").unwrap();
    for id in ids {
        wait_until("each to pass", || world.test(&format!("{id}-1")).status == TestStatus::Passed);
    }
    assert_eq!(world.events("base_proven").len(), 1);
    // One at the base; each work once alone, and all but the first again on what landed before it, at most.
    let before = lines(&world, "runs");
    assert!((4..=6).contains(&before), "{before}");
    for each in loops {
        assert_eq!(each.terminate().code(), Some(0));
    }
    // The head that the last landing left is proven: the next work alone is judged.
    world.add_test("a-2", "a");
    world.once("a");
    assert_eq!((world.test("a-2").status, lines(&world, "runs")), (TestStatus::Passed, before + 1));
    world.assert_tidy();
}

#[test]
fn a_loop_that_is_stopped_while_it_runs_the_checks_leaves_nothing_behind() {
    let world = with_test(&check("suite", "echo run >> FOLDER/runs; sleep 300", ""));
    let running = world.start("one");
    wait_until("the suite", || lines(&world, "runs") == 1);
    assert_eq!(running.terminate().code(), Some(0));
    given_back(&world.test("t1"));
    assert!(world.db.read(|tx| tx.red_base()).unwrap().is_empty());
    world.assert_tidy();
}

#[test]
fn who_does_not_wait_for_a_slow_suite_need_not() {
    let suite = "echo run >> FOLDER/runs; [ -e FOLDER/go ] || { echo 1 >> FOLDER/waits; sleep 300; }";
    let world = with_test(&check("suite", suite, ""));
    std::fs::write(world.folder().join("go"), "").unwrap();
    world.once("one");
    // It is known to take long, and somebody else has moved integration.
    std::fs::remove_file(world.folder().join("go")).unwrap();
    world.sql("UPDATE base_runs SET duration_ms = 2000000");
    let head = world.store(&["rev-parse", "coding-loops/integration"]);
    let commit = world.commit_elsewhere(&head, "from outside", |clone| std::fs::write(clone.join("outside"), "").unwrap());
    world.store(&["update-ref", "refs/heads/coding-loops/integration", &commit]);
    world.add_test("t2", "one");
    let running = world.start("one");
    let question = wait_for("the question", || open_questions(&world).pop());
    assert_eq!((question.decision_type.as_str(), question.option_ids()), ("base_slow", vec!["wait".into(), "skip".into()]));
    wait_until("the suite to hang", || lines(&world, "waits") == 1);
    let runs = lines(&world, "runs");
    // The suite of the work itself is quick again.
    std::fs::write(world.folder().join("go"), "").unwrap();
    answer(&world, "skip");
    wait_until("the work to land", || world.test("t2").status == TestStatus::Passed);
    assert!(lines(&world, "runs") > runs);
    assert_eq!(running.terminate().code(), Some(0));
    let states = world
        .sql("SELECT state FROM base_runs WHERE commit_hash = (SELECT commit_hash FROM base_runs WHERE state = 'skipped')");
    assert_eq!(states, BaseState::Skipped.as_str());
}

// ---- whose fault ----

#[test]
fn a_check_that_cannot_be_run_or_hangs_costs_no_attempt() {
    let cases = [
        ("test -f shared && no-such-program", "a program that it runs is missing (exit code 127)"),
        ("./shared", "a program that it runs is not executable (exit code 126)"),
        ("sleep 300", "exceeded its time limit of 1 s"),
    ];
    for (script, words) in cases {
        // Only of the work, which the base says nothing of.
        let world = with_test(&check("x", &format!("test -z $TEST_ID || {{ {script}; }}"), "timeout_seconds = 1"));
        world.attempt("one");
        let test = world.test("t1");
        given_back(&test);
        assert_eq!(test.error_category, Some(ErrorCategory::System), "{script}");
        assert!(test.last_error.as_deref().unwrap_or_default().contains(words), "{script}: {:?}", test.last_error);
        world.assert_tidy();
    }
}

#[test]
fn a_missing_program_is_found_at_the_base() {
    let world = with_test(&check("suite", "no-such-program", ""));
    world.once("one");
    assert_eq!(lines(&world, "agents"), 0);
    let question = open_questions(&world).remove(0);
    assert_eq!(question.decision_type, BASE_QUESTION);
    assert!(question.summary.contains("a program that it runs is missing"), "{}", question.summary);
}

#[test]
fn what_fails_at_the_base_too_is_not_the_agents_fault() {
    // Integration is moved by somebody else while the agent works, to what fails.
    let agent = "cat >/dev/null; echo $TEST_ID >> FOLDER/agents; while ! [ -e FOLDER/moved ]; do sleep 0.05; done; \
                 echo $TEST_ID > $TEST_ID\n";
    let world = world(agent, &check("suite", "! test -e broken", ""));
    world.add_loop("one");
    world.add_test("t1", "one");
    let running = world.start("one");
    wait_until("the agent", || lines(&world, "agents") == 1);
    let commit = world.commit_elsewhere("HEAD", "breaks it", |clone| std::fs::write(clone.join("broken"), "").unwrap());
    world.store(&["update-ref", "refs/heads/coding-loops/integration", &commit]);
    std::fs::write(world.folder().join("moved"), "").unwrap();
    let question = wait_for("the question", || open_questions(&world).pop());
    assert_eq!(question.decision_type, BASE_QUESTION);
    assert_eq!(running.terminate().code(), Some(0));
    let test = world.test("t1");
    given_back(&test);
    assert!(test.last_error.unwrap().contains("as at the base ("));
    assert_eq!(lines(&world, "agents"), 1);
}

// ---- per test, red before ----

#[test]
fn a_script_that_looks_at_the_test_is_run_for_each_test_alone() {
    for (setting, runs_at_base) in [("", false), ("per_test = true", false), ("per_test = false", true)] {
        let world = world(AGENT, &format!("[[gate.check]]\nname = \"x\"\ncommand = [\"sh\", \"./check.sh\"]\n{setting}\n"));
        let script = "echo \"${TEST_ID:-none}\" >> ../../../seen\n";
        std::fs::write(world.repository.join("check.sh"), script).unwrap();
        world.git(&["add", "--all"]);
        world.git(&["commit", "--quiet", "--amend", "--message", "begin"]);
        world.add_loop("one");
        world.add_test("t1", "one");
        world.once("one");
        assert_eq!(world.test("t1").status, TestStatus::Passed);
        let seen = std::fs::read_to_string(world.folder().join("seen")).unwrap();
        assert_eq!(seen, if runs_at_base { "none\nt1\n" } else { "t1\n" }, "{setting}");
    }
}

#[test]
fn a_check_that_the_work_brings_is_red_before() {
    let agent = "cat >/dev/null; printf '#!/bin/sh\\ntrue\\n' > check.sh; chmod +x check.sh\n";
    let own = "[[gate.check]]\nname = \"own\"\ncommand = [\"./check.sh\"]\nper_test = true\nfails_before = true\n";
    let world = world(agent, own);
    world.add_loop("one");
    world.add_test("t1", "one");
    world.once("one");
    assert_eq!(world.test("t1").status, TestStatus::Passed, "{:?}", world.test("t1").last_error);
}

#[test]
fn a_check_that_has_to_fail_before_is_red_before_and_green_after() {
    let world = with_test(&check("own", "echo run >> FOLDER/runs; test -f $TEST_ID", "fails_before = true"));
    world.once("one");
    assert_eq!((world.test("t1").status, lines(&world, "runs")), (TestStatus::Passed, 2));
    let runs = world.db.read(|tx| tx.proof_runs(&"t1".parse()?)).unwrap();
    let stages: Vec<_> = runs.iter().map(|run| (run.stage, run.kind.as_str())).collect();
    assert!(
        stages.contains(&(ProofStage::RedBefore, "failed")) && stages.contains(&(ProofStage::Alone, "passed")),
        "{stages:?}"
    );
    // What is green already is asked about, before an agent is paid.
    world.add_test("shared", "one");
    world.attempt("one");
    given_back(&world.test("shared"));
    assert_eq!(lines(&world, "agents"), 1);
    let question = open_questions(&world).remove(0);
    assert_eq!((question.decision_type.as_str(), question.option_ids().len()), ("green_before", 3));
    answer(&world, "pass");
    world.once("one");
    assert_eq!((world.test("shared").status, lines(&world, "agents")), (TestStatus::Passed, 1));
    world.assert_tidy();
}

#[test]
fn the_human_can_have_the_agent_work_although_the_check_is_green() {
    let agent = "cat >/dev/null; echo more >> shared\n";
    let world = world(agent, &check("own", "test -f $TEST_ID", "fails_before = true"));
    world.add_loop("one");
    world.add_test("shared", "one");
    world.once("one");
    answer(&world, "go_on");
    world.once("one");
    assert_eq!(world.test("shared").status, TestStatus::Passed);
    assert!(world.store(&["show", "coding-loops/integration:shared"]).ends_with("more"));
}

// ---- paths, resources ----

#[test]
fn a_check_with_paths_runs_only_for_changes_there() {
    let agent = "cat >/dev/null; mkdir -p web; case $TEST_ID in web*) echo > web/$TEST_ID;; *) echo > $TEST_ID;; esac\n";
    let web = check("web", "echo run >> FOLDER/web", "paths = [\"web/**\"]");
    let world = world(agent, &(web + &check("all", "echo run >> FOLDER/all", "")));
    world.add_loop("one");
    for (id, web, all) in [("t1", 1, 2), ("web1", 2, 3), ("t2", 2, 4)] {
        world.add_test(id, "one");
        world.once("one");
        assert_eq!(world.test(id).status, TestStatus::Passed, "{id}");
        assert_eq!((lines(&world, "web"), lines(&world, "all")), (web, all), "{id}");
    }
}

#[test]
fn work_that_touches_the_paths_of_no_check_is_judged_by_all_of_them() {
    let world = with_test(&check("web", "echo run >> FOLDER/web", "paths = [\"web/**\"]"));
    world.once("one");
    assert_eq!((world.test("t1").status, lines(&world, "web")), (TestStatus::Passed, 2));
}

#[test]
fn a_check_has_what_it_needs_alone() {
    let suite =
        "mkdir FOLDER/port || { echo run >> FOLDER/clash; exit 1; }; sleep 0.3; rmdir FOLDER/port; echo run >> FOLDER/runs";
    let world = world(AGENT, &check("served", &format!(": $TEST_ID; {suite}"), "resources = [\"port:5432\"]"));
    let ids = ["a", "b", "c"];
    for id in ids {
        world.add_loop(id);
        world.add_test(&format!("{id}-1"), id);
    }
    let loops = ids.map(|id| world.start(id));
    for id in ids {
        wait_until("each to pass", || world.test(&format!("{id}-1")).status == TestStatus::Passed);
    }
    for each in loops {
        assert_eq!(each.terminate().code(), Some(0));
    }
    assert_eq!(lines(&world, "clash"), 0);
    world.assert_tidy();
}

// ---- the same was landed by others ----

#[test]
fn work_that_others_have_landed_passes_by_its_own_check_and_names_them() {
    for (checks, passes) in
        [(check("own", "test -n \"$TEST_ID\" && test -f made", ""), true), (check("suite", "true", ""), false)]
    {
        let agent = "cat >/dev/null; if [ $LOOP_ID = b ]; then touch FOLDER/b; while ! [ -e FOLDER/go ]; do sleep 0.05; done; fi; \
                     echo same > made\n";
        let world = world(agent, &checks);
        for id in ["a", "b"] {
            world.add_loop(id);
            world.add_test(&format!("{id}-1"), id);
        }
        let b = world.start("b");
        wait_for("b's agent", || world.exists("b"));
        world.once("a");
        assert_eq!(world.test("a-1").status, TestStatus::Passed);
        std::fs::write(world.folder().join("go"), "").unwrap();
        let test = wait_for("b's end", || {
            let test = world.test("b-1");
            (test.status == TestStatus::Passed || test.last_error.is_some()).then_some(test)
        });
        assert_eq!(b.terminate().code(), Some(0));
        if passes {
            assert_eq!(test.status, TestStatus::Passed, "{:?}", test.last_error);
            let runs = world.db.read(|tx| tx.proof_runs(&test.id)).unwrap();
            assert!(runs.iter().any(|run| run.why.contains("test a-1 of loop a")), "{runs:?}");
        } else {
            given_back(&test);
            assert!(test.last_error.unwrap().contains("test a-1 of loop a"));
            assert_eq!(open_questions(&world).remove(0).decision_type, "no_change");
        }
        assert_eq!(world.store(&["rev-list", "--count", "main..coding-loops/integration"]), "1");
    }
}
