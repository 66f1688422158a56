//! Random sequences of operations against small models in memory, written from the words of the design alone. A sequence
//! that goes another way than its model shrinks to the shortest that does, and tells its story step by step.
//!
//! `CODING_LOOPS_CASES` says how many sequences each model is driven through.

mod claims;
mod decisions;
mod deliveries;
mod leases;
mod queue;

use std::fmt::Debug;

use coord_db::{Database, Error, ManualClock, Timestamp};
use proptest::test_runner::{Config, TestCaseError};

/// When every sequence begins.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// As many sequences as asked for; nothing is written into the tree.
fn config(cases: u32) -> Config {
    let asked = std::env::var("CODING_LOOPS_CASES").ok().and_then(|text| text.parse().ok());
    Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() }
}

/// A new database in memory and its clock.
fn room() -> (Database, ManualClock) {
    let clock = ManualClock::new(START);
    (Database::in_memory(std::sync::Arc::new(clock.clone())).unwrap(), clock)
}

/// What has happened so far, to be told when it goes wrong.
#[derive(Default)]
struct Story(Vec<String>);

impl Story {
    /// Holds what was seen against what the model says.
    fn expect<T: Debug + PartialEq>(&mut self, step: &impl Debug, seen: &T, model: &T) -> Result<(), TestCaseError> {
        self.0.push(format!("{:3}. {step:?}: {seen:?}", self.0.len() + 1));
        self.holds(seen, model)
    }

    /// As [`Story::expect`], about what stands after the last step.
    fn holds<T: Debug + PartialEq>(&self, seen: &T, model: &T) -> Result<(), TestCaseError> {
        if seen == model {
            return Ok(());
        }
        Err(TestCaseError::fail(format!("after\n{}\nthe model has {model:?}\nbut there is {seen:?}", self.0.join("\n"))))
    }
}

/// How an operation was answered, as far as a model says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Done,
    NotFound,
    Invalid,
    Refused,
    Illegal,
    Settled,
    Lost,
}

impl Answer {
    fn of<T>(result: &Result<T, Error>) -> Self {
        match result {
            Ok(_) => Self::Done,
            Err(Error::NotFound { .. }) => Self::NotFound,
            Err(Error::Invalid(_)) => Self::Invalid,
            Err(Error::Refused(_)) => Self::Refused,
            Err(Error::IllegalMove { .. }) => Self::Illegal,
            Err(Error::Settled { .. }) => Self::Settled,
            Err(Error::LeaseLost { .. }) => Self::Lost,
            Err(other) => panic!("{other}"),
        }
    }
}

/// The first column of each row, `-` for NULL.
fn column(db: &Database, sql: &str) -> Vec<String> {
    db.query_foreign(sql).unwrap().into_iter().map(|mut row| row.swap_remove(0).unwrap_or_else(|| "-".to_owned())).collect()
}
