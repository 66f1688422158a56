//! Deadlock-detector: finds loops that wait for each other in a cycle, and chooses a victim that releases its leases.
//!
//! It must never touch a loop that is not in a cycle. Open deadlocks are stored in rows, so after a restart no victim
//! is notified twice.
//!
//! Loops wait for leases and for places in the queues for leases. Tests wait for the tests that they depend on, for
//! permission to change what another loop owns, and for their turn. All these waits form one graph. A cycle ends when a
//! victim gives up what another member waits for. A cycle of tests alone becomes a question to the human, and a cycle
//! that an answer to a change request would end is reported to the human. Waiting for the human closes no cycle,
//! because the human can always answer. Being paused because of a conflict closes no cycle either: pm ensures that the
//! loop for which the others wait works and waits for none of them.
//!
//! The cost of a pass grows with the number of new waits and not with the graph. Only a new edge can close a cycle; an
//! old edge becomes live or dead only within a cycle to which it already belonged. The detector therefore keeps in
//! memory how far it has read and which nodes are in a cycle (over live or dead edges), and reads only around those
//! nodes and new edges. This memory is only a cache: it is empty at the start, and at intervals the whole graph is
//! read.

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

use coord_db::supervisors::{self, Program};
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

    const PROGRAM: &'static Program = &supervisors::DEADLOCK_DETECTOR;

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
        // A pass that finds nothing to do has also read the waits.
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
