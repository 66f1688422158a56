//! Steps of journal entries, notes of bisections, and outcomes of effects.

use coord_db::{LoopId, Regression, RunOutcome, TestId, Timestamp};
use git::CommitHash;
use git::bisect::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The operation that runs one check at the head of the integration branch.
pub const CHECK_HEAD: &str = "check_head";
/// The operation that runs a check that failed at the head for single tests.
pub const ASK_TESTS: &str = "ask_tests";
/// The operation that runs one check at the head on a fresh clone without caches.
pub const CHECK_COLD: &str = "check_cold";
/// The operation that runs one round of a bisection, or more while they are short.
pub const BISECT: &str = "bisect";

/// The steps of [`CHECK_HEAD`], [`ASK_TESTS`] and [`CHECK_COLD`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadCheck {
    /// The check's name.
    pub check: String,
    /// The commit.
    pub commit: String,
    /// The check is known to fail there, so a single failure suffices.
    #[serde(default)]
    pub again: bool,
}

/// The steps of [`BISECT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BisectRound {
    /// The regression.
    pub regression: String,
    /// The round, from 0.
    pub round: u32,
    /// Commits blamed for failures of other tests in the same check: tried first.
    #[serde(default)]
    pub hints: Vec<String>,
}

/// A commit that was tried, and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The commit.
    pub commit: CommitHash,
    /// The verdict.
    pub verdict: Verdict,
}

/// The progress of a bisection: the column `bisect` of its regression.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BisectNotes {
    /// Number of completed rounds.
    pub rounds: u32,
    /// Number of runs of the check in them.
    pub runs: u32,
    /// End of the last round.
    pub at: Option<Timestamp>,
    /// The exit code with which the check failed at the bad commit.
    pub exit_code: Option<i32>,
    /// The commits tried, in order; a later verdict for a commit replaces an earlier one.
    pub tried: Vec<Tried>,
    /// Number of consecutive rounds that could not run.
    pub failures: u32,
    /// If it ended without a first bad commit: the candidates.
    pub suspects: Vec<String>,
    /// How it ended, as text.
    pub ended: Option<String>,
}

impl BisectNotes {
    /// Parses the notes of a row; empty ones if there are none or they are invalid.
    #[must_use]
    pub fn of(row: &Regression) -> Self {
        row.bisect.as_ref().and_then(|value| Self::deserialize(value).ok()).unwrap_or_default()
    }

    /// The value of the column.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// The outcome of an effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A check ran at the head.
    Checked(Checked),
    /// A check ran on a fresh clone without caches.
    Cold(ColdChecked),
    /// A round of a bisection ran.
    Round(Round),
    /// It could not run because of an error of git, the disk or the database.
    Failed(String),
}

/// The result of a check at the head.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// The outcome.
    pub outcome: RunOutcome,
    /// Number of runs of the whole check.
    pub runs: i64,
    /// Why it did not pass.
    pub message: String,
    /// The end of its output.
    pub output_tail: String,
    /// If it fails: its results for single tests with a baseline.
    pub tests: Vec<TestVerdict>,
}

/// The result of a check on a fresh clone without caches.
#[derive(Debug, Clone, PartialEq)]
pub struct ColdChecked {
    /// The outcome.
    pub outcome: RunOutcome,
    /// Number of runs.
    pub runs: i64,
    /// Why it did not pass.
    pub message: String,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The end of its output.
    pub output_tail: String,
    /// If it fails: an ancestor at which it passes on a fresh clone.
    pub last_good: Option<String>,
}

/// The result of a check for one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestVerdict {
    /// The test.
    pub test: TestId,
    /// The outcome; an error if the test cannot be judged at this commit.
    pub outcome: RunOutcome,
    /// Number of runs for this test.
    pub runs: i64,
    /// The newest of its baselines that is an ancestor of this commit. None also if the test has passed at this commit.
    pub last_good: Option<String>,
    /// If it fails with a known regression: the ancestor with which the blamed test has landed again.
    pub landed_again: Option<String>,
    /// Its newest baseline at any commit.
    pub newest_baseline: String,
    /// The check's exit code.
    pub exit_code: Option<i32>,
    /// The end of the check's output.
    pub output_tail: String,
}

/// The result of one or several rounds of a bisection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Number of rounds.
    pub rounds: u32,
    /// The commits tried in them.
    pub tried: Vec<Tried>,
    /// Number of runs of the check.
    pub runs: u32,
    /// The result, if the bisection has ended.
    pub found: Option<Found>,
}

/// The result of a bisection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The first bad commit, with the loop and test in its trailers.
    FirstBad {
        /// The commit.
        commit: CommitHash,
        /// Value of the trailer `Loop`.
        blamed_loop: Option<LoopId>,
        /// Value of the trailer `Test`.
        blamed_test: Option<TestId>,
    },
    /// The test is flaky.
    Flaky {
        /// The reason.
        why: String,
    },
    /// The cause is unknown.
    Unknown {
        /// The reason.
        why: String,
        /// The candidates.
        suspects: Vec<CommitHash>,
    },
}
