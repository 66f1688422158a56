//! The open database and its transactions.

use std::cell::Cell;
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::postgres;
use crate::engine::postgres::failover::{self, AfterFailover};
use crate::engine::sqlite::Sqlite;
use crate::engine::sqlite::first_look::{explain, first_look};
use crate::engine::{Column, Engine, Params, Row, ValueRef};
use crate::file_system::FileSystem;
use crate::locate::Location;
use crate::wake::Bell;
use crate::{Clock, Error, Result, SystemClock, Timestamp};

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

/// As the settings have it where nothing is set.
const SILENT_SECONDS: i64 = 60;

/// How to open.
#[derive(Clone)]
pub struct OpenOptions {
    /// What every commit of this connection outlives.
    pub durability: Durability,
    /// How long a write waits for other writers.
    pub busy_deadline: Duration,
    /// For how many seconds a process of another host or namespace may be silent and still counts as running.
    pub silent_seconds: i64,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Normal,
            busy_deadline: Duration::from_secs(5),
            silent_seconds: SILENT_SECONDS,
            clock: Arc::new(SystemClock),
        }
    }
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// One connection to the database.
pub struct Database {
    engine: Engine,
    path: Option<PathBuf>,
    /// Device and inode of the file, as it was opened.
    identity: Option<(u64, u64)>,
    bell: Option<Bell>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    silent_seconds: i64,
    patience: Duration,
    /// The moment of the last transaction, if the server's time counts, and by this host's clock since boot, which goes on while it is
    /// suspended, when it was received.
    last_moment: Cell<Option<(Timestamp, i64)>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens an existing database and brings it to the newest schema. A path that begins with `postgres://` is the address of
    /// one on a server.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], [`Error::NotOurs`], [`Error::Newer`], [`Error::NetworkFileSystem`], [`Error::Damaged`],
    /// [`Error::Unreachable`] or what the file system says.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        if let Location::Server(address) = Location::of(path) {
            return Self::open_server(path, &address, options, false);
        }
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
        let engine = match Location::of(path) {
            Location::File(path) => Engine::Sqlite(Sqlite::peek(&path)?),
            Location::Server(address) => Engine::Postgres(Box::new(postgres::peek(&address)?)),
        };
        engine.begin_read()?;
        body(&ReadTx::over(&engine, &SystemClock))
    }

    /// Opens the database, making it if there is none. The file is readable by its owner alone. On a server, the database has to
    /// be there, and empty: its tables are made.
    pub fn create(path: &Path, options: &OpenOptions) -> Result<Self> {
        if let Location::Server(address) = Location::of(path) {
            return Self::open_server(path, &address, options, true);
        }
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
        let options = OpenOptions { clock, ..OpenOptions::default() };
        let engine = Engine::Sqlite(Sqlite::in_memory(options.busy_deadline, &options.clock)?);
        Ok(Self::over(engine, None, &options))
    }

    fn open_server(path: &Path, address: &str, options: &OpenOptions, create: bool) -> Result<Self> {
        let durable = options.durability == Durability::Full;
        let engine = postgres::open(address, create, durable, options.busy_deadline)?;
        // The file that holds the address, if it is in one.
        let db = Self::over(Engine::Postgres(Box::new(engine)), path.canonicalize().ok(), options);
        // From here on, its time is known.
        db.read(|_| Ok::<_, Error>(()))?;
        Ok(db)
    }

    fn open_file(path: &Path, options: &OpenOptions, create: bool) -> Result<Self> {
        let path = path.canonicalize().map_err(|error| Error::io(format!("cannot resolve {}", path.display()), error))?;
        FileSystem::allow(&path, &path)?;
        let durable = options.durability == Durability::Full;
        first_look(&path, create, || {
            let engine = Sqlite::open(&path, create, durable, options.busy_deadline, &options.clock)?;
            Ok(Self::over(Engine::Sqlite(engine), Some(path.clone()), options))
        })
        .map_err(|error| match error {
            Error::Damaged { detail } if detail.contains("not a database") => Error::NotOurs { path, detail },
            other => explain(&path, other),
        })
    }

    fn over(engine: Engine, path: Option<PathBuf>, options: &OpenOptions) -> Self {
        Self {
            identity: path.as_deref().and_then(|path| std::fs::metadata(path).ok()).map(|meta| (meta.dev(), meta.ino())),
            // A server rings its own.
            bell: path.as_deref().filter(|_| engine.sqlite().is_ok()).map(Bell::new),
            engine,
            path,
            clock: Arc::clone(&options.clock),
            durability: options.durability,
            silent_seconds: options.silent_seconds,
            patience: options.busy_deadline,
            last_moment: Cell::new(None),
        }
    }

    /// Where the file is: the database, or what holds the address of one on a server. None for one in memory, and for an address
    /// that is in no file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The address of the server that it is on, without a password; none for a file.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        self.engine.server()
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
        if let Ok(sqlite) = self.engine.sqlite() {
            sqlite.leave_the_wal()?;
        }
        Err(error)
    }

    /// The clock of this host, or of a simulation.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The time of this database, as near as it is known outside of a transaction: on a server, its time at the last transaction and
    /// what has passed here since.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let Some((moment, at)) = self.last_moment.get() else { return self.clock.now() };
        moment.plus_millis(self.clock.read().boot_millis - at)
    }

    /// By how many milliseconds the time of this database is ahead of the clock of this host, by which times of files are.
    #[must_use]
    pub fn ahead_of_host(&self) -> i64 {
        self.last_moment.get().map_or(0, |_| self.now().millis_since(self.clock.now()))
    }

    /// A number that changes whenever another connection has committed. Costs next to nothing; on a server, a round trip.
    pub fn data_version(&self) -> Result<i64> {
        self.engine.data_version()
    }

    /// Reads one consistent snapshot.
    pub fn read<R, E: From<Error>>(&self, body: impl FnOnce(&ReadTx<'_>) -> Result<R, E>) -> Result<R, E> {
        let moment = self.engine.begin_read()?;
        let result = body(&self.transaction(moment));
        // Nothing was written; there is nothing that a failed end could lose.
        self.engine.roll_back();
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
        self.engine.set_durable(true)?;
        let result = self.write(body);
        self.engine.set_durable(false)?;
        result
    }

    fn write_with<R, E: From<Error>>(&self, body: impl FnOnce(&WriteTx<'_>) -> Result<R, E>, ring: bool) -> Result<R, E> {
        self.refuse_readonly()?;
        let moment = self.engine.begin_write(!ring).map_err(|error| self.explained(error))?;
        let rollback = Rollback(&self.engine);
        // The time is read once the lock is held, so that the order of times is the order of commits.
        let mut transaction = WriteTx { read: self.transaction(moment), failover: None };
        transaction.failover = self.engine.advance_if_promoted(transaction.now())?;
        let value = body(&transaction)?;
        self.engine.commit()?;
        drop(rollback);
        if ring {
            self.ring();
        }
        self.engine.keep_small();
        Ok(value)
    }

    /// The transaction that the engine has begun.
    fn transaction(&self, moment: Option<Timestamp>) -> ReadTx<'_> {
        if let Some(moment) = moment.filter(|_| self.clock.yields_to_server()) {
            self.last_moment.set(Some((moment, self.clock.read().boot_millis)));
        }
        ReadTx { silent_seconds: self.silent_seconds, ..ReadTx::at(moment, &self.engine, &*self.clock) }
    }

    /// Lets all numbers advance, begins the grace for leases on all hosts, and publishes an event: after a standby was promoted or a
    /// dump was restored.
    ///
    /// # Errors
    /// [`Error::Refused`] for a file.
    pub fn continue_after_failover(&self, grace_seconds: i64) -> Result<AfterFailover> {
        let Engine::Postgres(server) = &self.engine else {
            let why =
                "the database is a file, which has no standby; loopctl restore lets the numbers of a backup advance by itself";
            return Err(Error::Refused(why.to_owned()));
        };
        self.write_durably(|tx| match &tx.failover {
            Some(done) => Ok(done.clone()),
            None => failover::advance(server, tx.now(), grace_seconds),
        })
    }

    /// How many rows this connection has changed since it was opened.
    #[must_use]
    pub fn rows_changed(&self) -> u64 {
        self.engine.rows_changed()
    }

    /// Writes with one statement that is its own transaction, to a file: SQLite need not be able to undo it within another, which
    /// with triggers is a fifth of its cost. The statement reads the time with [`NOW`](crate::engine::sqlite::NOW). Rings the bell.
    pub(crate) fn write_one(&self, sql: &str, parameters: impl Params) -> Result<usize> {
        self.refuse_readonly()?;
        let rows = self.engine.execute(sql, &parameters).map_err(|error| self.explained(error))?;
        self.ring();
        self.engine.keep_small();
        Ok(rows)
    }

    fn refuse_readonly(&self) -> Result<()> {
        match self.path() {
            Some(path) if self.engine.is_readonly_file()? => {
                Err(explain(path, Error::Unwritable { detail: "attempt to write a readonly database".to_owned() }))
            }
            _ => Ok(()),
        }
    }

    fn explained(&self, error: Error) -> Error {
        match self.path().filter(|_| self.server().is_none()) {
            Some(path) => explain(path, error),
            None => error,
        }
    }

    /// Runs SQL as another tool would, past every operation of this crate: for tests of what the database itself keeps.
    #[doc(hidden)]
    pub fn execute_foreign(&self, sql: &str) -> Result<()> {
        self.engine.execute_batch(sql)?;
        self.ring();
        Ok(())
    }

    /// Reads with SQL as another tool would, every value as text: for tests of what the database itself keeps.
    #[doc(hidden)]
    pub fn query_foreign(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut found = Vec::new();
        self.engine.each(sql, &[], |row| {
            let text = |at| {
                Ok(match row.value(at)? {
                    ValueRef::Null => None,
                    ValueRef::Integer(value) => Some(value.to_string()),
                    ValueRef::Real(value) => Some(value.to_string()),
                    ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
                })
            };
            found.push((0..row.columns()).map(text).collect::<Result<_>>()?);
            Ok(true)
        })?;
        Ok(found)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// How long a write waits for other writers.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.durability == Durability::Full
    }

    pub(crate) fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }
}

/// Ends the transaction if its body fails or panics.
struct Rollback<'a>(&'a Engine);

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        self.0.roll_back();
    }
}

/// One consistent snapshot at one moment.
pub struct ReadTx<'a> {
    engine: &'a Engine,
    now: Timestamp,
    clock: &'a dyn Clock,
    silent_seconds: i64,
}

impl<'a> ReadTx<'a> {
    /// The transaction that an engine has begun, maybe on another file with tables of the same names.
    pub(crate) fn over(engine: &'a Engine, clock: &'a dyn Clock) -> Self {
        Self::at(None, engine, clock)
    }

    /// As [`ReadTx::over`], at the moment that the engine gives, unless the clock is a simulation's.
    fn at(moment: Option<Timestamp>, engine: &'a Engine, clock: &'a dyn Clock) -> Self {
        let now = moment.filter(|_| clock.yields_to_server()).unwrap_or_else(|| clock.now());
        Self { engine, now, clock, silent_seconds: SILENT_SECONDS }
    }
}

impl ReadTx<'_> {
    /// The moment of this transaction: the same for all that it does.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// All clocks at this moment.
    #[must_use]
    pub(crate) fn clocks(&self) -> crate::time::ClockReading {
        self.clock.read()
    }

    /// For how long a process that is not visible from here may be silent and still counts as running.
    pub(crate) fn silent_seconds(&self) -> i64 {
        self.silent_seconds
    }

    /// The host whose clocks these are.
    #[must_use]
    pub(crate) fn host(&self) -> &str {
        self.clock.host()
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine
    }

    pub(crate) fn query<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        mut map: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.engine.each(sql, &parameters, |row| {
            found.push(map(row)?);
            Ok(true)
        })?;
        Ok(found)
    }

    /// The first row.
    pub(crate) fn query_opt<T>(
        &self,
        sql: &str,
        parameters: impl Params,
        mut map: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        self.engine.each(sql, &parameters, |row| {
            found = Some(map(row)?);
            Ok(false)
        })?;
        Ok(found)
    }

    /// The first value of the only row.
    pub(crate) fn value<T: Column>(&self, sql: &str, parameters: impl Params) -> Result<T> {
        let found = self.query_opt(sql, parameters, |row| row.get(0))?;
        found.ok_or_else(|| Error::Unreadable { column: "1".to_owned(), detail: "no row was found".to_owned() })
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
    /// What this transaction has done before all else, because a standby was promoted.
    pub(crate) failover: Option<AfterFailover>,
}

impl<'a> Deref for WriteTx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &Self::Target {
        &self.read
    }
}

impl WriteTx<'_> {
    pub(crate) fn execute(&self, sql: &str, parameters: impl Params) -> Result<usize> {
        self.engine.execute(sql, &parameters)
    }
}
