//! Deadlocks: one row for each victim and deadlock, so that each is reported once.

use std::collections::BTreeSet;

use super::{StringList, json};
use crate::{DeadlockOutcome, EventId, ReadTx, Result, Timestamp, WriteTx};

row! {
    /// A deadlock that was found, and how it ended.
    Deadlock {
        id: String, victim: String, cycle: StringList, locks: StringList, reason: String, detected_at: Timestamp,
        revoke_at: Timestamp, resolved_at: Option<Timestamp>, outcome: Option<DeadlockOutcome>, event_id: EventId,
    }
}

/// A deadlock that has just been found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeadlock {
    /// The loop that must give up its leases.
    pub victim: String,
    /// The loops in it.
    pub cycle: Vec<String>,
    /// What the victim holds.
    pub locks: Vec<String>,
    /// Why this victim.
    pub reason: String,
    /// When its leases are taken from it unless it has answered.
    pub revoke_at: Timestamp,
    /// The `force_release` event.
    pub event_id: EventId,
}

impl ReadTx<'_> {
    /// Deadlocks that are not resolved yet, oldest first.
    pub fn open_deadlocks(&self) -> Result<Vec<Deadlock>> {
        self.query(
            // The plus keeps SQLite from walking the whole history in its order: the few open ones have an index.
            select!(Deadlock, "FROM deadlocks WHERE resolved_at IS NULL ORDER BY +detected_at, id"),
            [],
            Deadlock::from_row,
        )
    }

    /// Who has been named as a victim since a moment.
    pub fn victims_since(&self, since: Timestamp) -> Result<BTreeSet<String>> {
        let victims = self.query("SELECT victim FROM deadlocks WHERE detected_at >= ?1", [since], |row| row.get(0))?;
        Ok(victims.into_iter().collect())
    }

    /// Deadlocks found since a moment, oldest first.
    pub fn deadlocks_since(&self, since: Timestamp) -> Result<Vec<Deadlock>> {
        self.query(
            select!(Deadlock, "FROM deadlocks WHERE detected_at >= ?1 ORDER BY detected_at, id"),
            [since],
            Deadlock::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Writes down a deadlock and its victim.
    pub fn add_deadlock(&self, new: &NewDeadlock) -> Result<String> {
        let id = crate::new_id();
        self.execute(
            "INSERT INTO deadlocks (id, victim, cycle, locks, reason, detected_at, revoke_at, event_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![id, new.victim, json(&new.cycle), json(&new.locks), new.reason, self.now(), new.revoke_at, new.event_id],
        )?;
        Ok(id)
    }

    /// Writes down how a deadlock ended.
    pub fn resolve_deadlock(&self, id: &str, outcome: DeadlockOutcome) -> Result<()> {
        self.execute(
            "UPDATE deadlocks SET resolved_at = ?2, outcome = ?3 WHERE id = ?1 AND resolved_at IS NULL",
            params![id, self.now(), outcome],
        )?;
        Ok(())
    }
}
