//! pm: settles conflicts, dependencies and lost loops, asks the human where a decision is theirs, and applies the
//! answer.
//!
//! It must never run a command other than the human's `notify.command`, curl for `notify.preset` and `loopctl report` for
//! `notify.report_at`, and never touch git. Its questions, pauses and
//! moves are stored in rows (decisions, conflicts, pauses, alerts), so a restart repeats none of them.

mod apply;
pub mod decide;
mod matters;
mod notify;
mod perform;
mod report;
pub mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use coord_db::supervisors::{self, Program};
use coord_db::{Config, Database, JournalEntry, ReadTx, Result, WriteTx};
use supervisor::{Inbound, LocalFuture, Plan, Supervisor, Waker};

pub use decide::{Act, Action};
pub use perform::Notified;
pub use report::DailyReport;
pub use snapshot::PmSnapshot;

/// The supervisor.
#[derive(Debug)]
pub struct PmAgent {
    config: Arc<Config>,
    /// For the thread that takes answers from the phone.
    shared: Arc<Mutex<Arc<Config>>>,
    database: PathBuf,
    inbox: Vec<Inbound>,
    is_daemon: bool,
}

impl Supervisor for PmAgent {
    type Observation = ();
    type Snapshot = PmSnapshot;
    type Action = Action;
    type Outcome = Notified;

    const PROGRAM: &'static Program = &supervisors::PM_AGENT;
    const HAS_INBOX: bool = true;
    const HAS_EFFECTS: bool = true;

    fn new(config: Arc<Config>, database: &Path) -> Self {
        let shared = Arc::new(Mutex::new(Arc::clone(&config)));
        Self { config, shared, database: database.to_owned(), inbox: Vec::new(), is_daemon: false }
    }

    fn configure(&mut self, config: Arc<Config>) {
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&config);
        self.config = config;
    }

    fn attach(&mut self, _waker: Waker) {
        self.is_daemon = true;
        notify::answers::start(Arc::clone(&self.shared), self.database.clone());
    }

    fn observe(&mut self, _db: &Database) -> Result<()> {
        Ok(())
    }

    fn deliver(&mut self, inbox: Vec<Inbound>) {
        self.inbox = inbox;
    }

    fn snapshot(&mut self, tx: &ReadTx<'_>, (): &()) -> Result<PmSnapshot> {
        snapshot::load(&self.config, tx, std::mem::take(&mut self.inbox))
    }

    fn decide(config: &Config, snapshot: &PmSnapshot) -> Plan<Action> {
        decide::decide(config, snapshot)
    }

    fn apply(&self, tx: &WriteTx<'_>, _snapshot: &PmSnapshot, action: &Action) -> Result<()> {
        apply::apply(tx, action)
    }

    fn perform(&self, entry: JournalEntry) -> LocalFuture<Notified> {
        perform::notify(&self.config, &self.database, entry, self.is_daemon)
    }

    fn record(&self, tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Notified) -> Result<()> {
        perform::record(tx, entry, outcome)
    }

    fn config(&self) -> &Config {
        &self.config
    }
}
