//! The tests of this crate that use it from outside, in one program: linked once.

mod process;
mod server;
mod workspaces;
