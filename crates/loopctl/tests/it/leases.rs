//! Leases from the command line: granted, refused, waited for, renewed, lost.

use crate::common::{Place, ran};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use test_support::wait_until;

#[test]
fn a_set_is_granted_or_refused_as_a_whole() {
    let place = Place::with_loops();
    let grant = place.json(&["lock", "src/b.rs", "./src//a.rs", "--loop", "a", "--reason", "why", "--ttl", "60"]);
    assert_eq!(grant["paths"], serde_json::json!(["src/a.rs", "src/b.rs"]));
    assert_eq!(grant["fencing_token"], 1);
    assert!(grant["expires_at"].as_str().unwrap().ends_with('Z'));

    let refused = place.run(&["--json", "lock", "other", "src/", "--loop", "b"]).fails(1);
    let blockers = refused.json();
    assert_eq!(blockers.as_array().unwrap().len(), 2);
    let keys: Vec<&String> = blockers[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["file_path", "locked_by", "expires_at"]);
    assert_eq!(blockers[0]["locked_by"], "a");
    let told = place.run(&["lock", "src/a.rs", "--loop", "b"]).fails(1).says("leased by a");
    assert_eq!((told.stdout.as_str(), told.stderr.lines().count()), ("", 1));
    // Nothing is left behind, not even the path that was free.
    assert_eq!(place.sql("SELECT count(*) FROM file_locks WHERE locked_by = 'b'"), "0");
    assert_eq!(place.sql("SELECT count(*) FROM lease_requests"), "0");
    assert_eq!(place.sql("SELECT status FROM loops WHERE id = 'b'"), "stopped");

    let locks = place.json(&["locks"]);
    assert_eq!(locks[0]["file_path"], "src/a.rs");
    assert_eq!(locks[0]["lock_reason"], "why");
    assert!(place.run(&["locks"]).ok().stdout.contains("src/b.rs"));
}

#[test]
fn a_set_of_which_a_path_is_lost_is_not_renewed() {
    let place = Place::with_loops();
    let lock = |paths: &[&str]| place.json(&[&["lock", "--loop", "a"], paths].concat())["fencing_token"].to_string();
    let token = lock(&["w", "x", "y", "z"]);
    let renew = |token: &str| place.run(&["renew", "--loop", "a", "--token", token, "--ttl", "5000"]);
    // What its holder gives back, or takes again, is not lost.
    place.run(&["unlock", "w", "--loop", "a", "--token", &token]).ok();
    let later = lock(&["z", "v"]);
    renew(&token).ok();
    place.sql("UPDATE file_locks SET expires_at = '2026-01-01 00:00:00' WHERE file_path IN ('x', 'y')");
    place.run(&["lock", "x", "--loop", "b"]).ok();
    renew(&token).fails(1).says("the lease is lost").says("holds \"x\" no longer");
    assert_eq!(place.sql("SELECT locked_by, expires_at FROM file_locks WHERE file_path = 'y'"), "a|2026-01-01 00:00:00");
    renew(&later).ok();
    // By whatever hand: the rest is kept, and is taken again or given back.
    place.sql("DELETE FROM file_locks WHERE file_path = 'v'");
    renew(&later).fails(1).says("\"v\" no longer");
    renew(&lock(&["y", "z"])).ok();
    place.run(&["unlock", "--all", "--loop", "a"]).ok();
    renew(&later).fails(1).says("nothing any more");
}

#[test]
fn a_stale_token_neither_releases_nor_renews() {
    let place = Place::with_loops();
    let token = place.json(&["lock", "x", "y", "--loop", "a"])["fencing_token"].to_string();
    let wrong = "99";
    place.run(&["unlock", "x", "--loop", "a", "--token", wrong]).fails(1).says("lost");
    place.run(&["unlock", "--all", "--loop", "a", "--token", wrong]).fails(1).says("lost");
    place.run(&["renew", "--loop", "a", "--token", wrong]).fails(1).says("lost");
    place.run(&["unlock", "x", "--loop", "b"]).fails(1);
    assert_eq!(place.sql("SELECT count(*) FROM file_locks"), "2");
    let renewed = place.json(&["renew", "--loop", "a", "--token", &token, "--ttl", "5000"]);
    assert_eq!(renewed["paths"].as_array().unwrap().len(), 2);
    // All or none: a path that is not held keeps the other.
    place.run(&["unlock", "x", "z", "--loop", "a"]).fails(1);
    let released = place.json(&["unlock", "x", "--loop", "a", "--token", &token]);
    assert_eq!(released["released"], serde_json::json!(["x"]));
    let ended = place.json(&["force-unlock", "a"]);
    assert_eq!(ended, serde_json::json!([{ "file_path": "y", "locked_by": "a" }]));
    assert_eq!(
        place.sql("SELECT source || json_extract(payload, '$.cause') FROM events WHERE event_type = 'file_unlocked' ORDER BY rowid DESC LIMIT 1"),
        "humanforced"
    );
    place.run(&["unlock", "y", "--loop", "a", "--token", &token]).fails(1).says("lost");
    place.run(&["lock", "p", "--loop", "a"]).ok();
    place.run(&["lock", "q", "--loop", "b"]).ok();
    assert_eq!(place.json(&["force-unlock", "--all"]).as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["force-unlock", "--all"]), serde_json::json!([]));
}

#[test]
fn a_waiting_lock_is_granted_when_another_process_unlocks() {
    let place = Place::with_loops();
    place.run(&["lock", "src/", "--loop", "a"]).ok();
    let waiting = place.spawn(&["--json", "lock", "src/x", "--loop", "b", "--wait", "60"]);
    place.until("SELECT waiter || holder FROM wait_graph", "ba");
    assert_eq!(place.json(&["status", "b"])["loops"][0]["waits"][0]["holder"], "a");
    place.run(&["unlock", "--all", "--loop", "a"]).ok();
    let granted = ran(waiting.wait_with_output().unwrap()).ok();
    assert_eq!(granted.json()["paths"][0], "src/x");
    assert_eq!(place.sql("SELECT (SELECT count(*) FROM wait_graph) + (SELECT count(*) FROM lease_requests)"), "0");
}

#[test]
fn a_waiting_lock_is_granted_when_a_foreign_client_deletes_the_lease() {
    let place = Place::with_loops();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    let waiting = place.spawn(&["lock", "x", "--loop", "b", "--wait", "60"]);
    place.until("SELECT count(*) FROM wait_graph", "1");
    place.sql("DELETE FROM file_locks");
    ran(waiting.wait_with_output().unwrap()).ok();
}

#[test]
fn a_waiting_lock_takes_what_expires_and_gives_up_in_time() {
    let place = Place::with_loops();
    place.run(&["lock", "x", "--loop", "a", "--ttl", "1"]).ok();
    place.run(&["lock", "x", "--loop", "b", "--wait", "60"]).ok();
    let refused = place.run(&["--json", "lock", "x", "--loop", "a", "--wait", "1"]).fails(1);
    assert_eq!(refused.json()[0]["locked_by"], "b");
    assert_eq!(place.sql("SELECT (SELECT count(*) FROM wait_graph) + (SELECT count(*) FROM lease_requests)"), "0");
}

#[test]
fn an_interrupted_wait_withdraws_its_request() {
    let place = Place::with_loops();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let waiting = place.spawn(&["lock", "x", "--loop", "b", "--wait", "60"]);
        place.until("SELECT count(*) FROM lease_requests", "1");
        kill(Pid::from_raw(i32::try_from(waiting.id()).unwrap()), signal).unwrap();
        ran(waiting.wait_with_output().unwrap()).fails(1).says("withdrawn");
        assert_eq!(place.sql("SELECT (SELECT count(*) FROM wait_graph) + (SELECT count(*) FROM lease_requests)"), "0");
    }
}

#[test]
fn pausing_a_waiting_loop_ends_its_wait_and_a_paused_loop_gets_nothing() {
    let place = Place::with_loops();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    let waiting = place.spawn(&["lock", "x", "--loop", "b", "--wait", "60"]);
    place.until("SELECT count(*) FROM lease_requests", "1");
    place.run(&["pause", "b"]).ok();
    ran(waiting.wait_with_output().unwrap()).fails(1).says("withdrawn");
    place.run(&["lock", "y", "--loop", "b"]).fails(1).says("resume");
    wait_until("no edge is left", || place.sql("SELECT count(*) FROM wait_graph") == "0");
}

#[test]
fn a_lease_belongs_to_the_current_test_and_ends_with_it() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a"]).ok();
    place.run(&["lock", "before", "--loop", "a"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["lock", "during", "--loop", "a"]).ok();
    assert_eq!(place.sql("SELECT file_path FROM file_locks WHERE test_id = 't'"), "during");
    place.run(&["give-back", "t", "--category", "code"]).ok();
    assert_eq!(place.sql("SELECT file_path FROM file_locks"), "before");
}
