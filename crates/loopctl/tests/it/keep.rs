//! Keeping the database: backup, restore, check, dump, doctor.

use crate::common;
use crate::common::Place;
use git::{CommitHash, Layout, RefExpectation};
use serde_json::json;
use test_support::{sql, wait_until};

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
    assert_eq!(sql(kept.as_ref(), "SELECT count(*) FROM loops"), "3");
    place.run(&["restore", &kept]).ok();
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 3);

    let foreign = place.outside().join("foreign.db");
    sql(&foreign, "CREATE TABLE x (y)");
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
    sql(&bad, "CREATE TABLE x (y)");
    place.run(&["restore", bad.to_str().unwrap()]).fails(3);
    assert!(!place.database().exists(), "a failed restore leaves no empty database");
    place.run(&["restore", file.to_str().unwrap()]).ok();
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 2);
}

/// A store with landed and saved work; gives the landed commit.
fn work(place: &Place) -> CommitHash {
    let (store, landed) = place.land(|store, head| store.repository().tree_of(head).unwrap());
    store.repository().set_ref("refs/coding-loops/saved/a/1", &landed, &RefExpectation::Absent).unwrap();
    landed
}

#[test]
fn a_backup_holds_the_stores_own_references_and_a_lost_store_gets_them_back() {
    let place = Place::with_loops();
    let backup = place.json(&["backup"]);
    assert!(backup["bundle"].is_null(), "nothing has been done yet");
    let landed = work(&place);
    let file = place.outside().join("b.db");
    let (name, bundle) = (file.to_str().unwrap(), place.outside().join("b.db.bundle"));
    assert_eq!(place.json(&["backup", name])["bundle"], bundle.to_str().unwrap());
    place.run(&["backup", place.outside().join("b").to_str().unwrap()]).ok();
    std::fs::remove_file(&file).unwrap();
    place.run(&["backup", name]).fails(1).says("b.db.bundle\" exists already");
    assert!(!file.exists());
    std::fs::remove_file(&bundle).unwrap();
    place.run(&["backup", name]).ok();

    let open = || Layout::new(place.workspaces()).open_store().unwrap();
    std::fs::remove_dir_all(place.workspaces()).unwrap();
    let said = place.run(&["restore", name]).ok();
    assert!(said.stdout.contains("was created again from the repository; 2 missing refs are restored"), "{}", said.stdout);
    assert_eq!(said.stdout.lines().count(), 2, "line breaks are line breaks: {}", said.stdout);
    assert_eq!((open().integration().unwrap(), said.stderr.as_str()), (Some(landed.clone()), ""));

    // The store alone; what is in neither is named.
    place.run(&["loop", "add", "later"]).ok();
    let lost = "1".repeat(40);
    place.sql(&format!("UPDATE tests SET commit_hash = '{lost}'"));
    std::fs::remove_dir_all(place.workspaces()).unwrap();
    let document = place.json(&["restore", "--store-only", name]);
    assert_eq!(document["lost"], json!([{ "test_id": "t1", "commit": lost }]));
    assert_eq!(document["store"]["added"].as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 3, "the database is as it was");
    place.run(&["restore", "--store-only", bundle.to_str().unwrap()]).ok().says("loopctl reset t1 --force");
    assert_eq!(open().integration().unwrap(), Some(landed));

    std::fs::write(&bundle, "# v2 git bundle\n\n").unwrap();
    place.run(&["restore", name]).fails(1).says("the database is restored, but the store is not: ");
    std::fs::remove_file(&bundle).unwrap();
    place.run(&["restore", "--store-only", name]).fails(2).says("b.db.bundle");
    assert!(place.run(&["restore", name]).ok().stdout.contains("the store is unchanged"));
}

#[test]
fn old_bundles_go_with_their_backups() {
    let place = Place::with_loops();
    work(&place);
    let config = place.home().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap().replacen("backup_keep = 7", "backup_keep = 2", 1);
    std::fs::write(&config, text).unwrap();
    for _ in 0..4 {
        place.run(&["backup"]).ok();
    }
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(place.home().join("backups")).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let kept = names();
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(kept.chunks(2).all(|pair| pair[1] == format!("{}.bundle", pair[0])), "{kept:?}");
}

#[test]
fn a_dump_recreates_the_database() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t", "--loop", "a", "--notes", "it's \"quoted\"\nand more"]).ok();
    place.run(&["next", "--loop", "a"]).ok();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    place.sql("UPDATE tests SET last_error = 'a' || char(27) || '[31m'");
    let dump = place.run(&["dump"]).ok().stdout;
    common::is_harmless(&dump.replace('\t', ""));
    let copy = place.outside().join("copy.db");
    sql(&copy, &dump);
    let db = copy.to_str().unwrap();
    assert_eq!(place.json(&["--db", db, "tests"]), place.json(&["tests"]));
    // But for the event that says why its numbers jump.
    let mut timeline = place.json(&["--db", db, "timeline"]);
    assert_eq!(timeline.as_array_mut().unwrap().pop().unwrap()["event_type"], "human_message");
    assert_eq!(timeline, place.json(&["timeline"]));
    assert_eq!(place.json(&["--db", db, "check"]), json!([]));
}

/// What must never go back: the last fencing token, migration number and place of an event.
fn marks(place: &Place) -> [i64; 3] {
    let token = place.json(&["lock", "marks", "--loop", "a"])["fencing_token"].as_i64().unwrap();
    place.run(&["unlock", "--all", "--loop", "a"]).ok();
    let file = format!("{token}.sql");
    let number = place.json(&["migration", "allocate", "m", "--loop", "a", "--file", &file])["number"].as_i64().unwrap();
    [token, number, place.sql("SELECT max(rowid) FROM events").parse().unwrap()]
}

#[track_caller]
fn all_grow(place: &Place, before: &[i64; 3]) -> [i64; 3] {
    let after = marks(place);
    assert!(after.iter().zip(before).all(|(after, before)| after > before), "{before:?}, then {after:?}");
    assert_eq!(place.json(&["check"]), json!([]));
    after
}

#[test]
fn tokens_numbers_and_the_order_of_events_never_go_back() {
    let place = Place::with_loops();
    let backup = place.outside().join("b.db");
    let name = backup.to_str().unwrap();
    place.run(&["backup", name]).ok();
    let first = marks(&place);
    let dump = place.run(&["dump"]).ok().stdout;
    let before = marks(&place);
    let in_place = |make: &dyn Fn()| {
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(place.home().join(format!("coordination.db{suffix}")));
        }
        make();
    };
    // A restore of what this database was carries its numbers over.
    place.run(&["restore", name]).ok();
    assert_eq!(place.sql("SELECT count(*) FROM migrations"), "0");
    let after = all_grow(&place, &before);
    assert_eq!((after[0], after[1]), (before[0] + 1, before[1] + 1));
    let kept = place.json(&["restore", name])["kept"].as_str().unwrap().to_owned();
    place.run(&["restore", &kept]).ok();
    assert_eq!(place.sql("SELECT count(*) FROM migrations"), "1");
    let after = all_grow(&place, &after);
    assert_eq!(after[1], before[1] + 3 - 1);
    // Where nothing tells them any more, they jump.
    in_place(&|| {});
    place.run(&["restore", name]).ok();
    let after = all_grow(&place, &after);
    in_place(&|| drop(place.run(&["init"]).ok()));
    place.run(&["restore", name]).ok();
    all_grow(&place, &before);
    // So they do in a copy that was put there by other means: each copy once.
    in_place(&|| drop(sql(&place.database(), &dump)));
    let loaded = all_grow(&place, &before);
    assert!(loaded.iter().zip(first).all(|(loaded, first)| *loaded > first + 900), "{loaded:?}");
    let next = all_grow(&place, &loaded);
    assert_eq!((next[0], next[1]), (loaded[0] + 1, loaded[1] + 1));
    in_place(&|| assert!(std::fs::copy(&backup, place.database()).unwrap() > 0));
    all_grow(&place, &before);
    assert!(after[0] > before[0]);
}

#[test]
fn check_lists_what_an_external_tool_has_broken() {
    let place = Place::with_loops();
    place.run(&["check"]).ok();
    place.sql("INSERT INTO tests (id, loop_id) VALUES ('orphan', 'nobody')");
    place.sql("INSERT INTO file_locks (file_path, locked_by) VALUES ('x', 'nobody')");
    let ran = place.run(&["--json", "check"]).fails(1);
    assert_eq!(ran.json().as_array().unwrap().len(), 2);
    assert!(place.run(&["check"]).fails(1).stdout.contains("x of nobody"));
}

#[test]
fn check_names_work_that_was_withdrawn_because_its_test_was_marked_as_passed() {
    let place = Place::with_loops();
    place.run(&["test", "add", "t1", "--loop", "a"]).ok();
    place.sql("UPDATE tests SET status = 'passed', verified_at = datetime('now') WHERE id = 't1'");
    place.run(&["check"]).ok();
    place.sql(
        "INSERT INTO landings (id, test_id, loop_id, attempt, state, base_tree, tree, head, commit_hash, proof, ended_at)
         VALUES ('l', 't1', 'a', 1, 'withdrawn', 'b', 't', 'h', 'c', 'p', datetime('now'))",
    );
    let ran = place.run(&["check"]).fails(1);
    let said = "t1: another program has marked it as passed while its work waited to land; the work is saved: loopctl reset --force t1";
    assert!(ran.stdout.contains(said), "{}", ran.stdout);
    place.run(&["reset", "--force", "t1"]).ok();
    place.run(&["check"]).ok();
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

#[test]
fn a_shm_that_is_cut_short_ends_a_process_and_loses_nothing() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::with_loops();
    place.run(&["lock", "x", "--loop", "a"]).ok();
    let mut waiting = place.spawn(&["lock", "x", "--loop", "b", "--wait", "60"]);
    place.until("SELECT count(*) FROM lease_requests", "1");
    let shm = place.home().join("coordination.db-shm");
    std::fs::OpenOptions::new().write(true).open(&shm).unwrap().set_len(0).unwrap();
    let ring = || std::fs::write(place.home().join("coordination.db.bell/ring"), "x").unwrap();
    wait_until("the process to end", || {
        ring();
        waiting.try_wait().unwrap().is_some()
    });
    assert_eq!(waiting.wait().unwrap().signal(), Some(7), "SIGBUS");
    assert_eq!(place.json(&["locks"])[0]["file_path"], "x");
    assert_eq!(place.json(&["check"]), json!([]));
}
