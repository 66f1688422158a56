//! The tests of this crate that use it from outside, in one program: linked once.

#[path = "../../../supervisor/tests/common/mod.rs"]
mod common;
mod process;
mod tests_and_leave;
