//! Refs past their time: what was saved of a test that has landed since is kept for `retention.saved_work_days`, and what has
//! not landed for ever. A test that is called passed but whose commit is not on the integration branch has not landed.

use coord_db::Checkpoint;
use work_tree::{CommitHash, RefExpectation};

use crate::Result;
use crate::context::Context;

/// So many refs go at a time; the rest at the next start.
const MOST_REFS: usize = 500;

impl Context<'_> {
    /// Deletes refs that are past their time: the loop's own, and those of loops that nobody drives and that may never come
    /// back. Must be harmless: what cannot be deleted now stays.
    pub(crate) fn prune_refs(&self) -> Result<()> {
        let days = self.config.retention.saved_work_days.max(0);
        let old = self.db.read(|tx| {
            let before = tx.now().plus_seconds(-days.saturating_mul(24 * 3600));
            tx.checkpoints_past_their_time(&self.loop_id, before, MOST_REFS)
        })?;
        let Some(head) = self.store.integration()? else { return Ok(()) };
        let mut gone = 0;
        for checkpoint in &old {
            if !self.has_landed(checkpoint, &head)? {
                continue;
            }
            // The ref first: without its row nobody would look for it again.
            match self.history().delete_ref(&checkpoint.git_ref, &RefExpectation::Any) {
                Ok(()) => {
                    self.db.write_quietly(|tx| tx.delete_checkpoint(&checkpoint.id))?;
                    gone += 1;
                }
                Err(error) => {
                    tracing::debug!(%error, git_ref = checkpoint.git_ref, "cannot delete a ref that is past its time")
                }
            }
        }
        if gone > 0 {
            tracing::info!(refs = gone, days, "deleted refs of tests that passed long ago");
        }
        Ok(())
    }

    /// Whether the test that something was saved of is part of the integration branch.
    fn has_landed(&self, checkpoint: &Checkpoint, head: &CommitHash) -> Result<bool> {
        let Some(test) = &checkpoint.test_id else { return Ok(false) };
        let commit = self.db.read(|tx| tx.find_test(test.as_str()))?.and_then(|test| test.commit_hash);
        match commit.as_deref().map(|hash| self.history().resolve(hash)).transpose()?.flatten() {
            Some(commit) => Ok(self.history().is_ancestor(&commit, head)?),
            None => Ok(false),
        }
    }
}
