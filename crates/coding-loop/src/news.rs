//! What the parts of one process tell each other.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coord_db::{LoopId, Timestamp};
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
    /// When the last conversation began in which the remote answered, also by the time of the database.
    pub(crate) asked_remote: Cell<Option<(Instant, Timestamp)>>,
    /// The landings that others have left, and whether their process has ended, with the time at which each was first seen so.
    left: RefCell<BTreeMap<(String, bool), Instant>>,
    /// The landing train runs: this process sends heartbeats, and must not wait for the remote.
    pub(crate) is_at_work: Cell<bool>,
    /// When something could not be sent there.
    pub(crate) unsent_since: Cell<Option<Instant>>,
}

impl News {
    /// True if the remote was asked after a landing was first seen without the process that made it, or with one that stands still.
    /// Only then its answer says whether it has landed.
    pub(crate) fn has_asked_about(&self, entry: &str, has_ended: bool) -> bool {
        let since = *self.left.borrow_mut().entry((entry.to_owned(), has_ended)).or_insert_with(Instant::now);
        self.asked_remote.get().is_some_and(|(asked, _)| asked > since)
    }

    /// True if the remote has to be asked about a landing that was left.
    pub(crate) fn has_to_ask(&self) -> bool {
        let asked = self.asked_remote.get();
        self.left.borrow().values().any(|since| asked.is_none_or(|(asked, _)| asked <= *since))
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_what_was_left_before_the_question() {
        let news = News::default();
        let ask = || news.asked_remote.set(Some((Instant::now(), Timestamp::from_millis(0))));
        ask();
        assert!(!news.has_to_ask());
        assert!(!news.has_asked_about("a", false) && news.has_to_ask());
        ask();
        assert!(news.has_asked_about("a", false) && !news.has_to_ask());
        // Its process may have sent it before it ended.
        assert!(!news.has_asked_about("a", true) && news.has_to_ask());
        ask();
        assert!(news.has_asked_about("a", true) && news.has_asked_about("a", false) && !news.has_to_ask());
    }
}
