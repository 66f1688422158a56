//! Deadlock-detector: finds loops that wait for each other in a cycle, and names who gives way.
//!
//! It must never touch a loop that is not in a cycle. Which deadlocks are open stands in their rows, so a restart tells
//! no victim twice.
//!
//! Loops wait for leases, and for places in their queues. Tests wait for the tests they depend on, for leave to change what
//! another loop owns, and for their turn. All of these are one graph. A cycle ends when a victim gives back what somebody in
//! it waits for; one of nothing but tests becomes a question to the human, and one that an answer to a change request ends is
//! told to them. Waiting for the human closes no cycle: they can answer whatever else they wait for. Nor does being paused
//! for a conflict's sake: pm sees to it that whom the others wait for has its test in hand and waits for none of them.
//!
//! What a look reads grows with what is new, not with the graph. An edge that is new can close a cycle, and one that is
//! old only comes to life or dies in a cycle that it was part of all along. So it keeps in memory how far it has read
//! and who is in a cycle, over living edges or dead ones, and looks around those and around new edges. That memory saves
//! reading and nothing else: it is empty at the start, and now and then the whole graph is read whatever it says.

mod apply;
pub mod decide;
pub mod graph;
pub mod picture;
pub mod snapshot;
pub mod test_cycles;
mod victims;
pub mod waiting;

use std::path::Path;
use std::sync::Arc;

use coord_db::{Config, Database, ReadTx, Result, WriteTx};
use supervisor::{Plan, Supervisor};

pub use decide::Action;
pub use snapshot::DetectorSnapshot;

/// The supervisor.
#[derive(Debug)]
pub struct DeadlockDetector {
    config: Arc<Config>,
    memory: snapshot::Memory,
}

impl Supervisor for DeadlockDetector {
    type Observation = ();
    type Snapshot = DetectorSnapshot;
    type Action = Action;
    type Outcome = ();

    const ID: &'static str = "deadlock-detector";

    fn new(config: Arc<Config>, _database: &Path) -> Self {
        Self { config, memory: snapshot::Memory::default() }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
    }

    fn observe(&mut self, _db: &Database) -> Result<()> {
        Ok(())
    }

    fn snapshot(&mut self, tx: &ReadTx<'_>, _observation: &()) -> Result<DetectorSnapshot> {
        let (snapshot, memory) = snapshot::load(tx, &self.config.deadlock, &self.memory)?;
        // Also a look that finds nothing due has read.
        self.memory = memory;
        Ok(snapshot)
    }

    fn decide(config: &Config, snapshot: &DetectorSnapshot) -> Plan<Action> {
        decide::decide(&config.deadlock, snapshot)
    }

    fn apply(&self, tx: &WriteTx<'_>, _snapshot: &DetectorSnapshot, action: &Action) -> Result<()> {
        apply::apply(&self.config, tx, action)
    }

    fn config(&self) -> &Config {
        &self.config
    }
}
