//! Keeping the database: backup, restore, check, dump, doctor.

mod common;

use common::{Place, shell};
use serde_json::json;

#[test]
fn a_backup_is_verified_never_overwrites_and_restores() {
    let place = Place::with_loops();
    let file = place.outside().join("b.db");
    let name = file.to_str().unwrap();
    assert_eq!(place.json(&["backup", name])["path"], name);
    place.run(&["backup", name]).fails(1).says("exists already");
    place.run(&["backup"]).ok();
    place.run(&["loop", "add", "later"]).ok();
    let kept = place.json(&["restore", name])["kept"].as_str().unwrap().to_owned();
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 2);
    assert_eq!(shell(kept.as_ref(), "SELECT count(*) FROM loops"), "3");
    place.run(&["restore", &kept]).ok();
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 3);

    let foreign = place.outside().join("foreign.db");
    shell(&foreign, "CREATE TABLE x (y)");
    place.run(&["restore", foreign.to_str().unwrap()]).fails(3);
    std::fs::write(&foreign, "no database at all, but a text that is long enough to be read".repeat(40)).unwrap();
    place.run(&["restore", foreign.to_str().unwrap()]).fails(3);
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 3);

    let own = std::process::id();
    place.run(&["beat", "--loop", "a", "--pid", &own.to_string()]).ok();
    place.run(&["restore", name]).fails(1).says("stop it first");
}

#[test]
fn a_database_that_was_lost_comes_back_from_a_backup() {
    let place = Place::with_loops();
    let file = place.outside().join("b.db");
    place.run(&["backup", file.to_str().unwrap()]).ok();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.home().join(format!("coordination.db{suffix}")));
    }
    let bad = place.outside().join("bad.db");
    shell(&bad, "CREATE TABLE x (y)");
    place.run(&["restore", bad.to_str().unwrap()]).fails(3);
    assert!(!place.database().exists(), "a failed restore leaves no empty database");
    place.run(&["restore", file.to_str().unwrap()]).ok();
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 2);
}

#[test]
fn a_dump_makes_the_database_anew() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a", "--notes", "it's \"quoted\"\nand more"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    place.sql("UPDATE tests SET last_error = 'a' || char(27) || '[31m'");
    let sql = place.run(&["dump"]).ok().stdout;
    common::is_harmless(&sql.replace('\t', ""));
    let copy = place.outside().join("copy.db");
    shell(&copy, &sql);
    let db = copy.to_str().unwrap();
    assert_eq!(place.json(&["--db", db, "tests"]), place.json(&["tests"]));
    assert_eq!(place.json(&["--db", db, "timeline"]), place.json(&["timeline"]));
    assert_eq!(place.json(&["--db", db, "check"]), json!([]));
    // It lives: tokens go on where they were.
    assert_eq!(place.json(&["--db", db, "lock", "y", "--loop", "a"])["fencing_token"], 2);
}

#[test]
fn check_lists_what_a_foreign_hand_has_broken() {
    let place = Place::with_loops();
    place.run(&["check"]).ok();
    place.sql("INSERT INTO tests (id, loop_id) VALUES ('orphan', 'nobody')");
    place.sql("INSERT INTO file_locks (file_path, locked_by) VALUES ('x', 'nobody')");
    let ran = place.run(&["--json", "check"]).fails(1);
    assert_eq!(ran.json().as_array().unwrap().len(), 2);
    assert!(place.run(&["check"]).fails(1).stdout.contains("x of nobody"));
}

#[test]
fn doctor_tells_each_thing_and_its_remedy() {
    let place = Place::bare();
    assert!(place.run(&["doctor"]).fails(1).stdout.contains("loopctl init"));
    let place = Place::with_loops();
    let ran = place.run(&["doctor"]).ok();
    for part in ["git clean -fdx", "journal mode wal", "inotify", "supervisors"] {
        assert!(ran.stdout.contains(part), "{part} is not in {}", ran.stdout);
    }
    let findings = place.json(&["doctor"]);
    for finding in findings.as_array().unwrap() {
        let grade = finding["grade"].as_str().unwrap();
        assert!(["ok", "warning", "problem"].contains(&grade));
        assert_eq!(finding["remedy"].is_null(), grade == "ok", "{finding}");
    }
    std::fs::write(place.home().join("config.toml"), "[nonsense]\n").unwrap();
    let ran = place.run(&["--json", "doctor"]).fails(1);
    assert!(ran.stdout.contains("config.toml:1"));
}
