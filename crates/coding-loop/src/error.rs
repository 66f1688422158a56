//! Errors of attempts.

use std::io::ErrorKind;

/// An error of the database, of git, or of the file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Db(#[from] coord_db::Error),
    /// git.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// A row names a commit that cannot be one.
    #[error(transparent)]
    Hash(#[from] git::InvalidHash),
    /// The file system.
    #[error("{context}")]
    Io {
        /// The failed operation.
        context: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another process has to finish first.
    #[error("{0}")]
    Waiting(String),
    /// With `--once`: tests are left, and this has to happen before an attempt can start.
    #[error("tests are left, and {0}")]
    Unfinished(String),
    /// Finished work cannot be judged: a check cannot run, or the set-up fails without it too.
    #[error("{0}")]
    NotJudged(String),
    /// The configuration does not allow it.
    #[error("{0}")]
    SetUp(String),
}

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }

    /// True while the database cannot be used: its server or its disk is away, or another writer has it for too long.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Db(error) if error.is_temporary())
    }

    /// True if a retry may succeed without intervention.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Waiting(_) => true,
            Self::Db(error) => error.is_temporary(),
            // A refusal too: servers are overloaded, and logins are renewed.
            Self::Git(git::Error::RemoteUnreachable { .. } | git::Error::RemoteRefused { .. }) => true,
            Self::Git(error) => error.is_disk_full(),
            Self::Io { source, .. } => matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            Self::SetUp(_) | Self::NotJudged(_) | Self::Unfinished(_) | Self::Hash(_) => false,
        }
    }
}
