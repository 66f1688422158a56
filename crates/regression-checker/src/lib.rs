//! Regression-checker: runs passed checks again when the integration branch moves, confirms a failure, bisects, and
//! blames.
//!
//! It must never run a command that is not a configured check, and never touch a check-out except its own. Results are
//! stored in rows (`check_runs`, `regressions`) and intended runs in the journal, so a restart continues and reports
//! nothing twice.

mod apply;
pub mod decide;
pub mod notes;
pub mod observe;
mod perform;
mod record;
mod refresh;
pub mod snapshot;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coord_db::config::CheckConfig;
use coord_db::supervisors::{self, Program};
use coord_db::{BaselineTest, Config, Database, JournalEntry, ReadTx, Regression, Result, TestId, TestStatus, WriteTx};
use supervisor::{LocalFuture, Plan, Supervisor, Waker};

pub use decide::Action;
pub use notes::{BisectNotes, BisectRound, Checked, ColdChecked, Found, HeadCheck, Outcome, Round, TestVerdict, Tried};
pub use observe::Observation;
pub use snapshot::{OpenRegression, RegressionSnapshot, RunAtHead};

use perform::Bench;

/// Id of the regression-checker as component and as source of events.
pub(crate) const ID: &str = supervisors::REGRESSION_CHECKER.id;

/// The supervisor.
#[derive(Debug)]
pub struct RegressionChecker {
    config: Arc<Config>,
    database: PathBuf,
    observer: observe::Observer,
    /// Effects share check-outs, so only one is performed at a time, even if the journal has several open entries.
    turn: Arc<tokio::sync::Mutex<Bench>>,
    /// There may be check-outs that only a bisection needs.
    untidy: Cell<bool>,
}

impl Supervisor for RegressionChecker {
    type Observation = Observation;
    type Snapshot = RegressionSnapshot;
    type Action = Action;
    type Outcome = Outcome;

    const PROGRAM: &'static Program = &supervisors::REGRESSION_CHECKER;
    const HAS_EFFECTS: bool = true;

    fn new(config: Arc<Config>, database: &Path) -> Self {
        Self {
            config,
            database: database.to_owned(),
            observer: observe::Observer::default(),
            turn: Arc::default(),
            untidy: Cell::new(true),
        }
    }

    fn configure(&mut self, config: Arc<Config>) {
        self.config = config;
        self.turn = Arc::default();
        self.observer.forget();
    }

    fn attach(&mut self, waker: Waker) {
        self.observer.attach(waker);
    }

    fn observe(&mut self, db: &Database) -> Result<Observation> {
        self.observer.look(&self.config, || db.read(|tx| tx.landed_tests()))
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

/// The checks that also run on the integration branch, in the order of the settings.
pub(crate) fn baseline_checks(config: &Config) -> impl Iterator<Item = &CheckConfig> {
    config.gate.check.iter().filter(|check| check.baseline)
}

/// The check of this name, if it is one of [`baseline_checks`].
pub(crate) fn baseline_check<'a>(config: &'a Config, name: &str) -> Option<&'a CheckConfig> {
    baseline_checks(config).find(|check| check.name == name)
}

/// Like [`baseline_check`], also for the names under which failures on fresh clones are stored.
pub(crate) fn searched_check<'a>(config: &'a Config, name: &str) -> Option<&'a CheckConfig> {
    baseline_check(config, coord_db::strip_cold_suffix(name).unwrap_or(name))
}

/// True if a check has to run for a test: the check covers it and the test is done. A test that has to be done again is
/// not expected to pass before that, unless its regression is still open.
pub(crate) fn is_watched(check: &CheckConfig, test: &BaselineTest, open: &BTreeSet<TestId>) -> bool {
    let done = test.status.is_none_or(|status| status == TestStatus::Passed) || open.contains(&test.test_id);
    done && covers_category(check, &test.category) && test.test_id.as_str().parse::<TestId>().is_ok()
}

/// The tests with an open regression found by this check.
pub(crate) fn open_of(check: &str, rows: &[Regression]) -> BTreeSet<TestId> {
    rows.iter().filter(|row| row.check_name == check).map(|row| row.test_id.clone()).collect()
}

/// True if a check covers tests of this category.
pub(crate) fn covers_category(check: &CheckConfig, category: &str) -> bool {
    check.categories.is_empty() || check.categories.iter().any(|each| each == category)
}
