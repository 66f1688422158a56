//! Rows with ordinary values, for tests of what is decided from rows: a test says only what it is about, and takes the rest by
//! struct update.

use coord_db::{
    Alert, AlertType, Component, Decision, DecisionStatus, Event, HealthStatus, Lease, Loop, LoopStatus, NoChange, Severity,
    StringList, Test, TestStatus, Timestamp,
};
use serde_json::json;

/// The time of everything in a sample row.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// An event of the loop `a` that says nothing.
///
/// # Panics
/// If the id is none.
#[must_use]
pub fn sample_event(id: &str) -> Event {
    Event {
        id: id.parse().expect("an id"),
        timestamp: NOW,
        source: "a".to_owned(),
        event_type: "custom.sample".to_owned(),
        payload: json!({}),
        correlation_id: None,
        priority: 5,
        acknowledged: false,
        acknowledged_by: None,
        acknowledged_at: None,
        caused_by: None,
    }
}

/// An open alert.
#[must_use]
pub fn sample_alert(id: &str) -> Alert {
    Alert {
        id: id.to_owned(),
        severity: Severity::Warning,
        alert_type: AlertType::Resource,
        source: "human".to_owned(),
        message: String::new(),
        context: json!({}),
        acknowledged: false,
        acknowledged_by: None,
        acknowledged_at: None,
        created_at: NOW,
        closed_at: None,
        updated_at: None,
        fingerprint: None,
        event_id: None,
    }
}

/// A running loop.
///
/// # Panics
/// If the id is none.
#[must_use]
pub fn sample_loop(id: &str) -> Loop {
    Loop {
        id: id.parse().expect("an id"),
        name: String::new(),
        priority: 5,
        branch: None,
        status: LoopStatus::Running,
        current_test_id: None,
        pid: None,
        created_at: NOW,
        updated_at: NOW,
        died_at: None,
        agent: None,
        vain_runs: 0,
    }
}

/// A test that nobody has begun.
///
/// # Panics
/// If an id is none.
#[must_use]
pub fn sample_test(id: &str, loop_id: &str) -> Test {
    Test {
        id: id.parse().expect("an id"),
        loop_id: loop_id.parse().expect("an id"),
        category: String::new(),
        status: TestStatus::Pending,
        attempts: 0,
        max_attempts: 3,
        last_result: None,
        depends_on: None,
        automatable: true,
        notes: None,
        spec_content: None,
        last_attempt_at: None,
        passed_at: None,
        verified_at: None,
        created_at: NOW,
        scope: StringList::default(),
        last_error: None,
        error_category: None,
        not_before: None,
        commit_hash: None,
        give_backs: 0,
        no_change: NoChange::Ask,
    }
}

/// A component that beats; nothing is known of its process.
#[must_use]
pub fn sample_component(id: &str) -> Component {
    Component {
        component: id.to_owned(),
        last_heartbeat: Some(NOW),
        status: HealthStatus::Healthy,
        metadata: json!({}),
        pid: None,
        pid_start_time: None,
        boot_id: None,
        pid_namespace: None,
        host: None,
        started_at: None,
        version: None,
        child_pid: None,
        child_pid_start_time: None,
    }
}

/// A lease that does not expire.
///
/// # Panics
/// If the path is none.
#[must_use]
pub fn sample_lease(path: &str, locked_by: &str) -> Lease {
    Lease {
        file_path: path.parse().expect("a path"),
        locked_by: locked_by.to_owned(),
        locked_at: NOW,
        lock_reason: None,
        expires_at: None,
        test_id: None,
        fencing_token: 1,
        ttl_seconds: None,
        automatic: false,
    }
}

/// An open question without options and without a time limit.
///
/// # Panics
/// If the id is none.
#[must_use]
pub fn sample_decision(id: &str) -> Decision {
    Decision {
        id: id.parse().expect("an id"),
        decision_type: "sample".to_owned(),
        summary: String::new(),
        options: json!([]),
        default_option: None,
        context: json!({}),
        timeout_minutes: None,
        status: DecisionStatus::Pending,
        requested_at: NOW,
        requested_by: None,
        decided_at: None,
        decided_by: None,
        choice: None,
        comment: None,
        fingerprint: None,
        expires_at: None,
        event_id: None,
    }
}
