//! The tests of this crate that use it from outside, in one program: linked once.

mod base;
mod common;
mod decisions;
mod failures;
mod notify;
mod process;
mod reports;
