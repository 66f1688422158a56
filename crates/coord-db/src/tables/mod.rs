//! One file for each table, or for the few that only make sense together: its SQL, its row mapping, its named operations.

/// Defines a row: a struct whose fields are the columns, serialised under their names.
macro_rules! row {
    ($(#[$meta:meta])* $name:ident { $first:ident : $first_ty:ty, $($field:ident : $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        #[allow(missing_docs)]
        pub struct $name { pub $first: $first_ty, $(pub $field: $ty),* }

        impl $name {
            #[allow(dead_code)]
            pub(crate) const COLUMNS: &str = concat!(stringify!($first), $(", ", stringify!($field)),*);

            #[allow(dead_code)]
            pub(crate) fn from_row(row: &$crate::engine::Row<'_>) -> $crate::Result<Self> {
                Self::from_row_at(row, 0)
            }

            #[allow(unused_assignments, dead_code)]
            pub(crate) fn from_row_at(row: &$crate::engine::Row<'_>, mut at: usize) -> $crate::Result<Self> {
                let $first = row.get(at)?;
                at += 1;
                $(let $field = row.get(at)?; at += 1;)*
                Ok(Self { $first, $($field),* })
            }
        }
    };
}

/// A statement over all columns of a row, `select!(Loop, "FROM loops WHERE id = ?1")`; built once.
macro_rules! select {
    ($row:ty, $rest:literal) => {{
        static SQL: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        SQL.get_or_init(|| format!("SELECT {} {}", <$row>::COLUMNS, $rest)).as_str()
    }};
}

mod acquire;
mod agent_outputs;
mod alerts;
mod attempts;
mod base;
mod change_requests;
mod check;
mod checkpoints;
mod clock;
mod components;
mod conflicts;
mod deadlocks;
mod decisions;
mod events;
mod full_text;
mod holds;
mod journal;
mod knowledge;
mod knowledge_context;
mod landings;
mod leases;
mod ledger;
mod loops;
mod migrations;
mod pauses;
mod progress;
mod proofs;
mod regressions;
mod resources;
mod rework;
mod runs;
mod short_ids;
mod stale;
mod steer;
mod stores;
mod subscriptions;
mod test_edit;
mod tests;
mod train;
mod usage;
mod usage_report;
mod wait_graph;
mod waits;
mod worktree_changes;

pub use acquire::{Acquire, AcquireRequest, Blocker, Grant, Waiting};
pub use agent_outputs::AgentOutput;
pub use alerts::{Alert, AlertRaised, NewAlert};
pub use base::{BASE_QUESTION, BASE_SLOW_QUESTION, BaseAnswer, BaseRun, IgnoredCheck, RedCheck};
pub use change_requests::ChangeRequest;
pub use check::Problem;
pub use checkpoints::{Checkpoint, NewCheckpoint};
pub use clock::{ClockChange, ClockChangeSeen, silent_millis};
pub use components::Component;
pub use conflicts::Conflict;
pub use deadlocks::{Deadlock, NewDeadlock};
pub use decisions::{Decision, GivenAnswer, NewDecision};
pub use events::{Event, EventFilter, TestMark};
pub use holds::{AgentTrouble, GREEN_BEFORE_QUESTION, HOLD_QUESTION, Hold, NO_CHANGE_QUESTION, Start};
pub use journal::{JournalEntry, JournalStep, JournalSteps, owned_intent};
pub use knowledge::{Knowledge, KnowledgeSearch, MAX_KNOWLEDGE_BYTES, NewKnowledge};
pub use knowledge_context::{KNOWLEDGE_CONTEXT_BYTES, KnowledgeContext};
pub use landings::{Batch, Landing, LandingTotals, NewLanding, queued_refs};
pub use leases::{Lease, LeaseRequest};
pub use ledger::{BaselineRun, LedgerEntry, LedgerState, Revert};
pub use loops::{CleanUp, Loop, LoopProgress, NewLoop};
pub use migrations::{Migration, UnusedBecause, UnusedNumber};
pub use pauses::Pause;
pub use proofs::{Proof, ProofRun};
pub use regressions::{BaselineTest, CheckRun, PassingTest, Regression, cold_name, strip_cold_suffix};
pub use resources::{OwnedByOther, Resource};
pub use rework::{Rework, ReworkCause};
pub use runs::{NewRun, Run};
pub use short_ids::{IdOf, SHORT_ID, SHORTEST_END, ShortId, short_id};
pub use stale::StaleDeliveries;
pub use steer::Steered;
pub use stores::StoreMaking;
pub use subscriptions::{Delivery, Subscription};
pub use test_edit::TestEdit;
pub use tests::{Counts, FailedAttempt, NewTest, PassedAttempt, Test};
pub use train::{JUDGE_OPERATION, JudgeRole, LANDING_OPERATION, LandedWork};
pub use usage::{Usage, UsageTotal};
pub use usage_report::{BudgetUse, UsageKey, UsageLine};
pub use wait_graph::WaitEdge;
pub use waits::{Wait, WaitKind, WaitNode, Waits};
pub use worktree_changes::{ChangedFile, MAX_CHANGED_FILES, WorktreeChange};

use crate::engine::{Column, Parameter, ToParameter, Unreadable, ValueRef};

/// Milliseconds text comes as; the database's form of a time.
impl ToParameter for crate::Timestamp {
    fn to_parameter(&self) -> Parameter<'_> {
        Parameter::Text(self.to_sql_text().into())
    }
}

/// The database also takes years before 0, which have no other form: they count as the year 0.
impl Column for crate::Timestamp {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        let text = value.as_str()?;
        if text.starts_with('-') {
            return Ok(Self::EARLIEST);
        }
        text.parse().map_err(|error: <Self as std::str::FromStr>::Err| Unreadable(error.to_string()))
    }
}

/// Serialises what is always serialisable: strings, lists of strings, our own structs.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// A JSON column that holds a list of strings; anything else in it counts as empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct StringList(pub Vec<String>);

impl Column for StringList {
    fn take(value: ValueRef<'_>) -> Result<Self, Unreadable> {
        Ok(serde_json::from_str(&String::take(value)?).unwrap_or_default())
    }
}
