//! For agents and scripts that drive a loop by hand.

use clap::{Args, Subcommand};
use coord_db::{ErrorCategory, LoopId, TestId};

/// Drive a loop by hand.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Drive {
    /// Claim the next test of a loop
    ///
    /// Prints the test with its specification and the workspace. The exit status is 1 if no test is ready.
    #[command(after_help = examples!["loopctl next --loop backend"])]
    Next {
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
    },
    /// Verify and land the work on a claimed test
    ///
    /// Runs the gate on the workspace of the loop: leases, rules, checks. What passes lands on the integration branch. The
    /// exit status is 1 if the work does not pass.
    #[command(after_help = examples!["loopctl next --loop backend", "loopctl submit api-01-login"])]
    Submit {
        /// The test
        test: TestId,
    },
    /// End an attempt without a pass
    #[command(after_help = examples![
        "loopctl next --loop backend",
        "loopctl give-back api-01-login --category spec --reason 'the specification contradicts itself'",
    ])]
    GiveBack {
        /// The test
        test: TestId,
        /// The failure category: transient, permanent, system, code, spec, resource, dependency, human or conflict
        #[arg(long)]
        category: ErrorCategory,
        /// The reason, for the history
        #[arg(long)]
        reason: Option<String>,
    },
    /// Send a heartbeat for a loop
    #[command(after_help = examples!["loopctl beat --loop backend", "loopctl beat --loop backend --pid $$"])]
    Beat {
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// The process that drives the loop
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        pid: Option<i64>,
    },
    /// Acquire leases on files, folders or resources
    ///
    /// A path that ends with / is a folder with everything in it; NAME:VALUE, like port:5432, is a resource. All paths are
    /// leased, or none. Prints the fencing token. The exit status is 1 if another loop holds or owns one of them.
    #[command(after_help = examples![
        "loopctl lock src/api/login.py port:5432 --loop backend",
        "loopctl lock src/api/ --loop backend --wait 60 --reason 'renames the module'",
    ])]
    Lock(LockArgs),
    /// Extend all leases under a fencing token
    ///
    /// Extends none of them if one has expired.
    #[command(after_help = examples!["loopctl lock src/api/ --loop backend", "loopctl renew --loop backend --token 3 --ttl 600"])]
    Renew {
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// The fencing token
        #[arg(long)]
        token: i64,
        /// Seconds until the leases expire [default: as before]
        #[arg(long, value_name = "S", value_parser = clap::value_parser!(i64).range(1..))]
        ttl: Option<i64>,
    },
    /// Release leases
    #[command(after_help = examples![
        "loopctl lock src/api/ docs/api.md --loop backend",
        "loopctl unlock docs/api.md --loop backend",
        "loopctl unlock --all --loop backend",
    ])]
    Unlock {
        /// The paths, relative to the current folder
        #[arg(value_name = "PATH", required_unless_present = "all", conflicts_with = "all")]
        paths: Vec<String>,
        /// Release every lease of the loop, or every lease under --token
        #[arg(long)]
        all: bool,
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// Release only leases under this fencing token
        #[arg(long)]
        token: Option<i64>,
    },
}

#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct LockArgs {
    /// The paths, relative to the current folder
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    /// The loop
    #[arg(long = "loop", value_name = "LOOP")]
    pub loop_id: LoopId,
    /// Seconds until the leases expire unless they are renewed [default: lease.ttl_seconds]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(i64).range(1..))]
    pub ttl: Option<i64>,
    /// The reason, for the history
    #[arg(long)]
    pub reason: Option<String>,
    /// The test that needs the leases [default: the test that the loop works on]
    #[arg(long)]
    pub test: Option<TestId>,
    /// Wait in the queue for at most this number of seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(i64).range(0..=31_536_000))]
    pub wait: Option<i64>,
}
