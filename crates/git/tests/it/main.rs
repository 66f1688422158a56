//! The tests of this crate that use it from outside, in one program: linked once.

mod bundles;
mod check_outs;
mod common;
mod follow;
mod glance;
mod handover;
mod landing;
#[path = "common/place.rs"]
mod place;
mod remotes;
mod repositories;
mod resets;
mod saving;
mod snapshots;
mod stores;
mod submodules;
mod watch;
mod workspaces;
