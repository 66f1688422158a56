//! An agent that a real loop drives and that speaks to `loopctl mcp` beside it.

use system_tests::binaries;
use system_tests::processes::World;

/// Runs calls of tools, given as JSON in the file `calls`, one after another in one session, and then claims success.
const AGENT: &str = r#"cat > /dev/null
touch "$TEST_ID"
mkfifo FOLDER/to
LOOPCTL --db DATABASE mcp --loop one < FOLDER/to > FOLDER/said &
exec 3> FOLDER/to
say() { printf '%s\n' "$1" >&3; until grep -q "\"id\":$2," FOLDER/said; do sleep 0.05; done; }
say '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}' 0
while read -r id call; do
  say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"method\":\"tools/call\",\"params\":$call}" "$id"
done < FOLDER/calls
exec 3>&-
wait
rm FOLDER/to
exit 0
"#;

fn world(calls: &str) -> World {
    let world = World::new();
    let folder = world.folder().display().to_string();
    let agent = AGENT
        .replace("FOLDER", &folder)
        .replace("LOOPCTL", &binaries().join("loopctl").display().to_string())
        .replace("DATABASE", &world.path().display().to_string());
    std::fs::write(world.folder().join("agent.sh"), agent).unwrap();
    std::fs::write(world.folder().join("calls"), calls).unwrap();
    world.settings(&format!(
        "[agent]\ncommand = [\"sh\", \"{folder}/agent.sh\"]\n[[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID\"]\n"
    ));
    assert!(world.loopctl(&["loop", "add", "one"]).status.success());
    assert!(world.loopctl(&["test", "add", "t1", "--loop", "one", "--max-attempts", "1"]).status.success());
    world
}

fn said(world: &World) -> String {
    std::fs::read_to_string(world.folder().join("said")).unwrap_or_default()
}

#[test]
fn an_agent_gives_up_whatever_its_exit_status_is() {
    let world = world("1 {\"name\":\"give_up\",\"arguments\":{\"reason\":\"the two documents contradict each other\"}}\n");
    let running = world.start("coding-loop", &["one"]);
    world.until("SELECT count(*) FROM events WHERE event_type = 'test_failed'", "1");
    assert!(said(&world).contains("Stop now"), "{}", said(&world));
    assert_eq!(
        world.sql("SELECT error_category, last_error FROM tests").unwrap(),
        "spec|the agent gave up: the two documents contradict each other"
    );
    // Beside its process, the attempt ends once, and as the loop sees it.
    assert_eq!(world.sql("SELECT count(DISTINCT correlation_id) || count(*) FROM events WHERE event_type IN ('agent_gave_up', 'test_started', 'test_failed')").unwrap(), "13");
    assert!(running.terminate().success());
    assert!(world.loopctl(&["check"]).status.success());
}

#[test]
fn what_an_agent_checks_and_leases_beside_its_loop_lands_all_the_same() {
    let world = world(
        "1 {\"name\":\"lock\",\"arguments\":{\"paths\":[\"t1\"]}}\n2 {\"name\":\"check\",\"arguments\":{}}\n3 {\"name\":\"context\"}\n",
    );
    let running = world.start("coding-loop", &["one"]);
    world.until("SELECT status FROM tests", "passed");
    assert!(said(&world).contains("these checks pass: file"), "{}", said(&world));
    // The train lands the work; the loop releases what it still holds right after.
    world.until("SELECT count(*) FROM file_locks WHERE locked_by = 'one'", "0");
    assert!(running.terminate().success());
    assert!(world.loopctl(&["check"]).status.success());
}
