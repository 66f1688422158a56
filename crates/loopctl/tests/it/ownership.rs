//! Ownership, change requests and migration numbers from the command line, by real processes.

use std::collections::BTreeSet;

use crate::common::{Place, ran};
use serde_json::json;

#[test]
fn a_lock_on_what_another_owns_is_refused_at_once_with_the_owners_name() {
    let place = Place::with_loops();
    assert_eq!(place.json(&["own", "./src//api/", "--loop", "a"])["path"], "src/api/");
    place.run(&["own", "port:5432", "--loop", "a"]).ok();
    for wait in [None, Some("60")] {
        let wait = wait.map_or(Vec::new(), |seconds| vec!["--wait", seconds]);
        for (path, owned) in [("src/api/x.rs", "src/api/"), ("src/", "src/api/"), ("port:5432", "port:5432")] {
            let lock = [&["--json", "lock", path, "--loop", "b"][..], &wait].concat();
            let expected = json!([{ "file_path": owned, "locked_by": "a", "expires_at": null, "owned_by": "a" }]);
            assert_eq!(place.run(&lock).fails(1).json(), expected);
            let told = place.run(&lock[1..]).fails(1).says("owned by a").says(&format!("request create {owned} --loop b"));
            assert_eq!(told.stderr.lines().count(), 1);
        }
    }
    let left =
        "SELECT (SELECT count(*) FROM file_locks) + (SELECT count(*) FROM lease_requests) + (SELECT count(*) FROM wait_graph)";
    assert_eq!(place.sql(left), "0");
    assert_eq!(place.sql("SELECT status FROM loops WHERE id = 'b'"), "stopped");
    place.run(&["lock", "src/api/x.rs", "--loop", "a"]).ok();

    let request = place.json(&["request", "create", "src/api/x.rs", "--loop", "b", "--type", "extend"])["id"].clone();
    let request = request.as_str().unwrap();
    assert_eq!(place.json(&["request", "list"])[0]["resource_path"], "src/api/");
    place.run(&["--as", "a", "request", "approve", request]).fails(1).says("pm or the human");
    place.run(&["request", "approve", request]).ok();
    place.run(&["unlock", "--all", "--loop", "a"]).ok();
    place.run(&["lock", "src/api/x.rs", "--loop", "b", "--wait", "5"]).ok();
    place.run(&["unlock", "--all", "--loop", "b"]).ok();
    place.run(&["--as", "a", "request", "apply", request]).fails(1).says("by b");
    assert_eq!(place.json(&["--as", "b", "request", "apply", request])["status"], "applied");
    place.run(&["lock", "src/api/x.rs", "--loop", "b"]).fails(1);
    assert_eq!(
        place.sql(
            "SELECT event_type || json_extract(payload, '$.status') FROM events WHERE event_type LIKE 'change%' ORDER BY rowid"
        ),
        "change_requestedpending\nchange_resolvedapproved\nchange_resolvedapplied"
    );
}

#[test]
fn a_wait_ends_when_its_path_becomes_owned() {
    let place = Place::with_loops();
    place.run(&["lock", "f", "--loop", "a"]).ok();
    let waiting = place.spawn(&["lock", "f", "--loop", "b", "--wait", "600"]);
    place.until("SELECT count(*) FROM lease_requests", "1");
    place.run(&["own", "f", "--loop", "a"]).ok();
    ran(waiting.wait_with_output().unwrap()).fails(1).says("owned by a");
    assert_eq!(place.sql("SELECT (SELECT count(*) FROM lease_requests) + (SELECT count(*) FROM wait_graph)"), "0");
}

#[test]
fn ownership_is_listed_and_given_up_by_its_owner_or_the_human() {
    let place = Place::with_loops();
    place.run(&["own", "x", "--loop", "a"]).ok();
    place.run(&["own", "y", "--loop", "b"]).ok();
    assert_eq!(place.json(&["own"]).as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["own", "--loop", "b"])[0]["path"], "y");
    place.run(&["own", "x"]).fails(2);
    place.run(&["own", "x", "--loop", "a", "--release"]).fails(2);
    place.run(&["own", "--release"]).fails(2);
    place.run(&["own", "--loop", "nobody"]).fails(4);
    place.run(&["--as", "b", "own", "x", "--release"]).fails(1).says("owned by loop a");
    place.run(&["loop", "remove", "a"]).fails(1).says("own --loop a");
    place.run(&["request", "create", "x", "--loop", "b"]).ok();
    place.run(&["own", "x", "--release"]).fails(1).says("is pending");
    let request = place.json(&["request", "list"])[0]["id"].as_str().unwrap().to_owned();
    place.run(&["request", "reject", &request]).ok();
    place.run(&["--as", "a", "own", "./x", "--release"]).ok();
    place.run(&["own", "x", "--release"]).fails(4);
    place.run(&["loop", "remove", "a"]).ok();
}

#[test]
fn numbers_are_handed_out_once_to_however_many_ask_at_once() {
    let place = Place::with_loops();
    let at_once: usize = std::env::var("CODING_LOOPS_TEST_PROCESSES").ok().and_then(|n| n.parse().ok()).unwrap_or(24);
    let children: Vec<_> = (0..at_once)
        .map(|at| {
            let loop_id = if at % 2 == 0 { "a" } else { "b" };
            place.spawn(&["migration", "allocate", &format!("m{at}"), "--loop", loop_id, "--file", &format!("db/{at}.sql")])
        })
        .collect();
    let numbers: Vec<usize> =
        children.into_iter().map(|child| ran(child.wait_with_output().unwrap()).ok().stdout.trim().parse().unwrap()).collect();
    assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>(), (1..=at_once).collect());
    assert_eq!(numbers.len(), at_once);
    for (at, number) in numbers.iter().enumerate() {
        assert_eq!(place.sql(&format!("SELECT name FROM migrations WHERE number = {number}")), format!("m{at}"));
    }
}

#[test]
fn many_who_want_the_same_file_get_one_number() {
    let place = Place::with_loops();
    let children: Vec<_> =
        (0..8).map(|_| place.spawn(&["migration", "allocate", "m", "--loop", "a", "--file", "./db//1.sql"])).collect();
    let codes: Vec<i32> = children.into_iter().map(|child| ran(child.wait_with_output().unwrap()).code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| [0, 1].contains(code)));
    assert_eq!(place.sql("SELECT number || file_path FROM migrations"), "1db/1.sql");
}

#[test]
fn an_unused_number_is_reported_and_never_allocated_again() {
    let place = Place::with_loops();
    place.run(&["loop", "add", "c"]).ok();
    for loop_id in ["a", "a", "b", "c"] {
        place.run(&["migration", "allocate", "m", "--loop", loop_id]).ok();
    }
    place.run(&["--as", "b", "migration", "done", "1"]).fails(1).says("only a or the human");
    place.run(&["--as", "a", "migration", "done", "1"]).ok();
    place.run(&["migration", "fail", "2"]).ok();
    place.run(&["migration", "done", "2"]).fails(1).says("cannot become applied");
    place.sql("UPDATE loops SET status = 'error' WHERE id = 'b'; DELETE FROM loops WHERE id = 'c'");
    // An external tool deletes the newest rows, and one that it added itself with a number far ahead.
    place.sql("INSERT INTO migrations (number, name) VALUES (7, 'theirs'); DELETE FROM migrations WHERE number = 7");
    let next = place.run(&["migration", "allocate", "next", "--loop", "a"]).ok();
    assert_eq!(next.stdout, "8\n");
    let told = "loopctl: number 2 failed and stays unused\n\
                loopctl: number 3 is pending, but loop b is dead; it stays unused unless b comes back\n\
                loopctl: number 4 is pending, but its loop (c) is not registered; it stays unused\n\
                loopctl: numbers 5 to 7 were allocated and their rows are missing; they stay unused\n";
    assert_eq!(next.stderr, told);
    assert_eq!(place.run(&["migration", "list"]).ok().stderr, told);
    let listed = place.json(&["migration", "list"]);
    let unused: Vec<&serde_json::Value> = listed.as_array().unwrap().iter().map(|row| &row["unused"]).collect();
    assert_eq!(unused, [&json!(null), &json!("failed"), &json!("loop_dead"), &json!("loop_gone"), &json!(null)]);
    let answer = place.json(&["migration", "allocate", "after", "--loop", "a"]);
    assert_eq!((&answer["number"], &answer["unused_numbers"][3]["last"]), (&json!(9), &json!(7)));
    place.sql("DELETE FROM migrations; DELETE FROM counters WHERE name = 'migration_number'");
    place.sql("INSERT INTO migrations (number, name) VALUES (41, 'theirs')");
    assert_eq!(place.run(&["--quiet", "migration", "allocate", "m", "--loop", "a"]).ok().stderr, "");
    assert_eq!(place.sql("SELECT max(number) FROM migrations"), "42");
}
