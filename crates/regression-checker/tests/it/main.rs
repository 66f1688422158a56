//! The tests of this crate that use it from outside, in one program: linked once.

mod chance;
mod check_outs;
mod cold;
mod common;
mod histories;
#[path = "common/history.rs"]
mod history;
mod ledger;
mod process;
mod remote;
mod server;
mod share;
mod stale;
