//! Seeing: shapes of JSON, escaping, stories, events by hand.

use std::io::BufRead;

use crate::common::{Place, is_harmless, ran};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use test_support::wait_until;

#[test]
fn empty_lists_are_empty_and_not_errors() {
    let place = Place::new();
    for command in [
        "loop list",
        "tests",
        "locks",
        "deadlocks",
        "conflicts",
        "regressions",
        "alerts",
        "decisions",
        "timeline",
        "health",
        "request list",
        "migration list",
        "usage report",
        "knowledge search",
        "own",
        "check",
        "poll human",
        "force-unlock --all",
        "pause all",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        assert_eq!(place.json(&arguments), json!([]), "{command}");
        place.run(&arguments).ok();
    }
    assert!(place.run(&["status"]).ok().stdout.contains("loopctl loop add"));
    assert_eq!(place.json(&["status"])["loops"], json!([]));
    assert_eq!(place.json(&["stuck"]), json!({ "alerts": [], "tests": [] }));
    place.run(&["summary"]).ok();
}

#[test]
fn status_wraps_everything_by_loop() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t1", "--loop", "a", "--notes", "one"]).ok();
    place.run(&["test", "add", "t2", "--loop", "a"]).ok();
    place.run(&["skip", "t2"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    let status = place.json(&["status"]);
    let a = &status["loops"][0];
    assert_eq!((&a["id"], &a["status"], &a["current_test_id"]), (&"a".into(), &"running".into(), &"t1".into()));
    assert_eq!((&a["progress"]["total"], &a["progress"]["skipped"]), (&2.into(), &1.into()));
    assert_eq!(a["current_test"]["notes"], "one");
    assert_eq!(a["leases"][0]["file_path"], "x");
    for key in ["waits", "pauses"] {
        assert_eq!(a[key], json!([]));
    }
    assert_eq!(status["loops"][1]["progress"]["total"], 0);
    for key in ["decisions", "alerts", "deadlocks", "conflicts", "regressions", "components"] {
        assert_eq!(status[key], json!([]), "{key}");
    }
    let text = place.run(&["status"]).ok().stdout;
    for part in ["0/2", "1 skipped", "on t1, attempt 1 of 3", "holds x", "monitor off"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains('\x1b'), "no colour without a terminal");
    let one = place.json(&["status", "b"]);
    assert_eq!(one["loops"].as_array().unwrap().len(), 1);

    let hash = "ab".repeat(32);
    place.sql(&format!(
        "INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, exit_code, duration_ms, output_sha256, output_tail)
         VALUES ('p', 't1', 1, '0123456789abcdef', 'tree', 'unit', 'pass', 0, 1234, '{hash}', 'all' || char(10) || 'good')"
    ));
    let test = place.json(&["status", "t1"]);
    assert_eq!(test["proofs"][0]["output_sha256"], hash);
    assert_eq!(test["events"][0]["event_type"], "test_started");
    let text = place.run(&["status", "t1"]).ok().stdout;
    for part in ["0123456789ab", "unit", "exit status 0", "1.234s", &hash, "      good", "t1 "] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_proof_on_a_fresh_clone_is_shown_with_the_tests_that_had_landed() {
    let place = Place::with_loops();
    place.sql(
        "INSERT INTO tests (id, loop_id, category, status, verified_at, commit_hash) VALUES
           ('t1', 'a', '', 'passed', '2026-11-20 10:00:00', '0123456789abcdef'), ('t2', 'a', '', 'passed', '2026-11-22 10:00:00', 'f');
         INSERT INTO proofs (id, test_id, attempt, commit_hash, tree_hash, check_name, outcome, duration_ms, output_sha256) VALUES
           ('p1', 't1', 1, '0123456789abcdef', 'tree', 'unit', 'pass', 1, 'x'), ('p2', 't2', 1, 'f', 'tree', 'unit', 'pass', 1, 'x');
         INSERT INTO events (id, timestamp, source, event_type, payload) VALUES ('passed', '2026-11-20 10:00:00', 'a', 'test_passed',
           '{\"test_id\":\"t1\",\"loop_id\":\"a\",\"attempt\":1,\"duration_seconds\":1,\"files_modified\":[],\"verified\":true,\"verification_checks\":{},\"commit\":\"0123456789abcdef\"}');
         INSERT INTO check_runs (check_name, commit_hash, outcome, ran_at) VALUES
           ('unit (cold)', 'fedcba9876543210', 'pass', '2026-11-21 02:00:00'), ('unit', 'fedcba9876543210', 'pass', '2026-11-21 02:00:00');",
    );
    let said = "unit passed on a fresh clone without caches at fedcba987654";
    for arguments in [&["status", "t1"][..], &["why", "passed"], &["status"]] {
        let text = place.run(arguments).ok().stdout;
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    // What has landed since is in no such proof.
    let text = place.run(&["status", "t2"]).ok().stdout;
    assert!(!text.contains("fresh clone"), "{text}");
    assert_eq!(place.json(&["status"])["cold"][0]["check_name"], "unit (cold)");
}

#[test]
fn nothing_hostile_reaches_the_terminal() {
    let place = Place::with_loops();
    let evil = "'a' || char(27) || '[2J' || char(155) || '31m' || char(7) || char(13) || char(8238)";
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    place.sql(&format!("UPDATE tests SET notes = {evil}, spec_content = {evil}, last_error = {evil}, category = {evil}"));
    place.sql(&format!("UPDATE loops SET name = {evil}, branch = {evil}"));
    place.sql(&format!("UPDATE file_locks SET lock_reason = {evil}"));
    place.sql(&format!("INSERT INTO alerts (id, severity, alert_type, message) VALUES ({evil}, 'error', 'stuck', {evil})"));
    place.sql(&format!(
        "INSERT INTO decisions (id, decision_type, summary, options) VALUES ({evil}, {evil}, {evil}, json_array({evil}, 'b'))"
    ));
    place.sql(&format!(
        "INSERT INTO events (id, source, event_type, payload) VALUES ({evil}, {evil}, {evil}, json_object('test_id', {evil}))"
    ));
    place.sql(&format!("INSERT INTO file_locks (file_path, locked_by) VALUES ('b' || {evil}, {evil})"));
    place.sql(&format!("INSERT INTO wait_graph (waiter, holder, resource) VALUES ('a', {evil}, {evil})"));
    place.sql(&format!("INSERT INTO component_health (component, version) VALUES ({evil}, {evil})"));
    place.sql(&format!("INSERT INTO knowledge (id, item_type, content) VALUES ({evil}, 'fact', {evil})"));
    place.sql("INSERT INTO subscriptions (id, subscriber, event_types) VALUES ('w', 'w', '[\"custom.x\"]')");
    place.sql(&format!(
        "INSERT INTO events (id, source, event_type, payload) VALUES ('e2', 'a', 'custom.x', json_object('x', {evil}))"
    ));
    for command in [
        "status",
        "status a",
        "status t",
        "tests",
        "locks",
        "health",
        "timeline",
        "alerts",
        "decisions",
        "stuck",
        "summary",
        "check",
        "knowledge search",
        "poll w",
        "why e2",
        "loop list",
        "dump",
        "doctor",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        let plain = place.run(&arguments);
        assert!([0, 1].contains(&plain.code), "{command}: {}", plain.stderr);
        is_harmless(&plain.stdout);
        is_harmless(&plain.stderr);
        if command != "dump" {
            let document = place.run(&[&["--json"], &arguments[..]].concat());
            is_harmless(&document.stdout);
            document.json();
        }
    }
    let tests = place.json(&["tests"]);
    assert_eq!(tests[0]["notes"], "a\x1b[2J\u{9b}31m\x07\r\u{202e}", "JSON gives it back as it is");
    is_harmless(&place.run(&["lock", "bx", "--loop", "b"]).stderr);
}

#[test]
fn a_row_of_a_megabyte_is_shortened_and_says_where_all_of_it_is() {
    let place = Place::with_loops();
    let long = "replace(hex(zeroblob(250000)), '00', 'word')";
    place.sql(&format!(
        "INSERT INTO alerts (id, severity, alert_type, message) VALUES ('1', 'error', 'stuck', 'begin' || {long} || 'end')"
    ));
    place.sql(&format!(
        "INSERT INTO decisions (id, decision_type, summary, options)
         VALUES ('2', 'stuck', 'begin' || {long} || 'end', json_array(json_object('id', 'a', 'description', {long})))"
    ));
    place.sql(&format!("INSERT INTO pauses (loop_id, requested_by, reason) VALUES ('a', 'human', {long})"));
    for (command, kept) in [("status", 2), ("decisions", 1)] {
        let said = place.run(&[command]).ok().stdout;
        assert!(said.len() < 8_000, "{command}: {} bytes", said.len());
        assert_eq!((said.matches("beginword").count(), said.matches("wordend").count()), (kept, kept), "{said}");
        assert!(said.contains("; all of it: loopctl decisions --json"), "{said}");
    }
    assert!(place.run(&["status"]).ok().stdout.contains("; all of it: loopctl alerts --json"));
    assert!(place.json(&["decisions"])[0]["summary"].as_str().unwrap().len() > 1_000_000);
}

#[test]
fn events_are_published_polled_and_acknowledged() {
    let place = Place::with_loops();
    place.run(&["subscribe", "w", "--types", "custom.x,test_started", "--sources", "a,b"]).ok();
    for own in ["monitor", "human", "a"] {
        place.run(&["subscribe", own, "--types", "custom.x"]).fails(1).says("under another name");
    }
    let publish =
        |arguments: &[&str]| place.json(&[&["publish", "custom.x"], arguments].concat())["id"].as_str().unwrap().to_owned();
    let first = publish(&["--source", "a", "--payload", "{\"n\": 1, \"deep\": [1, {\"x\": null}]}"]);
    let second = publish(&["--source", "b", "--priority", "1", "--correlation", "story", "--caused-by", &first]);
    publish(&["--source", "c"]);
    place.run_with("{\"n\": 2}", &["publish", "custom.y", "--source", "a", "--payload", "-"]).ok();
    let polled = place.json(&["poll", "w"]);
    assert_eq!(polled.as_array().unwrap().len(), 2);
    assert_eq!(
        (&polled[0]["id"], &polled[1]["id"]),
        (&second.as_str().into(), &first.as_str().into()),
        "the most urgent first"
    );
    assert_eq!(polled[1]["payload"]["deep"], json!([1, { "x": null }]));
    assert_eq!(place.json(&["poll", "w", "--limit", "1"]).as_array().unwrap().len(), 1);
    assert_eq!(place.json(&["poll", "w"]), polled, "deliveries stay until they are acknowledged");
    place.run(&["ack", "w", &first, "nothing"]).fails(4);
    assert_eq!(place.json(&["poll", "w"]).as_array().unwrap().len(), 2, "all or none");
    assert_eq!(place.json(&["ack", "w", &first])["acknowledged"], json!([first]));
    assert_eq!(place.json(&["ack", "w", &first])["acknowledged"], json!([]));
    place.run(&["ack", "w", &second]).ok();
    assert_eq!(place.json(&["poll", "w", "--wait", "1"]), json!([]));
    assert_eq!(place.json(&["timeline", "--correlation", "story"])[0]["id"], second.as_str());
    assert_eq!(
        place
            .json(&["timeline", "--source", "c", "--type", "custom.x", "--since", "1h", "--until", "2999-01-01"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(place.json(&["timeline", "--limit", "2"]).as_array().unwrap().len(), 2);
}

#[test]
fn poll_waits_for_what_another_process_says() {
    let place = Place::with_loops();
    place.run(&["subscribe", "w", "--types", "custom.*"]).ok();
    let before = place.sql("SELECT count(*) FROM events");
    let waiting = place.spawn(&["--json", "poll", "w", "--wait", "60"]);
    wait_until("it listens", || std::fs::read_dir(format!("/proc/{}/task", waiting.id())).is_ok_and(|tasks| tasks.count() > 1));
    assert_eq!(before, place.sql("SELECT count(*) FROM events"));
    place.run(&["publish", "custom.x", "--source", "a"]).ok();
    let ran = ran(waiting.wait_with_output().unwrap()).ok();
    assert_eq!(ran.json()[0]["source"], "a");
}

#[test]
fn following_prints_json_lines_as_things_happen() {
    let place = Place::with_loops();
    place.run(&["publish", "custom.first", "--source", "a"]).ok();
    let mut child = place.spawn(&["--json", "timeline", "--follow"]);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()["event_type"].clone();
    assert_eq!(next(), "custom.first");
    place.run(&["publish", "custom.second", "--source", "a"]).ok();
    assert_eq!(next(), "custom.second");
    place.sql("INSERT INTO events (id, source, event_type) VALUES ('foreign', 'x', 'custom.third')");
    assert_eq!(next(), "custom.third");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn why_tells_the_whole_story() {
    let place = Place::with_loops();
    for (id, cause) in [
        ("ev-root", "NULL"),
        ("ev-mid", "'ev-root'"),
        ("ev-leaf1", "'ev-mid'"),
        ("ev-leaf2", "'ev-mid'"),
        ("ev-deep", "'ev-leaf1'"),
        ("ev-aside", "'ev-root'"),
    ] {
        place.sql(&format!(
            "INSERT INTO events (id, source, event_type, caused_by) VALUES ('{id}', 'a', 'custom.{id}', {cause})"
        ));
    }
    let story = place.json(&["why", "ev-mid"]);
    let ids = |list: &Value| {
        list.as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&story["causes"]), ["ev-root"]);
    assert_eq!(story["event"]["id"], "ev-mid");
    assert_eq!(ids(&story["effects"]), ["ev-leaf1", "ev-deep", "ev-leaf2"]);
    assert_eq!(story["effects"][1]["depth"], 2);
    assert!(story["event"]["sentence"].is_string());
    let text = place.run(&["why", "ev-mi"]).ok().stdout;
    assert_eq!(text.lines().count(), 5);
    assert!(text.lines().nth(1).unwrap().contains("▶ custom.ev-mid"), "{text}");
    place.run(&["why", "ev-leaf"]).fails(2).says("ambiguous; give more characters of one of ev-leaf1, ev-leaf2");
    place.run(&["why", "nothing"]).fails(4);
    // A cycle, and a cause that no longer exists.
    place.sql("INSERT INTO events (id, source, event_type, caused_by) VALUES ('r1', 'a', 'custom.r', 'r2'), ('r2', 'a', 'custom.r', 'r1'), ('o', 'a', 'custom.o', 'gone')");
    assert_eq!(place.run(&["why", "r1"]).ok().stdout.lines().count(), 2);
    assert!(place.run(&["why", "o"]).ok().stdout.contains("no longer in the database"));
}

#[test]
fn watching_shows_changes_and_ends_with_a_signal() {
    let place = Place::with_loops();
    let mut child = place.spawn(&["status", "--watch"]);
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with('a'));
    place.run(&["loop", "add", "zzz"]).ok();
    assert!(lines.by_ref().any(|line| line.unwrap().starts_with("zzz")));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    for line in lines {
        line.unwrap();
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn summary_counts_what_happened() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a", "--max-attempts", "1"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["give-back", "t", "--category", "code", "--reason", "why not"]).ok();
    place.run(&["usage", "record", "--loop", "a", "--tokens", "5"]).ok();
    let summary = place.json(&["summary"]);
    assert_eq!(summary["failed_attempts"].as_array().unwrap().len(), 1);
    assert_eq!(summary["blocked"].as_array().unwrap().len(), 1);
    assert_eq!(summary["usage"][0]["tokens_estimated"], 5);
    assert!(place.run(&["summary", "--since", "1h"]).ok().stdout.contains("why not"));
}
