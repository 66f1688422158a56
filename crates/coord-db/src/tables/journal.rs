//! The journal (`transaction_log`) of effects outside the database: written down as intent first, finished or undone on
//! the next start.
//!
//! `steps` is a JSON array: first the intent, whose shape is the operation's own, then one object for each step that is done.

use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::engine::{Column, Unreadable, ValueRef};
use crate::process::{Liveness, ProcessIdentity};
use crate::{Error, EventId, HealthStatus, JournalStatus, LoopId, ReadTx, Result, Timestamp, WriteTx, new_id};

row! {
    /// One journalled operation.
    JournalEntry {
        id: String, operation: String, loop_id: Option<LoopId>, steps: JournalSteps, status: JournalStatus, started_at: Timestamp,
        completed_at: Option<Timestamp>, component: Option<String>, event_id: Option<EventId>,
    }
}

/// What an operation is about, and how far it got.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JournalSteps {
    /// What was intended. Null in a foreign row that says nothing.
    pub intent: Value,
    /// What is done of it, in order.
    pub done: Vec<JournalStep>,
}

/// One step that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalStep {
    /// Its name.
    pub step: String,
    /// When it was known to be done, RFC 3339.
    pub at: String,
    /// What else is known of it.
    #[serde(flatten)]
    pub detail: Map<String, Value>,
}

/// The key of an intent under which the process that acts is named, where the component's row may name none.
const OWNER: &str = "owner";

/// The intent with the process that acts on it, and the loop as which that runs, if it runs as one: no other process settles
/// the entry while that one is alive.
#[must_use]
pub fn owned_intent(mut intent: Value, owner: &ProcessIdentity, runs_as: Option<&LoopId>) -> Value {
    if let Some(fields) = intent.as_object_mut() {
        fields.insert(
            OWNER.to_owned(),
            json!({
                "pid": owner.pid, "pid_start_time": owner.pid_start_time, "boot_id": owner.boot_id,
                "pid_namespace": owner.pid_namespace, "host": owner.host, "runs_as": runs_as,
            }),
        );
    }
    intent
}

impl JournalSteps {
    /// Whether a step of this name is done.
    #[must_use]
    pub fn has(&self, step: &str) -> bool {
        self.done.iter().any(|done| done.step == step)
    }

    /// A text of the intent.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.intent.get(key).and_then(Value::as_str)
    }

    /// The process that acts, if the intent names it.
    #[must_use]
    pub fn owner(&self) -> Option<ProcessIdentity> {
        let owner = self.intent.get(OWNER)?;
        let text = |key: &str| owner.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(ProcessIdentity {
            pid: owner.get("pid")?.as_i64()?,
            pid_start_time: owner.get("pid_start_time").and_then(Value::as_i64),
            boot_id: text("boot_id"),
            pid_namespace: owner.get("pid_namespace").and_then(Value::as_i64),
            host: text("host"),
        })
    }

    /// The loop as which the process that acts runs, if the intent names one.
    #[must_use]
    pub fn runs_as(&self) -> Option<&str> {
        self.intent.get(OWNER)?.get("runs_as")?.as_str()
    }
}

impl Serialize for JournalSteps {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_seq(Some(1 + self.done.len()))?;
        array.serialize_element(&self.intent)?;
        self.done.iter().try_for_each(|step| array.serialize_element(step))?;
        array.end()
    }
}

impl Column for JournalSteps {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        Ok(match <Value as Column>::take(value)? {
            Value::Array(mut all) => {
                let intent = if all.is_empty() { Value::Null } else { all.remove(0) };
                // What another tool has put there says nothing to us and stops nobody.
                let done = all.into_iter().filter_map(|step| serde_json::from_value(step).ok()).collect();
                Self { intent, done }
            }
            // As earlier versions wrote it.
            intent => Self { intent, done: Vec::new() },
        })
    }
}

impl ReadTx<'_> {
    /// Whether the process that acts on an entry does so no longer: the kernel says that it has ended, or it is one of another
    /// namespace or host, and the loop as which it ran has stopped, has been found dead, or has another process now.
    pub fn has_owner_ended(&self, steps: &JournalSteps) -> Result<bool> {
        let Some(owner) = steps.owner() else { return Ok(false) };
        let liveness = owner.liveness();
        let Some(runs_as) = steps.runs_as().filter(|_| liveness != Liveness::Alive) else {
            return Ok(liveness == Liveness::Gone);
        };
        let row = self.component(runs_as)?.filter(|row| row.identity().as_ref() == Some(&owner));
        Ok(row.is_none_or(|row| row.status == HealthStatus::Dead || self.liveness(&row) == Liveness::Gone))
    }

    /// Whether another process than the asker acts on an entry, if that can be known.
    pub fn is_owned_by_other(&self, steps: &JournalSteps, asker: &ProcessIdentity) -> Result<bool> {
        Ok(steps.owner().is_some_and(|owner| owner != *asker) && !self.has_owner_ended(steps)?)
    }

    /// The entries that are in progress, of one component or all, oldest first.
    pub fn open_journal(&self, component: Option<&str>) -> Result<Vec<JournalEntry>> {
        self.query(
            select!(
                JournalEntry,
                "FROM transaction_log WHERE status = 'in_progress' AND (component = ?1 OR ?1 IS NULL) ORDER BY started_at, id"
            ),
            [component],
            JournalEntry::from_row,
        )
    }

    /// One entry.
    pub fn journal_entry(&self, id: &str) -> Result<Option<JournalEntry>> {
        self.query_opt(select!(JournalEntry, "FROM transaction_log WHERE id = ?1"), [id], JournalEntry::from_row)
    }

    /// The entries of reports that were sent, at most the last ten days', newest day first.
    pub fn sent_reports(&self) -> Result<Vec<JournalEntry>> {
        self.query(
            select!(
                JournalEntry,
                "FROM transaction_log WHERE id >= 'notify:report:' AND id < 'notify:report;' AND status = 'committed' ORDER BY id DESC LIMIT 10"
            ),
            [],
            JournalEntry::from_row,
        )
    }

    /// Whether an entry is in progress.
    pub fn is_operation_open(&self, id: &str) -> Result<bool> {
        Ok(self.journal_entry(id)?.is_some_and(|entry| entry.status == JournalStatus::InProgress))
    }

    /// The newest entries, open and settled, at most `limit`, newest first; of one component or all.
    pub fn journal(&self, component: Option<&str>, limit: usize) -> Result<Vec<JournalEntry>> {
        self.query(
            select!(
                JournalEntry,
                "FROM transaction_log WHERE component = ?1 OR ?1 IS NULL ORDER BY started_at DESC, id DESC LIMIT ?2"
            ),
            params![component, limit as i64],
            JournalEntry::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Writes down an intent. Gives its id. Use it in [`crate::Database::write_durably`].
    pub fn begin_operation(
        &self,
        operation: &str,
        component: &str,
        loop_id: Option<&LoopId>,
        intent: &Value,
        event: Option<&EventId>,
    ) -> Result<String> {
        let id = new_id();
        self.execute(
            "INSERT INTO transaction_log (id, operation, loop_id, steps, started_at, component, event_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![id, operation, loop_id, json!([intent]).to_string(), self.now(), component, event],
        )?;
        Ok(id)
    }

    /// As [`WriteTx::begin_operation`], under an id that names the matter, so that it is begun once and never again.
    /// False if it stands already, ended or not.
    pub fn begin_operation_once(
        &self,
        id: &str,
        operation: &str,
        component: &str,
        intent: &Value,
        event: Option<&EventId>,
    ) -> Result<bool> {
        Ok(self.execute(
            "INSERT INTO transaction_log (id, operation, steps, started_at, component, event_id)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM transaction_log WHERE id = ?1)",
            params![id, operation, json!([intent]).to_string(), self.now(), component, event],
        )? > 0)
    }

    fn open_steps(&self, id: &str) -> Result<JournalSteps> {
        let entry = self.journal_entry(id)?.ok_or_else(|| Error::not_found("journal entry", id))?;
        if entry.status != JournalStatus::InProgress {
            return Err(Error::illegal("journal entry", id, entry.status, "continue: it is settled"));
        }
        Ok(entry.steps)
    }

    fn set_steps(&self, id: &str, steps: &JournalSteps) -> Result<()> {
        let steps = serde_json::to_string(steps).map_err(|error| Error::Invalid(error.to_string()))?;
        self.execute("UPDATE transaction_log SET steps = ?2 WHERE id = ?1", params![id, steps])?;
        Ok(())
    }

    /// A step is done. `detail` is an object of what else is known of it, or null.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for an entry that is settled.
    pub fn note_step(&self, id: &str, step: &str, detail: Value) -> Result<()> {
        let mut steps = self.open_steps(id)?;
        let detail = if let Value::Object(detail) = detail { detail } else { Map::new() };
        steps.done.push(JournalStep { step: step.to_owned(), at: self.now().to_rfc3339(), detail });
        self.set_steps(id, &steps)
    }

    /// Replaces the intent, where that is where an operation keeps how far it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for an entry that is settled.
    pub fn update_steps(&self, id: &str, intent: &Value) -> Result<()> {
        let mut steps = self.open_steps(id)?;
        steps.intent = intent.clone();
        self.set_steps(id, &steps)
    }

    /// The operation is done, or undone. False if it was settled so already.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] if it was settled the other way.
    pub fn end_operation(&self, id: &str, committed: bool) -> Result<bool> {
        let to = if committed { JournalStatus::Committed } else { JournalStatus::RolledBack };
        let entry = self.journal_entry(id)?.ok_or_else(|| Error::not_found("journal entry", id))?;
        if entry.status == to {
            return Ok(false);
        }
        if !entry.status.may_become(to) {
            return Err(Error::illegal("journal entry", id, entry.status, format!("become {to}: it is settled")));
        }
        self.execute("UPDATE transaction_log SET status = ?2, completed_at = ?3 WHERE id = ?1", params![id, to, self.now()])?;
        Ok(true)
    }
}
