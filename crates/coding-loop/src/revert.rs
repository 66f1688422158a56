//! Taking a commit back instead of running the agent, where that was decided (`reverts`): the result goes through the gate
//! and lands like any other change.

use git::{CommitHash, PutOn};

use crate::Result;
use crate::context::{Attempt, Context};

/// Takes back what is due for the test of an attempt; true if the result is what the attempt lands. False if nothing is due, or
/// if that needs somebody who understands it: then the agent is given the test's last error.
pub(crate) fn take_back(context: &Context<'_>, attempt: &mut Attempt) -> Result<bool> {
    let due = context.db.read(|tx| tx.revert_due(&attempt.test.id))?;
    let Some(commit) = due.and_then(|due| CommitHash::new(due.commit_hash).ok()) else { return Ok(false) };
    // Another tool may have named anything; only what has landed can be taken back.
    let known = context.history().resolve(commit.as_str())?;
    if known.is_none() || !context.history().is_ancestor(&commit, &attempt.base)? {
        return Ok(false);
    }
    let tree = match context.store.take_back(&commit, &attempt.base) {
        Ok(PutOn::Tree(tree)) => tree,
        Ok(PutOn::Conflict(_)) | Err(git::Error::UnknownRevision { .. }) => {
            tracing::info!(test = %attempt.test.id, commit = commit.short(), "the commit cannot be taken back as it stands; the agent is asked");
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let change = context.store.change_between(&attempt.base, &tree)?;
    if change.paths.is_empty() {
        // Somebody was faster. The gate says whether that is all; if not, somebody has to look.
        tracing::info!(test = %attempt.test.id, commit = commit.short(), "the commit is taken back already");
        if attempt.test.attempts > 1 {
            return Ok(false);
        }
    } else {
        tracing::info!(test = %attempt.test.id, commit = commit.short(), "took the commit back");
    }
    attempt.in_place = Some(change);
    Ok(true)
}
