//! Attempts: the event that began each. Every event of an attempt is of that event's story, and caused by it unless it names
//! another cause.
//!
//! A trigger on `test_started` keeps the table. What a loop publishes during an attempt without a cause is joined to it where
//! it is inserted (`events.rs`); here is what ends an attempt or a lease of it, which may come when the attempt is over.

use crate::payload::{AgentGaveUp, WorkChecked};
use crate::{ActorId, Error, Event, EventId, NewEvent, ReadTx, Result, TestId, TestStatus, WriteTx};

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

    /// Why the agent has given up the newest attempt at a test; none if it has not.
    pub fn gave_up(&self, test: &TestId) -> Result<Option<String>> {
        let Some(start) = self.newest_attempt(test)? else { return Ok(None) };
        self.query_opt(
            "SELECT json_extract(payload, '$.reason') FROM events
             WHERE correlation_id = ?1 AND event_type = 'agent_gave_up' ORDER BY rowid DESC LIMIT 1",
            [start.correlation_id],
            |row| row.get(0),
        )
    }

    /// The checks of unfinished work in the newest attempt at a test, oldest first.
    pub fn work_checks(&self, test: &TestId) -> Result<Vec<WorkChecked>> {
        let Some(start) = self.newest_attempt(test)? else { return Ok(Vec::new()) };
        let rows: Vec<serde_json::Value> = self.query(
            "SELECT payload FROM events WHERE correlation_id = ?1 AND event_type = 'work_checked' ORDER BY rowid",
            [start.correlation_id],
            |row| row.get(0),
        )?;
        Ok(rows.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect())
    }
}

impl WriteTx<'_> {
    /// Records that the agent gives up the current attempt at a test. The first reason stands.
    ///
    /// # Errors
    /// [`Error::Refused`] if the test is not in progress; [`Error::NotFound`].
    pub fn give_up(&self, test: &TestId, reason: &str) -> Result<()> {
        let row = self.test(test)?;
        if row.status != TestStatus::InProgress {
            return Err(Error::Refused(format!("test {test} is {}, not in progress; there is nothing to give up", row.status)));
        }
        if self.gave_up(test)?.is_none() {
            let source = ActorId::from(&row.loop_id);
            let (attempt, reason) = (row.attempts, reason.to_owned());
            let payload = AgentGaveUp { test_id: row.id, loop_id: row.loop_id, attempt, reason };
            self.publish(&NewEvent::new(source, payload).of_attempt(self.newest_attempt(test)?))?;
        }
        Ok(())
    }

    /// Records the result of checks that were run on unfinished work.
    pub fn record_work_check(&self, checked: WorkChecked) -> Result<()> {
        let start = self.newest_attempt(&checked.test_id)?;
        self.publish(&NewEvent::new(ActorId::from(&checked.loop_id), checked).of_attempt(start)).map(drop)
    }
}
