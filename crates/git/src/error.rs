//! Errors of git. Callers match on the variants that they can handle (a moved reference, a damaged workspace) and treat
//! the rest as system errors.

use std::io;
use std::path::PathBuf;

use crate::CommitHash;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path is not in a git repository, or not the top of a worktree where one is required.
    #[error("{path:?} is not a git repository or worktree")]
    NotARepository {
        /// The requested path.
        path: PathBuf,
    },
    /// The repository belongs to another user, and git is not configured to trust it.
    #[error("{path:?} belongs to another user, so git does not read it; to allow it, run git config --global --add safe.directory {}", path.display())]
    ForeignOwner {
        /// The requested path.
        path: PathBuf,
    },
    /// The repository is a partial clone that lacks files of the commit.
    #[error("{path:?} is a partial clone that lacks {count} files of {}; fetch them with git fetch --refetch --no-filter", commit.short())]
    PartialClone {
        /// The repository.
        path: PathBuf,
        /// The commit.
        commit: CommitHash,
        /// Number of missing files and folders.
        count: usize,
    },
    /// A commit could not be signed.
    #[error("cannot sign the commit: {why}; unlock the key, or set sign = false in [landing] of config.toml")]
    NotSigned {
        /// The message of git or of the signing program.
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
    /// The disk is full.
    #[error("no space is left on the disk of {path:?}: {what}")]
    DiskFull {
        /// The folder in which git ran.
        path: PathBuf,
        /// The message of git.
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
    /// The output of git does not have its documented format.
    #[error("unexpected output of git {}: {what}", args.join(" "))]
    Unexpected {
        /// The arguments, without the options that every call gets.
        args: Vec<String>,
        /// The problem.
        what: String,
    },
    /// A compare-and-swap found an unexpected value; nothing was changed.
    #[error("{name} has moved: expected {}, found {}", shown(expected.as_ref()), shown(found.as_ref()))]
    RefMoved {
        /// The full name of the reference.
        name: String,
        /// The expected value; none if it was expected to be absent.
        expected: Option<CommitHash>,
        /// The value found; none if it is absent.
        found: Option<CommitHash>,
    },
    /// The remote could not be reached, or the connection broke: what was asked of it may have been done.
    #[error("the remote {remote} cannot be reached: {why}")]
    RemoteUnreachable {
        /// Its address, without a password.
        remote: String,
        /// The message of git.
        why: String,
    },
    /// The remote has answered and refused.
    #[error("the remote {remote} has refused: {why}")]
    RemoteRefused {
        /// Its address, without a password.
        remote: String,
        /// The messages of git and of the server.
        why: String,
    },
    /// The setting names no remote and is no address.
    #[error("{name:?} is no remote of your repository and no address; correct remote in [repository] of config.toml")]
    UnknownRemote {
        /// The setting.
        name: String,
    },
    /// The remote is the user's repository itself, whose branch is a copy for reading.
    #[error("{name:?} is this repository itself; machines meet at another one: correct remote in [repository] of config.toml")]
    RemoteIsOwn {
        /// The setting.
        name: String,
    },
    /// A name of a branch, reference or trailer that git does not allow or would misinterpret.
    #[error("{name:?} is not a valid name here")]
    BadName {
        /// The name.
        name: String,
    },
    /// There is no commit with this name.
    #[error("there is no commit {rev:?}")]
    UnknownRevision {
        /// The requested name.
        rev: String,
    },
    /// A path to remove is not below the managed folder.
    #[error("{path:?} is not below {managed:?} and is not removed")]
    NotManaged {
        /// The path to remove.
        path: PathBuf,
        /// The folder below which removing is allowed.
        managed: PathBuf,
    },
    /// A check was requested for a folder that is not a check-out, where undoing its changes could destroy work.
    #[error("{path:?} is not a check-out for checks and is not changed")]
    NotForChecks {
        /// The folder.
        path: PathBuf,
    },
    /// The path to create already exists as something else.
    #[error("{path:?} already exists as something else")]
    InTheWay {
        /// The requested path.
        path: PathBuf,
    },
    /// The folder of store and workspaces would be in the user's checkout: tools that search upwards from a workspace
    /// would find the user's files.
    #[error("{path:?} is inside the checkout {checkout:?}")]
    InsideCheckout {
        /// The requested folder.
        path: PathBuf,
        /// The top of the user's checkout.
        checkout: PathBuf,
    },
    /// A workspace is missing or damaged; opening it again repairs or replaces it.
    #[error("the workspace {path:?} is damaged: {damage:?}")]
    WorkspaceDamaged {
        /// The top of the workspace.
        path: PathBuf,
        /// The damage.
        damage: Damage,
    },
    /// Reading or writing a file failed.
    #[error("cannot {what} {path:?}")]
    Io {
        /// The failed operation, as a verb phrase.
        what: &'static str,
        /// Its file or folder.
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

    /// True if the disk was full: the operation can succeed later. It says nothing about the content.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        let is_full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, Self::DiskFull { .. }) || matches!(self, Self::Io { source, .. } if is_full(source.kind()))
    }
}

fn shown(commit: Option<&CommitHash>) -> &str {
    commit.map_or("nothing", CommitHash::as_str)
}

/// A kind of damage of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The folder is missing.
    Missing,
    /// The path is not a folder.
    NotAFolder,
    /// It is another repository.
    Foreign,
    /// Its `.git` is missing.
    GitMissing,
    /// Its `.git` is a file or a link.
    GitReplaced,
    /// git cannot read its `.git`.
    GitUnreadable,
    /// git would block on a named pipe or a device in the git folder of a submodule.
    SubmoduleUnreadable,
    /// git cannot read its index.
    IndexUnreadable,
    /// Our record of it is missing or unreadable, or the store has lost its objects.
    StateLost,
    /// It could not be reset to its base.
    ResetFailed(String),
}
