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
    keeper: keep::Keeper,
}

impl Supervisor for Heartbeat {
    type Observation = Observation;
    type Snapshot = HeartbeatSnapshot;
    type Action = Action;
    type Outcome = Ended;

    const ID: &'static str = "heartbeat";
    const HAS_EFFECTS: bool = true;
    // The processes concerned do not survive a power failure, and a death has to be handled at once.
    const DURABLE_INTENTS: bool = false;

    fn new(config: Arc<Config>, _database: &Path) -> Self {
        Self { config, watches: observe::Watches::default(), swept_at: None, keeper: keep::Keeper::default() }
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

    fn snapshot(&mut self, tx: &ReadTx<'_>, observation: &Observation) -> Result<HeartbeatSnapshot> {
        let sweep = self.swept_at.is_none_or(|at| tx.now().millis_since(at).abs() >= snapshot::SWEEP_EVERY_MILLIS);
        let snapshot = snapshot::load(&self.config, tx, observation, sweep)?;
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
