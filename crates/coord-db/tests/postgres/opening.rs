//! Which databases are opened, and what is said of the others.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coord_db::locate::{Location, write_address};
use coord_db::wake::{Wake, Watcher};
use coord_db::{ActorId, Archiver, Database, Error, KnowledgeSearch, KnowledgeType, NewKnowledge, OpenOptions, SCHEMA_VERSION};
use test_support::Postgres;

use super::{new_database, note, notes, open};

fn create(address: &str) -> Result<Database, Error> {
    Database::create(Path::new(address), &OpenOptions::default())
}

#[test]
fn an_empty_database_is_filled_by_create_alone_and_only_once() {
    let Some(server) = Postgres::get() else { return };
    let address = server.empty_address();
    assert!(matches!(open(&address), Err(Error::NotOurs { detail, .. }) if detail == "it is empty"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| create(&address).unwrap());
        }
    });
    let db = open(&address).unwrap();
    assert_eq!(db.check().unwrap(), []);
    assert_eq!(db.path(), None);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let Some(server) = Postgres::get() else { return };
    let address = server.empty_address();
    server.sql(&address, "CREATE TABLE theirs (id int)");
    for refused in [open(&address), create(&address)] {
        assert!(matches!(refused, Err(Error::NotOurs { detail, .. }) if detail == "it belongs to another application"));
    }
    assert_eq!(server.sql(&address, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"), "theirs");
}

#[test]
fn a_user_without_rights_learns_what_to_grant() {
    let Some(server) = Postgres::get() else { return };
    let address = server.empty_address();
    server.sql(&address, "CREATE ROLE guest LOGIN");
    let refused = create(&address.replace("tests@", "guest@")).unwrap_err();
    assert!(
        matches!(&refused, Error::Refused(why) if why.contains("permission denied") && why.contains("OWNER TO")),
        "{refused}"
    );
}

#[test]
fn a_newer_database_is_refused() {
    let (Some(server), Some((_, address))) = (Postgres::get(), new_database()) else { return };
    server.sql(&address, "UPDATE coding_loops_schema SET version = 1000");
    let refused = open(&address).unwrap_err();
    assert!(matches!(refused, Error::Newer { found: 1000, known: SCHEMA_VERSION, .. }), "{refused}");
}

#[test]
fn a_server_whose_locks_do_not_exclude_is_refused() {
    let (Some(server), Some((_, address))) = (Postgres::get(), new_database()) else { return };
    // As where both sessions are one at the server: each of them has the lock already.
    let name = address.rsplit('/').next().unwrap();
    server.sql(
        &address,
        &format!(
            "CREATE FUNCTION pg_try_advisory_lock(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
             ALTER DATABASE {name} SET search_path = public, pg_catalog"
        ),
    );
    let refused = open(&address).unwrap_err();
    assert!(matches!(&refused, Error::NotOurs { detail, .. } if detail.contains("pooler")), "{refused}");
}

#[test]
fn what_cannot_be_reached_is_named_without_its_password() {
    let Some(server) = Postgres::get() else { return };
    let address = server.url("nowhere");
    assert!(matches!(open(&address), Err(Error::NoDatabase { .. })));
    let stranger = address.replace("tests@", "stranger:secret@");
    let nobody_listens = "postgres://me:secret@127.0.0.1:1/loops";
    for address in [stranger.as_str(), nobody_listens] {
        let error = open(address).unwrap_err();
        assert!(error.is_temporary() && matches!(error, Error::Unreachable { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
    assert!(matches!(open("postgres://me:secret@host"), Err(Error::Config(text)) if !text.contains("secret")));
}

#[test]
fn a_file_that_holds_the_address_stands_for_the_database() {
    let Some((db, address)) = new_database() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("coordination.db");
    write_address(&path, &address).unwrap();
    assert!(matches!(write_address(&path, &address), Err(Error::Exists { .. })));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let placed = Database::open(&path, &OpenOptions::default()).unwrap();
    assert_eq!((placed.path(), db.path()), (Some(path.as_path()), None));
    assert_eq!(placed.server(), db.server());
    let (sender, wakes) = std::sync::mpsc::channel();
    let _watcher = Watcher::new(&path, move |wake| sender.send(wake).unwrap_or_default()).unwrap();
    placed.write(|tx| tx.publish(&note("placed"))).unwrap();
    assert_eq!(wakes.recv_timeout(test_support::BOUND), Ok(Wake::Bell));
    assert_eq!(notes(&db), ["placed"]);
    // What only a file has is refused, and leaves nothing beside it.
    let long_ago = placed.now().plus_seconds(-7 * 86_400);
    assert!(matches!(placed.back_up(None, 1), Err(Error::Refused(_))));
    assert!(matches!(Archiver::new(&placed, long_ago), Err(Error::Refused(_))));
    assert!(matches!(placed.facts(), Err(Error::Refused(_))));
    assert!(placed.read_with_archived_events(|tx| tx.has_events_before(long_ago)).is_ok_and(|has| !has));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(placed.check_place().is_ok());
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(placed.check_place(), Err(Error::NoDatabase { .. })));
}

#[test]
fn only_an_address_is_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    assert_eq!(Location::of(&path), Location::File(path.clone()));
    for (content, is_address) in
        [("postgresql://h/d \n", true), ("SQLite format 3\0", false), ("", false), ("x postgres://h/d", false)]
    {
        std::fs::write(&path, content).unwrap();
        let address = Location::Server("postgresql://h/d".to_owned());
        assert_eq!(Location::of(&path) == address, is_address, "{content}");
    }
}

#[test]
fn a_dump_restored_elsewhere_is_a_database_that_goes_on() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    db.write(|tx| {
        tx.add_loop(&test_support::new_loop("l"))?;
        tx.import_tests(&[test_support::new_test("t", "l")])?;
        tx.publish(&note("before"))?;
        let fact = NewKnowledge {
            loop_id: None,
            item_type: KnowledgeType::Fact,
            topic: Some("Café".to_owned()),
            content: "migrations are numbered".to_owned(),
            confidence: 0.5,
            evidence: None,
            affected_areas: vec!["src/**".to_owned()],
            supersedes: Vec::new(),
        };
        tx.add_knowledge(&fact, &ActorId::human())
    })
    .unwrap();
    let copy = server.empty_address();
    server.sql(&copy, &server.dump(&address));
    let restored = open(&copy).unwrap();
    assert_eq!(restored.check().unwrap(), []);
    restored.write(|tx| tx.publish(&note("after"))).unwrap();
    assert_eq!(notes(&restored), ["before", "after"]);
    let search = KnowledgeSearch { words: vec!["migration".to_owned(), "cafe".to_owned()], ..KnowledgeSearch::default() };
    assert_eq!(restored.read(|tx| tx.search_knowledge(&search)).unwrap().len(), 1);
}

#[test]
fn what_a_superuser_has_turned_off_is_a_problem() {
    let (Some(server), Some((db, address))) = (Postgres::get(), new_database()) else { return };
    server.sql(
        &address,
        "SET session_replication_role = replica; INSERT INTO tests (id, loop_id) VALUES ('t', 'nobody');
         ALTER TABLE loops DISABLE TRIGGER loops_subscribe;
         ALTER TABLE loops ADD CONSTRAINT odd CHECK (priority < 99) NOT VALID",
    );
    let found: Vec<String> =
        db.check().unwrap().into_iter().map(|problem| format!("{}: {}", problem.rule, problem.detail)).collect();
    assert_eq!(
        found,
        [
            "every index and constraint is valid: odd",
            "every trigger is enabled: loops_subscribe of loops",
            "every foreign key has its row: loop_id \"nobody\" of tests refers to no row of loops",
        ]
    );
}
