//! Agents that can be continued: a red gate goes back to the same session, and an interrupted one goes on with its work.

use crate::common::{CHECK, World};
use coord_db::{ErrorCategory, TestStatus};
use nix::sys::signal::Signal;
use test_support::{wait_for, wait_until};

/// An agent that speaks as Claude Code does. `$session` is the one to continue, or empty; it notes its prompts.
fn claude(script: &str) -> String {
    format!(
        r#"session=; while [ $# -gt 0 ]; do [ "$1" = --resume ] && session=$2; shift; done
run=$(($(ls $FOLDER | grep -c '^prompt-') + 1)); cat > $FOLDER/prompt-$run; echo "$session" > $FOLDER/session-$run
say() {{ echo '{{"type":"system","subtype":"init","session_id":"s1","model":"m"}}'; }}
message() {{ echo '{{"type":"assistant","message":{{"id":"m1","model":"m","content":[],"usage":{{"input_tokens":7,"output_tokens":3}}}}}}'; }}
result() {{ echo '{{"type":"result","subtype":"success","is_error":false,"result":"'"$1"'","terminal_reason":"completed","session_id":"s1","model_usage_since_last_result":{{"m":{{"inputTokens":100,"outputTokens":10,"cacheReadInputTokens":1000,"cacheCreationInputTokens":50,"costUSD":0.25}}}}}}'; }}
{script}
"#
    )
}

fn world(script: &str, checks: &str) -> World {
    let world = World::new(&claude(script), checks);
    world.configure(|text| {
        let environment = "environment = [\"PATH\", \"HOME\", \"FOLDER\"]\nkind = \"claude\"\n";
        text.replacen("[agent]\n", &format!("[agent]\n{environment}"), 1)
    });
    world.add_loop("one");
    world.add_test("t1", "one");
    world
}

fn content(world: &World, name: &str) -> String {
    std::fs::read_to_string(world.folder().join(name)).unwrap_or_default().trim().to_owned()
}

const DONE: &str = r#"
[[gate.check]]
name = "content"
command = ["sh", "-c", "test \"$(cat t1)\" = right || { echo \"t1 is $(cat t1), not right\"; exit 7; }"]
per_test = true
"#;

#[test]
fn a_red_gate_goes_back_to_the_same_session() {
    let script = "say; if [ -z \"$session\" ]; then echo wrong > t1; else echo right > t1; fi; result done";
    let world = world(script, DONE);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Passed, 1));
    assert_eq!(world.events("test_failed").len(), 0);
    assert_eq!((content(&world, "session-1").as_str(), content(&world, "session-2").as_str()), ("", "s1"));
    let prompt = content(&world, "prompt-2");
    for part in ["Your work on test t1 was verified and is not accepted", "exit code 7", "t1 is wrong, not right"] {
        assert!(prompt.contains(part), "{part} in {prompt}");
    }
    let used = world.sql(
        "SELECT agent, model, tokens_estimated, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_microusd FROM usage",
    );
    assert_eq!(used, ["claude|m|160|100|10|1000|50|250000"; 2].join("\n"), "one for each run");
    assert_eq!(
        world.sql("SELECT attempt, session, outcome FROM runs WHERE kind = 'agent'"),
        "1|s1|exit code 0\n1|s1|exit code 0"
    );
    world.assert_tidy();
}

#[test]
fn a_session_has_a_limited_number_of_rounds_and_a_new_attempt_a_new_session() {
    let world = world("say; date +%N > t1; result done", DONE);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Blocked, 2));
    let sessions: Vec<String> = (1..=7).map(|run| content(&world, &format!("session-{run}"))).collect();
    assert_eq!(sessions, ["", "s1", "s1", "", "s1", "s1", ""]);
    assert!(world.exists("prompt-6").is_some() && world.exists("prompt-7").is_none());
}

#[test]
fn an_interrupted_session_goes_on_with_its_work() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let script = "say
            if [ -z \"$session\" ]; then message; echo half > t1; touch $FOLDER/begun; sleep 600; fi
            [ \"$(cat t1)\" = half ] && echo right > t1; result done";
        let world = world(script, DONE);
        let mut running = world.start("one");
        wait_for("the agent and its session", || {
            let noted = world.sql("SELECT count(*) FROM runs WHERE session = 's1'") == "1";
            (world.exists("begun").is_some() && noted).then_some(())
        });
        running.signal(signal);
        running.wait();
        if signal == Signal::SIGKILL {
            // Another process may clean up before the loop comes back.
            let test = world.test("t1");
            let given_back = world.db.write(|tx| tx.give_back_abandoned(&test, &"heartbeat".parse()?, "its loop died", None));
            given_back.unwrap();
        }
        assert_eq!(world.once("one").status.code(), Some(0));
        assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Passed, 1), "{signal}");
        assert_eq!(content(&world, "session-2"), "s1");
        let prompt = content(&world, "prompt-2");
        assert!(prompt.starts_with("Go on with test t1. Your run was interrupted"), "{prompt}");
        // The message of the first run, which nobody saw end, and the result of the second.
        assert_eq!(world.sql("SELECT sum(input_tokens), sum(output_tokens) FROM usage"), "107|13");
        world.assert_tidy();
    }
}

#[test]
fn a_session_that_is_interrupted_again_before_it_says_a_word_goes_on_all_the_same() {
    let script = "touch $FOLDER/begun-$run
        if [ $run = 1 ]; then say; echo half > t1; sleep 600; fi
        [ $run = 2 ] && sleep 600
        [ \"$(cat t1)\" = half ] && echo right > t1; say; result done";
    let world = world(script, DONE);
    for run in 1..=2 {
        let running = world.start("one");
        wait_for("the agent", || world.exists(&format!("begun-{run}")));
        wait_until("the session", || world.sql("SELECT count(*) FROM runs WHERE session = 's1'") == run.to_string());
        assert_eq!(running.terminate().code(), Some(0));
    }
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Passed, 1));
    assert_eq!(content(&world, "session-3"), "s1");
}

#[test]
fn a_session_in_which_the_agent_dies_without_a_word_is_not_continued_again() {
    let script = "touch $FOLDER/begun-$run
        if [ $run = 1 ]; then say; echo half > t1; sleep 600; fi
        [ $run = 2 ] && kill -9 $$
        echo right > t1; say; result done";
    let world = world(script, DONE);
    let running = world.start("one");
    wait_for("the agent", || world.exists("begun-1"));
    wait_until("the session", || world.sql("SELECT count(*) FROM runs WHERE session = 's1'") == "1");
    assert_eq!(running.terminate().code(), Some(0));
    let running = world.start("one");
    wait_until("the landing", || world.test("t1").status == TestStatus::Passed);
    assert_eq!(running.terminate().code(), Some(0));
    let sessions = ["session-1", "session-2", "session-3"].map(|run| content(&world, run));
    assert_eq!(sessions, ["", "s1", ""]);
}

#[test]
fn usage_is_recorded_when_the_loop_is_killed_in_the_gate() {
    let gate = r#"
[[gate.check]]
name = "slow"
command = ["sh", "-c", "touch $FOLDER/judging; test -e $FOLDER/go || sleep 600"]
"#;
    let world = world("say; echo right > t1; result done", &gate.replace("sleep 600\"]", "sleep 600\", \"$TEST_ID\"]"));
    let mut running = world.start("one");
    wait_for("the check", || world.exists("judging"));
    running.signal(Signal::SIGKILL);
    running.wait();
    let used = || world.sql("SELECT sum(input_tokens), sum(output_tokens), sum(cost_microusd) FROM usage");
    assert_eq!(used(), "100|10|250000");
    std::fs::write(world.folder().join("go"), "").unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    let runs = world.sql("SELECT count(*) FROM runs WHERE kind = 'agent'");
    assert_eq!((runs.as_str(), used().as_str()), ("2", "200|20|500000"), "each run once");
    world.assert_tidy();
}

#[test]
fn each_round_is_given_what_is_left_of_the_money() {
    let script = "say; echo \"$arguments\" >> $FOLDER/given; if [ -z \"$session\" ]; then echo wrong > t1; else echo right > t1; fi; result done";
    let world = world(script, &format!("{DONE}[budget]\nusd_per_test = 1\n"));
    let text = std::fs::read_to_string(world.folder().join("agent.sh")).unwrap();
    std::fs::write(world.folder().join("agent.sh"), format!("arguments=\"$*\"\n{text}")).unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    let given = content(&world, "given");
    let given: Vec<&str> = given.split_whitespace().filter(|word| word.parse::<f64>().is_ok()).collect();
    assert_eq!(given, ["1.0000", "0.7500"]);
}

#[test]
fn a_missing_session_is_replaced_by_a_new_one() {
    let script = "if [ -n \"$session\" ]; then echo 'No conversation found with session ID: s1'; exit 1; fi; say
        if [ $run = 1 ]; then echo wrong > t1; else echo right > t1; fi; result done";
    let world = world(script, DONE);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Passed, 1));
    assert_eq!(content(&world, "session-3"), "");
    let prompt = content(&world, "prompt-3");
    assert!(
        prompt.starts_with("Your task is test t1 (attempt 1 of 2)") && prompt.contains("t1 is wrong, not right"),
        "{prompt}"
    );
}

#[test]
fn a_refused_key_ends_the_run_before_it_is_tried_for_minutes() {
    let script = "say
        for try in 1 2 3; do echo '{\"type\":\"system\",\"subtype\":\"api_retry\",\"attempt\":'$try',\"error_status\":401,\"error\":\"authentication_failed\"}'; done
        sleep 600";
    let world = world(script, DONE);
    let running = world.start("one");
    wait_for("the question", || (world.sql("SELECT count(*) FROM decisions WHERE status = 'pending'") == "1").then_some(()));
    assert_eq!(world.sql("SELECT subject, kind FROM holds"), "agent:claude|human");
    assert_eq!(world.test("t1").error_category, Some(ErrorCategory::Human));
    assert_eq!(world.test("t1").attempts, 0);
    assert_eq!(running.terminate().code(), Some(0));
}

#[test]
fn what_the_agent_was_not_allowed_to_do_is_the_reason() {
    let script = "say; echo '{\"type\":\"result\",\"is_error\":false,\"result\":\"I could not write\",\"session_id\":\"s1\",\"permission_denials\":[{\"tool_name\":\"Write\"}]}'";
    let world = world(script, DONE);
    assert_eq!(world.once("one").status.code(), Some(0));
    let error = world.test("t1").last_error.unwrap();
    assert!(error.contains("was not allowed to use Write and changed nothing"), "{error}");
}

#[test]
fn the_agents_git_asks_nothing_and_our_programs_come_first() {
    let script = "say; env > $FOLDER/environment; bash -lc 'echo $PATH' > $FOLDER/path; echo right > t1; result done";
    let world = world(script, DONE);
    assert_eq!(world.once("one").status.code(), Some(0));
    let environment = content(&world, "environment");
    for line in ["GIT_TERMINAL_PROMPT=0", "GIT_EDITOR=true", "GIT_SEQUENCE_EDITOR=true"] {
        assert!(environment.lines().any(|have| have == line), "{line} in {environment}");
    }
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_coding-loop")).parent().unwrap();
    let first = content(&world, "path").split(':').next().unwrap().to_owned();
    assert_eq!(std::path::Path::new(&first), folder);
}

#[test]
fn prices_are_used_where_the_agent_states_no_cost() {
    let agent = "cat >/dev/null; touch $TEST_ID; echo '{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":3000000,\"cached_input_tokens\":1000000,\"output_tokens\":1000000}}'\n";
    let world = World::with_test(
        agent,
        &format!("{CHECK}\n[price]\n\"generic\" = {{ input = 1.25, output = 10.0, cache_read = 0.125 }}\n"),
    );
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.sql("SELECT tokens_estimated, cost_microusd FROM usage"), "3000000|12625000");
    wait_until("the end", || world.test("t1").status == TestStatus::Passed);
}
