//! Attempts: the event that began each. Every event of an attempt is of that event's story, and caused by it unless it names
//! another cause.
//!
//! A trigger on `test_started` keeps the table. What a loop publishes during an attempt without a cause is joined to it where
//! it is inserted (`events.rs`); here is what ends an attempt or a lease of it, which may come when the attempt is over.

use crate::{Event, EventId, NewEvent, ReadTx, Result, TestId};

/// The beginning of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptStart {
    event_id: EventId,
    correlation_id: String,
}

impl NewEvent {
    /// An event of an attempt, if there is one: of its story, and caused by its start unless something else led to it.
    #[must_use]
    pub(crate) fn of_attempt(mut self, start: Option<AttemptStart>) -> Self {
        if let Some(start) = start {
            self.caused_by.get_or_insert(start.event_id);
            self.correlation_id = Some(start.correlation_id);
        }
        self
    }
}

impl ReadTx<'_> {
    /// The newest attempt at a test, running or over.
    pub(crate) fn newest_attempt(&self, test: &TestId) -> Result<Option<AttemptStart>> {
        self.query_opt("SELECT event_id, correlation_id FROM attempts WHERE test_id = ?1", [test], |row| {
            Ok(AttemptStart { event_id: row.get(0)?, correlation_id: row.get(1)? })
        })
    }

    /// The event that began the newest attempt at a test.
    pub fn attempt_started(&self, test: &TestId) -> Result<Option<Event>> {
        match self.newest_attempt(test)? {
            Some(start) => self.event(start.event_id.as_str()),
            None => Ok(None),
        }
    }

    /// The attempt at a test, if one is running.
    pub(crate) fn running_attempt(&self, test: &TestId) -> Result<Option<AttemptStart>> {
        let running = self.value("SELECT EXISTS (SELECT 1 FROM tests WHERE id = ?1 AND status = 'in_progress')", [test])?;
        if running { self.newest_attempt(test) } else { Ok(None) }
    }
}
