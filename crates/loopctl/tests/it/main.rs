//! The tests of this crate that use it from outside, in one program: linked once.

mod archive;
#[path = "../../../supervisor/tests/common/bad_files.rs"]
mod bad_files;
mod causes;
mod check;
mod common;
mod completion;
mod deadlocks;
mod deinit;
mod doctor;
mod dump;
mod files;
mod ids;
mod init;
mod journal;
mod json;
mod keep;
mod leases;
mod ledger;
mod man;
mod moves;
mod ownership;
mod paths;
mod projects;
mod rollback;
mod see;
mod service;
mod setup;
mod share;
mod starts;
mod steer;
mod submit;
mod sync;
mod workspaces;
