//! Steering: what a human asks of the loops.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coord_db::{LoopId, TestId};

/// A loop, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every registered loop.
    All,
    /// This one.
    One(LoopId),
}

impl std::str::FromStr for Which {
    type Err = coord_db::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// Steer.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Steer {
    /// Pause a loop and keep its work
    #[command(after_help = examples!["loopctl pause backend --reason 'release day'", "loopctl pause all"])]
    Pause {
        /// The loop, or all
        #[arg(value_name = "LOOP|all")]
        which: Which,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Resume a paused loop
    #[command(after_help = examples!["loopctl resume backend", "loopctl resume all"])]
    Resume {
        /// The loop, or all
        #[arg(value_name = "LOOP|all")]
        which: Which,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Stop a loop's attempt and start a new one
    ///
    /// The work of the attempt is saved under a ref; loopctl checkpoints shows it.
    #[command(after_help = examples!["loopctl restart backend --reason 'the specification has changed'"])]
    Restart {
        /// The loop
        #[arg(value_name = "LOOP")]
        loop_id: LoopId,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Reset a loop's workspace to a checkpoint
    ///
    /// The work of the attempt is saved under a ref first.
    #[command(after_help = examples!["loopctl rollback backend", "loopctl rollback backend --checkpoint 2c9e77b0"])]
    Rollback {
        /// The loop
        #[arg(value_name = "LOOP")]
        loop_id: LoopId,
        /// The checkpoint [default: the start of the attempt]
        #[arg(long, value_name = "CHECKPOINT")]
        checkpoint: Option<String>,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Set the priority of a loop; 1 is the highest
    ///
    /// The priority decides who goes first in a conflict, and who releases its leases in a deadlock.
    #[command(after_help = examples!["loopctl priority backend 1"])]
    Priority {
        /// The loop
        #[arg(value_name = "LOOP")]
        loop_id: LoopId,
        /// From 1, the highest
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        priority: i64,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Remove a test from its queue
    #[command(after_help = examples!["loopctl skip ui-01-form --reason 'no longer wanted'"])]
    Skip {
        /// The test
        test: TestId,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Put a test back on its queue and clear its attempts
    #[command(after_help = examples!["loopctl reset api-02-logout"])]
    Reset {
        /// The test
        test: TestId,
        /// Reset a passed test too: its commit stays, and it is verified again
        #[arg(long)]
        force: bool,
    },
    /// Merge, verify and land your own new commits
    ///
    /// Merges the commits of the branch that repository.follow names with the work of the loops, and runs the checks.
    #[command(after_help = examples!["loopctl sync"])]
    Sync,
    /// Hand landed work over as a pull request
    ///
    /// Makes a branch with one commit for each verified test on your branch, pushes it and opens or updates a pull request with
    /// gh or glab. Where neither is installed, or there is no remote, it writes the patches and the text to a folder.
    /// Only this and `[repository] remote` push.
    #[command(after_help = examples![
        "loopctl pr --dry-run",
        "loopctl pr --files review",
        "loopctl pr --title 'Accounts' --draft",
    ])]
    Pr(PrArgs),
    /// Answer a question, or all that have an option
    ///
    /// With all, each open question that has this option and no answer yet is answered with it.
    #[command(after_help = examples![
        "loopctl decisions",
        "loopctl decide 5d0c41aa retry --comment 'the server is up again'",
        "loopctl decide all retry",
    ])]
    Decide {
        /// The id of the decision, or all
        #[arg(value_name = "DECISION|all")]
        decision: String,
        /// The id of the chosen option
        option: String,
        /// A comment, for the history
        #[arg(long)]
        comment: Option<String>,
    },
    /// Mark an alert as seen
    #[command(after_help = examples!["loopctl ack-alert 7be2901f"])]
    AckAlert {
        /// The id of the alert
        #[arg(value_name = "ALERT")]
        id: String,
    },
    /// Revoke the leases of one loop or of all
    ///
    /// The fencing tokens of revoked leases are refused from then on.
    #[command(after_help = examples!["loopctl force-unlock backend", "loopctl force-unlock --all"])]
    ForceUnlock {
        /// The loop
        #[arg(value_name = "LOOP", required_unless_present = "all", conflicts_with = "all")]
        loop_id: Option<String>,
        /// Revoke the leases of every loop
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct PrArgs {
    /// Your branch that the work is for [default: the one that loopctl sync follows]
    #[arg(long, value_name = "BRANCH")]
    pub base: Option<String>,
    /// The branch to make
    #[arg(long, value_name = "BRANCH", default_value = "coding-loops-work")]
    pub branch: String,
    /// The title [default: the tests]
    #[arg(long)]
    pub title: Option<String>,
    /// Open it as a draft
    #[arg(long)]
    pub draft: bool,
    /// Push nothing: write the patches and the text to this folder
    #[arg(long, value_name = "FOLDER")]
    pub files: Option<PathBuf>,
    /// Change nothing: print the commits and the text
    #[arg(long, conflicts_with = "files")]
    pub dry_run: bool,
}
