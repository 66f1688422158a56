//! What the parts of one process tell each other.

use std::cell::Cell;

use coord_db::LoopId;
use tokio::sync::Notify;

/// What the attempts and the landing train of one process tell each other. Own commits to the database wake nobody.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Work was queued, or another process has committed something.
    pub(crate) queued: Notify,
    /// Work has landed or was given back, or the judge has ended.
    pub(crate) settled: Notify,
    nobody: Notify,
    /// This process is the judge.
    pub(crate) is_judging: Cell<bool>,
    /// Work was queued, and the train has not found yet whether it can land without a run.
    pub(crate) is_looking: Cell<bool>,
    /// A sync of this process waits until the judge releases the lease on integration.
    pub(crate) wants_turn: Cell<bool>,
}

impl News {
    /// The news for an actor: a loop, or none for an actor that is no loop.
    pub(crate) fn of(&self, actor: &LoopId) -> &Notify {
        if actor.is_no_loop() { &self.nobody } else { &self.settled }
    }
}
