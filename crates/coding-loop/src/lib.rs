//! Drives one coding agent over its queue: claim → checkpoint → agent in its own clone and process group → gate →
//! integrate → record.
//!
//! It obeys pause, release, rollback and restart while the agent runs, and leases files for agents that do not use
//! leases themselves. It must never mark a test as passed without the gate, and must never discard work: work that does
//! not land is saved under a reference.

mod agent;
mod agents;
mod approval;
pub mod attempt;
mod auto_lease;
mod base;
mod base_question;
mod base_unrunnable;
mod call;
pub mod command_line;
mod context;
mod control;
mod degraded;
mod end;
mod error;
mod followed;
mod gate;
mod holds;
mod journal;
mod known_failure;
mod landing;
mod memory;
mod news;
mod no_change;
mod operation;
mod owners;
mod per_test;
mod process;
mod prompt;
mod prune;
mod publish;
mod ready;
mod recover;
mod remote;
mod retry_alert;
mod revert;
mod rules;
mod run_end;
mod runs;
mod sandbox;
mod secrets;
mod session;
mod set_up;
mod store;
mod submit;
mod sync;
mod sync_gate;
mod sync_question;
pub mod train;
mod unfinished;
mod work;
mod workspace;
mod workspace_report;

pub use agents::{Given, given, shell_word};
pub use auto_lease::{is_leased, lease_path};
pub use error::{Error, Result};
pub use followed::{SyncOutcome, followed_branch};
pub use store::make_store;
pub use submit::{BroughtUp, SubmitOutcome, bring_up_to_date, checkpoint, obey_by_hand, prepare_workspace, submit};
pub use sync::sync;
pub use unfinished::{Checked, check_work};
