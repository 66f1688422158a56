//! Keeping the database: backup, restore, dump.

use std::io::Write;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::copy::{copy, copy_to_new_file, sound};
use super::marks::Marks;
use super::migrate::{APPLICATION_ID, SCHEMA_VERSION, file_stamp, not_ours, pragma};
use crate::process::ProcessIdentity;
use crate::{Database, Error, Result};

/// The result of SQLite's own check of the file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DatabaseFacts {
    /// The engine's version.
    pub sqlite_version: String,
    /// The file's schema version.
    pub schema_version: i64,
    /// `wal`, unless the file system cannot have it.
    pub journal_mode: String,
    /// The file's size.
    pub bytes: i64,
    /// Of it, what is free for new rows.
    pub free_bytes: i64,
    /// The size of the `-wal`.
    pub wal_bytes: u64,
}

impl Database {
    /// Looks at the file itself.
    ///
    /// # Errors
    /// [`Error::Refused`] for a database on a server.
    pub fn facts(&self) -> Result<DatabaseFacts> {
        let page_bytes = pragma(&self.engine().sqlite()?.connection, "page_size")?;
        let wal = self.path().map(|path| {
            let mut wal = path.as_os_str().to_owned();
            wal.push("-wal");
            PathBuf::from(wal)
        });
        Ok(DatabaseFacts {
            sqlite_version: rusqlite::version().to_owned(),
            schema_version: pragma(&self.engine().sqlite()?.connection, "user_version")?,
            journal_mode: self.engine().sqlite()?.connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?,
            bytes: pragma(&self.engine().sqlite()?.connection, "page_count")?.saturating_mul(page_bytes),
            free_bytes: pragma(&self.engine().sqlite()?.connection, "freelist_count")?.saturating_mul(page_bytes),
            wal_bytes: wal.and_then(|wal| std::fs::metadata(wal).ok()).map_or(0, |meta| meta.len()),
        })
    }

    /// Copies the database while others work on it, verifies the copy and puts it at `to` (default: a dated file under
    /// `backups/` beside the database). Of the dated ones the newest `keep` stay. Gives the copy's path.
    ///
    /// # Errors
    /// [`Error::Exists`] if `to` is there already; [`Error::Damaged`] if the copy is not sound.
    pub fn back_up(&self, to: Option<&Path>, keep: usize) -> Result<PathBuf> {
        self.engine().sqlite()?;
        let home = self.path().and_then(Path::parent).unwrap_or_else(|| Path::new(".")).to_owned();
        let folder = home.join("backups");
        let target = match to {
            Some(to) => to.to_owned(),
            None => {
                std::fs::create_dir_all(&folder)
                    .map_err(|error| Error::io(format!("cannot make {}", folder.display()), error))?;
                folder.join(format!("coordination-{}.db", file_stamp(self.now())))
            }
        };
        if target.exists() {
            return Err(Error::Exists { what: "file", id: target.display().to_string() });
        }
        copy_to_new_file(&self.engine().sqlite()?.connection, &target)?;
        if to.is_none() {
            rotate(&folder, keep.max(1));
        }
        Ok(target)
    }

    /// Replaces the whole content by that of a backup, through SQLite's backup interface. Keeps the old content as a backup
    /// first. Fencing tokens, migration numbers and the order of events go on from the larger of both; they jump ahead where
    /// the old content is not what the backup was taken from, as after the loss of the file. Refused while a process is alive on this database.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::NotOurs`], [`Error::Newer`], [`Error::Damaged`]; the database is then as it was.
    pub fn restore(&mut self, from: &Path, keep: usize) -> Result<PathBuf> {
        if !from.is_file() {
            return Err(Error::NoDatabase { path: from.to_owned() });
        }
        let own = ProcessIdentity::own();
        let alive = self.read(|tx| tx.running_components(&own))?;
        let alive: Vec<String> = alive.iter().map(|(name, process)| format!("{name} ({process})")).collect();
        if !alive.is_empty() {
            return Err(Error::Refused(format!("{} is running on this database; stop it first", alive.join(", "))));
        }
        let from =
            &std::path::absolute(from).map_err(|error| Error::io(format!("cannot resolve {}", from.display()), error))?;
        let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        sound(&source, from).map_err(|error| match error {
            Error::Damaged { detail } if detail.contains("not a database") => Error::NotOurs { path: from.to_owned(), detail },
            other => other,
        })?;
        if pragma(&source, "application_id")? != APPLICATION_ID {
            return Err(not_ours(&source, from)?);
        }
        let version = pragma(&source, "user_version")?;
        if version > SCHEMA_VERSION {
            return Err(Error::Newer { path: from.to_owned(), found: version, known: SCHEMA_VERSION });
        }
        let old = self.back_up(None, keep + 1)?;
        let path = self.path().map(Path::to_owned);
        let current = Marks::of(&self.engine().sqlite()?.connection)?;
        let backup = Marks::of(&source).ok();
        // Made ready apart, so that what takes the place of the content does so as a whole.
        let mut ready = Connection::open("")?;
        copy(&source, &mut ready)?;
        super::migrate::migrate(&ready, None, false)?;
        let marks = match backup {
            Some(backup) if current.vouch_for(&backup, &self.engine().sqlite()?.connection)? => current,
            _ => current.max(Marks::of(&ready)?).jumped(),
        };
        ready.execute_batch("BEGIN")?;
        marks.raise(&ready, "a backup was restored: events after it are in the backup that restore made")?;
        if let Some(path) = &path {
            super::marks::note_file(&ready, path)?;
        }
        ready.execute_batch("COMMIT")?;
        copy(&ready, &mut self.engine_mut().sqlite_mut()?.connection)?;
        // The copy brought the source's journal mode along.
        if path.is_some() {
            self.engine().sqlite()?.connection.pragma_update(None, "journal_mode", "wal")?;
        }
        // What was written is all in the -wal now; it need not stay there.
        let _ = self.engine().sqlite()?.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.ring();
        Ok(old)
    }

    /// Writes the database as SQL text that recreates it in an empty one.
    pub fn dump(&self, out: &mut dyn Write) -> Result<()> {
        let io = |error| Error::io("cannot write the dump", error);
        self.read(|tx| {
            writeln!(out, "PRAGMA foreign_keys = OFF;\nBEGIN TRANSACTION;").map_err(io)?;
            let objects = tx.query(
                "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid",
                [],
                |row| Ok((row.get::<String>(0)?, row.get::<String>(1)?, row.get::<String>(2)?)),
            )?;
            let (tables, rest): (Vec<_>, Vec<_>) = objects.into_iter().partition(|(kind, ..)| kind == "table");
            for (_, name, sql) in &tables {
                // The index of words makes its own tables, and is filled below from what it indexes.
                if name.starts_with("knowledge_words_") {
                    continue;
                }
                writeln!(out, "{sql};").map_err(io)?;
                if name != "knowledge_words" {
                    dump_rows(&tx.engine().sqlite()?.connection, name, out)?;
                }
            }
            writeln!(out, "DELETE FROM sqlite_sequence;").map_err(io)?;
            dump_rows(&tx.engine().sqlite()?.connection, "sqlite_sequence", out)?;
            // Triggers come after the rows, or they would fire for them.
            for (_, _, sql) in &rest {
                writeln!(out, "{sql};").map_err(io)?;
            }
            writeln!(
                out,
                "INSERT INTO knowledge_words (rowid, topic, content, evidence) SELECT seq, topic, content, evidence FROM knowledge_index;"
            )
            .map_err(io)?;
            writeln!(out, "PRAGMA application_id = {APPLICATION_ID};\nPRAGMA user_version = {SCHEMA_VERSION};\nCOMMIT;")
                .map_err(io)
        })
    }
}

fn dump_rows(connection: &Connection, table: &str, out: &mut dyn Write) -> Result<()> {
    // The place of an event in the order of commits is its rowid.
    let (columns, order) = if table == "events" { ("rowid, *", " ORDER BY rowid") } else { ("*", "") };
    let mut statement = connection.prepare(&format!("SELECT {columns} FROM \"{table}\"{order}"))?;
    let columns = statement.column_count();
    let names: Vec<String> = statement.column_names().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let names = names.join(", ");
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(columns);
        for at in 0..columns {
            values.push(match row.get_ref(at)? {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(value) => value.to_string(),
                ValueRef::Real(value) if value.is_infinite() => if value > 0.0 { "9e999" } else { "-9e999" }.to_owned(),
                ValueRef::Real(value) => format!("{value:?}"),
                // Text with a NUL would end there for the shell, other controls would act on a terminal, and what is no
                // UTF-8 has no other spelling.
                ValueRef::Text(text) if !is_plain(text) => format!("CAST(X'{}' AS TEXT)", hex(text)),
                ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text).replace('\'', "''")),
                ValueRef::Blob(blob) => format!("X'{}'", hex(blob)),
            });
        }
        writeln!(out, "INSERT INTO \"{table}\" ({names}) VALUES ({});", values.join(", "))
            .map_err(|error| Error::io("cannot write the dump", error))?;
    }
    Ok(())
}

/// Text that reaches the shell, and a terminal, unchanged.
fn is_plain(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Where the bundle of the store that goes with a backup is.
#[must_use]
pub fn bundle_of(backup: &Path) -> PathBuf {
    let mut name = backup.as_os_str().to_owned();
    name.push(".bundle");
    PathBuf::from(name)
}

/// Deletes the oldest dated backups beyond `keep`, with the bundles of the store beside them. Only names that we give are
/// touched.
fn rotate(folder: &Path, keep: usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut dated: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("coordination-2") && name.ends_with("Z.db"))
        })
        .collect();
    dated.sort();
    for path in dated.iter().rev().skip(keep) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "cannot delete an old backup");
        }
        // Not each backup has one.
        let _ = std::fs::remove_file(bundle_of(path));
    }
}
