//! Heartbeat: detects degraded and dead components, cleans up after dead ones, and removes what has expired: leases,
//! waits, unread deliveries; it also moves settled old rows to the archive.
//!
//! It must never decide who works on what, never touch git or a workspace, and never end a process except those left by
//! the agent of a provably dead loop: about other processes it only reports that they have ended. Its open alerts are
//! its memory, so a restart reports nothing twice.

mod apply;
pub mod decide;
mod keep;
pub mod observe;
mod perform;
pub mod snapshot;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coord_db::supervisors::{self, Program};
use coord_db::{Config, Database, JournalEntry, ReadTx, Result, Timestamp, WriteTx};
use supervisor::{LocalFuture, Plan, Supervisor, Waker};

pub use decide::{Action, Verdict};
pub use observe::Observation;
pub use perform::Ended;
pub use snapshot::{HeartbeatSnapshot, Leftover, Subject};

/// The supervisor.
#[derive(Debug)]
pub struct Heartbeat {
    config: Arc<Config>,
    watches: observe::Watches,
    /// When nothing was left to clean up last. Only a cache: a new process cleans up at once.
    swept_at: Option<Timestamp>,
    /// When this process, or the database, stood still last.
    stood_still_at: Option<Instant>,
    keeper: keep::Keeper,
}

impl Supervisor for Heartbeat {
    type Observation = Observation;
    type Snapshot = HeartbeatSnapshot;
    type Action = Action;
    type Outcome = Ended;

    const PROGRAM: &'static Program = &supervisors::HEARTBEAT;
    const HAS_EFFECTS: bool = true;
    // The processes concerned do not survive a power failure, and a death has to be handled at once.
    const DURABLE_INTENTS: bool = false;

    fn new(config: Arc<Config>, _database: &Path) -> Self {
        Self {
            config,
            watches: observe::Watches::default(),
            swept_at: None,
            stood_still_at: None,
            keeper: keep::Keeper::default(),
        }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    fn attach(&mut self, waker: Waker) {
        self.watches.attach(waker);
    }

    fn observe(&mut self, db: &Database) -> Result<Observation> {
        let processes = db.read(snapshot::processes)?;
        Ok(self.watches.look(processes))
    }

    fn stood_still(&mut self) {
        self.stood_still_at = Some(Instant::now());
    }

    fn snapshot(&mut self, tx: &ReadTx<'_>, observation: &Observation) -> Result<HeartbeatSnapshot> {
        let sweep = self.swept_at.is_none_or(|at| tx.now().millis_since(at).abs() >= snapshot::SWEEP_EVERY_MILLIS);
        let mut snapshot = snapshot::load(&self.config, tx, observation, sweep)?;
        let grace = u64::try_from(self.config.heartbeat.wake_grace_seconds).unwrap_or(0);
        if let Some(left) = self.stood_still_at.and_then(|at| Duration::from_secs(grace).checked_sub(at.elapsed())) {
            let until = tx.now().plus_millis(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
            snapshot.in_grace = true;
            snapshot.grace_until = Some(snapshot.grace_until.map_or(until, |later| later.max(until)));
        }
        if snapshot.sweep.as_ref().is_some_and(snapshot::Sweep::is_empty) {
            self.swept_at = Some(tx.now());
        }
        Ok(snapshot)
    }

    fn decide(config: &Config, snapshot: &HeartbeatSnapshot) -> Plan<Action> {
        decide::decide(&config.heartbeat, snapshot)
    }

    fn apply(&self, tx: &WriteTx<'_>, snapshot: &HeartbeatSnapshot, action: &Action) -> Result<()> {
        apply::apply(&self.config.heartbeat, tx, snapshot, action)
    }

    fn upkeep(&mut self, db: &Database) -> Result<bool> {
        Ok(self.keeper.step(db, &self.config.retention))
    }

    fn perform(&self, entry: JournalEntry) -> LocalFuture<Ended> {
        perform::perform(&entry)
    }

    fn record(&self, tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Ended) -> Result<()> {
        perform::record(tx, entry, outcome)
    }

    fn config(&self) -> &Config {
        &self.config
    }
}
