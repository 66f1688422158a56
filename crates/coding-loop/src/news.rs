//! What the parts of one process tell each other.

use std::cell::Cell;
use std::time::{Duration, Instant};

use coord_db::LoopId;
use tokio::sync::Notify;

/// Maximum time that an attempt waits for the look of the train, which may rest after an error.
const MAX_LOOK: Duration = Duration::from_secs(1);

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
    is_looking: Cell<bool>,
    looked: Notify,
    /// A sync of this process waits until the judge releases the lease on integration.
    pub(crate) wants_turn: Cell<bool>,
    /// When the last conversation began in which the remote answered.
    pub(crate) asked_remote: Cell<Option<Instant>>,
    /// When something could not be sent there.
    pub(crate) unsent_since: Cell<Option<Instant>>,
}

impl News {
    /// Work was queued.
    pub(crate) fn queue(&self) {
        self.is_looking.set(true);
        self.queued.notify_one();
    }

    /// The train has landed what needs no run.
    pub(crate) fn note_looked(&self) {
        self.is_looking.set(false);
        self.looked.notify_waiters();
    }

    /// Waits until the train has landed what needs no run.
    pub(crate) async fn await_look(&self) {
        if self.is_looking.get() {
            let _ = tokio::time::timeout(MAX_LOOK, self.looked.notified()).await;
        }
    }

    /// The news for an actor: a loop, or none for an actor that is no loop.
    pub(crate) fn of(&self, actor: &LoopId) -> &Notify {
        if actor.is_no_loop() { &self.nobody } else { &self.settled }
    }
}
