//! What the tests of several crates share: waiting with a bound, processes, git, a database with the `sqlite3` shell beside it.
//! A dependency of tests alone. What only one crate's tests need is in that crate's `tests/it/common`.

mod away;
pub mod bad_files;
mod database;
mod git;
mod harness;
mod link;
mod postgres;
mod process;
mod samples;
mod wait;

pub use away::Shared;
pub use database::{
    World, acquire_request, content, events, in_memory, make_database, new_loop, new_test, place, printed, sql, try_sql,
    without_foreign_keys,
};
pub use git::{commit, git, git_command, make_repository, write};
pub use harness::run_tests;
pub use link::{Line, Link};
pub use postgres::Postgres;
pub use process::{Process, Signal, ends_within, is_alive, run, signal};
pub use samples::{NOW, sample_alert, sample_component, sample_decision, sample_event, sample_lease, sample_loop, sample_test};
pub use wait::{BOUND, wait_for, wait_for_within, wait_until, wait_until_equal};
