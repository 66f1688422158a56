//! An agent that cannot work, from the first run to the human's answer: the real loops, monitor and pm.

use system_tests::processes::World;
use test_support::wait_for;

/// Cannot log in until it is mended; counts its runs.
const AGENT: &str = "cat >/dev/null; echo run >> FOLDER/runs\n\
    if [ ! -e FOLDER/mended ]; then echo 'Invalid API key · Please run /login'; exit 1; fi\n\
    touch \"$TEST_ID\"\n";

fn world() -> World {
    let world = World::new();
    let agent = AGENT.replace("FOLDER", &world.folder().display().to_string());
    std::fs::write(world.folder().join("agent.sh"), agent).unwrap();
    let script = world.folder().join("agent.sh");
    world.settings(&format!(
        "[agent]\ncommand = [\"sh\", \"{}\"]\n[[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID\"]\n",
        script.display()
    ));
    for (of, test) in [("one", "t1"), ("two", "t2")] {
        assert!(world.loopctl(&["loop", "add", of]).status.success());
        assert!(world.loopctl(&["test", "add", test, "--loop", of]).status.success());
    }
    world
}

fn runs(world: &World) -> usize {
    std::fs::read_to_string(world.folder().join("runs")).unwrap_or_default().lines().count()
}

#[test]
fn an_agent_that_needs_a_human_raises_one_alert_and_one_question_and_goes_on_with_the_answer() {
    let world = world();
    let _monitor = world.supervisor("monitor");
    let _pm = world.supervisor("pm-agent");
    let one = world.start("coding-loop", &["one"]);
    world.until("SELECT kind FROM holds", "human");
    let two = world.start("coding-loop", &["two"]);
    world.until("SELECT count(DISTINCT agent) || count(*) FROM loops WHERE agent IS NOT NULL", "12");
    world.until("SELECT count(*) FROM alerts WHERE fingerprint LIKE 'agent:%' AND closed_at IS NULL", "1");
    world.until("SELECT count(*) FROM decisions WHERE status = 'pending'", "1");
    world.until("SELECT group_concat(status || attempts) FROM tests", "pending0,pending0");
    // While a loop that has just started tries, the others wait for what comes of it.
    wait_for("both loops to wait for the answer", || {
        let status = String::from_utf8(world.loopctl(&["status"]).stdout).unwrap();
        (status.matches("starts no attempt until your answer: Invalid API key").count() == 2).then_some(())
    });

    std::fs::write(world.folder().join("mended"), "").unwrap();
    let failed = runs(&world);
    assert!(failed <= 2, "a second loop may try once when it starts: {failed}");
    let question = world.sql("SELECT id FROM decisions").unwrap();
    assert!(world.loopctl(&["decide", &question, "try_again"]).status.success());
    world.until("SELECT group_concat(status || attempts) FROM tests", "passed1,passed1");
    world.until("SELECT count(*) FROM holds", "0");
    world.until("SELECT count(*) FROM alerts WHERE fingerprint LIKE 'agent:%' AND closed_at IS NULL", "0");
    assert_eq!(runs(&world), failed + 2);
    assert_eq!(world.sql("SELECT count(*) FROM decisions").unwrap(), "1");
    assert!(world.loopctl(&["check"]).status.success());
    assert!(one.terminate().success() && two.terminate().success());
}

#[test]
fn a_base_that_fails_is_shown_and_attempts_start_with_the_answer() {
    let world = world();
    std::fs::write(world.folder().join("mended"), "").unwrap();
    let suite = "[[gate.check]]\nname = \"suite\"\ncommand = [\"sh\", \"-c\", \"echo FAILED test_login; exit 1\"]\n";
    let own = "[[gate.check]]\nname = \"own\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID\"]\nfails_before = true\n";
    let script = world.folder().join("agent.sh");
    world.settings(&format!("[agent]\ncommand = [\"sh\", \"{}\"]\n{suite}{own}", script.display()));
    let _pm = world.supervisor("pm-agent");
    let loops = ["one", "two"].map(|id| world.start("coding-loop", &[id]));
    world.until("SELECT count(*) FROM decisions WHERE status = 'pending'", "1");
    let text = |arguments: &[&str]| String::from_utf8(world.loopctl(arguments).stdout).unwrap();
    let status = text(&["status"]);
    assert!(status.contains("no attempt starts: check suite failed with exit code 1 at"), "{status}");
    assert!(status.contains("FAILED test_login"), "{status}");
    let why = text(&["why", &world.sql("SELECT id FROM events WHERE event_type = 'base_red'").unwrap()]);
    assert!(why.contains("base_red by") && why.contains("decision_needed by"), "{why}");
    assert_eq!(runs(&world), 0, "no agent is paid");

    let question = world.sql("SELECT id FROM decisions").unwrap();
    assert!(world.loopctl(&["decide", &question, "ignore"]).status.success());
    world.until("SELECT group_concat(status || attempts) FROM tests", "passed1,passed1");
    let status = text(&["status"]);
    assert!(status.contains("check suite fails at the head of integration and is ignored"), "{status}");
    let status = text(&["status", "t1"]);
    for part in ["), red before, attempt 1", "), alone, attempt 1", "base: red at", "ignored: it fails at the base"] {
        assert!(status.contains(part), "{part:?} is not in {status}");
    }
    assert!(world.loopctl(&["check"]).status.success());
    assert!(loops.into_iter().all(|each| each.terminate().success()));
}
