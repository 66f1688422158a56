//! From an empty or older file to this program's schema, in one transaction; a newer file is refused and left untouched.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::marks;
use crate::{Error, Result, Timestamp};

/// Marks the file as ours (`PRAGMA application_id`): "cLoP".
pub const APPLICATION_ID: i64 = 0x634c_6f50;

/// The migrations, in order; only ever appended. The number of them is the schema's version.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../../../schema/migrations/0001_initial.sql"),
    include_str!("../../../../../schema/migrations/0002_deliveries.sql"),
    include_str!("../../../../../schema/migrations/0003_knowledge_search.sql"),
    include_str!("../../../../../schema/migrations/0004_ownership_and_numbers.sql"),
    include_str!("../../../../../schema/migrations/0005_leases.sql"),
    include_str!("../../../../../schema/migrations/0006_archive.sql"),
    include_str!("../../../../../schema/migrations/0007_agent_outputs.sql"),
    include_str!("../../../../../schema/migrations/0008_journal.sql"),
    include_str!("../../../../../schema/migrations/0009_failures_and_clocks.sql"),
    include_str!("../../../../../schema/migrations/0010_foreign_hands.sql"),
    include_str!("../../../../../schema/migrations/0011_test_waits.sql"),
    include_str!("../../../../../schema/migrations/0012_proof_runs.sql"),
    include_str!("../../../../../schema/migrations/0013_ledger.sql"),
    include_str!("../../../../../schema/migrations/0014_holds.sql"),
    include_str!("../../../../../schema/migrations/0015_attempt_causes.sql"),
    include_str!("../../../../../schema/migrations/0016_lease_sets.sql"),
    include_str!("../../../../../schema/migrations/0017_stores.sql"),
    include_str!("../../../../../schema/migrations/0018_runs.sql"),
    include_str!("../../../../../schema/migrations/0019_set_up.sql"),
    include_str!("../../../../../schema/migrations/0020_base_runs.sql"),
    include_str!("../../../../../schema/migrations/0021_gate.sql"),
    include_str!("../../../../../schema/migrations/0022_named_time_checks.sql"),
    include_str!("../../../../../schema/migrations/0023_ended_subscriptions.sql"),
    include_str!("../../../../../schema/migrations/0024_landings.sql"),
    include_str!("../../../../../schema/migrations/0025_agent_usage.sql"),
    include_str!("../../../../../schema/migrations/0026_queued_tests.sql"),
    include_str!("../../../../../schema/migrations/0027_hosts.sql"),
    include_str!("../../../../../schema/migrations/0028_stores_of_hosts.sql"),
];

/// The schema's version that this program writes (`PRAGMA user_version`).
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

pub(crate) fn pragma(connection: &Connection, name: &str) -> Result<i64> {
    Ok(connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?)
}

/// Brings a file that is ours to the newest schema. Backs an older one up first, beside it under `backups/`.
///
/// # Errors
/// [`Error::Newer`], [`Error::NotOurs`]; the file is then as it was.
pub(crate) fn migrate(connection: &Connection, path: Option<&Path>, create: bool) -> Result<()> {
    let shown = || path.map_or_else(|| PathBuf::from(":memory:"), Path::to_owned);
    let (application, version) = (pragma(connection, "application_id")?, pragma(connection, "user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == 0 && version == 0 && tables == 0 {
        if !create {
            return Err(Error::NotOurs { path: shown(), detail: "it is empty".to_owned() });
        }
    } else if application != APPLICATION_ID {
        return Err(not_ours(connection, &shown())?);
    } else if version > SCHEMA_VERSION {
        return Err(Error::Newer { path: shown(), found: version, known: SCHEMA_VERSION });
    } else if version == SCHEMA_VERSION {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let result = (|| {
        // Another process may have been first.
        let version = pragma(connection, "user_version")?;
        if version > SCHEMA_VERSION {
            return Err(Error::Newer { path: shown(), found: version, known: SCHEMA_VERSION });
        }
        if let Some(path) = path
            && (1..SCHEMA_VERSION).contains(&version)
        {
            back_up_before(path, version)?;
        }
        for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(usize::MAX)) {
            connection.execute_batch(migration)?;
        }
        // A copy that was put in the place of a database is not the file that its content belongs to.
        if let Some(path) = path
            && (version == 0 || marks::in_wal_mode(connection)?)
        {
            marks::note_file(connection, path)?;
        }
        connection
            .execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}"))?;
        Ok(())
    })();
    connection.execute_batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    result
}

/// Copies the file as it is before its migration. The caller holds the write lock, so that nobody else migrates it meanwhile.
fn back_up_before(path: &Path, version: i64) -> Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new(".")).join("backups");
    std::fs::create_dir_all(&folder).map_err(|error| Error::io(format!("cannot make {}", folder.display()), error))?;
    let now = crate::Clock::now(&crate::SystemClock);
    let target = folder.join(format!("before-migration-from-{version}-{}.db", file_stamp(now)));
    // The connection that is about to write cannot be copied from.
    let reader = super::open(path)?;
    super::copy::copy_to_new_file(&reader, &target)
}

/// Why a file with other marks than ours is refused.
pub(crate) fn not_ours(connection: &Connection, path: &Path) -> Result<Error> {
    let marked = pragma(connection, "application_id")? != 0;
    let detail = match if marked { None } else { unmarked_version(connection)? } {
        Some(version) => format!(
            "it has the tables but not application_id and user_version, like a copy made with sqlite3's .dump; to use it, set them: \
             sqlite3 FILE 'PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}'"
        ),
        None => "it belongs to another application".to_owned(),
    };
    Ok(Error::NotOurs { path: path.to_owned(), detail })
}

/// The version whose schema a file without marks has.
fn unmarked_version(connection: &Connection) -> Result<Option<i64>> {
    let found = schema(connection)?;
    let model = Connection::open_in_memory()?;
    for (at, migration) in MIGRATIONS.iter().enumerate() {
        model.execute_batch(migration)?;
        if schema(&model)? == found {
            return Ok(Some(at as i64 + 1));
        }
    }
    Ok(None)
}

/// The objects of a schema, by type and name, with their texts.
fn schema(connection: &Connection) -> Result<Vec<(String, String, Option<String>)>> {
    let mut statement =
        connection.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// A time as it can stand in a file name, `20261122T000001005Z`.
pub(crate) fn file_stamp(time: Timestamp) -> String {
    time.to_rfc3339().replace(['-', ':', '.'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_add_up_to_schema_sql() {
        let migrated = Connection::open_in_memory().unwrap();
        migrate(&migrated, None, true).unwrap();
        let whole = Connection::open_in_memory().unwrap();
        whole.execute_batch(include_str!("../../../../../schema/schema.sql")).unwrap();
        assert_eq!(schema(&migrated).unwrap(), schema(&whole).unwrap());
        assert_eq!(pragma(&whole, "application_id").unwrap(), APPLICATION_ID);
        assert_eq!(pragma(&whole, "user_version").unwrap(), SCHEMA_VERSION);
        let subscriptions = |connection: &Connection| -> Vec<(String, String)> {
            let mut statement = connection.prepare("SELECT id, event_types FROM subscriptions ORDER BY id").unwrap();
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(subscriptions(&migrated), subscriptions(&whole));
    }

    /// A database of version 21 in use.
    fn version_21(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        for migration in &MIGRATIONS[..21] {
            connection.execute_batch(migration).unwrap();
        }
        connection
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 21;
                 INSERT INTO loops (id, name, priority, status) VALUES ('l', 'L', 1, 'running');
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                 INSERT INTO events (id, source, event_type) SELECT 'e' || i, 'l', 'test_passed' FROM n"
            ))
            .unwrap();
        connection
    }

    #[test]
    fn time_checks_are_named_for_every_connection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordination.db");
        // It has read the schema before the migration.
        let other = version_21(&path);
        let refused = |connection: &Connection| {
            connection.execute_batch("UPDATE loops SET created_at = 'yesterday'").unwrap_err().to_string()
        };
        assert!(refused(&other).contains("created_at IS datetime("));
        let connection = Connection::open(&path).unwrap();
        // What fails after the change of the texts leaves them as they were.
        connection.execute_batch("BEGIN").unwrap();
        connection.execute_batch(MIGRATIONS[21]).unwrap();
        assert!(refused(&connection).contains("loops_created_at_is_utc"));
        connection.execute_batch("ROLLBACK").unwrap();
        assert!(refused(&connection).contains("created_at IS datetime("));
        migrate(&connection, Some(&path), false).unwrap();
        for connection in [&connection, &other] {
            assert!(refused(connection).contains("CHECK constraint failed: loops_created_at_is_utc"));
        }
        let sound: String = other.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        let events: i64 = other.query_row("SELECT count(*) FROM events", [], |row| row.get(0)).unwrap();
        assert_eq!(events, 1000);
    }

    #[test]
    fn every_time_check_has_a_name() {
        let migrated = Connection::open_in_memory().unwrap();
        migrate(&migrated, None, true).unwrap();
        let mut named = 0;
        for (_, table, sql) in schema(&migrated).unwrap().into_iter().filter(|(kind, ..)| kind == "table") {
            let sql = sql.unwrap();
            for (at, _) in sql.match_indices(" IS datetime(") {
                let column = sql[..at].rsplit(['(', ' ']).next().unwrap();
                let check = format!("CONSTRAINT {table}_{column}_is_utc CHECK ({column} IS datetime({column}, '+0 days')");
                assert!(sql.contains(&check), "{check} is not in {sql}");
                named += 1;
            }
        }
        assert!(named > 60, "{named}");
    }

    /// Those whose subscriptions have not ended since.
    const KEPT: &str = "subscription_id NOT IN ('monitor', 'regression-checker', 'heartbeat')";

    #[test]
    fn a_database_of_version_1_in_mid_use_keeps_its_deliveries() {
        let old = Connection::open_in_memory().unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;
             INSERT INTO loops (id, name, priority, status) VALUES ('l', 'L', 1, 'running');
             INSERT INTO events (id, source, event_type, priority) VALUES
               ('z', 'l', 'test_passed', 5), ('m', 'l', 'test_started', 5), ('a', 'l', 'test_passed', 1);
             UPDATE events SET acknowledged = 1, acknowledged_by = 'human' WHERE id = 'z';
             UPDATE deliveries SET tries = 2 WHERE event_id = 'a' AND subscription_id = 'pm';
             UPDATE deliveries SET status = 'set_aside', settled_at = '2026-01-01 00:00:00' WHERE event_id = 'm';"
        ))
        .unwrap();
        let undelivered = |connection: &Connection| -> Vec<(String, String)> {
            let mut statement = connection
                .prepare(&format!("SELECT subscription_id, id FROM undelivered_events WHERE {KEPT} ORDER BY 1, seq"))
                .unwrap();
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let settled = |connection: &Connection| -> Vec<String> {
            let columns = "event_id || subscription_id || status || tries || coalesce(settled_at, '')";
            let mut statement =
                connection.prepare(&format!("SELECT {columns} FROM deliveries WHERE {KEPT} ORDER BY 1")).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let before = (undelivered(&old), settled(&old));
        assert!(before.0.len() >= 2, "the check must have something to compare");
        migrate(&old, None, false).unwrap();
        assert_eq!((undelivered(&old), settled(&old)), before);
        old.execute_batch("INSERT INTO events (id, source, event_type) VALUES ('b', 'l', 'test_passed')").unwrap();
        let pms: Vec<String> =
            undelivered(&old).into_iter().filter(|(subscription, _)| subscription == "pm").map(|(_, id)| id).collect();
        assert_eq!(pms, ["z", "a", "b"], "new events come after the old ones");
        let of_ended = "SELECT count(*) FROM deliveries WHERE subscription_id = 'monitor' AND status = 'pending'";
        assert_eq!(old.query_row::<i64, _, _>(of_ended, [], |row| row.get(0)).unwrap(), 0);
    }

    #[test]
    fn the_numbers_of_an_older_file_are_known_after_the_migration() {
        let older = Connection::open_in_memory().unwrap();
        older.execute_batch(MIGRATIONS[0]).unwrap();
        older
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;
                 INSERT INTO migrations (number, name) VALUES (3, 'theirs'), (12, 'ours');"
            ))
            .unwrap();
        migrate(&older, None, false).unwrap();
        let last = |connection: &Connection| -> i64 {
            connection.query_row("SELECT value FROM counters WHERE name = 'migration_number'", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(last(&older), 12);
        older.execute_batch("DELETE FROM migrations;").unwrap();
        older.execute_batch("INSERT INTO migrations (number, name) VALUES (5, 'late')").unwrap();
        assert_eq!(last(&older), 12);
        older.execute_batch("UPDATE migrations SET number = 20").unwrap();
        assert_eq!(last(&older), 20);
    }

    #[test]
    fn a_newer_or_foreign_file_is_refused() {
        let newer = Connection::open_in_memory().unwrap();
        migrate(&newer, None, true).unwrap();
        newer.execute_batch(&format!("PRAGMA user_version = {}", SCHEMA_VERSION + 1)).unwrap();
        assert!(matches!(migrate(&newer, None, true), Err(Error::Newer { .. })));
        let foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE x (y)").unwrap();
        assert!(matches!(migrate(&foreign, None, true), Err(Error::NotOurs { .. })));
    }
}
