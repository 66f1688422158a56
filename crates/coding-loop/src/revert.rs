//! Taking a commit back instead of running the agent, where that was decided (`reverts`): the result goes through the gate
//! and lands like any other change.

use work_tree::CommitHash;

use crate::Result;
use crate::agent::AgentEnd;
use crate::context::{Attempt, Context};

/// Takes back what is due for the test of an attempt. None if nothing is, or if that needs somebody who understands it:
/// then the agent is told, by the test's last error.
pub(crate) fn take_back(context: &Context<'_>, attempt: &mut Attempt) -> Result<Option<AgentEnd>> {
    let due = context.db.read(|tx| tx.revert_due(&attempt.test.id))?;
    let Some(commit) = due.and_then(|due| CommitHash::new(due.commit_hash).ok()) else { return Ok(None) };
    // Another tool may have named anything; only what has landed can be taken back.
    let known = context.repository.resolve(commit.as_str())?;
    if known.is_none() || !context.repository.is_ancestor(&commit, &attempt.base)? {
        return Ok(None);
    }
    if !attempt.worktree.is_clean()? || !attempt.worktree.take_back(&commit)? {
        tracing::info!(test = %attempt.test.id, commit = commit.short(), "the commit cannot be taken back as it stands; the agent is asked");
        return Ok(None);
    }
    if attempt.worktree.is_clean()? {
        // Somebody was faster. The gate says whether that is all; if not, somebody has to look.
        tracing::info!(test = %attempt.test.id, commit = commit.short(), "the commit is taken back already");
        return Ok((attempt.test.attempts <= 1).then_some(AgentEnd::Claimed));
    }
    tracing::info!(test = %attempt.test.id, commit = commit.short(), "took the commit back");
    if context.config.lease.automatic {
        context.lease_changes(attempt)?;
    }
    Ok(Some(AgentEnd::Claimed))
}
