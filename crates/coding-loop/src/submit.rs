//! Landing for a loop that is driven by hand: the same gate, the same integration.

use std::path::PathBuf;

use coord_db::{Config, Database, ErrorCategory, LoopId, TestId, TestStatus};
use tokio::sync::watch;
use work_tree::{CommitHash, WorkTree};

use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::landing::Landed;
use crate::{Result, process};

/// What came of a submitted test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitOutcome {
    /// Verified and on the integration branch.
    Passed {
        /// The commit.
        commit: CommitHash,
    },
    /// Not landed; the work is kept under a ref.
    Failed {
        /// What the test is now.
        status: TestStatus,
        /// Whose fault.
        category: ErrorCategory,
        /// In words.
        message: String,
    },
    /// Somebody asked for a pause, a release or a rollback meanwhile; the test was given back.
    GivenBack {
        /// Why.
        reason: String,
    },
}

/// The worktree that a loop driven by hand works in. It is brought to the head of the integration branch, unless it holds work
/// that has not landed: that stays as it is.
///
/// # Errors
/// If there is no repository to work in.
pub fn prepare_worktree(db: &Database, config: &Config, loop_id: &LoopId) -> Result<PathBuf> {
    let context = Context::new(db, config, loop_id.clone(), false)?;
    context.recover()?;
    let worktree = context.worktree()?;
    let head = context.integration_head()?;
    if worktree.is_clean()? && context.repository.is_ancestor(&worktree.head()?, &head)? {
        worktree.restore_branch_to(&context.branch()?, &head)?;
    }
    Ok(worktree.root().to_owned())
}

/// Gates, integrates and records what a loop that is driven by hand has made of the test in its hand. The work is looked for
/// in the worktree of the current folder if that is on the loop's branch, else in the loop's own.
///
/// # Errors
/// [`coord_db::Error::Refused`] if the test is not in progress; what git or the database says.
pub async fn submit(db: &Database, config: &Config, test: &TestId, stop: watch::Receiver<bool>) -> Result<SubmitOutcome> {
    let test = db.read(|tx| tx.test(test))?;
    if test.status != TestStatus::InProgress {
        let text =
            format!("test {} is {}, not in progress; claim it with loopctl next --loop {}", test.id, test.status, test.loop_id);
        return Err(coord_db::Error::Refused(text).into());
    }
    let context = Context::new(db, config, test.loop_id.clone(), false)?;
    context.recover()?;
    let now = db.read(|tx| tx.test(&test.id))?;
    if let (TestStatus::Passed, Some(Ok(commit))) = (now.status, now.commit_hash.map(CommitHash::new)) {
        // An earlier submit was killed between landing and recording.
        return Ok(SubmitOutcome::Passed { commit });
    }
    let branch = context.branch()?;
    let here = std::env::current_dir().ok().and_then(|here| WorkTree::open(&here).ok());
    let worktree = match here {
        Some(here) if !here.is_main() && here.branch()?.as_deref() == Some(branch.as_str()) => here,
        _ => context.worktree()?,
    };
    let head = context.integration_head()?;
    let base = context.repository.merge_base(&worktree.head()?, &head)?.unwrap_or(head);
    let mut attempt = Attempt {
        checkpoint_ref: context.integration_ref(),
        test,
        worktree,
        base,
        tokens: std::collections::BTreeMap::new(),
        waiting: Vec::new(),
        begun: std::time::Instant::now(),
        tokens_spent: 0,
    };
    let mut waiter = Waiter::new(&context, stop);
    let end = context.land(&mut attempt, &mut waiter).await?;
    let outcome = match &end {
        Landed::Passed(commit) => SubmitOutcome::Passed { commit: commit.clone() },
        Landed::Interrupted(interrupt) => SubmitOutcome::GivenBack { reason: interrupt.reason.clone() },
        Landed::Failed(why) => {
            SubmitOutcome::Failed { status: TestStatus::Pending, category: why.category, message: why.message.clone() }
        }
    };
    process::finish(&context, &attempt, &end)?;
    Ok(match outcome {
        SubmitOutcome::Failed { category, message, .. } => {
            let status = db.read(|tx| tx.test(&attempt.test.id))?.status;
            SubmitOutcome::Failed { status, category, message }
        }
        other => other,
    })
}
