//! A database on a PostgreSQL server: how one gets there, and what a command does with it.

use test_support::Postgres;

use crate::common::Place;

/// A repository with two loops whose database is on a server, and the server's address.
fn moved() -> Option<(Place, String)> {
    let address = Postgres::get()?.empty_address();
    let place = Place::with_loops();
    place.run(&["move-database", &address]).ok();
    Some((place, address))
}

#[test]
fn a_move_keeps_the_file_and_is_in_the_timeline() {
    let Some(server) = Postgres::get() else { return };
    let (place, address) = (Place::with_loops(), server.empty_address());
    let tried = place.run(&["move-database", &address, "--dry-run"]).ok();
    assert!(tried.stdout.contains("; nothing was changed"), "{}", tried.stdout);
    assert!(!place.home().join("backups").read_dir().unwrap().any(|_| true));
    let moved = place.json(&["move-database", &address]);
    assert_eq!(moved["moved"]["tables"]["loops"], 2);
    assert!(std::path::Path::new(moved["moved"]["kept"].as_str().unwrap()).is_file());
    assert_eq!(std::fs::read_to_string(place.database()).unwrap().trim(), address);
    let timeline = place.run(&["timeline"]).ok().stdout;
    assert!(timeline.contains("the database was moved from an SQLite file to postgres://tests@"), "{timeline}");
    place.run(&["check"]).ok();
    place.run(&["loop", "add", "c"]).ok();
    place.run(&["move-database", "postgres://me:secret@elsewhere/loops"]).fails(1).says("is on a server already");
}

#[test]
fn a_server_that_is_not_empty_or_not_there_leaves_the_file_in_use() {
    let Some(server) = Postgres::get() else { return };
    let place = Place::with_loops();
    place.run(&["move-database", &server.new_address()]).fails(1).says("is not empty; name an empty one, which createdb makes");
    let ran = place.run(&["move-database", "postgres://me:secret@127.0.0.1:1/loops"]).fails(1).says("cannot reach");
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
    place.run(&["move-database", "loops.db"]).fails(2).says("is not like postgres://user@host:5432/name");
    place.run(&["loop", "add", "c"]).ok();
}

#[test]
fn after_a_failover_tokens_advance_and_the_story_says_so() {
    let Some((place, _)) = moved() else { return };
    let done = place.json(&["after-failover"]);
    assert!(done["fencing_token"].as_i64().unwrap() >= 1_000_000, "{done}");
    let why = place.run(&["why", done["event_id"].as_str().unwrap()]).ok().stdout;
    assert!(why.contains("the server failed over: fencing tokens continue after 1000000"), "{why}");
    let lease = place.json(&["lock", "src/x", "--loop", "a"]);
    assert!(lease["fencing_token"].as_i64().unwrap() > 1_000_000, "{lease}");
}

#[test]
fn a_file_has_no_failover() {
    Place::new().run(&["after-failover"]).fails(1).says("the database is a file, which has no standby");
}
