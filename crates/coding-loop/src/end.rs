//! The possible ends of an attempt, and the result type of its steps.

use coord_db::{AgentTrouble, ErrorCategory, FailedAttempt};

use crate::Error;
use crate::control::Interrupt;

/// The end of an attempt.
#[derive(Debug)]
pub(crate) enum End {
    /// The work has passed alone and waits to land; with its row in `landings`.
    Queued(String),
    Failed(FailedAttempt),
    /// The agent claims success without a change.
    Unchanged,
    /// This check passes before the work although `fails_before` is set.
    GreenBefore(String),
    /// The test is obsolete; with the reason.
    Moot(String),
    /// The agent cannot work for any loop.
    Trouble(AgentTrouble),
    /// The set-up fails at the base, so no loop can work.
    SetUpFailed(String),
    /// An order has interrupted it.
    Interrupted(Interrupt),
}

/// The reason why a step has no result.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The attempt ends.
    End(End),
    /// An error occurred.
    Error(Error),
}

/// A step of an attempt.
pub(crate) type Step<T> = Result<T, Stop>;

impl Stop {
    pub(crate) fn failed(category: ErrorCategory, message: impl Into<String>) -> Self {
        FailedAttempt::new(category, message).into()
    }
}

/// Converts an internal error to a failed attempt.
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

/// An error where no attempt can end.
pub(crate) fn error_of(stop: Stop) -> Error {
    match stop {
        Stop::Error(error) => error,
        Stop::End(End::Failed(why)) => Error::SetUp(why.message),
        Stop::End(End::SetUpFailed(why)) => Error::SetUp(format!("the set-up fails at the base: {why}")),
        Stop::End(End::Interrupted(interrupt)) => Error::SetUp(interrupt.reason),
        Stop::End(_) => Error::SetUp("it ended in an unexpected state".to_owned()),
    }
}
