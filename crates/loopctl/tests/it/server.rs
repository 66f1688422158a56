//! A database on a PostgreSQL server: how one gets there, and what a command does with it.

use test_support::Postgres;

use crate::common::Place;

/// A repository with two loops whose database is on a server, and the server's address.
fn moved() -> Option<(Place, String)> {
    let address = Postgres::get()?.empty_address();
    let place = Place::in_a_file();
    place.run(&["move-database", &address]).ok();
    Some((place, address))
}

#[test]
fn a_move_keeps_the_file_and_is_in_the_timeline() {
    let Some(server) = Postgres::get() else { return };
    let (place, address) = (Place::in_a_file(), server.empty_address());
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
    let place = Place::in_a_file();
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
    Place::in_a_file().run(&["after-failover"]).fails(1).says("the database is a file, which has no standby");
}

#[test]
fn what_only_a_file_has_names_the_way_of_a_server() {
    let Some((place, address)) = moved() else { return };
    place.run(&["backup"]).fails(1).says("back it up with pg_dump --file=FILE postgres://tests@");
    place.run(&["dump"]).fails(1).says("print it with pg_dump postgres://tests@");
    place.run(&["archive"]).fails(1).says("a server, which keeps all rows");
    let dump = place.outside().join("dump.sql");
    let dump = dump.to_str().unwrap();
    std::fs::write(dump, Postgres::get().unwrap().dump(&address)).unwrap();
    place.run(&["restore", dump]).fails(1).says("restore a dump with psql to an empty database");
    // The store has its own backup.
    let written = place.run(&["backup", "--store-only", dump]).ok().stdout;
    assert!(written.contains("store"), "{written}");
    let listed = place.run(&["deinit"]).ok().stdout;
    assert!(listed.contains("address of the database") && listed.contains("dropdb removes it"), "{listed}");
}

#[test]
fn doctor_describes_the_server_and_what_is_wrong_with_it() {
    let Some((place, address)) = moved() else { return };
    let server = Postgres::get().unwrap();
    let report = place.run(&["doctor"]).stdout;
    for part in [
        // A busy machine makes it slow, which doctor warns of.
        "database     PostgreSQL 1",
        " ms\n",
        "ok      connections  19 of 297 are needed by 7 programs and by commands",
        "ok      server clock within 2.0 s of this host's",
        // The tests' own server is fast and not safe.
        "warning server       fsync is off; a power cut can destroy the database",
    ] {
        assert!(report.contains(part), "{part:?} is not in {report}");
    }
    assert!(!report.contains("loopctl backup"), "{report}");
    server.sql(&address, "UPDATE coding_loops_schema SET timeline = timeline + 1");
    let name = address.rsplit('/').next().unwrap();
    server.sql(&address, &format!("ALTER DATABASE {name} CONNECTION LIMIT 10"));
    server.sql(&address, "SELECT setval('moment', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 3600000)");
    let report = place.run(&["doctor"]).stdout;
    for part in ["run loopctl after-failover once", "warning connections  19 of 10 are needed", "s behind the last change"] {
        assert!(report.contains(part), "{part:?} is not in {report}");
    }
    // A user of another name, who may only read.
    server.sql(&address, &format!("ALTER DATABASE {name} CONNECTION LIMIT -1"));
    server.sql(&address, &format!("CREATE ROLE reader_{name} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}; GRANT SELECT ON SEQUENCE moment TO reader_{name}"));
    std::fs::write(place.database(), address.replace("tests@", &format!("reader_{name}@"))).unwrap();
    let report = place.run(&["doctor"]).fails(1).stdout;
    assert!(report.contains(&format!("reader_{name} may not read and change")), "{report}");
    std::fs::write(place.database(), "postgres://me:secret@127.0.0.1:1/loops").unwrap();
    let report = place.run(&["doctor"]).fails(1).stdout;
    assert!(
        report.contains("start the server or correct the address in coordination.db") && !report.contains("secret"),
        "{report}"
    );
}
