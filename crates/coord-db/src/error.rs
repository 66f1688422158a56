//! Typed errors. The command line maps them to exit codes in one place.

use std::path::{Path, PathBuf};

use crate::{DecisionStatus, Timestamp};

/// A path, or an address of a server without what may be a password.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| scheme.starts_with("postgres")) else { return text };
    let rest = rest.split('?').next().unwrap_or_default();
    match rest.rsplit_once('@') {
        Some((user, host)) => format!("{scheme}://{}@{host}", user.split(':').next().unwrap_or_default()),
        None => format!("{scheme}://{rest}"),
    }
}

/// Errors of this crate. Messages are lowercase fragments; the cause is in `source()`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No file where the database should be.
    #[error("no database at {}", shown(path))]
    NoDatabase {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is an SQLite database of another application, or no database at all.
    #[error("{} is not a coding-loops database ({detail})", shown(path))]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// The file was written by a newer program; it is left untouched.
    #[error("{} has schema version {found}, newer than this program's {known}", shown(path))]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The file is, or would be, where several machines can reach it; nothing was made or opened.
    #[error(
        "{} is on a network file system ({kind}), where SQLite's locks and shared memory do not reach the other machines and \
         work would be lost", path.display()
    )]
    NetworkFileSystem {
        /// The file.
        path: PathBuf,
        /// The file system's name, as `nfs4`.
        kind: String,
    },
    /// SQLite calls the file damaged.
    #[error("the database is damaged: {detail}")]
    Damaged {
        /// SQLite's words.
        detail: String,
    },
    /// Another writer kept the lock past the deadline.
    #[error("the database stayed locked by another writer for {seconds} s")]
    Locked {
        /// The deadline that passed.
        seconds: u64,
    },
    /// The server does not answer, or the connection to it broke: nothing was changed.
    #[error("cannot reach the database at {server}: {detail}; {advice}")]
    Unreachable {
        /// Its address, without a password.
        server: String,
        /// What happened.
        detail: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The connection broke while a transaction was committed, and the server cannot say whether it was. A process that goes on
    /// would act on what it believes; it has to end and to read again, as after a kill.
    #[error("the connection to {server} broke during a commit of unknown outcome: {detail}")]
    CommitUnknown {
        /// The server's address, without a password.
        server: String,
        /// Why it cannot be known.
        detail: String,
    },
    /// The disk is full, the file or folder is read-only, or the device fails: nothing was changed.
    #[error("the database cannot be written: {detail}")]
    Unwritable {
        /// The engine's words.
        detail: String,
    },
    /// The named row is not there.
    #[error("no {what} {id:?}")]
    NotFound {
        /// The kind of row.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The row exists already.
    #[error("{what} {id:?} exists already")]
    Exists {
        /// The kind of row.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The state does not allow this move.
    #[error("{0}")]
    Refused(String),
    /// The question has its answer: it came first, or the time limit did.
    #[error("decision {decision} {}", describe_settled(*.status, choice.as_deref(), by, *.at))]
    Settled {
        /// The decision.
        decision: String,
        /// How it stands; `pending` if an answer is given that pm has yet to apply.
        status: DecisionStatus,
        /// What was chosen, if anything was.
        choice: Option<String>,
        /// Who chose: the actor if that is known, else `human` or `auto`.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// A state machine has no such move from where the row stands.
    #[error("{what} {id} is {state}; it cannot {action}")]
    IllegalMove {
        /// The kind of row.
        what: &'static str,
        /// Its id.
        id: String,
        /// Where it stands.
        state: String,
        /// What was asked of it, as it follows "it cannot": `be skipped`, `become applied`.
        action: String,
    },
    /// Another loop owns it.
    #[error("{path:?} is owned by loop {owner}; ask with loopctl request create {path} --loop {asker}")]
    Owned {
        /// What is owned: what was asked for, or what is above or below it.
        path: String,
        /// Its owner.
        owner: String,
        /// The loop that may request permission.
        asker: String,
    },
    /// A fencing token is stale: the lease was replaced, revoked or released since.
    #[error("the lease is lost: token {token} of {loop_id} holds {}", describe_lost(paths))]
    LeaseLost {
        /// The loop that asked.
        loop_id: String,
        /// Its token.
        token: i64,
        /// The paths that it no longer holds; none if it holds nothing.
        paths: Vec<String>,
    },
    /// A second copy of a component.
    #[error("{component} is running already as {process}")]
    AlreadyRunning {
        /// The component.
        component: String,
        /// The process that runs, with its host if that is another one.
        process: String,
        /// True if it runs on another host, from which this one could take over.
        is_elsewhere: bool,
    },
    /// A process that stood still so long that another one runs as its component now. All it can do is to end.
    #[error("{component} runs as {process} now: this process stood still for so long that it was taken for dead")]
    Replaced {
        /// The component.
        component: String,
        /// The process that runs as it, with its host if that is another one.
        process: String,
    },
    /// An id, path, payload or other argument that is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// The configuration file is wrong.
    #[error("{0}")]
    Config(String),
    /// The file system refused the operation.
    #[error("{context}")]
    Io {
        /// What was tried.
        context: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A value that another tool has written where nothing of its kind can be.
    #[error("cannot read column {column}: {detail}")]
    Unreadable {
        /// The column.
        column: String,
        /// Why.
        detail: String,
    },
    /// Anything else that the engine answers; a constraint that a foreign row breaks, for instance.
    #[error("the database refused a statement")]
    Statement(#[source] Box<dyn std::error::Error + Send + Sync>),
}

fn describe_lost(paths: &[String]) -> String {
    if paths.is_empty() {
        return "nothing any more".to_owned();
    }
    let paths: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
    format!("{} no longer", paths.join(", "))
}

fn describe_settled(status: DecisionStatus, choice: Option<&str>, by: &str, at: Timestamp) -> String {
    let (choice, at) = (choice.map(|choice| format!("{choice:?}")).unwrap_or_default(), at.to_rfc3339());
    match status {
        DecisionStatus::Pending => format!("was answered: {choice}, by {by} at {at}; pm-agent will apply it"),
        DecisionStatus::Decided => format!("was decided: {choice}, by {by} at {at}"),
        DecisionStatus::AutoResolved => format!("was auto_resolved to its default: {choice}, by {by} at {at}"),
        DecisionStatus::Expired => format!("expired without an answer, by {by} at {at}"),
    }
}

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with all its causes, in one line: `what: why: why of that`.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent wrapper says the same as what it wraps.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl Error {
    /// True where waiting may help without anyone's doing: a lock, a full disk, a read-only file, a server that does not answer.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Unwritable { .. } | Self::Unreachable { .. })
    }

    /// True where the rows say no: asking again changes nothing until they change.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::Exists { .. }
                | Self::Refused(_)
                | Self::IllegalMove { .. }
                | Self::Owned { .. }
                | Self::Settled { .. }
                | Self::Invalid(_)
        )
    }

    pub(crate) fn illegal(what: &'static str, id: impl ToString, state: impl ToString, action: impl Into<String>) -> Self {
        Self::IllegalMove { what, id: id.to_string(), state: state.to_string(), action: action.into() }
    }

    pub(crate) fn not_found(what: &'static str, id: impl ToString) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    pub(crate) fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_of_an_address_is_shown() {
        for address in ["postgres://me:se@cret@db/x", "postgresql://me@db/x?password=secret"] {
            let text = Error::NoDatabase { path: address.into() }.to_string();
            assert!(text.ends_with("://me@db/x") && !text.contains("cret"), "{text}");
        }
        assert_eq!(shown(Path::new("/a://me:b@c")), "/a://me:b@c");
    }
}
