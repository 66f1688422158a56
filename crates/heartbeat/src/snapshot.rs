//! The input of the decision, read in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::silent_millis;
use coord_db::{
    Alert, ClockChange, ClockChangeSeen, Component, Config, JournalEntry, Lease, LeaseRequest, Loop, LoopStatus, ReadTx,
    Result, StaleDeliveries, Test, Timestamp, WaitEdge,
};
use supervisor::Supervisor;

use crate::{Heartbeat, Observation};

/// Maximum number of rows of one kind cleaned up in one pass.
pub const MAX_ROWS: usize = 200;
/// Interval at which expired edges and requests, which are harmless, are searched.
pub const SWEEP_EVERY_MILLIS: i64 = 30_000;
/// Prefix of the fingerprints of alerts about components.
pub const FINGERPRINT: &str = "component:";
/// Prefix of the fingerprints of alerts about unread deliveries; the subscriber follows.
pub const STALE_FINGERPRINT: &str = "untaken:";

/// Prefix of the fingerprints of alerts about unfinished operations.
pub const OPERATIONS: &str = "journal:";

/// One component, with everything that concerns its health.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Its id.
    pub id: String,
    /// Its row in `component_health`; a loop of an external tool may have none.
    pub health: Option<Component>,
    /// Its row in `loops`, if it is a loop.
    pub loop_row: Option<Loop>,
    /// The state of its process, if it has named one.
    pub liveness: Option<Liveness>,
    /// The open alert about it: the last report.
    pub alert: Option<Alert>,
    /// The keeper of its agent, if it is a provably dead loop.
    pub leftover: Option<Leftover>,
}

impl Subject {
    /// Its name for people.
    pub(crate) fn label(&self) -> String {
        self.health.as_ref().map_or_else(|| self.id.clone(), Component::label)
    }
}

/// The keeper of a loop's agent, which ends by itself soon after the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftover {
    /// Its pid.
    pub pid: i64,
    /// When it started, in clock ticks since boot.
    pub start_time: i64,
    /// When its time to end by itself is over.
    pub due: Timestamp,
}

/// Time that a keeper has in addition to the agent's time to end.
const KEEPER_SECONDS: i64 = 20;

/// Only for a provably dead loop of this boot and this pid namespace whose death was handled.
fn leftover(config: &Config, health: Option<&Component>, row: Option<&Loop>, liveness: Option<Liveness>) -> Option<Leftover> {
    let (health, row) = (health?, row?);
    let own = ProcessIdentity::own();
    let here = health.boot_id == own.boot_id && health.pid_namespace == own.pid_namespace && own.boot_id.is_some();
    let (pid, start_time, died) = (health.child_pid?, health.child_pid_start_time?, row.died_at?);
    let kill_after = i64::try_from(config.agent_of(&row.id).kill_after_seconds).unwrap_or(i64::MAX);
    let due = died.plus_seconds(kill_after.saturating_add(KEEPER_SECONDS));
    (here && row.status == LoopStatus::Error && liveness == Some(Liveness::Gone)).then_some(Leftover { pid, start_time, due })
}

/// Rows to clean up besides leases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sweep {
    /// Wait edges that have expired or whose waiter is dead.
    pub edges: Vec<WaitEdge>,
    /// Queued requests that have expired or whose loop is dead or unknown.
    pub requests: Vec<LeaseRequest>,
    /// Deliveries unread for `retention.delivery_days`, by subscriber.
    pub stale: Vec<StaleDeliveries>,
    /// The open alerts about unread deliveries of subscribers that have returned or were removed.
    pub unread_alerts: Vec<Alert>,
}

impl Sweep {
    pub(crate) fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.requests.is_empty() && self.stale.is_empty() && self.unread_alerts.is_empty()
    }
}

/// The input of the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatSnapshot {
    /// The time of the snapshot.
    pub now: Timestamp,
    /// The change of the clocks since they were stored.
    pub clock_change: ClockChange,
    /// When they were stored.
    pub clock_seen_at: Option<Timestamp>,
    /// Recent sleeps and clock changes.
    pub clock_changes: Vec<ClockChangeSeen>,
    /// True in the grace period, in which missing heartbeats and expired leases do not count.
    pub in_grace: bool,
    /// End of the grace period.
    pub grace_until: Option<Timestamp>,
    /// Every component and every loop, by id.
    pub subjects: Vec<Subject>,
    /// Open alerts about removed components.
    pub orphan_alerts: Vec<Alert>,
    /// Unfinished operations of all other components.
    pub open_operations: Vec<JournalEntry>,
    /// The open alerts about unfinished operations.
    pub operation_alerts: Vec<Alert>,
    /// Expired leases.
    pub expired: Vec<Lease>,
    /// When the next lease expires.
    pub next_expiry: Option<Timestamp>,
    /// Tests in progress that no loop works on.
    pub abandoned_tests: Vec<Test>,
    /// None if the last search was recent.
    pub sweep: Option<Sweep>,
}

/// The process of a component: that of its health row, else that of the loop's row.
fn identity(health: Option<&Component>, loop_row: Option<&Loop>) -> Option<ProcessIdentity> {
    health.and_then(Component::identity).or_else(|| {
        let pid = loop_row?.pid?;
        Some(ProcessIdentity { pid, pid_start_time: None, boot_id: None, pid_namespace: None, host: None })
    })
}

type Rows = BTreeMap<String, (Option<Component>, Option<Loop>)>;

fn rows(tx: &ReadTx<'_>) -> Result<Rows> {
    let own = tx.supervisor_id(Heartbeat::ID)?;
    let mut rows = Rows::new();
    for component in tx.components()? {
        // Heartbeat does not judge itself. That of another host is judged like any other component.
        if component.component != own.as_str() {
            let row = rows.entry(component.component.clone()).or_default();
            row.0 = Some(component);
        }
    }
    for row in tx.loops()? {
        let entry = rows.entry(row.id.to_string()).or_default();
        entry.1 = Some(row);
    }
    Ok(rows)
}

/// The processes to check, by component.
pub(crate) fn processes(tx: &ReadTx<'_>) -> Result<BTreeMap<String, ProcessIdentity>> {
    let rows = rows(tx)?;
    Ok(rows.into_iter().filter_map(|(id, (health, row))| Some((id, identity(health.as_ref(), row.as_ref())?))).collect())
}

pub(crate) fn load(config: &Config, tx: &ReadTx<'_>, observation: &Observation, sweep: bool) -> Result<HeartbeatSnapshot> {
    let own = tx.supervisor_id(Heartbeat::ID)?;
    let mut alerts: BTreeMap<String, Alert> = tx
        .open_alerts_with(FINGERPRINT)?
        .into_iter()
        .filter_map(|alert| Some((alert.fingerprint.as_deref()?.strip_prefix(FINGERPRINT)?.to_owned(), alert)))
        .collect();
    let subjects = rows(tx)?
        .into_iter()
        .map(|(id, (health, loop_row))| {
            let identity = identity(health.as_ref(), loop_row.as_ref());
            // The observation counts only for the process that the rows name now.
            let liveness = identity.and_then(|identity| {
                observation.processes.get(&id).filter(|(seen, _)| *seen == identity).map(|(_, liveness)| {
                    match (liveness, &health) {
                        (Liveness::Gone, Some(health)) => tx.liveness(health),
                        _ => *liveness,
                    }
                })
            });
            let alert = alerts.remove(&id);
            let leftover = leftover(config, health.as_ref(), loop_row.as_ref(), liveness);
            Subject { id, health, loop_row, liveness, alert, leftover }
        })
        .collect();
    let mut expired = tx.expired_leases()?;
    expired.truncate(MAX_ROWS);
    let sweep = if sweep {
        let stale_before = tx.now().plus_seconds(config.retention.delivery_days.saturating_mul(-86_400));
        Some(Sweep {
            edges: tx.wait_edges_to_sweep(MAX_ROWS)?,
            requests: tx.lease_requests_to_sweep(MAX_ROWS)?,
            stale: tx.stale_deliveries(stale_before, MAX_ROWS)?,
            unread_alerts: tx.alerts_of_returned_subscribers(STALE_FINGERPRINT)?,
        })
    } else {
        None
    };
    Ok(HeartbeatSnapshot {
        now: tx.now(),
        clock_change: tx.clock_change()?,
        clock_changes: tx.clock_changes()?,
        clock_seen_at: tx.clock_seen_at()?,
        in_grace: tx.in_clock_grace()?,
        grace_until: tx.clock_grace_until()?,
        subjects,
        open_operations: tx
            .open_journal(None)?
            .into_iter()
            .filter(|entry| entry.component.as_deref() != Some(own.as_str()))
            .collect(),
        operation_alerts: tx.open_alerts_with(OPERATIONS)?,
        orphan_alerts: alerts.into_values().collect(),
        expired,
        next_expiry: tx.next_lease_expiry()?,
        abandoned_tests: tx.abandoned_tests(MAX_ROWS)?,
        sweep,
    })
}

impl HeartbeatSnapshot {
    /// How long a component has been silent since a heartbeat, while the machine was awake.
    pub(crate) fn silent_millis(&self, beat: Timestamp) -> i64 {
        silent_millis(self.now, beat, &self.clock_changes)
    }

    /// Since when it would have been silent if the machine had never slept.
    pub(crate) fn silent_since(&self, beat: Timestamp) -> Timestamp {
        // A heartbeat in the future is judged when its time has come.
        if beat > self.now { beat } else { self.now.plus_millis(-self.silent_millis(beat)) }
    }

    /// The ids of the registered loops.
    pub(crate) fn loop_ids(&self) -> BTreeSet<&str> {
        self.subjects.iter().filter(|subject| subject.loop_row.is_some()).map(|subject| subject.id.as_str()).collect()
    }
}
