//! What a judgement depends on, read in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::silent_millis;
use coord_db::{
    Alert, ClockChange, ClockChangeSeen, Component, Config, JournalEntry, Lease, LeaseRequest, Loop, LoopStatus, ReadTx,
    Result, StaleDeliveries, Test, Timestamp, WaitEdge,
};
use supervisor::Supervisor;

use crate::{Heartbeat, Observation};

/// So many rows of one kind are swept in one pass.
pub const MOST_ROWS: usize = 200;
/// Edges and requests that have ended harm nobody; they are looked for this often.
pub const SWEEP_EVERY_MILLIS: i64 = 30_000;
/// What the alerts about components begin with.
pub const FINGERPRINT: &str = "component:";
/// What the alerts about deliveries that nobody takes begin with; the subscription follows.
pub const STALE_FINGERPRINT: &str = "untaken:";

/// What the alerts about operations that nobody ends begin with.
pub const OPERATIONS: &str = "journal:";

/// One component as far as life and death go.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Its id.
    pub id: String,
    /// Its row in `component_health`; another tool's loop may have none.
    pub health: Option<Component>,
    /// Its row in `loops`, if it is a loop.
    pub loop_row: Option<Loop>,
    /// What the kernel says about its process, if it has named one.
    pub liveness: Option<Liveness>,
    /// The open alert about it: what was said of it last.
    pub alert: Option<Alert>,
    /// What its agent ran under, if it is a loop that is proven gone.
    pub leftover: Option<Leftover>,
}

/// The keeper that a loop's agent ran under, which ends by itself soon after the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leftover {
    /// Its pid.
    pub pid: i64,
    /// When it started, in clock ticks since boot.
    pub start_time: i64,
    /// When it has had its time.
    pub due: Timestamp,
}

/// What a keeper has beyond the agent's own time to end.
const KEEPER_SECONDS: i64 = 20;

/// Only for a loop that is proven gone, of this boot and this pid namespace, whose death was handled.
fn leftover(config: &Config, health: Option<&Component>, row: Option<&Loop>, liveness: Option<Liveness>) -> Option<Leftover> {
    let (health, row) = (health?, row?);
    let own = ProcessIdentity::own();
    let here = health.boot_id == own.boot_id && health.pid_namespace == own.pid_namespace && own.boot_id.is_some();
    let (pid, start_time, died) = (health.child_pid?, health.child_pid_start_time?, row.died_at?);
    let kill_after = i64::try_from(config.agent_of(&row.id).kill_after_seconds).unwrap_or(i64::MAX);
    let due = died.plus_seconds(kill_after.saturating_add(KEEPER_SECONDS));
    (here && row.status == LoopStatus::Error && liveness == Some(Liveness::Gone)).then_some(Leftover { pid, start_time, due })
}

/// What to sweep besides leases.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sweep {
    /// Edges that are over, or whose waiter is dead.
    pub edges: Vec<WaitEdge>,
    /// Acquires that are over, or whose loop is dead or unknown.
    pub requests: Vec<LeaseRequest>,
    /// Deliveries that nobody has taken in `retention.delivery_days`, by subscription.
    pub stale: Vec<StaleDeliveries>,
    /// The open alerts about such deliveries whose subscriber is back or gone.
    pub taken_again: Vec<Alert>,
}

impl Sweep {
    pub(crate) fn is_empty(&self) -> bool {
        self.edges.is_empty() && self.requests.is_empty() && self.stale.is_empty() && self.taken_again.is_empty()
    }
}

/// All that a judgement depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct HeartbeatSnapshot {
    /// The moment.
    pub now: Timestamp,
    /// What has happened to the clocks since someone wrote them down.
    pub clock_change: ClockChange,
    /// When that was.
    pub clock_seen_at: Option<Timestamp>,
    /// Sleeps and jumps of the clocks that were seen of late.
    pub clock_changes: Vec<ClockChangeSeen>,
    /// True while beats and expiries count against nobody.
    pub in_grace: bool,
    /// Until when.
    pub grace_until: Option<Timestamp>,
    /// Every component and every loop, by id.
    pub subjects: Vec<Subject>,
    /// Open alerts about components that are no more.
    pub orphan_alerts: Vec<Alert>,
    /// Operations that were begun and not ended, by any component but this one.
    pub open_operations: Vec<JournalEntry>,
    /// The open alerts about such operations.
    pub operation_alerts: Vec<Alert>,
    /// Leases whose time is over.
    pub expired: Vec<Lease>,
    /// When the next one's is.
    pub next_expiry: Option<Timestamp>,
    /// Tests in progress that nobody works on.
    pub abandoned_tests: Vec<Test>,
    /// None where it was looked for not long ago.
    pub sweep: Option<Sweep>,
}

/// The process that a component has named: its health row's, else a loop's own.
fn identity(health: Option<&Component>, loop_row: Option<&Loop>) -> Option<ProcessIdentity> {
    health.and_then(Component::identity).or_else(|| {
        let pid = loop_row?.pid?;
        Some(ProcessIdentity { pid, pid_start_time: None, boot_id: None, pid_namespace: None })
    })
}

type Rows = BTreeMap<String, (Option<Component>, Option<Loop>)>;

fn rows(tx: &ReadTx<'_>) -> Result<Rows> {
    let mut rows = Rows::new();
    for component in tx.components()? {
        // Its own beats are what makes it write at all.
        if component.component != Heartbeat::ID {
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

/// Which processes to ask the kernel about, by component.
pub(crate) fn processes(tx: &ReadTx<'_>) -> Result<BTreeMap<String, ProcessIdentity>> {
    let rows = rows(tx)?;
    Ok(rows.into_iter().filter_map(|(id, (health, row))| Some((id, identity(health.as_ref(), row.as_ref())?))).collect())
}

pub(crate) fn load(config: &Config, tx: &ReadTx<'_>, observation: &Observation, sweep: bool) -> Result<HeartbeatSnapshot> {
    let mut alerts: BTreeMap<String, Alert> = tx
        .open_alerts_with(FINGERPRINT)?
        .into_iter()
        .filter_map(|alert| Some((alert.fingerprint.as_deref()?.strip_prefix(FINGERPRINT)?.to_owned(), alert)))
        .collect();
    let subjects = rows(tx)?
        .into_iter()
        .map(|(id, (health, loop_row))| {
            let identity = identity(health.as_ref(), loop_row.as_ref());
            // What was seen counts only for the very process that the rows name now.
            let liveness = identity.and_then(|identity| {
                observation.processes.get(&id).filter(|(seen, _)| *seen == identity).map(|(_, liveness)| *liveness)
            });
            let alert = alerts.remove(&id);
            let leftover = leftover(config, health.as_ref(), loop_row.as_ref(), liveness);
            Subject { id, health, loop_row, liveness, alert, leftover }
        })
        .collect();
    let mut expired = tx.expired_leases()?;
    expired.truncate(MOST_ROWS);
    let sweep = if sweep {
        let stale_before = tx.now().plus_seconds(config.retention.delivery_days.saturating_mul(-86_400));
        Some(Sweep {
            edges: tx.wait_edges_to_sweep(MOST_ROWS)?,
            requests: tx.lease_requests_to_sweep(MOST_ROWS)?,
            stale: tx.stale_deliveries(stale_before, MOST_ROWS)?,
            taken_again: tx.alerts_of_returned_subscribers(STALE_FINGERPRINT)?,
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
            .filter(|entry| entry.component.as_deref() != Some(Heartbeat::ID))
            .collect(),
        operation_alerts: tx.open_alerts_with(OPERATIONS)?,
        orphan_alerts: alerts.into_values().collect(),
        expired,
        next_expiry: tx.next_lease_expiry()?,
        abandoned_tests: tx.abandoned_tests(MOST_ROWS)?,
        sweep,
    })
}

impl HeartbeatSnapshot {
    /// For how long one that beat then has been silent while the machine was awake.
    pub(crate) fn silent_millis(&self, beat: Timestamp) -> i64 {
        silent_millis(self.now, beat, &self.clock_changes)
    }

    /// Since when it would have been silent had the machine never slept.
    pub(crate) fn silent_since(&self, beat: Timestamp) -> Timestamp {
        // A beat from the future is judged when its time has come.
        if beat > self.now { beat } else { self.now.plus_millis(-self.silent_millis(beat)) }
    }

    /// The ids of the registered loops.
    pub(crate) fn loop_ids(&self) -> BTreeSet<&str> {
        self.subjects.iter().filter(|subject| subject.loop_row.is_some()).map(|subject| subject.id.as_str()).collect()
    }
}
