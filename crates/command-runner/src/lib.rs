//! Runs an agent or a check: [`run()`] starts a command under a [`keeper`], with a time limit and bounded output, and
//! leaves no process behind, even if either side is killed.
//!
//! It knows neither git nor the database, and must never pass anything to a shell. The `main` of a program that uses it
//! starts with [`keeper::run_if_asked`].

pub mod keeper;
mod processes;
mod run;

pub use keeper::NotStartedKind;
pub use processes::{Process, is_any_started_with, start_time, started_with};
pub use run::{CommandSpec, End, Outcome, TAIL_BYTES, hex, run, run_reading};
