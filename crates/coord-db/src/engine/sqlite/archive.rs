//! Retention: what is settled and old moves into a second file beside the database, a batch at a time.
//!
//! A batch is copied into the archive and committed there, outliving a power cut, before a transaction of the database
//! deletes it; and that one deletes only what it finds, equal in every column, in the archive. (SQLite commits two files in
//! WAL mode one after the other, so that a single transaction over both could lose a batch between them.) Killed anywhere,
//! a batch is in both files at worst: readers show it once, and the next run takes it up again.
//!
//! It must never move what is open, or what a decision still depends on: see [`KINDS`].

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::migrate::pragma;
use crate::engine::Engine;
use crate::tables::json;
use crate::{Clock, Database, Error, ReadTx, Result, Timestamp};

/// Marks the file as an archive of ours (`PRAGMA application_id`): "cLoA".
const ARCHIVE_ID: i64 = 0x634c_6f41;
/// The form of the archive. Its tables follow the columns of the database's, so this changes only if that does not do.
const ARCHIVE_VERSION: i64 = 1;
/// Number of rows moved at a time. Other writers wait no longer than one delete of this size takes.
const BATCH: usize = 250;
/// Nothing younger goes: budgets, windows and guards look back this far at most.
const YOUNGEST_SECONDS: i64 = 86_400;

/// A table of which rows go to the archive.
struct Kind {
    table: &'static str,
    key: &'static str,
    /// The moment that `?1` is compared with, and that rows go in the order of.
    time: &'static str,
    /// Which rows, as `r`, may go besides; what stays is needed still.
    closed: &'static str,
}

/// What goes, in this order: rows before the events that they name, since an event stays as long as an open row names it.
///
/// What never goes: loops, tests, subscriptions, leases and edges (they live or are deleted); proofs, landings, baselines,
/// usage and knowledge with its history (they answer questions about all times, and are small); migrations (a number is never handed
/// out again); regressions with a blamed commit (each is reported only once, ever).
const KINDS: &[Kind] = &[
    Kind { table: "alerts", key: "id", time: "closed_at", closed: "r.closed_at IS NOT NULL" },
    Kind {
        table: "decisions",
        key: "id",
        time: "decided_at",
        // The last word on a matter keeps it from being asked again, and a budget's stop stands until someone resumes.
        closed: "r.status <> 'pending'
           AND (r.fingerprint IS NULL
                OR r.requested_at < (SELECT max(d.requested_at) FROM main.decisions AS d
                                     WHERE d.fingerprint = r.fingerprint AND d.decision_type = r.decision_type)
                OR EXISTS (SELECT 1 FROM main.tests AS t
                           WHERE r.fingerprint = 'test:' || t.id AND t.status IN ('passed', 'skipped')))
           AND NOT (r.decision_type = 'budget' AND r.choice IS 'stop'
                    AND EXISTS (SELECT 1 FROM json_each(r.context, '$.loops') AS l
                                WHERE NOT EXISTS (SELECT 1 FROM main.events AS e WHERE e.event_type = 'resume_requested'
                                                  AND json_extract(e.payload, '$.loop_id') = l.value
                                                  AND e.timestamp >= r.requested_at)))",
    },
    Kind {
        table: "regressions",
        key: "id",
        time: "resolved_at",
        closed: "r.resolved_at IS NOT NULL AND r.first_bad_commit IS NULL",
    },
    Kind { table: "conflicts", key: "id", time: "resolved_at", closed: "r.resolved_at IS NOT NULL" },
    Kind { table: "deadlocks", key: "id", time: "resolved_at", closed: "r.resolved_at IS NOT NULL" },
    Kind { table: "change_requests", key: "id", time: "resolved_at", closed: "r.status IN ('rejected', 'applied')" },
    Kind { table: "checkpoints", key: "id", time: "deleted_at", closed: "r.deleted_at IS NOT NULL" },
    Kind {
        table: "transaction_log",
        key: "id",
        time: "completed_at",
        // An entry whose id names its matter keeps it from being done again.
        closed: "r.status <> 'in_progress'
           AND (instr(r.id, ':') = 0
                OR r.id GLOB 'notify:report:*'
                   AND r.id < (SELECT max(id) FROM main.transaction_log WHERE id GLOB 'notify:report:*')
                OR r.id GLOB 'notify:alert:*'
                   AND NOT EXISTS (SELECT 1 FROM main.alerts AS a WHERE r.id = 'notify:alert:' || a.id AND a.closed_at IS NULL)
                OR r.id GLOB 'notify:decision:*'
                   AND NOT EXISTS (SELECT 1 FROM main.decisions AS d
                                   WHERE r.id = 'notify:decision:' || d.id AND d.status = 'pending'))",
    },
    Kind {
        table: "check_runs",
        key: "check_name, commit_hash",
        time: "ran_at",
        // The newest runs show which checks are flaky.
        closed: "r.rowid NOT IN (SELECT rowid FROM main.check_runs ORDER BY ran_at DESC LIMIT 1000)",
    },
    EVENTS,
];

const EVENTS: Kind = Kind {
    table: "events",
    key: "id",
    time: "timestamp",
    // The newest event of each source stays: it says when that was heard last, and no position in the order of commits
    // is ever given twice. So does what belongs to the story of a test, a loop or a row that is still open.
    closed: "r.rowid < (SELECT max(n.rowid) FROM main.events AS n WHERE n.source = r.source)
       AND NOT EXISTS (SELECT 1 FROM main.deliveries AS d WHERE d.event_id = r.id AND d.status = 'pending')
       AND NOT EXISTS (SELECT 1 FROM main.tests AS t WHERE t.id = json_extract(r.payload, '$.test_id')
                       AND t.status NOT IN ('passed', 'skipped'))
       AND NOT (r.event_type = 'component_degraded'
                AND EXISTS (SELECT 1 FROM main.loops AS l WHERE l.id = json_extract(r.payload, '$.component')
                            AND l.status = 'error'))
       AND NOT (r.event_type = 'resume_requested'
                AND (EXISTS (SELECT 1 FROM main.pauses)
                     OR EXISTS (SELECT 1 FROM main.conflicts AS c
                                WHERE c.resolved_at IS NULL AND c.detected_at <= r.timestamp)
                     OR EXISTS (SELECT 1 FROM main.decisions AS d WHERE d.decision_type = 'budget' AND d.choice = 'stop'
                                AND d.requested_at <= r.timestamp)))
       AND r.id NOT IN (
         SELECT event_id FROM main.alerts WHERE closed_at IS NULL AND event_id IS NOT NULL
         UNION ALL SELECT json_extract(context, '$.event_id') FROM main.alerts
           WHERE closed_at IS NULL AND json_extract(context, '$.event_id') IS NOT NULL
         UNION ALL SELECT event_id FROM main.decisions WHERE status = 'pending' AND event_id IS NOT NULL
         UNION ALL SELECT event_id FROM main.regressions WHERE resolved_at IS NULL AND event_id IS NOT NULL
         UNION ALL SELECT event_id FROM main.conflicts WHERE resolved_at IS NULL AND event_id IS NOT NULL
         UNION ALL SELECT event_id FROM main.deadlocks WHERE resolved_at IS NULL
         UNION ALL SELECT event_id FROM main.transaction_log WHERE status = 'in_progress' AND event_id IS NOT NULL
         UNION ALL SELECT event_id FROM main.pauses WHERE event_id IS NOT NULL)",
};

/// Goes with its event, whatever became of it.
const DELIVERIES: Kind =
    Kind { table: "deliveries", key: "event_id, subscription_id", time: "seq", closed: "r.status <> 'pending'" };

/// Where the archive of a database is, or would be: `coordination.archive.db` for `coordination.db`.
#[must_use]
pub fn archive_path(database: &Path) -> PathBuf {
    let name = database.file_name().unwrap_or_default().as_bytes();
    let stem = name.strip_suffix(b".db").unwrap_or(name);
    let mut file = OsString::from(std::ffi::OsStr::from_bytes(stem));
    file.push(".archive.db");
    database.with_file_name(file)
}

/// The tables that rows are archived from, and so those that an archive has.
fn tables() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain(std::iter::once(&DELIVERIES))
}

/// A column as the database has it: its name, type, and constant default.
type Column = (String, String, Option<String>);

fn columns(connection: &Connection, schema: &str, table: &str) -> Result<Vec<Column>> {
    let mut statement = connection.prepare("SELECT name, type, dflt_value FROM pragma_table_info(?1, ?2)")?;
    let rows = statement.query_map([table, schema], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Makes the archive's tables what the database's rows need. A column that only the archive has stays.
fn fit_tables(connection: &Connection) -> Result<()> {
    for kind in tables() {
        let wanted = columns(connection, "main", kind.table)?;
        let there = columns(connection, "archive", kind.table)?;
        if there.is_empty() {
            let list: Vec<String> = wanted.iter().map(|(name, of, _)| format!("{} {of}", quoted(name))).collect();
            connection.execute_batch(&format!(
                "CREATE TABLE archive.{} ({}, PRIMARY KEY ({})) STRICT",
                kind.table,
                list.join(", "),
                kind.key
            ))?;
            continue;
        }
        for (name, of, default) in wanted.iter().filter(|(name, ..)| !there.iter().any(|(has, ..)| has == name)) {
            // Only a constant can be a new column's default.
            let default = default.as_deref().filter(|text| !text.contains('('));
            let default = default.map(|text| format!(" DEFAULT {text}")).unwrap_or_default();
            connection.execute_batch(&format!(
                "ALTER TABLE archive.{} ADD COLUMN {} {of}{default}",
                kind.table,
                quoted(name)
            ))?;
        }
    }
    for (index, on) in [
        ("events_timestamp", "events (timestamp)"),
        ("events_correlation_id", "events (correlation_id)"),
        ("events_caused_by", "events (caused_by) WHERE caused_by IS NOT NULL"),
    ] {
        connection.execute_batch(&format!("CREATE INDEX IF NOT EXISTS archive.{index} ON {on}"))?;
    }
    Ok(())
}

/// A connection to the database with its archive attached to it. With `create`, an archive is made where there is none.
fn attach(db: &Database, path: &Path, archive: &Path, create: bool) -> Result<Option<Connection>> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::symlink_metadata(archive).map(|_| std::fs::metadata(archive)) {
        Ok(Ok(meta)) if meta.is_file() => {}
        Ok(_) => return Err(Error::NotOurs { path: archive.to_owned(), detail: "it is not a regular file".to_owned() }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !create {
                return Ok(None);
            }
            std::fs::OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(archive)
                .map_err(|error| Error::io(format!("cannot make {}", archive.display()), error))?;
        }
        Err(error) => return Err(Error::io(format!("cannot look at {}", archive.display()), error)),
    }
    let mut connection = super::open(path)?;
    super::busy::handle(&mut connection)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let shown = archive.as_os_str().as_bytes();
    connection
        .execute("ATTACH ?1 AS archive", [ToSqlOutput::Borrowed(ValueRef::Text(shown))])
        .map_err(|error| of_file(error, archive))?;
    prepare(&connection, archive).map_err(|error| match error {
        Error::Damaged { detail } if detail.contains("not a database") => Error::NotOurs { path: archive.to_owned(), detail },
        Error::Damaged { detail } => Error::Damaged { detail: format!("{}: {detail}", archive.display()) },
        other => other,
    })?;
    connection.pragma_update(Some("main"), "synchronous", super::synchronous(db.is_durable()))?;
    connection.pragma_update(Some("archive"), "synchronous", "FULL")?;
    Ok(Some(connection))
}

fn of_file(error: rusqlite::Error, path: &Path) -> Error {
    match Error::from(error) {
        Error::Damaged { detail } => Error::NotOurs { path: path.to_owned(), detail },
        other => other,
    }
}

fn prepare(connection: &Connection, archive: &Path) -> Result<()> {
    let identity =
        || Ok::<_, Error>((pragma(connection, "archive.application_id")?, pragma(connection, "archive.user_version")?));
    let (application, version) = identity()?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM archive.sqlite_schema", [], |row| row.get(0))?;
    let empty = application == 0 && version == 0 && objects == 0;
    if !empty && application != ARCHIVE_ID {
        return Err(Error::NotOurs {
            path: archive.to_owned(),
            detail: "it is not an archive of a coding-loops database".to_owned(),
        });
    }
    if version > ARCHIVE_VERSION {
        return Err(Error::Newer { path: archive.to_owned(), found: version, known: ARCHIVE_VERSION });
    }
    if empty {
        connection.pragma_update(Some("archive"), "journal_mode", "wal")?;
    }
    let fits = !empty && fits(connection)?;
    if !fits {
        // Only the archive is written to; the database is read.
        connection.execute_batch("BEGIN")?;
        let result = connection
            .execute_batch(&format!(
                "PRAGMA archive.application_id = {ARCHIVE_ID}; PRAGMA archive.user_version = {ARCHIVE_VERSION}"
            ))
            .map_err(Error::from)
            .and_then(|()| fit_tables(connection));
        connection.execute_batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
        result?;
    }
    Ok(())
}

fn fits(connection: &Connection) -> Result<bool> {
    for kind in tables() {
        let there = columns(connection, "archive", kind.table)?;
        let wanted = columns(connection, "main", kind.table)?;
        if !wanted.iter().all(|(name, ..)| there.iter().any(|(has, ..)| has == name)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many rows were moved, by table.
pub type Archived = std::collections::BTreeMap<&'static str, u64>;

/// One run of archiving, a batch at a time. Two at once, and one that is killed, do no harm.
#[derive(Debug)]
pub struct Archiver {
    connection: Connection,
    before: Timestamp,
    stage: usize,
    /// How far the stage has come: what stays is not looked at again in this run.
    cursor: (String, i64),
    archived: Archived,
}

impl Archiver {
    /// Begins to archive what was closed before a moment.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a moment within the last day; [`Error::NotOurs`] or [`Error::Newer`] about the archive.
    pub fn new(db: &Database, before: Timestamp) -> Result<Self> {
        if before > db.now().plus_seconds(-YOUNGEST_SECONDS) {
            return Err(Error::Invalid("rows younger than a day are still needed; give an age of 1d or more".to_owned()));
        }
        db.engine().sqlite()?;
        let Some(path) = db.path() else {
            return Err(Error::Invalid("a database in memory has no archive".to_owned()));
        };
        let archive = archive_path(path);
        let connection = attach(db, path, &archive, true)?.ok_or_else(|| Error::NoDatabase { path: archive })?;
        Ok(Self { connection, before, stage: 0, cursor: (String::new(), 0), archived: Archived::new() })
    }

    /// Moves one batch. False once there is nothing more to move.
    /// What was moved before an error stays moved.
    pub fn step(&mut self) -> Result<bool> {
        let Some(kind) = KINDS.get(self.stage) else { return Ok(false) };
        let rows = self.candidates(kind)?;
        let Some(last) = rows.last() else {
            self.stage += 1;
            self.cursor = (String::new(), 0);
            return Ok(self.stage < KINDS.len());
        };
        self.cursor = last.clone();
        let list = json(&rows.iter().map(|(_, rowid)| *rowid).collect::<Vec<_>>());
        self.transaction("BEGIN", |connection| copy(connection, kind, &list))?;
        let moved = self.transaction("BEGIN IMMEDIATE", |connection| delete(connection, kind, &list, self.before))?;
        *self.archived.entry(kind.table).or_default() += moved as u64;
        Ok(true)
    }

    /// Moves everything that may go.
    pub fn run(mut self) -> Result<Archived> {
        while self.step()? {}
        Ok(self.archived)
    }

    /// What has been moved so far.
    #[must_use]
    pub fn archived(&self) -> &Archived {
        &self.archived
    }

    fn candidates(&self, kind: &Kind) -> Result<Vec<(String, i64)>> {
        let Kind { table, time, closed, .. } = kind;
        let sql = format!(
            "SELECT r.{time}, r.rowid FROM main.{table} AS r
             WHERE r.{time} < ?1 AND r.{time} >= ?2 AND (r.{time} > ?2 OR r.rowid > ?3) AND {closed}
             ORDER BY r.{time}, r.rowid LIMIT ?4"
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let rows = statement
            .query_map(rusqlite::params![self.before.to_sql_text(), self.cursor.0, self.cursor.1, BATCH as i64], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn transaction<T>(&self, begin: &str, body: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.connection.execute_batch(begin)?;
        let result = body(&self.connection).and_then(|value| Ok(self.connection.execute_batch("COMMIT").map(|()| value)?));
        if result.is_err() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        result
    }
}

fn names(connection: &Connection, kind: &Kind) -> Result<Vec<String>> {
    Ok(columns(connection, "main", kind.table)?.iter().map(|(name, ..)| quoted(name)).collect())
}

/// Which rows a batch is about.
fn within(kind: &Kind) -> String {
    if kind.table == DELIVERIES.table {
        "r.event_id IN (SELECT id FROM main.events WHERE rowid IN (SELECT value FROM json_each(?1)))".to_owned()
    } else {
        "r.rowid IN (SELECT value FROM json_each(?1))".to_owned()
    }
}

fn copy(connection: &Connection, kind: &Kind, list: &str) -> Result<()> {
    let columns = names(connection, kind)?;
    let key: Vec<String> = kind.key.split(", ").map(quoted).collect();
    // An archived event is as immutable as any: only its acknowledgement can be behind.
    let is_event = kind.table == "events";
    let renewed: Vec<String> = columns
        .iter()
        .filter(|name| if is_event { name.contains("acknowledged") } else { !key.contains(name) })
        .map(|name| format!("{name} = excluded.{name}"))
        .collect();
    let (table, all, key, within) = (kind.table, columns.join(", "), key.join(", "), within(kind));
    if is_event {
        // Under its own place in the order of commits, unless another database's event has that.
        connection
            .prepare_cached(&format!(
                "INSERT OR IGNORE INTO archive.{table} (rowid, {all}) SELECT r.rowid, {all} FROM main.{table} AS r WHERE {within}"
            ))?
            .execute([list])?;
    }
    connection
        .prepare_cached(&format!(
            "INSERT INTO archive.{table} ({all}) SELECT {all} FROM main.{table} AS r WHERE {within}
             ON CONFLICT ({key}) DO UPDATE SET {}",
            renewed.join(", ")
        ))?
        .execute([list])?;
    if is_event { copy(connection, &DELIVERIES, list) } else { Ok(()) }
}

/// Deletes of the batch what may still go and is unchanged in the archive.
fn delete(connection: &Connection, kind: &Kind, list: &str, before: Timestamp) -> Result<usize> {
    let equal = |kind: &Kind, row: &str| -> Result<String> {
        let columns = names(connection, kind)?;
        let key: Vec<String> = kind.key.split(", ").map(quoted).collect();
        let equal: Vec<String> = columns
            .iter()
            .map(|name| format!("a.{name} {} {row}.{name}", if key.contains(name) { "=" } else { "IS" }))
            .collect();
        Ok(format!("EXISTS (SELECT 1 FROM archive.{} AS a WHERE {})", kind.table, equal.join(" AND ")))
    };
    let Kind { table, time, closed, .. } = kind;
    let is_event = *table == "events";
    let mut going = format!("{} AND r.{time} < ?2 AND {closed} AND {}", within(kind), equal(kind, "r")?);
    if is_event {
        let there = equal(&DELIVERIES, "q")?;
        going
            .push_str(&format!(" AND NOT EXISTS (SELECT 1 FROM main.deliveries AS q WHERE q.event_id = r.id AND NOT {there})"));
    }
    let mut statement = connection.prepare_cached(&format!("SELECT r.rowid FROM main.{table} AS r WHERE {going}"))?;
    let going = statement
        .query_map(rusqlite::params![list, before.to_sql_text()], |row| row.get::<_, i64>(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let going = json(&going);
    if !is_event {
        return Ok(connection
            .prepare_cached(&format!("DELETE FROM main.{table} WHERE rowid IN (SELECT value FROM json_each(?1))"))?
            .execute([&going])?);
    }
    connection.execute("INSERT OR IGNORE INTO main.maintenance (operation) VALUES ('archive')", [])?;
    for sql in [
        "INSERT OR IGNORE INTO main.archived_events (id)
         SELECT id FROM main.events WHERE rowid IN (SELECT value FROM json_each(?1))",
        "DELETE FROM main.deliveries
         WHERE event_id IN (SELECT id FROM main.events WHERE rowid IN (SELECT value FROM json_each(?1)))",
    ] {
        connection.prepare_cached(sql)?.execute([&going])?;
    }
    let deleted = connection
        .prepare_cached("DELETE FROM main.events WHERE rowid IN (SELECT value FROM json_each(?1))")?
        .execute([&going])?;
    connection.execute("DELETE FROM main.maintenance WHERE operation = 'archive'", [])?;
    Ok(deleted)
}

/// A connection to both, and where the archive is; none where nothing has ever been archived.
fn attach_existing(db: &Database) -> Result<Option<(Connection, PathBuf)>> {
    // A server keeps all rows.
    let Some(path) = db.path().filter(|_| db.server().is_none()) else { return Ok(None) };
    let file = archive_path(path);
    if let Some(connection) = attach(db, path, &file, false)? {
        return Ok(Some((connection, file)));
    }
    let some: bool = db.read(|tx| tx.value("SELECT EXISTS (SELECT 1 FROM archived_events)", []))?;
    if some { Err(Error::NoDatabase { path: file }) } else { Ok(None) }
}

impl Database {
    /// As [`Database::read`], with the archived events among the others: for what reckons with all of them.
    pub fn read_with_archived_events<R, E: From<Error>>(&self, body: impl FnOnce(&ReadTx<'_>) -> Result<R, E>) -> Result<R, E> {
        let Some((connection, _)) = attach_existing(self)? else { return self.read(body) };
        let columns = names(&connection, &EVENTS)?.join(", ");
        // A temporary view goes before a table of the same name.
        connection
            .execute_batch(&format!(
                "CREATE TEMP VIEW events AS SELECT rowid, {columns} FROM main.events
                 UNION ALL SELECT rowid, {columns} FROM archive.events WHERE id NOT IN (SELECT id FROM main.events);
                 BEGIN"
            ))
            .map_err(Error::from)?;
        body(&ReadTx::over(&Engine::Sqlite(connection.into()), &**self.clock()))
    }
}

/// What has been archived, to be read beside the database. Its tables have the database's names, so that every read of a
/// [`ReadTx`] that keeps to `events`, `alerts`, `decisions` and the other archived tables works on it.
pub struct Archive {
    engine: Engine,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").finish_non_exhaustive()
    }
}

impl Archive {
    /// The archive beside the database; none where nothing has ever been archived. Read the database first and the archive
    /// after it: what moves in between is then seen twice, never missed.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] where something was archived and the file is missing, [`Error::NotOurs`], [`Error::Newer`],
    /// [`Error::Damaged`].
    pub fn open(db: &Database) -> Result<Option<Self>> {
        let Some((connection, file)) = attach_existing(db)? else { return Ok(None) };
        drop(connection);
        let mut connection = super::open(&file)?;
        super::busy::handle(&mut connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Some(Self { engine: Engine::Sqlite(connection.into()), clock: Arc::clone(db.clock()) }))
    }

    /// Reads one consistent snapshot of the archive.
    pub fn read<R, E: From<Error>>(&self, body: impl FnOnce(&ReadTx<'_>) -> Result<R, E>) -> Result<R, E> {
        self.engine.begin_read()?;
        let result = body(&ReadTx::over(&self.engine, &*self.clock));
        self.engine.roll_back();
        result
    }
}
