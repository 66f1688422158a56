//! The standing check: re-runs what had passed when the integration branch moves, confirms a failure, bisects, and blames.
//!
//! It must never run a command that is not a check of the config, and never touch a check-out but its own. What it has found
//! stands in rows (`check_runs`, `regressions`); what it is about to run stands in the journal. So a restart goes on where
//! it was and says nothing twice.

mod apply;
pub mod decide;
pub mod notes;
pub mod observe;
mod perform;
mod record;
pub mod snapshot;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, Config, Database, JournalEntry, ReadTx, Regression, Result, TestId, TestStatus, WriteTx};
use supervisor::{LocalFuture, Plan, Supervisor};

pub use decide::Action;
pub use notes::{BisectNotes, BisectRound, Checked, ColdChecked, Found, HeadCheck, Outcome, Round, TestVerdict, Tried};
pub use observe::Observation;
pub use snapshot::{OpenRegression, RegressionSnapshot, RunAtHead};

use perform::Bench;

/// Its id.
pub(crate) const ID: &str = "regression-checker";

/// The supervisor.
#[derive(Debug)]
pub struct RegressionChecker {
    config: Arc<Config>,
    database: PathBuf,
    eyes: observe::Eyes,
    /// Effects share check-outs, so one is performed at a time, also when the journal has several open.
    turn: Arc<tokio::sync::Mutex<Bench>>,
    /// The check-outs that only a search needs may be there.
    untidy: Cell<bool>,
}

impl Supervisor for RegressionChecker {
    type Observation = Observation;
    type Snapshot = RegressionSnapshot;
    type Action = Action;
    type Outcome = Outcome;

    const ID: &'static str = ID;
    const HAS_EFFECTS: bool = true;

    fn new(config: Arc<Config>, database: &Path) -> Self {
        Self {
            config,
            database: database.to_owned(),
            eyes: observe::Eyes::default(),
            turn: Arc::default(),
            untidy: Cell::new(true),
        }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
        self.turn = Arc::default();
        self.eyes = observe::Eyes::default();
    }

    fn observe(&mut self, db: &Database) -> Result<Observation> {
        self.eyes.look(&self.config, || db.read(|tx| tx.landed_tests()))
    }

    fn snapshot(&mut self, tx: &ReadTx<'_>, observation: &Observation) -> Result<RegressionSnapshot> {
        snapshot::load(&self.config, tx, observation)
    }

    fn decide(config: &Config, snapshot: &RegressionSnapshot) -> Plan<Action> {
        decide::decide(config, snapshot)
    }

    fn apply(&self, tx: &WriteTx<'_>, _snapshot: &RegressionSnapshot, action: &Action) -> Result<()> {
        apply::apply(tx, action)
    }

    fn upkeep(&mut self, _db: &Database) -> Result<bool> {
        if self.untidy.get()
            && let Ok(mut bench) = self.turn.try_lock()
        {
            self.untidy.set(false);
            perform::remove_spare_check_outs(&self.config, &mut bench);
        }
        Ok(false)
    }

    fn perform(&self, entry: JournalEntry) -> LocalFuture<Outcome> {
        self.untidy.set(true);
        perform::perform(Arc::clone(&self.config), self.database.clone(), Arc::clone(&self.turn), entry)
    }

    fn record(&self, tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Outcome) -> Result<()> {
        record::record(&self.config, tx, entry, outcome)
    }

    fn config(&self) -> &Config {
        &self.config
    }
}

/// The checks that are also run on the integration branch, in the config's order.
pub(crate) fn baseline_checks(config: &Config) -> impl Iterator<Item = &CheckConfig> {
    config.gate.check.iter().filter(|check| check.baseline)
}

/// The check of this name, if it is one of [`baseline_checks`].
pub(crate) fn baseline_check<'a>(config: &'a Config, name: &str) -> Option<&'a CheckConfig> {
    baseline_checks(config).find(|check| check.name == name)
}

/// As [`baseline_check`], by a name under which failures on fresh clones are on record too.
pub(crate) fn searched_check<'a>(config: &'a Config, name: &str) -> Option<&'a CheckConfig> {
    baseline_check(config, coord_db::strip_cold_suffix(name).unwrap_or(name))
}

/// Whether a check is to be asked about a test: one that it covers and that counts as done. What is to be done again is not
/// expected to pass before it has, unless that it fails is a matter still open.
pub(crate) fn watched(check: &CheckConfig, test: &BaselineTest, open: &BTreeSet<TestId>) -> bool {
    let done = test.status.is_none_or(|status| status == TestStatus::Passed) || open.contains(&test.test_id);
    done && applies(check, &test.category) && test.test_id.as_str().parse::<TestId>().is_ok()
}

/// The tests of which a check has found a regression that is not over.
pub(crate) fn open_of(check: &str, rows: &[Regression]) -> BTreeSet<TestId> {
    rows.iter().filter(|row| row.check_name == check).map(|row| row.test_id.clone()).collect()
}

/// Whether a check says something about tests of this category.
pub(crate) fn applies(check: &CheckConfig, category: &str) -> bool {
    check.categories.is_empty() || check.categories.iter().any(|each| each == category)
}
