//! A file whose content was moved to a server. Until another file takes its place, nobody writes to it: neither a program that still
//! has it open nor one that opens it now.

use std::path::{Path, PathBuf};

use super::Sqlite;
use super::migrate::file_stamp;
use crate::{Error, Result, Timestamp};

/// What the names of the triggers that refuse every change begin with.
const TRIGGER: &str = "moved_";

/// Where the content of a file was moved to.
#[derive(Debug)]
pub(crate) struct Moved {
    /// The event that the server has if it has the content.
    pub(crate) event_id: String,
    /// The server's address, without a password.
    pub(crate) server: String,
    /// The copy of the file from before.
    pub(crate) kept: PathBuf,
}

/// A text in SQL.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Sqlite {
    /// The tables, by name, without those that SQLite makes itself.
    pub(crate) fn tables(&self) -> Result<Vec<String>> {
        self.names(
            "SELECT name FROM sqlite_schema
             WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'knowledge\\_words\\_%' ESCAPE '\\'
             ORDER BY name",
        )
    }

    /// The columns of a table, by name.
    pub(crate) fn columns(&self, table: &str) -> Result<Vec<String>> {
        self.names(&format!("SELECT name FROM pragma_table_info({})", quoted(table)))
    }

    /// The largest number that an AUTOINCREMENT column of a table has had.
    pub(crate) fn largest_number(&self, table: &str) -> Result<Option<i64>> {
        let mut statement = self.connection.prepare("SELECT seq FROM sqlite_sequence WHERE name = ?1")?;
        Ok(statement.query_map([table], |row| row.get(0))?.next().transpose()?)
    }

    fn names(&self, sql: &str) -> Result<Vec<String>> {
        let mut statement = self.connection.prepare(sql)?;
        Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
    }

    /// Copies the file as it is before a move to `backups/` beside it. The caller holds the write lock.
    pub(crate) fn keep_before_move(path: &Path, now: Timestamp) -> Result<PathBuf> {
        let folder = path.parent().unwrap_or_else(|| Path::new(".")).join("backups");
        std::fs::create_dir_all(&folder).map_err(|error| Error::io(format!("cannot make {}", folder.display()), error))?;
        let target = folder.join(format!("before-move-{}.db", file_stamp(now)));
        // The connection that holds the write lock cannot be copied from.
        super::copy::copy_to_new_file(&super::open(path)?, &target)?;
        Ok(target)
    }

    /// Where the content was moved to, if it was.
    pub(crate) fn moved(&self) -> Result<Option<Moved>> {
        if self.names("SELECT name FROM sqlite_schema WHERE name = 'moved_to_server'")?.is_empty() {
            return Ok(None);
        }
        let mut statement = self.connection.prepare("SELECT event_id, server, kept FROM moved_to_server")?;
        let row = |row: &rusqlite::Row<'_>| {
            let kept: String = row.get(2)?;
            Ok(Moved { event_id: row.get(0)?, server: row.get(1)?, kept: kept.into() })
        };
        Ok(statement.query_map([], row)?.next().transpose()?)
    }

    /// Refuses every change from now on, in the caller's transaction.
    pub(crate) fn refuse_changes(&self, moved: &Moved) -> Result<()> {
        let kept = moved.kept.display().to_string();
        let why = format!(
            "the database was moved to {}: finish with loopctl move-database, or return to the file with loopctl restore {kept}",
            moved.server
        );
        let mut sql = String::new();
        for table in self.tables()?.iter().filter(|table| *table != "knowledge_words") {
            for event in ["INSERT", "UPDATE", "DELETE"] {
                sql.push_str(&format!(
                    "CREATE TRIGGER {TRIGGER}{table}_{event} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, {}); END;\n",
                    quoted(&why)
                ));
            }
        }
        sql.push_str("CREATE TABLE moved_to_server (event_id TEXT NOT NULL, server TEXT NOT NULL, kept TEXT NOT NULL) STRICT;");
        self.execute_batch(&sql)?;
        self.connection.execute("INSERT INTO moved_to_server VALUES (?1, ?2, ?3)", [&moved.event_id, &moved.server, &kept])?;
        Ok(())
    }

    /// Takes changes again, in the caller's transaction.
    pub(crate) fn allow_changes(&self) -> Result<()> {
        let triggers =
            self.names("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'moved\\_%' ESCAPE '\\'")?;
        let drop: String = triggers.iter().map(|trigger| format!("DROP TRIGGER {trigger};\n")).collect();
        self.execute_batch(&format!("{drop}DROP TABLE IF EXISTS moved_to_server"))
    }

    /// Brings what is in the `-wal` to the file, if no reader needs it there.
    pub(crate) fn empty_wal(&self) {
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

/// Deletes what SQLite keeps beside a file, after another file has taken its place.
pub(crate) fn remove_companions(path: &Path) {
    for suffix in ["-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let _ = std::fs::remove_file(file);
    }
}
