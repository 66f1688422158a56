//! Deletes expired references and folders. Saved work of a test that has landed since is kept for
//! `retention.saved_work_days`, and work that has not landed forever. A passed test whose commit is not on the
//! integration branch has not landed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use coord_db::{Checkpoint, LandingState, queued_refs};
use git::{CommitHash, Finding, RefExpectation, SnapshotOptions, Workspace};

use crate::Result;
use crate::context::Context;
use crate::operation::SAVED;

/// Maximum number of references deleted at one start.
const MAX_REFS: usize = 500;

impl Context<'_> {
    /// Deletes expired references of this loop and of loops of this machine that nobody drives. Must be harmless: references that
    /// cannot be deleted now stay.
    pub(crate) fn prune_refs(&self) -> Result<()> {
        let days = self.config.retention.saved_work_days.max(0);
        let old = self.db.read(|tx| {
            let before = tx.now().plus_seconds(-days.saturating_mul(24 * 3600));
            tx.expired_checkpoints(&self.loop_id, before, MAX_REFS)
        })?;
        let Some(head) = self.store.integration()? else { return Ok(()) };
        let mut gone = Vec::new();
        for checkpoint in &old {
            if !self.has_landed(checkpoint, &head)? {
                continue;
            }
            // The reference first: without its row it would never be found again.
            match self.history().delete_ref(&checkpoint.git_ref, &RefExpectation::Any) {
                Ok(()) => {
                    self.db.write_quietly(|tx| tx.delete_checkpoint(&checkpoint.id))?;
                    gone.push(checkpoint.git_ref.clone());
                }
                Err(error) => {
                    tracing::debug!(%error, git_ref = checkpoint.git_ref, "cannot delete an expired reference")
                }
            }
        }
        if !gone.is_empty() {
            if let Err(error) = self.delete_sent(&gone) {
                tracing::warn!(%error, refs = ?gone, "expired references were deleted here, but not at the remote");
            }
            tracing::info!(refs = gone.len(), days, "expired references of passed tests deleted");
        }
        Ok(())
    }

    /// Deletes the references of this loop's queued work that has landed, or was never queued because the loop was killed
    /// first. The others wait or are saved work. Must not run while the loop queues work.
    pub(crate) fn settle_queued_refs(&self) -> Result<()> {
        let prefix = queued_refs(&self.loop_id);
        for (git_ref, _) in self.history().list_refs(&prefix)? {
            let landing = self.db.read(|tx| tx.landing(git_ref.strip_prefix(&prefix).unwrap_or_default()))?;
            if landing.is_none_or(|landing| landing.state == LandingState::Landed) {
                self.history().delete_ref(&git_ref, &RefExpectation::Any)?;
            }
        }
        Ok(())
    }

    /// Removes folders that no loop has used for `workspace.keep_days`; work in them is saved in the store first.
    pub(crate) fn prune_folders(&self) -> Result<()> {
        let (ids, now) = self.db.read(|tx| {
            let ids: BTreeSet<String> = tx.loops()?.into_iter().map(|row| row.id.to_string()).collect();
            Ok::<_, coord_db::Error>((ids, tx.now()))
        })?;
        let days = self.config.workspace.keep_days;
        for stray in self.layout.strays(|id| ids.contains(id)) {
            if now.plus_seconds(days.saturating_mul(-24 * 3600)).as_millis() / 1000 < stray.since {
                continue;
            }
            if stray.is_workspace()
                && let Err(error) = self.save_stray(&stray.of)
            {
                tracing::warn!(%error, folder = %stray.path.display(), "cannot save the work in an unused folder; the folder stays");
                continue;
            }
            match stray.remove() {
                Ok(()) => tracing::info!(folder = %stray.path.display(), days, "unused folder removed"),
                Err(error) => tracing::warn!(%error, "cannot remove an unused folder"),
            }
        }
        Ok(())
    }

    /// Saves the changes in the workspace of a loop that is no longer registered.
    fn save_stray(&self, id: &str) -> Result<()> {
        let Some(workspace) = Workspace::open(&self.store, &self.layout.workspace(id, "left"))? else { return Ok(()) };
        let options = SnapshotOptions { take_unignored: true, ..self.look_options(self.config.landing.file_bytes) };
        let snapshot = match workspace.snapshot(&options) {
            Err(git::Error::WorkspaceDamaged { .. }) => return Ok(()),
            snapshot => snapshot?,
        };
        let not_taken = |finding: &Finding| match finding {
            Finding::TooLarge { path, .. } | Finding::Unstorable { path, .. } => Some(path.clone()),
            _ => None,
        };
        let left_out: Vec<PathBuf> = snapshot.findings.iter().filter_map(not_taken).collect();
        if !left_out.is_empty() {
            workspace.set_aside(&left_out, &self.layout.left(id).join(coord_db::new_id()))?;
        }
        let (change, base) = (workspace.change(&snapshot)?, workspace.base()?);
        let own = workspace.left_behind()?;
        if change.paths.is_empty() && own.is_empty() {
            return Ok(());
        }
        let parents: Vec<&CommitHash> = std::iter::once(&base).chain(&own).collect();
        let message = format!("Work of {id}, saved: its folder was removed");
        let commit = self.store.commit(&change.tree, &parents, &message, &[])?;
        let name = format!("{SAVED}{id}/none/{}", coord_db::new_id());
        self.history().set_ref(&name, &commit, &RefExpectation::Absent)?;
        tracing::info!(git_ref = name, "work saved");
        Ok(())
    }

    /// True if the test of a checkpoint is part of the integration branch.
    fn has_landed(&self, checkpoint: &Checkpoint, head: &CommitHash) -> Result<bool> {
        let Some(test) = &checkpoint.test_id else { return Ok(false) };
        let commit = self.db.read(|tx| tx.find_test(test.as_str()))?.and_then(|test| test.commit_hash);
        match commit.as_deref().map(|hash| self.history().resolve(hash)).transpose()?.flatten() {
            Some(commit) => Ok(self.history().is_ancestor(&commit, head)?),
            None => Ok(false),
        }
    }
}
