//! Numbers that never go back, whatever content replaces that of the database: fencing tokens, migration numbers, the order of
//! events and of waits.
//!
//! A restore carries the numbers of the replaced content over. Where that content cannot vouch for them (it was created again, or
//! the file itself is a copy put in the place of another), they advance by more than can have been allocated meanwhile. A file
//! that other programs have written is recognised because it is not in WAL mode: a loaded dump, a copied backup.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::UNIX_EPOCH;

use rusqlite::{Connection, OptionalExtension};

use crate::Result;

/// How far numbers jump that nobody reads.
const JUMP: i64 = 1_000_000_000;
/// How far migration numbers jump, which stand in the names of files.
const MIGRATION_JUMP: i64 = 1_000;

/// The counter that holds no mark: when the file was made that the content belongs to, in nanoseconds.
const FILE: &str = "file_born";

/// The largest numbers that were given out.
#[derive(Debug)]
pub(super) struct Marks {
    counters: BTreeMap<String, i64>,
    seq: i64,
    file: Option<i64>,
    /// The id of the newest event.
    newest: Option<String>,
}

impl Marks {
    pub(super) fn of(connection: &Connection) -> Result<Self> {
        let mut statement = connection.prepare("SELECT name, value FROM counters")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        let mut counters: BTreeMap<String, i64> = rows.collect::<rusqlite::Result<_>>()?;
        let file = counters.remove(FILE);
        let newest = connection
            .query_row("SELECT rowid, id FROM events ORDER BY rowid DESC LIMIT 1", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (seq, newest) = newest.map_or((0, None), |(seq, id)| (seq, Some(id)));
        Ok(Self { counters, seq, file, newest })
    }

    /// True if `current`, which holds these marks, went on from where a copy with the marks `copy` was taken.
    pub(super) fn vouch_for(&self, copy: &Self, current: &Connection) -> Result<bool> {
        let ahead = copy.seq <= self.seq
            && copy.counters.iter().all(|(name, value)| self.counters.get(name).is_some_and(|own| own >= value));
        let has_newest = match &copy.newest {
            Some(id) => current
                .query_row("SELECT 1 FROM events WHERE rowid = ?1 AND id = ?2", rusqlite::params![copy.seq, id], |_| Ok(()))
                .optional()?
                .is_some(),
            None => false,
        };
        Ok(ahead && (has_newest || (self.file.is_some() && self.file == copy.file)))
    }

    /// The marks after a jump that goes beyond all that anybody can have been given since these were taken.
    pub(super) fn jumped(mut self) -> Self {
        for (name, value) in &mut self.counters {
            *value += if name == "migration_number" { MIGRATION_JUMP } else { JUMP };
        }
        self.seq += JUMP;
        self
    }

    /// The larger of each.
    pub(super) fn max(mut self, other: Self) -> Self {
        for (name, value) in other.counters {
            let own = self.counters.entry(name).or_insert(value);
            *own = value.max(*own);
        }
        self.seq = self.seq.max(other.seq);
        self
    }

    /// Raises what a content says to these marks, in a transaction of the caller's. The place of the next event comes after
    /// the newest one, so an event that says why is put ahead.
    pub(super) fn raise(&self, connection: &Connection, why: &str) -> Result<()> {
        for (name, value) in &self.counters {
            connection.execute(
                "INSERT INTO counters (name, value) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                rusqlite::params![name, value],
            )?;
        }
        let seq: i64 = connection.query_row("SELECT coalesce(max(rowid), 0) FROM events", [], |row| row.get(0))?;
        if seq < self.seq {
            let payload = crate::engine::note(why);
            connection.execute(
                "INSERT INTO events (rowid, id, source, event_type, payload, correlation_id)
                 VALUES (?1, ?2, 'human', 'human_message', ?3, ?2)",
                rusqlite::params![self.seq + 1, crate::new_id(), payload],
            )?;
        }
        Ok(())
    }
}

/// When the file was made; 0 where the file system does not know.
fn born(path: &Path) -> i64 {
    let made = std::fs::metadata(path).and_then(|meta| meta.created()).ok();
    made.and_then(|made| made.duration_since(UNIX_EPOCH).ok()).and_then(|age| i64::try_from(age.as_nanos()).ok()).unwrap_or(0)
}

pub(crate) fn in_wal_mode(connection: &Connection) -> Result<bool> {
    Ok(connection.query_row("PRAGMA journal_mode", [], |row| Ok(row.get::<_, String>(0)? == "wal"))?)
}

/// Writes down which file the content belongs to.
pub(crate) fn note_file(connection: &Connection, path: &Path) -> Result<()> {
    connection.execute(
        "INSERT INTO counters (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        rusqlite::params![FILE, born(path)],
    )?;
    Ok(())
}

/// Lets the numbers of a copy that was put in the place of a database jump ahead, once.
pub(crate) fn continue_after_copy(connection: &Connection, path: &Path) -> Result<()> {
    let is_copy = || -> Result<bool> { Ok(!in_wal_mode(connection)? && Marks::of(connection)?.file != Some(born(path))) };
    if !is_copy()? {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let result = (|| {
        // Another process may have been first.
        if is_copy()? {
            Marks::of(connection)?.jumped().raise(connection, "the database is a copy: its numbers jump ahead")?;
            note_file(connection, path)?;
        }
        Ok(())
    })();
    connection.execute_batch(if result.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    result
}
