//! The tests of this crate that use it from outside, in one program: linked once.

#[path = "../../../supervisor/tests/common/bad_files.rs"]
mod bad_files;
#[path = "../../../supervisor/tests/common/mod.rs"]
mod common;
mod files;
mod process;
mod retention;
