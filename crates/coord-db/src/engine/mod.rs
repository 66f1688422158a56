//! The engine under the tables: the one place that knows which database this is.
//!
//! Everything above speaks of statements, parameters and rows of our own ([`ToParameter`], [`Row`], [`Column`]), and sends them
//! through [`Engine`]. What only SQLite has (a file with its copies, its archive and its migrations) lies under `sqlite`, what only
//! a server has (connections that break, a lock and a clock of its own) under `postgres`.

#[macro_use]
mod value;
pub(crate) mod postgres;
pub(crate) mod sqlite;
pub(crate) mod transfer;

use self::postgres::Postgres;
use self::postgres::failover::{self, AfterFailover};
use self::sqlite::Sqlite;
pub(crate) use self::value::{Column, Parameter, Params, ToParameter, Unreadable, ValueRef};
use crate::{Error, Result, Timestamp};

/// Which database an engine works on, for the few statements that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

/// One connection to a database.
#[derive(Debug)]
pub(crate) enum Engine {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

/// The same for each engine.
macro_rules! on {
    ($engine:expr, $it:ident => $body:expr) => {
        match $engine {
            Engine::Sqlite($it) => $body,
            Engine::Postgres($it) => $body,
        }
    };
}

impl Engine {
    /// Which engine this is.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Sqlite(_) => Kind::Sqlite,
            Self::Postgres(_) => Kind::Postgres,
        }
    }

    /// The file's connection, for what only a file has.
    ///
    /// # Errors
    /// [`Error::Refused`] for a database on a server.
    pub(crate) fn sqlite(&self) -> Result<&Sqlite> {
        match self {
            Self::Sqlite(sqlite) => Ok(sqlite),
            Self::Postgres(_) => Err(no_file()),
        }
    }

    /// As [`Engine::sqlite`], to replace its content.
    pub(crate) fn sqlite_mut(&mut self) -> Result<&mut Sqlite> {
        match self {
            Self::Sqlite(sqlite) => Ok(sqlite),
            Self::Postgres(_) => Err(no_file()),
        }
    }

    /// The address of the server, without a password; none for a file.
    pub(crate) fn server(&self) -> Option<String> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(postgres) => Some(postgres.address().to_string()),
        }
    }

    /// Claims to be the one process that runs as a component: true if nobody who is connected does. Of a file it is not known who
    /// is connected.
    pub(crate) fn claim(&self, component: &str) -> Result<bool> {
        match self {
            Self::Sqlite(_) => Ok(false),
            Self::Postgres(postgres) => postgres.claim(component),
        }
    }

    /// As [`Engine::claim`], after the session of another process that claims it was ended.
    pub(crate) fn seize(&self, component: &str) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(postgres) => postgres.seize(component),
        }
    }

    /// True if this connection has claimed a component.
    pub(crate) fn has_claim(&self, component: &str) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(postgres) => postgres.has_claim(component),
        }
    }

    /// Whether it is a file that may only be read.
    pub(crate) fn is_readonly_file(&self) -> Result<bool> {
        match self {
            Self::Sqlite(sqlite) => sqlite.is_readonly(),
            Self::Postgres(_) => Ok(false),
        }
    }

    /// How durable commits are from now on.
    pub(crate) fn set_durable(&self, durable: bool) -> Result<()> {
        on!(self, engine => engine.set_durable(durable))
    }

    /// A number that changes whenever another connection has committed.
    pub(crate) fn data_version(&self) -> Result<i64> {
        on!(self, engine => engine.data_version())
    }

    /// How many rows this connection has changed since it was opened.
    pub(crate) fn rows_changed(&self) -> u64 {
        on!(self, engine => engine.rows_changed())
    }

    /// Begins to read one consistent snapshot. Gives the moment, where the engine has a clock that counts for all its clients.
    pub(crate) fn begin_read(&self) -> Result<Option<Timestamp>> {
        on!(self, engine => engine.begin_read())
    }

    /// Takes the write lock. Gives the moment at which it was taken, where the engine has a clock that counts for all its clients.
    /// Of a quiet transaction nobody is notified.
    pub(crate) fn begin_write(&self, quiet: bool) -> Result<Option<Timestamp>> {
        on!(self, engine => engine.begin_write(quiet))
    }

    /// To be called first in a writing transaction: if a standby was promoted, numbers advance before anything is given out again that
    /// was given out in transactions that were lost.
    pub(crate) fn advance_if_promoted(&self, now: Timestamp) -> Result<Option<AfterFailover>> {
        let Self::Postgres(server) = self else { return Ok(None) };
        if !server.is_on_new_timeline()? {
            return Ok(None);
        }
        let done = failover::advance(server, now, 0)?;
        tracing::warn!(fencing_token = done.fencing_token, "the server failed over: all numbers have advanced");
        Ok(Some(done))
    }

    /// Ends a transaction with its changes.
    pub(crate) fn commit(&self) -> Result<()> {
        on!(self, engine => engine.commit())
    }

    /// Ends a transaction without its changes, if there is one.
    pub(crate) fn roll_back(&self) {
        on!(self, engine => engine.roll_back());
    }

    /// To be called after each commit.
    pub(crate) fn keep_small(&self) {
        if let Ok(sqlite) = self.sqlite() {
            sqlite.keep_small();
        }
    }

    /// Runs a statement. Gives the number of rows that it has changed.
    pub(crate) fn execute(&self, sql: &str, parameters: &impl Params) -> Result<usize> {
        on!(self, engine => engine.execute(sql, parameters))
    }

    /// Hands each row of a query to `take`, as long as that says true.
    pub(crate) fn each(&self, sql: &str, parameters: &impl Params, take: impl FnMut(&Row<'_>) -> Result<bool>) -> Result<()> {
        on!(self, engine => engine.each(sql, parameters, take))
    }

    /// Runs several statements, past the cache.
    pub(crate) fn execute_batch(&self, sql: &str) -> Result<()> {
        on!(self, engine => engine.execute_batch(sql))
    }
}

/// The payload of the event that reports what happened to the database itself.
fn note(text: &str) -> String {
    serde_json::json!({ "message_type": "note", "comment": text, "source": "cli" }).to_string()
}

fn no_file() -> Error {
    Error::Refused(
        "a database on a PostgreSQL server has no file of its own: use pg_dump, pg_restore and the server's backups".to_owned(),
    )
}

/// A row of a result. Its values are read as [`Column`] says.
pub(crate) enum Row<'a> {
    Sqlite(sqlite::Row<'a>),
    Postgres(postgres::Row<'a>),
}

impl Row<'_> {
    /// The value of a column, by its place from 0.
    pub(crate) fn get<T: Column>(&self, at: usize) -> Result<T> {
        T::take(self.value(at)?).map_err(|why| Error::Unreadable { column: self.name(at), detail: why.0 })
    }

    /// The value of a column, as it is.
    pub(crate) fn value(&self, at: usize) -> Result<ValueRef<'_>> {
        match self {
            Self::Sqlite(row) => row.value(at),
            Self::Postgres(row) => row.value(at),
        }
    }

    /// The number of columns.
    pub(crate) fn columns(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.columns(),
            Self::Postgres(row) => row.columns(),
        }
    }

    fn name(&self, at: usize) -> String {
        match self {
            Self::Sqlite(row) => row.name(at),
            Self::Postgres(row) => row.name(at),
        }
    }
}
