//! The tests of this crate that use it from outside, in one program: linked once.

mod files;
mod process;
mod retention;
mod server;
