//! What can go wrong with git. Callers match on the variants that mean something to them (a reference that moved,
//! a damaged workspace) and treat the rest as errors of the system.

use std::io;
use std::path::PathBuf;

use crate::CommitHash;

/// The result of everything in the git half.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the git half.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path is in no git repository, or not the top of a worktree where one is needed.
    #[error("{path:?} is not a git repository or worktree")]
    NotARepository {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// It belongs to another user, and git is not told to trust it.
    #[error("{path:?} belongs to another user, so git does not read it; git config --global --add safe.directory {} allows it", path.display())]
    ForeignOwner {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The repository is a partial clone, and files of the commit were never fetched.
    #[error("{path:?} is a partial clone that lacks {count} files of {}; git fetch --refetch --no-filter brings them", commit.short())]
    PartialClone {
        /// The repository.
        path: PathBuf,
        /// The commit.
        commit: CommitHash,
        /// How many of its files and folders are missing.
        count: usize,
    },
    /// A commit could not be signed.
    #[error("the commit cannot be signed: {why}; unlock the key, or set sign = false in [landing] of config.toml")]
    NotSigned {
        /// What git or the signing program said.
        why: String,
    },
    /// There is no `git` in `PATH`.
    #[error("the git command was not found")]
    GitMissing,
    /// git refused or failed.
    #[error("git {} failed ({}): {stderr}", args.join(" "), code.map_or("by a signal".to_owned(), |code| format!("exit code {code}")))]
    GitFailed {
        /// The arguments, without the options that every call gets.
        args: Vec<String>,
        /// The exit code; none if a signal ended it.
        code: Option<i32>,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// There was no room to write.
    #[error("no space is left on the disk of {path:?}: {what}")]
    DiskFull {
        /// Where git ran.
        path: PathBuf,
        /// What git said of it.
        what: String,
    },
    /// git did not end in time and was killed.
    #[error("git {} did not end within {seconds} s", args.join(" "))]
    GitTimedOut {
        /// The arguments, without the options that every call gets.
        args: Vec<String>,
        /// The time limit.
        seconds: u64,
    },
    /// git answered with something that is not in its documented format.
    #[error("git {} gave an answer that cannot be understood: {what}", args.join(" "))]
    Unexpected {
        /// The arguments, without the options that every call gets.
        args: Vec<String>,
        /// What was wrong.
        what: String,
    },
    /// A compare-and-swap found another value than expected; nothing was changed.
    #[error("{name} has moved: expected {}, found {}", shown(expected.as_ref()), shown(found.as_ref()))]
    RefMoved {
        /// The full name of the reference.
        name: String,
        /// The expected value; none if it was expected to be absent.
        expected: Option<CommitHash>,
        /// The value found; none if it is absent.
        found: Option<CommitHash>,
    },
    /// A name of a branch, reference or trailer that git does not allow or that would mean something else.
    #[error("{name:?} is not a name that can be used here")]
    BadName {
        /// The name.
        name: String,
    },
    /// No commit goes by this name.
    #[error("there is no commit {rev:?}")]
    UnknownRevision {
        /// The name that was asked for.
        rev: String,
    },
    /// A path to remove that is not below the managed folder.
    #[error("{path:?} is not below {managed:?}, so it is left alone")]
    NotManaged {
        /// The path that was to be removed.
        path: PathBuf,
        /// The folder below which removing is allowed.
        managed: PathBuf,
    },
    /// A check was to run in a folder that is no check-out for checks, so that undoing what it changes could undo work.
    #[error("{path:?} is no check-out for checks, so it is not changed")]
    NotForChecks {
        /// The folder that was given.
        path: PathBuf,
    },
    /// Something else is already where something was to be made.
    #[error("{path:?} exists and is something else")]
    InTheWay {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The folder of store and workspaces would lie in the user's checkout: tools that search upwards from a workspace would
    /// find the user's files.
    #[error("{path:?} lies in the checkout {checkout:?}")]
    InsideCheckout {
        /// The folder that was asked for.
        path: PathBuf,
        /// The top of the user's checkout.
        checkout: PathBuf,
    },
    /// A workspace is not there, or not as it was made: open it again to have it repaired or replaced.
    #[error("the workspace {path:?} is damaged: {damage:?}")]
    WorkspaceDamaged {
        /// The top of the workspace.
        path: PathBuf,
        /// What is wrong.
        damage: Damage,
    },
    /// Reading or writing a file failed.
    #[error("cannot {what} {path:?}")]
    Io {
        /// What was tried: a verb.
        what: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// Whether there was no room to write: the same succeeds once there is. It says nothing about what was to be written.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let is_full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, Self::DiskFull { .. }) || matches!(self, Self::Io { source, .. } if is_full(source.kind()))
    }
}

fn shown(commit: Option<&CommitHash>) -> &str {
    commit.map_or("nothing", CommitHash::as_str)
}

/// What can be wrong with a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The folder is gone.
    Missing,
    /// Something else than a folder is in its place.
    NotAFolder,
    /// It is another repository.
    Foreign,
    /// Its `.git` is gone.
    GitMissing,
    /// A file or a link is in place of its `.git`.
    GitReplaced,
    /// git cannot read its `.git`.
    GitUnreadable,
    /// git would wait without end at a named pipe or a device in the git folder of a submodule.
    SubmoduleUnreadable,
    /// git cannot read its index.
    IndexUnreadable,
    /// Our own record of it is gone or cannot be read, or the store has lost what it names.
    StateLost,
    /// It could not be brought to its base.
    ResetFailed(String),
}
