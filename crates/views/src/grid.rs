//! All tests at a glance, each in one state.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::{Error, LedgerState, LoopId, ReadTx, Test, TestId, TestStatus, Timestamp};
use serde::Serialize;

/// The state of a test, with what is known of it since it passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has passed, and fails now.
    Regressed,
    /// It has no attempts left.
    Blocked,
    /// Its last attempt failed, and nobody works on it.
    Failed,
    /// It has passed, and fails now and then.
    Flaky,
    /// It has passed, and its checks have given no answer since.
    Unknown,
    /// A loop works on it.
    InProgress,
    /// Its work is verified and waits to land.
    Queued,
    /// It waits for its turn.
    Pending,
    /// It has passed.
    Passed,
    /// It is left out.
    Skipped,
}

impl State {
    /// Every state, those that need a look first.
    pub const ALL: [Self; 10] = [
        Self::Regressed,
        Self::Blocked,
        Self::Failed,
        Self::Flaky,
        Self::Unknown,
        Self::InProgress,
        Self::Queued,
        Self::Pending,
        Self::Passed,
        Self::Skipped,
    ];

    /// In words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Regressed => "regressed",
            Self::Blocked => "blocked",
            Self::Failed => "failed",
            Self::Flaky => "flaky",
            Self::Unknown => "unknown",
            Self::InProgress => "in progress",
            Self::Queued => "queued",
            Self::Pending => "pending",
            Self::Passed => "passed",
            Self::Skipped => "skipped",
        }
    }
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Cell {
    pub id: TestId,
    pub state: State,
    pub attempts: i64,
    pub max_attempts: i64,
    pub notes: Option<String>,
}

/// All tests, by loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct Grid {
    pub loops: Vec<(LoopId, Vec<Cell>)>,
    pub totals: BTreeMap<State, usize>,
    #[serde(rename = "at")]
    pub now: Timestamp,
}

/// Reads the state of all tests.
///
/// # Errors
/// What the database reports.
pub fn look(tx: &ReadTx<'_>) -> Result<Grid, Error> {
    let ledger: BTreeMap<TestId, LedgerState> = tx.ledger(None)?.into_iter().map(|line| (line.test_id, line.state)).collect();
    let queued: BTreeSet<TestId> = tx.open_landings()?.into_iter().map(|landing| landing.test_id).collect();
    let mut loops: BTreeMap<LoopId, Vec<Cell>> = tx.loops()?.into_iter().map(|row| (row.id, Vec::new())).collect();
    let mut totals = BTreeMap::new();
    for test in tx.tests(None, None)? {
        let state = state(&test, ledger.get(&test.id).copied(), queued.contains(&test.id));
        *totals.entry(state).or_default() += 1;
        let Test { id, attempts, max_attempts, notes, .. } = test;
        loops.entry(test.loop_id).or_default().push(Cell { id, state, attempts, max_attempts, notes });
    }
    Ok(Grid { loops: loops.into_iter().collect(), totals, now: tx.now() })
}

/// The state of one test, by its row, its line of the ledger and whether its work waits to land.
#[must_use]
pub fn state(test: &Test, ledger: Option<LedgerState>, queued: bool) -> State {
    match test.status {
        _ if queued => State::Queued,
        TestStatus::InProgress => State::InProgress,
        TestStatus::Blocked => State::Blocked,
        TestStatus::Skipped => State::Skipped,
        TestStatus::Failed => State::Failed,
        TestStatus::Pending => match ledger {
            Some(LedgerState::Regressed) => State::Regressed,
            _ if test.attempts > 0 => State::Failed,
            _ => State::Pending,
        },
        TestStatus::Passed => match ledger {
            Some(LedgerState::Regressed) => State::Regressed,
            Some(LedgerState::Flaky) => State::Flaky,
            Some(LedgerState::Unknown) => State::Unknown,
            _ => State::Passed,
        },
    }
}
