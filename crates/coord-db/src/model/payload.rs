//! The event catalog as types: one struct for each event type, and [`Payload`] over all of them.
//!
//! `schema/README.md` documents the same list and a test keeps the two in step. Unknown fields are kept in the database
//! and ignored here; a missing optional field is null.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ActorId, BatchOutcome, DecisionId, Error, ErrorCategory, HealthStatus, LoopId, RequestStatus, RequestType, TestId,
    Timestamp, UnlockCause, dollars,
};

/// The prefix of event types that are not of this catalog.
pub(crate) const CUSTOM_PREFIX: &str = "custom.";

macro_rules! catalog {
    ($($(#[$meta:meta])* $name:ident = $type:literal, $priority:literal { $($field:ident : $ty:ty),* $(,)? })+) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            #[allow(missing_docs)]
            pub struct $name { $(pub $field: $ty),* }

            impl From<$name> for Payload {
                fn from(payload: $name) -> Self { Self::$name(payload) }
            }
        )+

        /// What an event says.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant)]
        pub enum Payload {
            $($(#[$meta])* $name($name),)+
            /// A type of another tool's own, under the prefix `custom.`.
            Custom {
                /// The whole type, prefix included.
                event_type: String,
                /// Any JSON.
                value: Value,
            },
        }

        /// Every type of the catalog with its field names.
        pub const CATALOG: &[(&str, &[&str])] = &[$(($type, &[$(stringify!($field)),*])),+];

        impl Payload {
            /// The event type as it is in the database.
            #[must_use]
            pub fn event_type(&self) -> &str {
                match self {
                    $(Self::$name(_) => $type,)+
                    Self::Custom { event_type, .. } => event_type,
                }
            }

            /// The default priority of an event of this type; 1 is the most urgent.
            #[must_use]
            pub(crate) const fn default_priority(&self) -> i64 {
                match self {
                    $(Self::$name(_) => $priority,)+
                    Self::Custom { .. } => 5,
                }
            }

            /// The payload as JSON.
            #[must_use]
            pub fn to_value(&self) -> Value {
                match self {
                    $(Self::$name(payload) => serde_json::to_value(payload).unwrap_or(Value::Null),)+
                    Self::Custom { value, .. } => value.clone(),
                }
            }

            /// The payload as JSON text.
            #[must_use]
            pub(crate) fn to_json(&self) -> String {
                match self {
                    $(Self::$name(payload) => serde_json::to_string(payload).unwrap_or_else(|_| "null".to_owned()),)+
                    Self::Custom { value, .. } => value.to_string(),
                }
            }

            /// Reads a payload of a known or custom type.
            ///
            /// # Errors
            /// If the type is neither, or the payload does not fit the catalog.
            pub fn parse(event_type: &str, value: &Value) -> Result<Self, Error> {
                let misfit = |error: serde_json::Error| {
                    Error::Invalid(format!("payload does not fit {event_type}: {error}"))
                };
                match event_type {
                    $($type => $name::deserialize(value).map(Self::$name).map_err(misfit),)+
                    custom if custom.len() > CUSTOM_PREFIX.len() && custom.starts_with(CUSTOM_PREFIX) => {
                        Ok(Self::Custom { event_type: event_type.to_owned(), value: value.clone() })
                    }
                    other => Err(Error::Invalid(format!(
                        "{other:?} is not an event type of the catalog; your own types begin with \"custom.\""
                    ))),
                }
            }
        }
    };
}

catalog! {
    /// An attempt begins.
    TestStarted = "test_started", 5 { test_id: TestId, loop_id: LoopId, attempt: i64, spec_summary: Option<String> }
    /// The gate has verified a test.
    TestPassed = "test_passed", 5 {
        test_id: TestId, loop_id: LoopId, attempt: i64, duration_seconds: i64, tokens_estimated: Option<i64>,
        files_modified: Vec<String>, verified: bool, verification_checks: Map<String, Value>, commit: String,
    }
    /// An attempt ended without a verified pass.
    TestFailed = "test_failed", 5 {
        test_id: TestId, loop_id: LoopId, attempt: i64, error_category: ErrorCategory, error_message: String, will_retry: bool,
    }
    /// A test has used up its attempts.
    TestBlocked = "test_blocked", 3 {
        test_id: TestId, loop_id: LoopId, attempts: i64, last_error: String, blocking_dependents: Vec<TestId>,
    }
    /// A lease was granted.
    FileLocked = "file_locked", 5 {
        file_path: String, loop_id: ActorId, test_id: Option<TestId>, reason: Option<String>, ttl_seconds: Option<i64>,
    }
    /// A lease ended.
    FileUnlocked = "file_unlocked", 5 { file_path: String, loop_id: String, held_for_seconds: i64, cause: UnlockCause }
    /// Two loops changed one file within the window.
    FileConflict = "file_conflict", 3 {
        file_path: String, loop_a: LoopId, loop_b: LoopId, time_a: Timestamp, time_b: Timestamp,
    }
    /// A loop makes no progress.
    StuckDetected = "stuck_detected", 3 {
        loop_id: LoopId, test_id: Option<TestId>, consecutive_failures: i64, stuck_for_minutes: i64, last_error: Option<String>,
    }
    /// A loop strays from its test.
    DigressionDetected = "digression_detected", 3 {
        loop_id: LoopId, test_id: TestId, files_modified: i64, expected_scope: Vec<String>, actual_scope: Vec<String>,
        repeated_error: Option<String>,
    }
    /// A budget or the machine runs low.
    ResourceWarning = "resource_warning", 3 {
        loop_id: Option<LoopId>, resource: String, current: i64, limit: i64, percentage: i64,
    }
    /// A test that had passed fails on the integration branch.
    RegressionDetected = "regression_detected", 2 {
        test_id: TestId, last_passed_commit: String, current_commit: String, first_bad_commit: Option<String>,
        blamed_loop: Option<LoopId>, blamed_test: Option<TestId>, output_tail: String,
    }
    /// A regressed test passes again.
    RegressionCleared = "regression_cleared", 4 { test_id: TestId, commit: String }
    /// A question to the human.
    DecisionNeeded = "decision_needed", 2 {
        decision_id: DecisionId, decision_type: String, summary: String, options: Vec<DecisionOption>,
        default_option: Option<String>, timeout_minutes: Option<i64>, context: Value,
    }
    /// A question is settled.
    DecisionResolved = "decision_resolved", 3 {
        decision_id: DecisionId, choice: Option<String>, decided_by: Option<String>, status: String, comment: Option<String>,
    }
    /// A test that nobody was working on goes to another loop.
    TestMoved = "test_moved", 4 { test_id: TestId, from_loop: LoopId, to_loop: LoopId, reason: String }
    /// A loop counts for more or less than before.
    PriorityChanged = "priority_changed", 5 { loop_id: LoopId, old_priority: i64, new_priority: i64, reason: String }
    /// A loop is to stop working and keep its work.
    PauseRequested = "pause_requested", 2 { loop_id: LoopId, reason: String, requested_by: ActorId }
    /// A pause is lifted.
    ResumeRequested = "resume_requested", 2 { loop_id: LoopId, reason: String, requested_by: ActorId }
    /// A loop has paused.
    LoopPaused = "loop_paused", 4 { loop_id: LoopId, reason: String, caused_by: Option<String> }
    /// A loop works again.
    LoopResumed = "loop_resumed", 4 { loop_id: LoopId, reason: String, caused_by: Option<String> }
    /// A loop is to give up its attempt and begin afresh.
    RestartRequested = "restart_requested", 2 { loop_id: LoopId, reason: String, requested_by: ActorId }
    /// A loop is to go back to a checkpoint.
    RollbackTriggered = "rollback_triggered", 2 {
        loop_id: LoopId, checkpoint_id: Option<String>, reason: String, triggered_by: ActorId,
    }
    /// A loop has gone back.
    RollbackDone = "rollback_done", 4 { loop_id: LoopId, checkpoint_id: Option<String>, git_ref: String }
    /// A loop must give up its leases so that a deadlock ends.
    ForceRelease = "force_release", 1 {
        loop_id: LoopId, reason: String, locks_held: Vec<String>, must_rollback: bool, cycle: Vec<String>,
    }
    /// The human says something.
    HumanMessage = "human_message", 2 {
        message_type: String, decision_id: Option<DecisionId>, choice: Option<String>, comment: Option<String>, source: String,
    }
    /// A summary is asked for.
    SummaryRequested = "summary_requested", 5 { requested_by: ActorId, scope: String, since_hours: i64 }
    /// A loop has learned something.
    KnowledgeRecorded = "knowledge_recorded", 5 {
        knowledge_id: String, loop_id: Option<LoopId>, item_type: String, topic: Option<String>, content: String,
    }
    /// Something learned contradicts a decision that stands.
    KnowledgeConflict = "knowledge_conflict", 3 {
        new_knowledge_id: String, existing_knowledge_id: String, conflict_description: String,
    }
    /// A loop asks to change what another owns.
    ChangeRequested = "change_requested", 4 {
        request_id: String, resource_path: String, requestor_loop: LoopId, owner_loop: LoopId, request_type: RequestType,
        status: RequestStatus,
    }
    /// A change request is answered or applied.
    ChangeResolved = "change_resolved", 4 {
        request_id: String, resource_path: String, requestor_loop: LoopId, owner_loop: LoopId, request_type: RequestType,
        status: RequestStatus,
    }
    /// An agent's account has reached a limit, its service does not answer, or it needs a human: its loops wait.
    AgentLimited = "agent_limited", 3 {
        agent: String, account: Option<String>, loop_id: LoopId, until: Option<Timestamp>, reason: String,
    }
    /// The loops of an agent start attempts again.
    AgentAvailable = "agent_available", 4 { agent: String, account: Option<String>, loop_id: LoopId, reason: String }
    /// New commits of the user's branch are on integration, verified together with what has landed.
    Synced = "synced", 4 {
        branch: String, theirs: String, commit: String, behind: i64, verification_checks: Map<String, Value>,
    }
    /// A check fails at the head of integration before any agent has changed it: no attempt starts.
    BaseRed = "base_red", 2 { loop_id: LoopId, commit: String, check: String, output_tail: String }
    /// The checks were run at the head of integration, and attempts start.
    BaseProven = "base_proven", 5 {
        loop_id: LoopId, commit: String, checks: Vec<String>, flaky: Vec<String>, seconds: i64,
    }
    /// Finished work, verified alone, waits for its landing together with others.
    LandingQueued = "landing_queued", 5 {
        landing_id: String, test_id: TestId, loop_id: LoopId, attempt: i64, commit: String, position: i64,
    }
    /// Works put on one another were judged.
    BatchJudged = "batch_judged", 5 {
        batch_id: String, batch: Vec<TestId>, base: String, commit: String, outcome: BatchOutcome, check: Option<String>,
        why: Option<String>, seconds: i64, reused: bool,
    }
    /// The agent gives up its test: the attempt ends when its run does.
    AgentGaveUp = "agent_gave_up", 4 { test_id: TestId, loop_id: LoopId, attempt: i64, reason: String }
    /// Checks were run on unfinished work, for the agent. They prove nothing.
    WorkChecked = "work_checked", 5 {
        test_id: TestId, loop_id: LoopId, attempt: i64, tree: String, passed: bool, check: Option<String>,
        why: Option<String>, session: Option<String>, seconds: i64,
    }
    /// A process is ready.
    ComponentStarted = "component_started", 5 { component: String, pid: i64, version: String }
    /// A process has stopped in an orderly way.
    ComponentStopped = "component_stopped", 5 { component: String, reason: String }
    /// A component beats late or not at all.
    ComponentDegraded = "component_degraded", 2 {
        component: String, last_heartbeat: Option<Timestamp>, status: HealthStatus, cause: Option<String>,
    }
    /// A component beats again.
    ComponentRecovered = "component_recovered", 4 { component: String, down_for_seconds: i64 }
}

/// One answer that the human can give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionOption {
    /// What `loopctl decide` takes.
    pub id: String,
    /// What it means and what follows from it.
    pub description: String,
}

/// The resource of a budget in money, in millionths of a US dollar.
pub const MICROUSD: &str = "microusd";

/// An amount of a resource of [`ResourceWarning`].
#[must_use]
pub fn amount(resource: &str, number: i64) -> String {
    if resource == MICROUSD { dollars(number) } else { number.to_string() }
}

/// A resource of [`ResourceWarning`] in words.
#[must_use]
pub fn resource_name(resource: &str) -> &str {
    if resource == MICROUSD { "cost" } else { resource }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn payloads_fit_the_catalog_or_are_refused() {
        let good = json!({"component": "x", "pid": 1, "version": "1", "extra": true});
        assert!(Payload::parse("component_started", &good).is_ok());
        assert!(Payload::parse("component_started", &json!({"component": "x"})).is_err());
        assert!(Payload::parse("custom.mine", &json!([1])).is_ok());
        assert!(Payload::parse("custom.", &json!({})).is_err());
        assert!(Payload::parse("unheard_of", &json!({})).is_err());
        assert!(
            Payload::parse(
                "test_failed",
                &json!({"test_id": "t", "loop_id": "l", "attempt": 1,
                "error_category": "bad luck", "error_message": "", "will_retry": true})
            )
            .is_err()
        );
    }
}
