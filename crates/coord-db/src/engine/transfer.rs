//! The move of a file's content to a server.
//!
//! At each moment one of the two takes changes, or none: the content is copied and verified in one transaction of the server; the
//! file refuses every change before that commits; the address takes the file's place after it. A move that was interrupted is finished
//! by the next one, which knows by one event whether the server has the content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::postgres::fill::{Filling, Table};
use super::sqlite::Sqlite;
use super::sqlite::archive::archive_path;
use super::sqlite::moved::{Moved, remove_companions};
use crate::locate::{Location, replace_with_address};
use crate::process::ProcessIdentity;
use crate::{Database, Error, Result, WriteTx};

/// What a move has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveStep {
    /// The content is at the server, and not yet verified.
    Copied,
    /// It is the same on both sides.
    Verified,
    /// The file takes no change any more.
    Closed,
    /// The server has the content.
    Committed,
    /// The address is in the file's place.
    Placed,
}

/// What was moved.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DatabaseMove {
    /// The server's address, without a password.
    pub server: String,
    /// The number of rows of each table; none if an earlier move had copied them.
    pub tables: BTreeMap<String, u64>,
    /// Number of texts with characters that PostgreSQL cannot hold, which are U+FFFD there.
    pub replaced_texts: u64,
    /// The copy of the file from before; none if nothing was changed.
    pub kept: Option<PathBuf>,
    /// The archive, which stays where it is and is not read any more.
    pub archive: Option<PathBuf>,
}

impl Database {
    /// Moves the whole content to an empty database on a server, and puts its address in the file's place. With `dry_run` all of it is
    /// copied and verified, and nothing is kept. A move that was interrupted is finished. Only closing this connection makes sense
    /// afterwards.
    ///
    /// # Errors
    /// [`Error::Refused`] for a database on a server, while a process runs on this one, and if the other one is not empty; what the
    /// server reports. The file is then in use as before.
    pub fn move_to_server(&self, address: &str, dry_run: bool, on_step: &mut dyn FnMut(MoveStep)) -> Result<DatabaseMove> {
        if let Some(server) = self.server() {
            return self.already_there(&server, address);
        }
        let sqlite = self.engine().sqlite()?;
        let Some(path) = self.path() else {
            return Err(Error::Refused("a database in memory cannot be moved".to_owned()));
        };
        let target = Filling::begin(address, self.patience())?;
        let archive = Some(archive_path(path)).filter(|archive| archive.exists());
        if let Some(earlier) = sqlite.moved()? {
            if earlier.server != target.server() || dry_run {
                return Err(Error::Refused(format!(
                    "an interrupted move to {} has to be finished first: run loopctl move-database {0}, or return to the file with \
                     loopctl restore {}",
                    earlier.server,
                    earlier.kept.display()
                )));
            }
            if target.has_event(&earlier.event_id)? {
                let (server, kept) = (target.server(), Some(earlier.kept));
                drop(target);
                self.leave_for(address)?;
                on_step(MoveStep::Placed);
                return Ok(DatabaseMove { server, tables: BTreeMap::new(), replaced_texts: 0, kept, archive });
            }
            self.write_quietly(|tx| tx.engine().sqlite()?.allow_changes())?;
        }
        let mut moved =
            DatabaseMove { server: target.server(), tables: BTreeMap::new(), replaced_texts: 0, kept: None, archive };
        self.write_quietly(|tx| {
            self.check_place()?;
            refuse_while_running(tx)?;
            let event_id = crate::new_id();
            copy(tx, &target, &event_id, &mut moved, on_step)?;
            if !dry_run {
                let kept = Sqlite::keep_before_move(path, tx.now())?;
                moved.kept = Some(kept.clone());
                sqlite.refuse_changes(&Moved { event_id, server: target.server(), kept })?;
            }
            Ok::<_, Error>(())
        })?;
        if dry_run {
            return Ok(moved);
        }
        on_step(MoveStep::Closed);
        match target.commit() {
            Ok(()) => {}
            Err(Error::CommitUnknown { server, detail }) => {
                return Err(Error::Refused(format!(
                    "the connection to {server} broke while it committed ({detail}); run the command again, which finds out whether it did"
                )));
            }
            Err(error) => {
                self.write_quietly(|tx| tx.engine().sqlite()?.allow_changes())?;
                return Err(error);
            }
        }
        on_step(MoveStep::Committed);
        self.leave_for(address)?;
        on_step(MoveStep::Placed);
        Ok(moved)
    }

    /// Puts the address in the place of the file, which takes no change any more.
    fn leave_for(&self, address: &str) -> Result<()> {
        let (sqlite, Some(path)) = (self.engine().sqlite()?, self.path()) else { return Ok(()) };
        self.check_place()?;
        sqlite.empty_wal();
        sqlite.leave_the_wal()?;
        replace_with_address(path, address)?;
        remove_companions(path);
        // Who waits for changes of the file sees that there is another one.
        self.ring();
        Ok(())
    }

    /// The end of a move that was interrupted just before it.
    fn already_there(&self, server: &str, address: &str) -> Result<DatabaseMove> {
        match self.path() {
            Some(path) if Location::of(path) == Location::Server(address.to_owned()) => {
                remove_companions(path);
                let archive = Some(archive_path(path)).filter(|archive| archive.exists());
                Ok(DatabaseMove { server: server.to_owned(), tables: BTreeMap::new(), replaced_texts: 0, kept: None, archive })
            }
            _ => Err(Error::Refused(format!(
                "the database is on a server already, {server}; to move it to another one, use pg_dump and psql, and write the new \
                 address to coordination.db"
            ))),
        }
    }
}

fn refuse_while_running(tx: &WriteTx<'_>) -> Result<()> {
    let alive = tx.running_components(&ProcessIdentity::own())?;
    let alive: Vec<String> = alive.iter().map(|(name, process)| format!("{name} ({process})")).collect();
    match alive.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "{} is running on this database; stop it first with loopctl down or loopctl service disable",
            alive.join(", ")
        ))),
    }
}

/// Copies everything, and compares it with what the server then has.
fn copy(
    tx: &WriteTx<'_>,
    target: &Filling,
    event_id: &str,
    moved: &mut DatabaseMove,
    on_step: &mut dyn FnMut(MoveStep),
) -> Result<()> {
    let sqlite = tx.engine().sqlite()?;
    let tables = target.make_tables()?;
    refuse_additions(sqlite, &tables)?;
    let mut contents = Vec::new();
    for table in &tables {
        let mut rows = target.rows(table);
        let sql = format!("SELECT {} FROM {}", table.columns.join(", "), table.name);
        tx.engine().each(&sql, &[], |row| rows.add(row).map(|()| true))?;
        rows.send()?;
        moved.tables.insert(table.name.clone(), rows.content.rows);
        moved.replaced_texts += rows.replaced;
        contents.push(rows.content);
        if let Some(column) = &table.numbered {
            let largest: i64 = tx.value(&format!("SELECT coalesce(max({column}), 0) FROM {}", table.name), [])?;
            let largest = largest.max(sqlite.largest_number(&table.name)?.unwrap_or(0));
            target.number_after(table, column, largest)?;
        }
    }
    on_step(MoveStep::Copied);
    for (table, content) in tables.iter().zip(&contents) {
        if target.content(table)? != *content {
            return Err(Error::Refused(format!(
                "table {} is not the same at the server after it was copied; nothing was moved",
                table.name
            )));
        }
    }
    on_step(MoveStep::Verified);
    let note = format!("the database was moved from an SQLite file to {}", target.server());
    target.finish(&tables, tx.now(), event_id, &note)
}

/// Refuses tables and columns that another program has added: there is no place for them.
fn refuse_additions(sqlite: &Sqlite, tables: &[Table]) -> Result<()> {
    let names = |columns: &[String]| -> BTreeSet<String> { columns.iter().filter(|name| *name != "rowid").cloned().collect() };
    let mut odd = Vec::new();
    let found = sqlite.tables()?;
    odd.extend(tables.iter().filter(|table| !found.contains(&table.name)).map(|table| table.name.clone()));
    for name in found {
        let known = tables.iter().find(|table| table.name == name).map(|table| names(&table.columns));
        if known != Some(names(&sqlite.columns(&name)?)) {
            odd.push(name);
        }
    }
    match odd.is_empty() {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "these tables are not as the schema has them: {}; save and remove what was added, then run the command again",
            odd.join(", ")
        ))),
    }
}
