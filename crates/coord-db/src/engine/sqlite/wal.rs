//! The size of the `-wal`.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::Connection;

/// A `-wal` beyond this is emptied when nobody reads from it.
const WAL_BOUND_BYTES: u64 = 16 << 20;
/// Number of commits between two looks.
const WAL_LOOK_COMMITS: u32 = 16;
/// How long other writers wait at most until no reader uses a `-wal` that is to be reset.
const WAL_PATIENCE: Duration = Duration::from_millis(5);
/// After a try that failed for its readers, it is left alone for so long.
const WAL_PAUSE: Duration = Duration::from_millis(200);

/// The `-wal`, which SQLite's own checkpoints copy but do not reset while a reader is active: under steady load, or behind
/// one long read, it grows without an end.
#[derive(Debug)]
pub(super) struct Wal {
    path: Option<PathBuf>,
    commits: Cell<u32>,
    tried: Cell<Option<Instant>>,
}

impl Wal {
    pub(super) fn new(database: Option<&Path>) -> Self {
        let path = database.map(|path| {
            let mut path = path.as_os_str().to_owned();
            path.push("-wal");
            PathBuf::from(path)
        });
        Self { path, commits: Cell::new(0), tried: Cell::new(None) }
    }

    /// After a commit: empties a `-wal` that has grown too large, if its readers let go of it soon.
    pub(super) fn keep_small(&self, connection: &Connection) {
        let Some(path) = &self.path else { return };
        self.commits.set(self.commits.get() + 1);
        if self.commits.get() < WAL_LOOK_COMMITS {
            return;
        }
        self.commits.set(0);
        if std::fs::metadata(path).map_or(0, |meta| meta.len()) <= WAL_BOUND_BYTES
            || self.tried.get().is_some_and(|tried| tried.elapsed() < WAL_PAUSE)
        {
            return;
        }
        let empty = || connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        let emptied = super::busy::within(WAL_PATIENCE, empty);
        self.tried.set(Some(Instant::now()));
        match emptied {
            Ok(0) => tracing::debug!("emptied the -wal"),
            Ok(_) => tracing::debug!("the -wal is still being read"),
            Err(error) => tracing::debug!(%error, "cannot empty the -wal"),
        }
    }
}
