//! Reverts a commit instead of running the agent, where that was decided (table `reverts`): the result goes through the
//! gate and lands like any other change.

use git::{CommitHash, PutOn};

use crate::Result;
use crate::context::{Attempt, Context};

/// Performs the pending revert for the test of an attempt; true if its result is to land. False if there is none, or if
/// it needs the agent, which is then given the test's last error.
pub(crate) fn take_back(context: &Context<'_>, attempt: &mut Attempt) -> Result<bool> {
    let due = context.db.read(|tx| tx.revert_due(&attempt.test.id))?;
    let Some(commit) = due.and_then(|due| CommitHash::new(due.commit_hash).ok()) else { return Ok(false) };
    // An external tool may have written anything; only landed commits can be reverted.
    let known = context.history().resolve(commit.as_str())?;
    if known.is_none() || !context.history().is_ancestor(&commit, &attempt.base)? {
        return Ok(false);
    }
    let tree = match context.store.take_back(&commit, &attempt.base) {
        Ok(PutOn::Tree(tree)) => tree,
        Ok(PutOn::Conflict(_)) | Err(git::Error::UnknownRevision { .. }) => {
            tracing::info!(test = %attempt.test.id, commit = commit.short(), "cannot revert the commit without conflicts; running the agent");
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let change = context.store.change_between(&attempt.base, &tree)?;
    if change.paths.is_empty() {
        // Already reverted. The gate decides whether that suffices.
        tracing::info!(test = %attempt.test.id, commit = commit.short(), "the commit is already reverted");
        if attempt.test.attempts > 1 {
            return Ok(false);
        }
    } else {
        tracing::info!(test = %attempt.test.id, commit = commit.short(), "commit reverted");
    }
    attempt.in_place = Some(change);
    Ok(true)
}
