//! The journal (`transaction_log`) of effects outside the database: written down as intent first, finished or undone on
//! the next start.

use serde_json::Value;

use crate::{EventId, JournalStatus, LoopId, ReadTx, Result, Timestamp, WriteTx, new_id};

row! {
    /// One journalled operation.
    JournalEntry {
        id: String, operation: String, loop_id: Option<LoopId>, steps: Value, status: JournalStatus, started_at: Timestamp,
        completed_at: Option<Timestamp>, component: Option<String>, event_id: Option<EventId>,
    }
}

impl ReadTx<'_> {
    /// What a component has begun and not ended, oldest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open_journal(&self, component: &str) -> Result<Vec<JournalEntry>> {
        self.query(
            select!(
                JournalEntry,
                "FROM transaction_log WHERE component = ?1 AND status = 'in_progress' ORDER BY started_at, id"
            ),
            [component],
            JournalEntry::from_row,
        )
    }

    /// One entry.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn journal_entry(&self, id: &str) -> Result<Option<JournalEntry>> {
        self.query_opt(select!(JournalEntry, "FROM transaction_log WHERE id = ?1"), [id], JournalEntry::from_row)
    }

    /// Everything begun and not ended, by anyone.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn open_journal_of_all(&self) -> Result<Vec<JournalEntry>> {
        self.query(
            select!(JournalEntry, "FROM transaction_log WHERE status = 'in_progress' ORDER BY started_at, id"),
            [],
            JournalEntry::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Writes down an intent. Gives its id. Use it in [`crate::Database::write_durably`].
    ///
    /// # Errors
    /// What SQLite says.
    pub fn begin_operation(
        &self,
        operation: &str,
        component: &str,
        loop_id: Option<&LoopId>,
        steps: &Value,
        event: Option<&EventId>,
    ) -> Result<String> {
        let id = new_id();
        self.execute(
            "INSERT INTO transaction_log (id, operation, loop_id, steps, started_at, component, event_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            rusqlite::params![id, operation, loop_id, steps.to_string(), self.now(), component, event],
        )?;
        Ok(id)
    }

    /// As [`WriteTx::begin_operation`], under an id that names the matter, so that it is begun once and never again.
    /// False if it stands already, ended or not.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn begin_operation_once(
        &self,
        id: &str,
        operation: &str,
        component: &str,
        steps: &Value,
        event: Option<&EventId>,
    ) -> Result<bool> {
        Ok(self.execute(
            "INSERT INTO transaction_log (id, operation, steps, started_at, component, event_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
            rusqlite::params![id, operation, steps.to_string(), self.now(), component, event],
        )? > 0)
    }

    /// Replaces what is known of an operation's steps.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn update_steps(&self, id: &str, steps: &Value) -> Result<()> {
        self.execute(
            "UPDATE transaction_log SET steps = ?2 WHERE id = ?1 AND status = 'in_progress'",
            rusqlite::params![id, steps.to_string()],
        )?;
        Ok(())
    }

    /// The operation is done, or undone. False if it had ended already.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn end_operation(&self, id: &str, committed: bool) -> Result<bool> {
        let status = if committed { JournalStatus::Committed } else { JournalStatus::RolledBack };
        Ok(self.execute(
            "UPDATE transaction_log SET status = ?2, completed_at = ?3 WHERE id = ?1 AND status = 'in_progress'",
            rusqlite::params![id, status, self.now()],
        )? > 0)
    }
}
