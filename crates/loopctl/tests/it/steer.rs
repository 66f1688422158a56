//! Steering loops that somebody drives by hand, and what loops share.

use crate::common::Place;
use serde_json::json;

#[test]
fn next_claims_in_order_and_give_back_counts_only_the_agents_failures() {
    let place = Place::with_loops();
    place.run(&["next", "--loop", "a"]).fails(1).says("queue is empty");
    place.run(&["test", "add", "t1", "--loop", "a", "--notes", "one"]).ok();
    place.run(&["test", "add", "t2", "--loop", "a", "--depends-on", "t1"]).ok();
    let row = place.json(&["next", "--loop", "a"]);
    assert_eq!((&row["id"], &row["status"], &row["attempts"]), (&"t1".into(), &"in_progress".into(), &1.into()));
    place.run(&["next", "--loop", "a"]).fails(1).says("works on test");
    place.run(&["reset", "t1"]).fails(1);
    let back = place.json(&["give-back", "t1", "--category", "code", "--reason", "it broke"]);
    assert_eq!((&back["status"], &back["attempts"], &back["last_error"]), (&"pending".into(), &1.into(), &"it broke".into()));
    place.run(&["give-back", "t1", "--category", "code"]).fails(1).says("not in progress");
    assert!(place.run(&["next", "--loop", "a"]).ok().stdout.contains("attempt 2 of 3"));
    let back = place.json(&["give-back", "t1", "--category", "system"]);
    assert_eq!((&back["attempts"], &back["give_backs"]), (&1.into(), &1.into()));
    place.run(&["next", "--loop", "a"]).fails(1).says("the next retry is due in");
    place.run(&["reset", "t1"]).ok();
    for _ in 0..3 {
        place.run(&["next", "--loop", "a"]).ok();
        place.run(&["give-back", "t1", "--category", "code"]).ok();
    }
    let stuck = place.json(&["stuck"]);
    assert_eq!(stuck["tests"][0]["id"], "t1");
    assert!(place.run(&["stuck"]).ok().stdout.contains("loopctl reset"));
    place.run(&["next", "--loop", "a"]).fails(1).says("depend on tests");
    assert_eq!(place.json(&["skip", "t1", "--reason", "no need"])["status"], "skipped");
    assert_eq!(place.json(&["reset", "t1"])["attempts"], 0);
    assert_eq!(place.sql("SELECT count(*) FROM events WHERE event_type = 'test_blocked'"), "1");
}

#[test]
fn a_pause_of_a_loop_without_a_process_holds_at_once() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    let told = place.json(&["pause", "a", "--reason", "lunch"]);
    assert_eq!((&told[0]["loop_id"], &told[0]["status"]), (&"a".into(), &"paused".into()));
    let test = &place.json(&["tests"])[0];
    assert_eq!((&test["status"], &test["attempts"]), (&"pending".into(), &0.into()));
    assert_eq!(place.json(&["locks"]), json!([]));
    place.run(&["next", "--loop", "a"]).fails(1).says("resume");
    assert_eq!(place.sql("SELECT source FROM events WHERE event_type = 'pause_requested'"), "human");

    // Only the human, or who asked for it, lifts it.
    place.run(&["--as", "b", "resume", "a"]).fails(1).says("paused by human");
    place.run(&["--as", "b", "pause", "a"]).ok();
    place.run(&["--as", "b", "resume", "a"]).ok();
    assert_eq!(place.json(&["loop", "list"])[0]["status"], "paused");
    assert_eq!(place.json(&["resume", "a"])[0]["status"], "running");
    place.run(&["next", "--loop", "a"]).ok();

    // All of them: one event for each.
    assert_eq!(place.json(&["pause", "all"]).as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["resume", "all"]).as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["check"]), json!([]));
}

#[test]
fn a_request_to_a_loop_with_a_live_process_is_left_to_it() {
    let place = Place::with_loops();
    let own = std::process::id();
    place.run(&["beat", "--loop", "a", "--pid", &own.to_string()]).ok();
    place.sql(&format!("UPDATE loops SET pid = {own}, status = 'running' WHERE id = 'a'"));
    assert_eq!(place.json(&["pause", "a"])[0]["status"], "running");
    assert_eq!(place.json(&["poll", "a"])[0]["event_type"], "pause_requested");
    place.run(&["next", "--loop", "a"]).fails(1).says("driven by its own process");
    // Once the process has ended, loopctl acts itself.
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    place.sql(&format!("UPDATE component_health SET pid = {}, pid_start_time = NULL WHERE component = 'a'", gone.id()));
    assert_eq!(place.json(&["pause", "a"])[0]["status"], "paused");
    assert_eq!(place.json(&["poll", "a"]), json!([]));
}

#[test]
fn beats_are_written_down_and_a_dead_pid_is_refused() {
    let place = Place::with_loops();
    let row = place.json(&["beat", "--loop", "a", "--pid", &std::process::id().to_string()]);
    assert_eq!((&row["component"], &row["status"]), (&"a".into(), &"healthy".into()));
    assert_eq!(place.json(&["loop", "list"])[0]["status"], "running");
    // A beat without a pid keeps the one that was given.
    assert_eq!(place.json(&["beat", "--loop", "a"])["pid"], row["pid"]);
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    place.run(&["beat", "--loop", "a", "--pid", &gone.id().to_string()]).fails(1).says("no process");
    let health = place.json(&["health"]);
    assert_eq!(health[0]["verdict"], "healthy");
    assert!(place.run(&["health"]).ok().stdout.contains("never started"));
}

#[test]
fn restart_rollback_and_priority_are_said() {
    let place = Place::with_loops();
    // With an agent, but without a process.
    std::fs::write(place.home().join("config.toml"), "[loop.a.agent]\ncommand = [\"true\"]\n").unwrap();
    place.run(&["restart", "a", "--reason", "r"]).ok().says("coding-loop a");
    place.run(&["rollback", "a"]).ok();
    place.sql("INSERT INTO checkpoints (id, loop_id, git_ref) VALUES ('cp', 'b', 'refs/x')");
    place.run(&["rollback", "a", "--checkpoint", "cp"]).fails(1).says("belongs to loop b");
    // Driven by hand, it is done at once, or said that it cannot be.
    place.run(&["rollback", "b", "--checkpoint", "cp"]).fails(1).says("b cannot roll back: there is no commit");
    assert_eq!(place.json(&["priority", "a", "1"])["priority"], 1);
    let types: Vec<String> = place
        .json(&["timeline"])
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event_type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(types, ["restart_requested", "rollback_triggered", "rollback_triggered", "priority_changed"]);
}

#[test]
fn a_question_is_asked_and_answered_once() {
    let place = Place::with_loops();
    let asked = [
        "ask",
        "--summary",
        "which?",
        "--option",
        "A=first",
        "--option",
        "B=second one",
        "--default",
        "A",
        "--fingerprint",
        "f",
    ];
    let id = place.json(&[&["--as", "a"], &asked[..]].concat())["id"].as_str().unwrap().to_owned();
    assert_eq!(place.json(&asked)["id"], id.as_str());
    let row = &place.json(&["decisions"])[0];
    assert_eq!(
        (&row["requested_by"], &row["timeout_minutes"], &row["options"][1]["id"]),
        (&"a".into(), &60.into(), &"B".into())
    );
    assert!(place.run(&["decisions"]).ok().stdout.contains(&format!("loopctl decide {} B", &id[28..])));
    place.run(&["decide", &id, "C"]).fails(2).says("choose A, B");
    place.run(&["decide", &id[..20], "B", "--comment", "c"]).ok().says("pm-agent is not running");
    place.run(&["decide", &id, "A"]).fails(1).says("was answered");
    assert_eq!(place.json(&["poll", "pm"])[0]["payload"]["choice"], "B");
}

#[test]
fn alerts_are_listed_and_marked_as_seen() {
    let place = Place::with_loops();
    place.sql("INSERT INTO alerts (id, severity, alert_type, message) VALUES ('al-1', 'critical', 'stuck', 'a is stuck')");
    assert!(place.run(&["status"]).ok().stdout.contains("loopctl ack-alert al-1"));
    place.run(&["ack-alert", "al"]).ok();
    assert_eq!(place.json(&["alerts"])[0]["acknowledged_by"], "human");
    assert!(!place.run(&["status"]).ok().stdout.contains("needs you"));
    place.sql("UPDATE alerts SET closed_at = datetime('now')");
    assert_eq!(place.json(&["alerts"]), json!([]));
    assert_eq!(place.json(&["alerts", "--all"]).as_array().unwrap().len(), 1);
}

#[test]
fn knowledge_ownership_requests_migrations_and_usage() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a", "--category", "db", "--scope", "src/**"]).ok();
    let know = |arguments: &[&str]| place.json(&[&["knowledge", "add"], arguments].concat())["id"].as_str().unwrap().to_owned();
    let old = know(&["use WAL", "--loop", "a", "--topic", "db", "--area", "src/db/**"]);
    let new = know(&["use WAL2", "--topic", "db", "--type", "pattern"]);
    assert_eq!(place.json(&["knowledge", "search", "wal", "--path", "src/db/x.rs"])[0]["id"], old.as_str());
    place.run(&["knowledge", "supersede", &old, "--by", &new]).ok();
    place.run(&["knowledge", "supersede", &old, "--by", &new]).fails(1);
    assert_eq!(place.json(&["knowledge", "context", "t"])["items"].as_array().unwrap().len(), 1);

    place.run(&["own", "./src/api.rs", "--loop", "a"]).ok();
    place.run(&["own", "src/api.rs", "--loop", "b"]).fails(1).says("request create");
    assert_eq!(place.json(&["own"])[0]["owner_loop"], "a");
    let request = place.json(&["request", "create", "src/api.rs", "--loop", "b"])["id"].as_str().unwrap().to_owned();
    place.run(&["request", "create", "src/api.rs", "--loop", "a"]).fails(1);
    place.run(&["request", "apply", &request]).fails(1).says("cannot become");
    place.run(&["--as", "b", "request", "approve", &request]).fails(1);
    assert_eq!(place.json(&["request", "approve", &request])["status"], "approved");
    place.run(&["request", "reject", &request]).fails(1);
    assert_eq!(place.json(&["request", "apply", &request])["status"], "applied");
    assert_eq!(place.json(&["request", "list", "--status", "pending"]), json!([]));

    assert_eq!(place.run(&["migration", "allocate", "one", "--loop", "a"]).ok().stdout, "1\n");
    assert_eq!(place.json(&["migration", "allocate", "two", "--loop", "b"])["number"], 2);
    place.run(&["migration", "done", "1"]).ok();
    place.run(&["migration", "fail", "1"]).fails(1);
    assert_eq!(place.json(&["migration", "fail", "2"])["status"], "failed");

    place.run(&["usage", "record", "--loop", "a", "--test", "t", "--tokens", "100", "--seconds", "5"]).ok();
    place.run(&["usage", "record", "--loop", "a", "--tokens", "11"]).ok();
    let report = place.json(&["usage", "report"]);
    assert_eq!((&report[0]["key"], &report[0]["tokens_estimated"]), (&"a".into(), &111.into()));
    assert_eq!(place.json(&["usage", "report", "--by", "test", "--since", "1h"])[1]["key"], "t");
}

#[test]
fn a_landed_test_is_reset_only_by_force() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t1", "--loop", "a"]).ok();
    place.sql("UPDATE tests SET status = 'passed', verified_at = datetime('now'), commit_hash = 'c0ffee' WHERE id = 't1'");
    place
        .run(&["reset", "t1"])
        .fails(1)
        .says("commit c0ffee on coding-loops/integration")
        .says("back on the queue of a")
        .says("reset --force t1");
    assert_eq!(place.json(&["status", "t1"])["test"]["status"], "passed");
    assert_eq!(place.json(&["reset", "t1", "--force"])["status"], "pending");
}
