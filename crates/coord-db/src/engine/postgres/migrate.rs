//! Whether a server can be worked on, and from an empty or older database to this program's schema.

use super::connection::Postgres;
use super::errors::with_remedy_for_rights;
use super::worker::text;
use crate::engine::sqlite::migrate::{APPLICATION_ID, SCHEMA_VERSION};
use crate::{Error, Result};

/// The oldest version of PostgreSQL, as `server_version_num` has it.
const OLDEST_VERSION: i64 = 150_000;

/// The key of the lock that is held while a database is made or migrated, the same in all versions. Not the writer's, which is in the
/// schema.
pub(super) const MAKING_KEY: i64 = APPLICATION_ID - 1;

/// What every table has.
const EVERY_TABLE: &str = include_str!("../../../../../schema/postgres/every_table.sql");

/// The newest schema.
const SCHEMA: [&str; 4] = [
    include_str!("../../../../../schema/postgres/compat.sql"),
    include_str!("../../../../../schema/postgres/schema.sql"),
    include_str!("../../../../../schema/postgres/triggers.sql"),
    EVERY_TABLE,
];

/// What brings an older database to a version, which is that of the migration of SQLite's that does the same; only ever appended.
/// The first schema had version 28.
const MIGRATIONS: &[(i64, &str)] = &[];

/// Refuses what answers like PostgreSQL and is not, or not for us: its advisory locks have to keep two sessions apart.
pub(super) fn check_server(connection: &Postgres, other: &Postgres) -> Result<()> {
    let refuse =
        |detail: &str| Err(Error::NotOurs { path: connection.address().to_string().into(), detail: detail.to_owned() });
    let facts = connection.batch("SELECT current_setting('server_version_num'), getdatabaseencoding()")?;
    let fact = |at: usize| text(&facts, at).unwrap_or_default();
    if fact(0).parse::<i64>().unwrap_or(0) < OLDEST_VERSION {
        return refuse("the server is no PostgreSQL of version 15 or newer");
    }
    if fact(1) != "UTF8" {
        return refuse("its encoding is not UTF8; create it with ENCODING 'UTF8' TEMPLATE template0");
    }
    let key = fastrand::i64(..);
    connection.batch(&format!("SELECT pg_advisory_lock({key})"))?;
    let taken = text(&other.batch(&format!("SELECT pg_try_advisory_lock({key})"))?, 0);
    let freed = text(&connection.batch(&format!("SELECT pg_advisory_unlock({key})"))?, 0);
    let taken_after = text(&other.batch(&format!("SELECT pg_try_advisory_lock({key})"))?, 0);
    if (taken.as_deref(), freed.as_deref(), taken_after.as_deref()) != (Some("f"), Some("t"), Some("t")) {
        return refuse(
            "its advisory locks do not keep two sessions apart, as with a pooler in transaction mode; connect to the server itself",
        );
    }
    Ok(())
}

/// Refuses a database of any other schema than the newest.
pub(super) fn must_be_newest(connection: &Postgres) -> Result<()> {
    if version(connection)? == Some(SCHEMA_VERSION) {
        return Ok(());
    }
    Err(Error::NotOurs { path: connection.address().to_string().into(), detail: "it has another schema version".to_owned() })
}

/// Brings a database that is ours to the newest schema; with `create`, also an empty one.
///
/// # Errors
/// [`Error::Newer`], [`Error::NotOurs`]; the database is then as it was.
pub(super) fn migrate(connection: &Postgres, create: bool) -> Result<()> {
    if version(connection)? == Some(SCHEMA_VERSION) {
        return Ok(());
    }
    connection.batch(&format!("BEGIN; SELECT pg_advisory_xact_lock({MAKING_KEY})"))?;
    connection.set_making(true);
    let result = migrate_locked(connection, create).map_err(|error| with_remedy_for_rights(error, connection.address()));
    let ended = connection.batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" });
    connection.set_making(false);
    ended?;
    result
}

/// The version of the database's schema; none if it has no schema of ours.
fn version(connection: &Postgres) -> Result<Option<i64>> {
    if text(&connection.batch("SELECT to_regclass('coding_loops_schema')")?, 0).is_none() {
        return Ok(None);
    }
    Ok(text(&connection.batch("SELECT max(version) FROM coding_loops_schema")?, 0).and_then(|version| version.parse().ok()))
}

fn is_empty(connection: &Postgres) -> Result<bool> {
    let tables = connection.batch("SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace")?;
    Ok(text(&tables, 0).as_deref() == Some("0"))
}

fn make(connection: &Postgres) -> Result<()> {
    SCHEMA.iter().try_for_each(|sql| connection.batch(sql).map(drop))
}

/// Makes the newest schema in an empty database, in the caller's transaction.
///
/// # Errors
/// [`Error::Refused`] if the database is not empty.
pub(super) fn fill_empty(connection: &Postgres) -> Result<()> {
    if is_empty(connection)? {
        return make(connection).map_err(|error| with_remedy_for_rights(error, connection.address()));
    }
    Err(Error::Refused(format!(
        "the database at {} is not empty; name an empty one, which createdb makes",
        connection.address()
    )))
}

fn migrate_locked(connection: &Postgres, create: bool) -> Result<()> {
    let path = || connection.address().to_string().into();
    let Some(found) = version(connection)? else {
        return match is_empty(connection)? {
            true if create => make(connection),
            true => Err(Error::NotOurs { path: path(), detail: "it is empty".to_owned() }),
            false => Err(Error::NotOurs { path: path(), detail: "it belongs to another application".to_owned() }),
        };
    };
    if found > SCHEMA_VERSION {
        return Err(Error::Newer { path: path(), found, known: SCHEMA_VERSION });
    }
    bring_up(connection, found, MIGRATIONS)
}

fn bring_up(connection: &Postgres, found: i64, steps: &[(i64, &str)]) -> Result<()> {
    let mut steps = steps.iter().filter(|(to, _)| *to > found).peekable();
    if steps.peek().is_none() {
        return Ok(());
    }
    for (to, sql) in steps {
        connection.batch(sql)?;
        connection.batch(&format!("UPDATE coding_loops_schema SET version = {to}"))?;
    }
    connection.batch(EVERY_TABLE).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_schema_and_the_last_migration_have_the_version_of_sqlites() {
        assert_eq!(MIGRATIONS.last().map_or(28, |(version, _)| *version), SCHEMA_VERSION);
        assert!(SCHEMA[1].ends_with(&format!("INSERT INTO coding_loops_schema (version) VALUES ({SCHEMA_VERSION});\n")));
        assert!(MIGRATIONS.is_sorted_by_key(|(version, _)| *version));
    }

    #[test]
    fn a_table_that_a_migration_makes_gets_what_every_table_has() {
        let Some(server) = test_support::Postgres::get() else { return };
        let address = server.new_address();
        let connection = Postgres::connect(address.parse().unwrap(), false, Duration::from_secs(60)).unwrap();
        let steps = [(SCHEMA_VERSION + 1, "CREATE TABLE later (x int)")];
        connection.batch("BEGIN").unwrap();
        bring_up(&connection, SCHEMA_VERSION, &steps).unwrap();
        connection.batch("COMMIT").unwrap();
        assert_eq!(version(&connection).unwrap(), Some(SCHEMA_VERSION + 1));
        let tables = server.sql(&address, "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()");
        let triggers = "SELECT count(DISTINCT tgrelid) || ' ' || count(*) FROM pg_trigger WHERE tgname = 'begin_to_write'";
        assert_eq!(server.sql(&address, triggers), format!("{tables} {tables}"));
        // The bell rings for it.
        let moment = || server.sql(&address, "SELECT last_value FROM moment");
        let before = moment();
        server.sql(&address, "INSERT INTO later VALUES (1)");
        assert_ne!(moment(), before);
    }
}
