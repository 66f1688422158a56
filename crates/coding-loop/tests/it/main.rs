//! The tests of this crate that use it from outside, in one program: linked once.

mod agents_git;
mod approvals;
mod attempts;
mod base;
mod bringing_over;
mod causes;
mod common;
mod costs;
mod gate;
mod landings;
mod orders;
mod ownership;
mod reload;
mod repositories;
mod retention;
mod reverts;
mod robustness;
mod rules;
mod run_ends;
mod sessions;
mod set_up;
mod stores;
mod submodules;
mod sync;
mod train;
mod train_simulation;
