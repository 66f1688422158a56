//! Which moves each state machine has. One total function each; an operation that asks for another one is refused with
//! [`crate::Error::IllegalMove`]. `schema/README.md` has the same as tables; a test tries every pair.

use crate::{HealthStatus, JournalStatus, LandingState, LoopStatus, MigrationStatus, RequestStatus, TestStatus};

/// What can be asked of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestMove {
    /// Its loop begins an attempt.
    Claim,
    /// The gate has verified the attempt.
    Pass,
    /// The attempt failed.
    Fail,
    /// The attempt ended for a reason that is nobody's failure.
    GiveBack,
    /// It is taken out of the queue on purpose.
    Skip,
    /// It goes back to its beginning.
    Reset,
    /// Another loop gets it.
    HandOn,
    /// It is not claimed before a moment.
    Delay,
    /// It need not wait for the test that it depends on.
    ClearDependency,
}

impl TestMove {
    /// Every move.
    pub const ALL: &[Self] = &[
        Self::Claim,
        Self::Pass,
        Self::Fail,
        Self::GiveBack,
        Self::Skip,
        Self::Reset,
        Self::HandOn,
        Self::Delay,
        Self::ClearDependency,
    ];

    /// As it follows "it cannot", with what to do instead.
    pub(crate) const fn refused(self) -> &'static str {
        match self {
            Self::Claim => "be claimed",
            Self::Pass => "pass: it is not in progress; claim it with loopctl next",
            Self::Fail => "fail: it is not in progress; claim it with loopctl next",
            Self::GiveBack => "be given back: it is not in progress; claim it with loopctl next",
            Self::Skip => "be skipped: there is nothing to skip",
            Self::Reset => "be reset while its loop works on it; pause the loop first",
            Self::HandOn => "be handed on: only a pending test is",
            Self::Delay => "be held back: only a pending test is",
            Self::ClearDependency => "be let run: it is past waiting for another",
        }
    }
}

impl TestStatus {
    /// Whether a test may be moved so from here.
    #[must_use]
    pub const fn allows(self, what: TestMove) -> bool {
        match what {
            TestMove::Claim | TestMove::HandOn | TestMove::Delay => matches!(self, Self::Pending),
            TestMove::Pass | TestMove::Fail | TestMove::GiveBack => matches!(self, Self::InProgress),
            TestMove::Skip => !matches!(self, Self::Passed | Self::Skipped),
            TestMove::Reset => !matches!(self, Self::InProgress),
            TestMove::ClearDependency => !matches!(self, Self::Passed | Self::InProgress),
        }
    }
}

impl LandingState {
    /// Whether finished work may go from here to there: it waits or is judged until it ends, once.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        match self {
            Self::Queued => !matches!(to, Self::Queued),
            Self::Judging => !matches!(to, Self::Judging),
            Self::Landed | Self::Returned | Self::Withdrawn => false,
        }
    }
}

impl LoopStatus {
    /// Whether a loop's row may simply be set so from here. Dying, and rising from the dead to rest, take a clean-up of what
    /// the loop had; nothing else makes or unmakes `error` but work that goes on.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        match to {
            Self::Running | Self::Paused => true,
            Self::Stopped => !matches!(self, Self::Error),
            Self::Error => false,
        }
    }
}

impl HealthStatus {
    /// Whether a component may say so of itself: it lives, well or not so well. That it has stopped it says by stopping, and
    /// that it is dead only others can tell.
    #[must_use]
    pub(crate) const fn may_be_said(self) -> bool {
        matches!(self, Self::Healthy | Self::Degraded)
    }

    /// Whether heartbeat may judge a component so that stands here. Silence counts against nobody who has stopped in an orderly
    /// way; only a process that is proven gone does. `unknown` is no verdict.
    #[must_use]
    pub(crate) const fn may_be_judged(self, to: Self) -> bool {
        match to {
            Self::Dead => true,
            Self::Healthy | Self::Degraded => !matches!(self, Self::Unknown),
            Self::Unknown => false,
        }
    }
}

impl RequestStatus {
    /// Whether a change request may go from here to there.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        matches!((self, to), (Self::Pending, Self::Approved | Self::Rejected) | (Self::Approved, Self::Applied))
    }
}

impl MigrationStatus {
    /// Whether a migration may go from here to there.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        matches!((self, to), (Self::Pending, Self::Applied | Self::Failed))
    }
}

impl JournalStatus {
    /// Whether an entry of the journal may go from here to there: it is settled once.
    #[must_use]
    pub const fn may_become(self, to: Self) -> bool {
        matches!((self, to), (Self::InProgress, Self::Committed | Self::RolledBack))
    }
}
