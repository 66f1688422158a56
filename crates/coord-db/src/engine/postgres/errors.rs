//! What a server or a connection reports, as this crate's errors.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::address::Address;
use crate::Error;

const WAIT: &str = "the programs go on when it answers again";
const ALLOW: &str = "set PGPASSWORD or the user's rights in pg_hba.conf";

/// Why a request has no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// What the driver reports.
    Driver(tokio_postgres::Error),
    /// The thread of the connection has ended.
    Ended,
    /// The server has not answered in time.
    Silent {
        /// The time.
        seconds: u64,
    },
    /// Another process has claimed what this one runs as.
    Replaced(String),
}

impl Failure {
    /// True if the connection is of no use any more.
    pub(super) fn is_broken(&self) -> bool {
        let error = match self {
            Self::Driver(error) => error,
            Self::Ended | Self::Silent { .. } => return true,
            Self::Replaced(_) => return false,
        };
        match error.as_db_error() {
            Some(db) => matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
            // A value that does not fit its column is found before anything is sent.
            None => error.is_closed() || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>()),
        }
    }

    /// True if the server has not answered in time.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }

    /// The server's own words, or the driver's.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Ended => "the connection was closed".to_owned(),
            Self::Silent { seconds } => format!("it has not answered for {seconds} s"),
            Self::Replaced(component) => format!("another process has claimed to be {component}"),
            Self::Driver(error) => error.as_db_error().map_or_else(|| crate::error_chain(error), |db| db.message().to_owned()),
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Driver(error) => error.code().map_or("", SqlState::code),
            Self::Ended | Self::Silent { .. } | Self::Replaced(_) => "",
        }
    }

    /// The error of a connection that could not be made or that broke.
    pub(super) fn unreachable(&self, address: &Address) -> Error {
        // No such database.
        if self.code() == SqlState::INVALID_CATALOG_NAME.code() {
            return Error::NoDatabase { path: address.to_string().into() };
        }
        let advice = if self.code().starts_with("28") { ALLOW } else { WAIT };
        Error::Unreachable { server: address.to_string(), detail: self.detail(), advice }
    }

    /// The error of a statement.
    pub(super) fn convert(self, address: &Address, patience_seconds: u64) -> Error {
        match self {
            failure if failure.is_broken() => failure.unreachable(address),
            Self::Driver(error) => match error.as_db_error().cloned() {
                Some(db) => of_server(db, patience_seconds),
                None => Error::Statement(Box::new(error)),
            },
            Self::Ended | Self::Silent { .. } => self.unreachable(address),
            Self::Replaced(component) => Error::Replaced { component, process: "another process".to_owned() },
        }
    }
}

fn of_server(db: DbError, patience_seconds: u64) -> Error {
    let detail = db.message().to_owned();
    match *db.code() {
        SqlState::LOCK_NOT_AVAILABLE => Error::Locked { seconds: patience_seconds },
        SqlState::DISK_FULL | SqlState::OUT_OF_MEMORY | SqlState::READ_ONLY_SQL_TRANSACTION | SqlState::IO_ERROR => {
            Error::Unwritable { detail }
        }
        SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => Error::Damaged { detail },
        _ => Error::Statement(Box::new(db)),
    }
}

/// What to do about rights that are lacking where tables are made or changed.
pub(super) fn with_remedy_for_rights(error: Error, address: &Address) -> Error {
    match &error {
        Error::Statement(cause)
            if cause.downcast_ref::<DbError>().is_some_and(|db| *db.code() == SqlState::INSUFFICIENT_PRIVILEGE) =>
        {
            Error::Refused(format!(
                "cannot make or change the tables at {address}: {}; let the user of the address own the database, with ALTER DATABASE … OWNER TO",
                crate::error_chain(&**cause)
            ))
        }
        _ => error,
    }
}
