//! Monitor: finds loops that are stuck, digressing, in conflict with each other or over budget, and raises alerts.
//!
//! It must never decide what to do about a problem, and never write to a workspace. Its open alerts are its memory: an
//! event is published only together with the alert that it opens or escalates, so that a restart reports nothing twice.

mod apply;
pub mod decide;
pub mod observe;
pub mod output;
pub mod snapshot;
pub mod trail;
mod watch;

use std::path::Path;
use std::sync::Arc;

use coord_db::supervisors::{self, Program};
use coord_db::{Config, Database, ReadTx, Result, WriteTx};
use supervisor::{Plan, Supervisor, Waker};

pub use decide::{Action, Finding};
pub use observe::{Disk, Observation, WorkspaceChanges, WorkspaceState};
pub use output::Output;
pub use snapshot::MonitorSnapshot;

/// The supervisor.
#[derive(Debug)]
pub struct Monitor {
    config: Arc<Config>,
    observer: observe::Observer,
    /// A cache of the events and of today's usage, so that each pass reads only new rows. Reading all rows again would
    /// give the same decisions.
    memory: snapshot::Memory,
}

impl Supervisor for Monitor {
    type Observation = Observation;
    type Snapshot = MonitorSnapshot;
    type Action = Action;
    type Outcome = ();

    const PROGRAM: &'static Program = &supervisors::MONITOR;

    fn new(config: Arc<Config>, _database: &Path) -> Self {
        Self { config, observer: observe::Observer::default(), memory: snapshot::Memory::default() }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
        self.observer.forget();
    }

    fn attach(&mut self, waker: Waker) {
        self.observer.attach(waker);
    }

    fn observe(&mut self, db: &Database) -> Result<Observation> {
        self.observer.observe(&self.config, db)
    }

    fn snapshot(&mut self, tx: &ReadTx<'_>, observation: &Observation) -> Result<MonitorSnapshot> {
        snapshot::load(&self.config, &mut self.memory, tx, observation)
    }

    fn decide(config: &Config, snapshot: &MonitorSnapshot) -> Plan<Action> {
        decide::decide(config, snapshot)
    }

    fn apply(&self, tx: &WriteTx<'_>, _snapshot: &MonitorSnapshot, action: &Action) -> Result<()> {
        apply::apply(tx, action)
    }

    fn config(&self) -> &Config {
        &self.config
    }
}
