//! Copies of a database, whole and in one consistent snapshot.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::{Error, Result};

/// Copies in one consistent snapshot, however busy others are.
pub(super) fn copy(from: &Connection, to: &mut Connection) -> Result<()> {
    // In a transaction of its own each step would restart after every commit of another connection.
    let own = from.is_autocommit();
    if own {
        from.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    }
    let result = run(from, to);
    if own {
        let _ = from.execute_batch("ROLLBACK");
    }
    result
}

fn run(from: &Connection, to: &mut Connection) -> Result<()> {
    let backup = Backup::new(from, to)?;
    let mut tries = 0;
    loop {
        match backup.step(1024)? {
            StepResult::Done => return Ok(()),
            StepResult::More => tries = 0,
            _ if super::busy::on_busy(tries) => tries += 1,
            _ => return Err(Error::Locked { seconds: super::busy::deadline().as_secs() }),
        }
    }
}

/// Copies a database into a new file that is readable by its owner alone and appears under its name once it is verified.
/// An existing file is left alone.
pub(super) fn copy_to_new_file(from: &Connection, target: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    // Not by what a user calls it: SQLite takes names with "file:" in front for something else.
    let target =
        std::path::absolute(target).map_err(|error| Error::io(format!("cannot resolve {}", target.display()), error))?;
    let io = |what: &Path| {
        let text = format!("cannot make {}", what.display());
        move |error| Error::io(text, error)
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}.part", crate::new_id()));
    let part = target.with_file_name(name);
    std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&part).map_err(io(&part))?;
    let result = (|| {
        let mut connection = Connection::open(&part)?;
        // Nobody needs what a kill leaves of it.
        connection.pragma_update(None, "journal_mode", "off")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        copy(from, &mut connection)?;
        // A copy of a WAL database says so in its header; on its own it is one plain file.
        connection.pragma_update(None, "journal_mode", "delete")?;
        sound(&connection, &part)?;
        connection.close().map_err(|(_, error)| Error::from(error))?;
        std::fs::File::open(&part).and_then(|file| file.sync_all()).map_err(io(&part))?;
        // Unlike a rename, a link replaces nothing.
        match std::fs::hard_link(&part, &target) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists && !target.exists() => {
                std::fs::rename(&part, &target).map_err(io(&target))
            }
            linked => linked.map_err(io(&target)),
        }
    })();
    let _ = std::fs::remove_file(&part);
    result
}

/// SQLite's own check of the whole file.
pub(super) fn sound(connection: &Connection, path: &Path) -> Result<()> {
    let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Error::Damaged { detail: format!("{}: {verdict}", path.display()) }) }
}
