//! SQLite: one connection to the file.

pub(crate) mod archive;
mod busy;
mod copy;
pub(crate) mod first_look;
pub(crate) mod keep;
mod marks;
pub(crate) mod migrate;
pub(crate) mod moved;
#[cfg(test)]
mod plans;
mod wal;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::ToSqlOutput;
use rusqlite::{CachedStatement, Connection, OpenFlags};

use self::wal::Wal;
use super::value::{Parameter, Params, ToParameter, ValueRef};
use crate::{Clock, Error, Result, Timestamp};

/// The moment at which a statement that is its own transaction holds the write lock, in SQL.
pub(crate) const NOW: &str = "clock_now()";
const NOW_NAME: &str = "clock_now";

/// A connection.
#[derive(Debug)]
pub(crate) struct Sqlite {
    connection: Connection,
    wal: Wal,
}

/// Every statement of an operation is prepared here, so that the test of the plans sees it.
fn prepare<'a>(connection: &'a Connection, sql: &str) -> rusqlite::Result<CachedStatement<'a>> {
    #[cfg(test)]
    plans::note(sql);
    connection.prepare_cached(sql)
}

/// Opens a file as it is.
fn open(path: &Path) -> Result<Connection> {
    Ok(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

impl From<Connection> for Sqlite {
    /// A connection whose `-wal` is another's care.
    fn from(connection: Connection) -> Self {
        Self { connection, wal: Wal::new(None) }
    }
}

impl Sqlite {
    /// Opens a file and brings it to the newest schema; with `create`, also an empty one.
    pub(crate) fn open(path: &Path, create: bool, durable: bool, busy: Duration, clock: &Arc<dyn Clock>) -> Result<Self> {
        let connection = open(path)?;
        // What turns out not to be ours must not be changed by our leaving it either.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Self::prepared(connection, Some(path), create, durable, busy, clock)
    }

    /// A database that nobody else sees.
    pub(crate) fn in_memory(busy: Duration, clock: &Arc<dyn Clock>) -> Result<Self> {
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
            empty.as_ref().map_or(Ok(()), |empty| copy::copy(empty, &mut connection))
        })?;
        Self::prepared(connection, None, true, false, busy, clock)
    }

    /// Opens a file of exactly this schema version to read it, and changes nothing, neither content nor settings.
    pub(crate) fn peek(path: &Path) -> Result<Self> {
        let connection = open(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "query_only", true)?;
        let found = (migrate::pragma(&connection, "application_id")?, migrate::pragma(&connection, "user_version")?);
        if found != (migrate::APPLICATION_ID, migrate::SCHEMA_VERSION) {
            return Err(Error::NotOurs { path: path.to_owned(), detail: "it has another schema version".to_owned() });
        }
        Ok(connection.into())
    }

    fn prepared(
        mut connection: Connection,
        path: Option<&Path>,
        create: bool,
        durable: bool,
        busy: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self> {
        busy::set_deadline(busy);
        busy::handle(&mut connection)?;
        connection.set_prepared_statement_cache_capacity(256);
        // Without this a plan depends on the bound values, and most statements are prepared again for each run.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        migrate::migrate(&connection, path, create)?;
        if let Some(path) = path {
            marks::continue_after_copy(&connection, path)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        connection.pragma_update(None, "synchronous", synchronous(durable))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // What a statement with triggers keeps for its own undoing goes to a temporary file otherwise: half of its cost.
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        let clock = Arc::clone(clock);
        connection.create_scalar_function(NOW_NAME, 0, FunctionFlags::SQLITE_UTF8, move |_| Ok(clock.now().to_sql_text()))?;
        Ok(Self { connection, wal: Wal::new(path) })
    }

    /// To be called where the path names another file: the last one to close deletes the `-wal` by its name, which may be the
    /// new file's.
    pub(crate) fn leave_the_wal(&self) -> Result<()> {
        self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(())
    }

    /// How durable commits are from now on.
    pub(crate) fn set_durable(&self, durable: bool) -> Result<()> {
        Ok(self.connection.pragma_update(None, "synchronous", synchronous(durable))?)
    }

    /// A number that changes whenever another connection has committed. Costs next to nothing.
    pub(crate) fn data_version(&self) -> Result<i64> {
        Ok(self.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?)
    }

    /// How many rows this connection has changed since it was opened.
    pub(crate) fn rows_changed(&self) -> u64 {
        self.connection.total_changes()
    }

    /// SQLite opens what may only be read, and begins to write there as if nothing were wrong.
    pub(crate) fn is_readonly(&self) -> Result<bool> {
        Ok(self.connection.is_readonly("main")?)
    }

    /// Begins to read one consistent snapshot. Time is the caller's.
    pub(crate) fn begin_read(&self) -> Result<Option<Timestamp>> {
        self.connection.execute_batch("BEGIN DEFERRED")?;
        Ok(None)
    }

    /// Takes the write lock. The bell is the caller's, and so is time.
    pub(crate) fn begin_write(&self, _quiet: bool) -> Result<Option<Timestamp>> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(None)
    }

    pub(crate) fn commit(&self) -> Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Ends a transaction without its changes, if there is one.
    pub(crate) fn roll_back(&self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }

    /// To be called after each commit.
    pub(crate) fn keep_small(&self) {
        self.wal.keep_small(&self.connection);
    }

    /// Runs a statement. Gives the number of rows that it has changed.
    pub(crate) fn execute(&self, sql: &str, parameters: &impl Params) -> Result<usize> {
        let mut statement = prepare(&self.connection, sql)?;
        Ok(parameters.with(|parameters| statement.execute(bound(parameters)))?)
    }

    /// Hands each row of a query to `take`, as long as that says true.
    pub(crate) fn each(
        &self,
        sql: &str,
        parameters: &impl Params,
        mut take: impl FnMut(&super::Row<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut statement = prepare(&self.connection, sql)?;
        parameters.with(|parameters| {
            let mut rows = statement.query(bound(parameters))?;
            while let Some(row) = rows.next()? {
                if !take(&super::Row::Sqlite(Row(row)))? {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Runs several statements, past the cache.
    pub(crate) fn execute_batch(&self, sql: &str) -> Result<()> {
        Ok(self.connection.execute_batch(sql)?)
    }
}

fn synchronous(durable: bool) -> &'static str {
    if durable { "FULL" } else { "NORMAL" }
}

/// A row of a result.
pub(crate) struct Row<'a>(&'a rusqlite::Row<'a>);

impl Row<'_> {
    /// The value of a column, as it is.
    pub(crate) fn value(&self, at: usize) -> Result<ValueRef<'_>> {
        use rusqlite::types::ValueRef as Found;
        Ok(match self.0.get_ref(at)? {
            Found::Null => ValueRef::Null,
            Found::Integer(number) => ValueRef::Integer(number),
            Found::Real(number) => ValueRef::Real(number),
            Found::Text(bytes) => ValueRef::Text(bytes),
            Found::Blob(bytes) => ValueRef::Blob(bytes),
        })
    }

    /// The number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.0.as_ref().column_count()
    }

    pub(crate) fn name(&self, at: usize) -> String {
        self.0.as_ref().column_name(at).unwrap_or_default().to_owned()
    }
}

/// A parameter as rusqlite takes it.
struct Bound<'a>(&'a dyn ToParameter);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        use rusqlite::types::{Value as Owned, ValueRef as Borrowed};
        Ok(match self.0.to_parameter() {
            Parameter::Null => ToSqlOutput::Borrowed(Borrowed::Null),
            Parameter::Integer(number) => ToSqlOutput::Owned(Owned::Integer(number)),
            Parameter::Real(number) => ToSqlOutput::Owned(Owned::Real(number)),
            Parameter::Text(Cow::Borrowed(text)) => ToSqlOutput::Borrowed(Borrowed::Text(text.as_bytes())),
            Parameter::Text(Cow::Owned(text)) => ToSqlOutput::Owned(Owned::Text(text)),
        })
    }
}

fn bound<'a>(parameters: &'a [&'a dyn ToParameter]) -> impl rusqlite::Params + 'a {
    rusqlite::params_from_iter(parameters.iter().map(|parameter| Bound(*parameter)))
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        if let rusqlite::Error::SqliteFailure(failure, message) = &error {
            let detail = message.clone().unwrap_or_else(|| failure.to_string());
            return match failure.code {
                Code::DatabaseBusy | Code::DatabaseLocked => Self::Locked { seconds: busy::deadline().as_secs() },
                Code::DiskFull | Code::ReadOnly | Code::SystemIoFailure | Code::CannotOpen => Self::Unwritable { detail },
                Code::DatabaseCorrupt | Code::NotADatabase => Self::Damaged { detail },
                _ => Self::Statement(Box::new(error)),
            };
        }
        Self::Statement(Box::new(error))
    }
}
