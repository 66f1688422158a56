//! Which databases are opened, and what is said of the others.

use std::path::Path;

use coord_db::{Database, Error, OpenOptions, SCHEMA_VERSION};
use test_support::Postgres;

use super::{new_database, open};

fn create(address: &str) -> Result<Database, Error> {
    Database::create(Path::new(address), &OpenOptions::default())
}

/// A database without any table.
fn empty(server: &Postgres) -> String {
    let name = format!("empty_{}", coord_db::new_id().replace('-', ""));
    server.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
    server.url(&name)
}

#[test]
fn an_empty_database_is_filled_by_create_alone_and_only_once() {
    let Some(server) = Postgres::get() else { return };
    let address = empty(server);
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
    let address = empty(server);
    server.sql(&address, "CREATE TABLE theirs (id int)");
    for refused in [open(&address), create(&address)] {
        assert!(matches!(refused, Err(Error::NotOurs { detail, .. }) if detail == "it belongs to another application"));
    }
    assert_eq!(server.sql(&address, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"), "theirs");
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
    // As where both sessions are one at the server: whoever asks has the lock already.
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
