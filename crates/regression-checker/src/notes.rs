//! What effects are told and what they tell: the steps of a journal entry, the notes of a bisection, and outcomes.

use coord_db::{LoopId, Regression, RunOutcome, TestId, Timestamp};
use git::CommitHash;
use git::bisect::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The operation that runs one check at the head of the integration branch.
pub const CHECK_HEAD: &str = "check_head";
/// The operation that asks a check that failed at the head about single tests.
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
    /// Where.
    pub commit: String,
    /// It is known to fail there, so one more failure tells nothing new.
    #[serde(default)]
    pub again: bool,
}

/// The steps of [`BISECT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BisectRound {
    /// Which regression.
    pub regression: String,
    /// Which round, from 0.
    pub round: u32,
    /// Commits that the same check's failure of another test was traced to: worth trying first.
    #[serde(default)]
    pub hints: Vec<String>,
}

/// A commit that was tried, and what it told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The commit.
    pub commit: CommitHash,
    /// What it told.
    pub verdict: Verdict,
}

/// How far a bisection is: the column `bisect` of its regression.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BisectNotes {
    /// Rounds that are over.
    pub rounds: u32,
    /// Runs of the check in them.
    pub runs: u32,
    /// When the last one was over.
    pub at: Option<Timestamp>,
    /// The exit code with which the check failed at the bad commit.
    pub exit_code: Option<i32>,
    /// What was tried, in order; a later answer for a commit replaces an earlier one.
    pub tried: Vec<Tried>,
    /// Rounds in a row that could not be run.
    pub failures: u32,
    /// If it ended without one first bad commit: where that can be.
    pub suspects: Vec<String>,
    /// How it ended, in words.
    pub ended: Option<String>,
}

impl BisectNotes {
    /// The notes in a row; new ones if there are none that can be read.
    #[must_use]
    pub fn of(row: &Regression) -> Self {
        row.bisect.as_ref().and_then(|value| Self::deserialize(value).ok()).unwrap_or_default()
    }

    /// As the column holds them.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// How an effect ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// A check was run at the head.
    Checked(Checked),
    /// A check was run on a fresh clone without caches.
    Cold(ColdChecked),
    /// A round of a bisection was run.
    Round(Round),
    /// It could not be run: git, the disk or the database said no; in words.
    Failed(String),
}

/// What running a check at the head showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// How it fared.
    pub outcome: RunOutcome,
    /// How often it was run for the whole.
    pub runs: i64,
    /// Why it did not pass, in words.
    pub message: String,
    /// The end of its output.
    pub output_tail: String,
    /// Where it fails: what it says of single tests with a baseline.
    pub tests: Vec<TestVerdict>,
}

/// What running a check on a fresh clone without caches showed.
#[derive(Debug, Clone, PartialEq)]
pub struct ColdChecked {
    /// How it fared.
    pub outcome: RunOutcome,
    /// How often it was run.
    pub runs: i64,
    /// Why it did not pass, in words.
    pub message: String,
    /// Its exit code.
    pub exit_code: Option<i32>,
    /// The end of its output.
    pub output_tail: String,
    /// Where it fails: the commit in this one's history at which it has passed so.
    pub last_good: Option<String>,
}

/// What a check says of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestVerdict {
    /// The test.
    pub test: TestId,
    /// Whether it passes: each time, never, or at times. An error if that cannot be told at this commit.
    pub outcome: RunOutcome,
    /// How often the check was run for it.
    pub runs: i64,
    /// Its newest baseline, if that is a commit before this one that leads to it, or else the next newest that is. None also
    /// if it has passed at this very commit.
    pub last_good: Option<String>,
    /// Where it fails with a regression known: the commit in this one's history with which the blamed test has landed since.
    pub landed_again: Option<String>,
    /// Its newest baseline, wherever that is.
    pub newest_baseline: String,
    /// The check's exit code.
    pub exit_code: Option<i32>,
    /// The end of the check's output.
    pub output_tail: String,
}

/// What a round of a bisection showed, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// How many.
    pub rounds: u32,
    /// What was tried in them.
    pub tried: Vec<Tried>,
    /// How often the check was run.
    pub runs: u32,
    /// The end of the bisection, if this is it.
    pub found: Option<Found>,
}

/// How a bisection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The first bad commit, and whose it is as far as its trailers tell.
    FirstBad {
        /// The commit.
        commit: CommitHash,
        /// Of its trailer `Loop`.
        blamed_loop: Option<LoopId>,
        /// Of its trailer `Test`.
        blamed_test: Option<TestId>,
    },
    /// It fails and passes in turn at one commit.
    Flaky {
        /// What showed it, in words.
        why: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why, in words.
        why: String,
        /// It is one of these, as far as is known.
        suspects: Vec<CommitHash>,
    },
}
