//! What a loop that is driven by hand does during an attempt is of that attempt, whichever client writes it.

use crate::common::Place;
use serde_json::Value;
use test_support::sql;

fn events(place: &Place, of: &str) -> Vec<Value> {
    place.json(&["timeline", "--type", of]).as_array().unwrap().clone()
}

fn place() -> Place {
    let place = Place::with_loops();
    let config = "[[gate.check]]\nname = \"made\"\ncommand = [\"sh\", \"-c\", \"test -f made\"]\nper_test = true\n";
    std::fs::write(place.home().join("config.toml"), config).unwrap();
    place.run(&["test", "add", "t1", "--loop", "a"]).ok();
    place
}

#[test]
fn an_attempt_by_hand_is_one_story() {
    let place = place();
    place.run(&["lock", "before", "--loop", "a"]).ok();
    let worktree = place.json(&["next", "--loop", "a"])["worktree"].as_str().unwrap().to_owned();
    let start = events(&place, "test_started")[0].clone();
    place.run(&["lock", "made", "--loop", "a"]).ok();
    place.run(&["lock", "other", "--loop", "a", "--test", "t1"]).ok();
    place.run(&["unlock", "other", "--loop", "a"]).ok();
    place.run(&["publish", "custom.note", "--source", "a"]).ok();
    place.run(&["publish", "custom.note", "--source", "b"]).ok();
    place.run(&["knowledge", "add", "made is made", "--loop", "a"]).ok();
    place.run(&["--as", "a", "ask", "--summary", "which?", "--option", "x=X", "--option", "y=Y"]).ok();
    std::fs::write(std::path::Path::new(&worktree).join("made"), "").unwrap();
    place.run(&["submit", "t1"]).ok();
    let of = |event: &Value| event["caused_by"] == start["id"] && event["correlation_id"] == start["correlation_id"];
    for kind in ["test_passed", "knowledge_recorded", "decision_needed"] {
        assert!(of(&events(&place, kind)[0]), "{kind}");
    }
    let path = |event: &Value| event["payload"]["file_path"].as_str().unwrap().to_owned();
    let (in_attempt, outside): (Vec<Value>, Vec<Value>) = events(&place, "file_locked").into_iter().partition(of);
    let mut paths: Vec<String> = in_attempt.iter().map(path).collect();
    paths.sort();
    paths.dedup();
    assert_eq!(paths, ["git:integration", "made", "other"]);
    assert_eq!(outside.iter().map(path).collect::<Vec<_>>(), ["before"]);
    let unlocked: Vec<String> = events(&place, "file_unlocked").iter().filter(|event| of(event)).map(path).collect();
    assert!(["git:integration", "made", "other"].iter().all(|one| unlocked.iter().any(|path| path == one)), "{unlocked:?}");
    let notes = events(&place, "custom.note");
    assert_eq!((of(&notes[0]), &notes[1]["caused_by"]), (true, &Value::Null));
    assert_eq!(place.json(&["check"]), serde_json::json!([]));
}

#[test]
fn an_attempt_that_is_given_back_and_what_comes_after_it_are_two_stories() {
    let place = place();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["give-back", "t1", "--category", "transient"]).ok();
    let (start, failed) = (events(&place, "test_started").remove(0), events(&place, "test_failed").remove(0));
    assert_eq!((&failed["caused_by"], &failed["correlation_id"]), (&start["id"], &start["correlation_id"]));
    place.run(&["lock", "x", "--loop", "a", "--test", "t1"]).ok();
    assert_eq!(events(&place, "file_locked")[0]["caused_by"], Value::Null);
    assert_eq!(place.json(&["check"]), serde_json::json!([]));
}

#[test]
fn a_foreign_client_need_not_name_the_attempt() {
    let place = place();
    place.sql(
        "UPDATE loops SET status = 'running', current_test_id = 't1' WHERE id = 'a';
         UPDATE tests SET status = 'in_progress', attempts = 1 WHERE id = 't1';
         INSERT INTO events (id, source, event_type, payload) VALUES
           ('start', 'a', 'test_started', '{\"test_id\": \"t1\", \"loop_id\": \"a\", \"attempt\": 1}'),
           ('locked', 'a', 'file_locked', '{\"file_path\": \"x\", \"loop_id\": \"a\", \"test_id\": \"t1\"}'),
           ('none', 'a', 'file_locked', '{\"file_path\": \"y\", \"loop_id\": \"a\", \"test_id\": null}'),
           ('odd', 'b', 'test_passed', '{}'), ('note', 'a', 'custom.note', '{}');
         UPDATE tests SET status = 'passed', verified_at = datetime('now') WHERE id = 't1';
         UPDATE loops SET current_test_id = NULL WHERE id = 'a';
         INSERT INTO events (id, source, event_type, payload) VALUES
           ('passed', 'a', 'test_passed', '{\"test_id\": \"t1\", \"loop_id\": \"a\", \"attempt\": 1}'),
           ('unlocked', 'a', 'file_unlocked', '{\"file_path\": \"x\", \"loop_id\": \"a\"}'),
           ('after', 'a', 'custom.note', '{}')",
    );
    let rows = "SELECT group_concat(id || ':' || coalesce(caused_by, '-') || ':' || correlation_id, ' ') FROM events
                WHERE id NOT LIKE '%-%' ORDER BY rowid";
    assert_eq!(
        place.sql(rows),
        "start:-:start locked:start:start none:start:start odd:-:odd note:start:start passed:start:start unlocked:start:start after:-:after"
    );
    assert_eq!(place.json(&["check"]), serde_json::json!([]));
}

#[test]
fn attempts_of_before_are_not_held_to_the_rule() {
    let place = Place::bare();
    std::fs::create_dir(place.home()).unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schema/migrations");
    let mut steps: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    steps.sort();
    steps.retain(|step| step.file_name().unwrap().to_str().unwrap() < "0015");
    for step in &steps {
        sql(&place.database(), &format!(".read {}", step.display()));
    }
    place.sql(&format!(
        "PRAGMA journal_mode = wal; PRAGMA application_id = 0x634c6f50; PRAGMA user_version = {};
         INSERT INTO loops (id, name, status, current_test_id) VALUES ('a', 'A', 'running', 't2');
         INSERT INTO tests (id, loop_id, status, attempts, verified_at) VALUES
           ('t1', 'a', 'passed', 1, datetime('now')), ('t2', 'a', 'in_progress', 1, NULL);
         INSERT INTO events (id, source, event_type, payload) VALUES
           ('s1', 'a', 'test_started', '{{\"test_id\": \"t1\"}}'), ('l1', 'a', 'file_locked', '{{\"test_id\": \"t1\"}}'),
           ('p1', 'a', 'test_passed', '{{\"test_id\": \"t1\"}}'), ('s2', 'a', 'test_started', '{{\"test_id\": \"t2\"}}')",
        steps.len()
    ));
    assert_eq!(place.json(&["check"]), serde_json::json!([]));
    // The one that was running goes on as one that began later would.
    place.run(&["lock", "x", "--loop", "a"]).ok();
    assert_eq!(events(&place, "file_locked")[1]["caused_by"], "s2");
    assert_eq!(place.json(&["check"]), serde_json::json!([]));
}
