//! The open database and its transactions.

use std::cell::Cell;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::functions::FunctionFlags;
use rusqlite::{CachedStatement, Connection, OpenFlags};

use crate::file_system::FileSystem;
use crate::first_look::{explain, first_look};
use crate::row::{Column, Row};
use crate::wake::Bell;
use crate::{Clock, Error, Result, SystemClock, Timestamp, busy, migrate};

/// How much a commit outlives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A killed process loses nothing; a power cut can lose the last moments.
    #[default]
    Normal,
    /// A power cut loses nothing either.
    Full,
}

/// How to open.
#[derive(Clone)]
pub struct OpenOptions {
    /// What every commit of this connection outlives.
    pub durability: Durability,
    /// How long a write waits for other writers.
    pub busy_deadline: Duration,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { durability: Durability::Normal, busy_deadline: Duration::from_secs(5), clock: Arc::new(SystemClock) }
    }
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// The moment at which a statement that is its own transaction holds the write lock, in SQL.
pub(crate) const NOW: &str = "clock_now()";
const NOW_NAME: &str = "clock_now";

/// One connection to the database.
pub struct Database {
    connection: Connection,
    path: Option<PathBuf>,
    /// Device and inode of the file, as it was opened.
    identity: Option<(u64, u64)>,
    bell: Option<Bell>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    wal: Wal,
}

/// Every statement of an operation is prepared here, so that the test of the plans sees it.
pub(crate) fn prepare<'a>(connection: &'a Connection, sql: &str) -> rusqlite::Result<CachedStatement<'a>> {
    #[cfg(test)]
    crate::plans::note(sql);
    connection.prepare_cached(sql)
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens an existing database and brings it to the newest schema.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], [`Error::NotOurs`], [`Error::Newer`], [`Error::NetworkFileSystem`], [`Error::Damaged`] or what the
    /// file system says.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Err(Error::NotOurs { path: path.to_owned(), detail: "it is not a regular file".to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoDatabase { path: path.to_owned() });
            }
            Err(error) => return Err(Error::io(format!("cannot look at {}", path.display()), error)),
        }
        Self::open_file(path, options, false)
    }

    /// Reads a database of exactly this schema version and changes nothing, neither content nor settings. Waits for nobody.
    ///
    /// # Errors
    /// [`Error::NotOurs`] for another version.
    pub fn peek<R>(path: &Path, body: impl FnOnce(&ReadTx<'_>) -> Result<R>) -> Result<R> {
        let connection =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "query_only", true)?;
        let found = (migrate::pragma(&connection, "application_id")?, migrate::pragma(&connection, "user_version")?);
        if found != (migrate::APPLICATION_ID, migrate::SCHEMA_VERSION) {
            return Err(Error::NotOurs { path: path.to_owned(), detail: "it has another schema version".to_owned() });
        }
        connection.execute_batch("BEGIN DEFERRED")?;
        body(&ReadTx::over(&connection, &SystemClock))
    }

    /// Opens the database, making it if there is none. The file is readable by its owner alone.
    pub fn create(path: &Path, options: &OpenOptions) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        FileSystem::allow(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")), path)?;
        match std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(format!("cannot make {}", path.display()), error)),
        }
        Self::open_file(path, options, true)
    }

    /// A database that nobody else sees and that ends with the value.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Result<Self> {
        thread_local! {
            // Made once: simulations take thousands of databases, and the migrations are most of what one costs.
            static EMPTY: std::cell::RefCell<Option<Connection>> = const { std::cell::RefCell::new(None) };
        }
        let mut connection = Connection::open_in_memory()?;
        EMPTY.with_borrow_mut(|empty| {
            if empty.is_none() {
                let new = Connection::open_in_memory()?;
                migrate::migrate(&new, None, true)?;
                *empty = Some(new);
            }
            empty.as_ref().map_or(Ok(()), |empty| crate::tables::copy(empty, &mut connection))
        })?;
        let options = OpenOptions { clock, ..OpenOptions::default() };
        Self::prepare(connection, None, &options, true)
    }

    fn open_file(path: &Path, options: &OpenOptions, create: bool) -> Result<Self> {
        let path = path.canonicalize().map_err(|error| Error::io(format!("cannot resolve {}", path.display()), error))?;
        FileSystem::allow(&path, &path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        first_look(&path, create, || {
            let connection = Connection::open_with_flags(&path, flags)?;
            // What turns out not to be ours must not be changed by our leaving it either.
            connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            Self::prepare(connection, Some(path.clone()), options, create)
        })
        .map_err(|error| match error {
            Error::Damaged { detail } if detail.contains("not a database") => Error::NotOurs { path, detail },
            other => explain(&path, other),
        })
    }

    fn prepare(mut connection: Connection, path: Option<PathBuf>, options: &OpenOptions, create: bool) -> Result<Self> {
        busy::set_deadline(options.busy_deadline);
        busy::handle(&mut connection)?;
        connection.set_prepared_statement_cache_capacity(256);
        // Without this a plan depends on the bound values, and most statements are prepared again for each run.
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        migrate::migrate(&connection, path.as_deref(), create)?;
        if let Some(path) = &path {
            crate::tables::marks::continue_after_copy(&connection, path)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
        }
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.pragma_update(None, "synchronous", synchronous(options.durability))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // What a statement with triggers keeps for its own undoing goes to a temporary file otherwise: half of its cost.
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        let clock = Arc::clone(&options.clock);
        connection.create_scalar_function(NOW_NAME, 0, FunctionFlags::SQLITE_UTF8, move |_| Ok(clock.now().to_sql_text()))?;
        Ok(Self {
            identity: path.as_deref().and_then(|path| std::fs::metadata(path).ok()).map(|meta| (meta.dev(), meta.ino())),
            bell: path.as_deref().map(Bell::new),
            wal: Wal::new(path.as_deref()),
            connection,
            path,
            clock: Arc::clone(&options.clock),
            durability: options.durability,
        })
    }

    /// Where the file is; none for one in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Refuses once the path no longer names the file that is open here: what is written to it reaches nobody. Costs a look
    /// at the folder; to be asked now and then by who lives long. Only closing makes sense afterwards, and leaves what lies
    /// under the path alone.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] if the file was deleted, [`Error::NotOurs`] if another one was put in its place.
    pub fn check_place(&self) -> Result<()> {
        let (Some(path), Some(identity)) = (self.path(), self.identity) else { return Ok(()) };
        let error = match std::fs::metadata(path) {
            Ok(meta) if (meta.dev(), meta.ino()) != identity => {
                Error::NotOurs { path: path.to_owned(), detail: "the file was replaced by another one".to_owned() }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Error::NoDatabase { path: path.to_owned() },
            _ => return Ok(()),
        };
        // The last one to close deletes the `-wal`, by its name: it may be the new file's.
        self.connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Err(error)
    }

    /// Where this database takes its time from.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// A number that changes whenever another connection has committed. Costs next to nothing.
    pub fn data_version(&self) -> Result<i64> {
        Ok(self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
    }

    /// Reads one consistent snapshot.
    pub fn read<R, E: From<Error>>(&self, body: impl FnOnce(&ReadTx<'_>) -> Result<R, E>) -> Result<R, E> {
        self.connection.execute_batch("BEGIN DEFERRED").map_err(Error::from)?;
        let transaction = ReadTx { connection: &self.connection, now: self.clock.now(), clock: &*self.clock };
        let result = body(&transaction);
        // Nothing was written; there is nothing that a failed end could lose.
        let _ = self.connection.execute_batch("ROLLBACK");
        result
    }

    /// Reads and writes in one transaction: all of it, or, if `body` fails, none. Rings the bell once it is committed.
    ///
    /// # Errors
    /// What `body` returns; nothing is changed then.
    pub fn write<R, E: From<Error>>(&self, body: impl FnOnce(&WriteTx<'_>) -> Result<R, E>) -> Result<R, E> {
        self.write_with(body, true)
    }

    /// As [`Database::write`], for what nobody waits for: a beat, a mark. Rings no bell.
    pub fn write_quietly<R, E: From<Error>>(&self, body: impl FnOnce(&WriteTx<'_>) -> Result<R, E>) -> Result<R, E> {
        self.write_with(body, false)
    }

    /// As [`Database::write`], outliving a power cut whatever the durability: for intents of effects outside of the
    /// database, which must be known afterwards.
    pub fn write_durably<R, E: From<Error>>(&self, body: impl FnOnce(&WriteTx<'_>) -> Result<R, E>) -> Result<R, E> {
        if self.durability == Durability::Full {
            return self.write(body);
        }
        self.connection.pragma_update(None, "synchronous", synchronous(Durability::Full)).map_err(Error::from)?;
        let result = self.write(body);
        self.connection.pragma_update(None, "synchronous", synchronous(self.durability)).map_err(Error::from)?;
        result
    }

    fn write_with<R, E: From<Error>>(&self, body: impl FnOnce(&WriteTx<'_>) -> Result<R, E>, ring: bool) -> Result<R, E> {
        self.begin_immediate()?;
        let rollback = Rollback(&self.connection);
        // The time is read once the lock is held, so that the order of times is the order of commits.
        let read = ReadTx { connection: &self.connection, now: self.clock.now(), clock: &*self.clock };
        let transaction = WriteTx { read };
        let value = body(&transaction)?;
        self.connection.prepare_cached("COMMIT").and_then(|mut s| s.execute([])).map_err(Error::from)?;
        drop(rollback);
        if ring {
            self.ring();
        }
        self.wal.keep_small(&self.connection);
        Ok(value)
    }

    /// How many rows this connection has changed since it was opened.
    #[must_use]
    pub fn rows_changed(&self) -> u64 {
        self.connection.total_changes()
    }

    fn begin_immediate(&self) -> Result<()> {
        self.refuse_readonly()?;
        let begun = self.connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        begun.map(drop).map_err(|error| self.explained(error))
    }

    /// Writes with one statement that is its own transaction: SQLite need not be able to undo it within another, which
    /// with triggers is a fifth of its cost. The statement reads the time with [`NOW`]. Rings the bell.
    pub(crate) fn write_one(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize> {
        self.refuse_readonly()?;
        let written = prepare(&self.connection, sql).and_then(|mut statement| statement.execute(parameters));
        let rows = written.map_err(|error| self.explained(error))?;
        self.ring();
        self.wal.keep_small(&self.connection);
        Ok(rows)
    }

    /// SQLite opens what may only be read, and begins to write there as if nothing were wrong.
    fn refuse_readonly(&self) -> Result<()> {
        match self.path() {
            Some(path) if self.connection.is_readonly("main")? => {
                Err(explain(path, Error::Unwritable { detail: "attempt to write a readonly database".to_owned() }))
            }
            _ => Ok(()),
        }
    }

    fn explained(&self, error: rusqlite::Error) -> Error {
        let error = Error::from(error);
        match self.path() {
            Some(path) => explain(path, error),
            None => error,
        }
    }

    /// Runs SQL as another tool would, past every operation of this crate: for tests of what the database itself keeps.
    #[doc(hidden)]
    pub fn execute_foreign(&self, sql: &str) -> Result<()> {
        self.connection.execute_batch(sql)?;
        self.ring();
        Ok(())
    }

    /// Reads with SQL as another tool would, every value as text: for tests of what the database itself keeps.
    #[doc(hidden)]
    pub fn query_foreign(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            (0..columns)
                .map(|at| {
                    Ok(match row.get_ref(at)? {
                        rusqlite::types::ValueRef::Null => None,
                        rusqlite::types::ValueRef::Integer(value) => Some(value.to_string()),
                        rusqlite::types::ValueRef::Real(value) => Some(value.to_string()),
                        rusqlite::types::ValueRef::Text(text) | rusqlite::types::ValueRef::Blob(text) => {
                            Some(String::from_utf8_lossy(text).into_owned())
                        }
                    })
                })
                .collect()
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn connection_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(crate) fn synchronous(&self) -> &'static str {
        synchronous(self.durability)
    }

    pub(crate) fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

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
struct Wal {
    path: Option<PathBuf>,
    commits: Cell<u32>,
    tried: Cell<Option<Instant>>,
}

impl Wal {
    fn new(database: Option<&Path>) -> Self {
        let path = database.map(|path| {
            let mut path = path.as_os_str().to_owned();
            path.push("-wal");
            PathBuf::from(path)
        });
        Self { path, commits: Cell::new(0), tried: Cell::new(None) }
    }

    /// After a commit: empties a `-wal` that has grown too large, if its readers let go of it soon.
    fn keep_small(&self, connection: &Connection) {
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
        let emptied = busy::within(WAL_PATIENCE, empty);
        self.tried.set(Some(Instant::now()));
        match emptied {
            Ok(0) => tracing::debug!("emptied the -wal"),
            Ok(_) => tracing::debug!("the -wal is still being read"),
            Err(error) => tracing::debug!(%error, "cannot empty the -wal"),
        }
    }
}

fn synchronous(durability: Durability) -> &'static str {
    match durability {
        Durability::Normal => "NORMAL",
        Durability::Full => "FULL",
    }
}

/// Ends the transaction if its body fails or panics.
struct Rollback<'a>(&'a Connection);

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

/// One consistent snapshot at one moment.
pub struct ReadTx<'a> {
    pub(crate) connection: &'a Connection,
    now: Timestamp,
    clock: &'a dyn Clock,
}

impl<'a> ReadTx<'a> {
    /// A snapshot of another file with tables of the same names.
    pub(crate) fn over(connection: &'a Connection, clock: &'a dyn Clock) -> Self {
        Self { connection, now: clock.now(), clock }
    }
}

impl ReadTx<'_> {
    /// The moment of this transaction: the same for all that it does.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// All clocks, as they stand now.
    #[must_use]
    pub(crate) fn clocks(&self) -> crate::time::ClockReading {
        self.clock.read()
    }

    /// The host whose clocks these are.
    #[must_use]
    pub(crate) fn host(&self) -> &str {
        self.clock.host()
    }

    pub(crate) fn query<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        mut map: impl FnMut(&Row<'_, '_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = prepare(self.connection, sql)?;
        let rows = statement.query_map(parameters, |row| map(&Row(row)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn query_opt<T>(
        &self,
        sql: &str,
        parameters: impl rusqlite::Params,
        map: impl FnOnce(&Row<'_, '_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        use rusqlite::OptionalExtension;
        Ok(prepare(self.connection, sql)?.query_row(parameters, |row| map(&Row(row))).optional()?)
    }

    pub(crate) fn value<T: Column>(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<T> {
        Ok(prepare(self.connection, sql)?.query_row(parameters, |row| Row(row).get(0))?)
    }
}

impl std::fmt::Debug for ReadTx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTx").field("now", &self.now).finish_non_exhaustive()
    }
}

/// A transaction that holds the write lock. It reads as a [`ReadTx`] does.
#[derive(Debug)]
pub struct WriteTx<'a> {
    read: ReadTx<'a>,
}

impl<'a> Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &Self::Target {
        &self.read
    }
}

impl WriteTx<'_> {
    pub(crate) fn execute(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize> {
        Ok(prepare(self.connection, sql)?.execute(parameters)?)
    }
}
