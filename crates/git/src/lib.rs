//! The store, the agents' workspaces, and the published branch. This crate knows nothing about the database.
//!
//! [`Store`] is our bare repository, made from the user's; it contains integration, checkpoints and saved work, and
//! [`publish()`] copies integration to one branch of the user's repository. A [`Workspace`] is a clone for one agent; a
//! [`Snapshot`] is its content, read without trusting its git; a [`Change`] is the work of an attempt, and
//! [`Store::put_on`] applies it to integration. [`Store::check_out`] and [`TrialTree`] are clones for checks.
//! [`Layout`] knows their paths. [`Repository`] (references, history) and [`WorkTree`] (files) are the building blocks.
//! [`Bisect`] plans a bisection without running anything.
//!
//! Everything runs the `git` command with argument lists, never through a shell, and reads NUL-separated output, so
//! that any file name that git allows works.
//!
//! Invariants: the user's checkout is only read; a directory is removed only if it is ours or below the folder that the
//! caller manages; no reference is moved from a value that the caller has not seen, unless the caller accepts any
//! value.

mod bare;
pub mod bisect;
mod bundle;
mod call;
pub mod check;
mod check_out;
mod commit;
mod contents;
mod conversion;
mod difference;
mod effective;
mod error;
mod finding;
mod folders;
mod follow;
mod glance;
mod handover;
mod hash;
mod known;
mod landing;
mod layout;
mod left_behind;
mod lfs;
mod needs;
mod nested;
mod place;
mod plan;
mod publish;
mod ready;
mod refs;
mod remote;
mod repository;
mod reset;
pub mod sandbox;
mod settings;
mod shown;
mod signing;
mod snapshot;
mod store;
mod store_repair;
mod stray;
mod submodule_edits;
mod submodules;
mod tracked;
mod transfer;
pub mod trial;
mod watch;
mod work_tree;
mod workspace;
mod worktrees;

pub use bisect::Bisect;
pub use bundle::BundleRead;
pub use check_out::remove_check_out;
pub use commit::{CommitInfo, Trailer, build_message};
pub use contents::{Content, Contents};
pub use error::{Damage, Error, Result};
pub use finding::Finding;
pub use follow::{Distance, FollowStep, Incoming, distance};
pub use glance::Glance;
pub use handover::{HandOverTurn, HandedOver, Line, hand_over};
pub use hash::{CommitHash, InvalidHash};
pub use landing::{Change, PutOn, Updated};
pub use layout::Layout;
pub use needs::Lacking;
pub use plan::ignored_in;
pub use publish::{Divergence, Obstacle, Published, look_at_published, publish, republish};
pub use ready::{Folder, INCLUDE_FILE, Ready, SetUp, Useless, filled_in, free_port, looks_like_network, useless_patterns};
pub use remote::{ARRIVAL_LIMIT, Refreshed, address_of, without_password};
pub use repository::{AddedLine, RefExpectation, Repository, git_version, is_ignored};
pub use shown::shown;
pub use snapshot::{Snapshot, SnapshotOptions};
pub use store::{NamedRef, Store, StoreMade};
pub use store_repair::{Depth, Rebuilt};
pub use stray::Stray;
pub use submodules::Submodule;
pub use trial::TrialTree;
pub use watch::{Notice, Watches};
pub use work_tree::WorkTree;
pub use workspace::{Opened, Workspace, WorkspaceSpec};
