//! How an attempt ends, and a step of it that can end it.

use coord_db::{AgentTrouble, ErrorCategory, FailedAttempt};
use git::CommitHash;

use crate::Error;
use crate::control::Interrupt;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It has landed as this commit, and that is recorded.
    Passed(CommitHash),
    Failed(FailedAttempt),
    /// The agent claims success and has changed nothing.
    Unchanged,
    /// This check has to fail for the test before its work, and passes.
    GreenBefore(String),
    /// What the test is about is gone, so that nobody has to do it any more; why.
    Moot(String),
    /// The agent cannot work, nor can it for any other loop.
    Trouble(AgentTrouble),
    /// The set-up fails at the base, so that no loop could work.
    SetUpFailed(String),
    /// An order has ended it.
    Interrupted(Interrupt),
}

/// Why a step has no result.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The attempt ends with it.
    End(End),
    /// It could not be done.
    Error(Error),
}

/// A step of an attempt.
pub(crate) type Step<T> = Result<T, Stop>;

impl Stop {
    pub(crate) fn failed(category: ErrorCategory, message: impl Into<String>) -> Self {
        FailedAttempt::new(category, message).into()
    }
}

/// An error of ours as a failed attempt.
pub(crate) fn error_as_failure(error: &Error) -> FailedAttempt {
    let category = if error.is_temporary() { ErrorCategory::Transient } else { ErrorCategory::System };
    FailedAttempt::new(category, coord_db::error_chain(error))
}

impl From<FailedAttempt> for Stop {
    fn from(why: FailedAttempt) -> Self {
        Self::End(End::Failed(why))
    }
}

impl From<Interrupt> for Stop {
    fn from(interrupt: Interrupt) -> Self {
        Self::End(End::Interrupted(interrupt))
    }
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}
