//! The loop's worktree: put at the head of the integration branch before an attempt, restored after it; work is saved first.

use coord_db::{CheckpointType, NewCheckpoint, Test, TestId};
use work_tree::{CommitHash, RefExpectation, WorkTree};

use crate::Result;
use crate::context::{Attempt, Context};

impl Context<'_> {
    /// The loop's branch.
    pub(crate) fn branch(&self) -> Result<String> {
        let row = self.db.read(|tx| tx.loop_row(&self.loop_id))?;
        Ok(row.branch.unwrap_or_else(|| format!("coding-loops/{}", self.loop_id)))
    }

    /// The loop's worktree as it stands, made if there is none.
    pub(crate) fn worktree(&self) -> Result<WorkTree> {
        let path = self.worktrees().join(self.loop_id.as_str());
        std::fs::create_dir_all(self.worktrees())
            .map_err(|error| crate::Error::io("cannot make the folder for worktrees", error))?;
        let head = self.integration_head()?;
        Ok(self.repository.add_worktree(&path, &self.branch()?, head.as_str())?)
    }

    /// Saves what the worktree has beyond `base` under a ref of its own. None if there is nothing.
    pub(crate) fn save_work(
        &self,
        worktree: &WorkTree,
        test: Option<&TestId>,
        base: &CommitHash,
        reason: &str,
    ) -> Result<Option<NewCheckpoint>> {
        let name = test.map_or("none", |test| test.as_str());
        let git_ref = format!("refs/coding-loops/saved/{}/{name}/{}", self.loop_id, coord_db::new_id());
        let message = format!("Work of {} on {name}, saved: {reason}", self.loop_id);
        self.save_branch(worktree, base, &git_ref)?;
        let Some(commit) = worktree.save_under(&git_ref, &message, base)? else { return Ok(None) };
        tracing::info!(%git_ref, reason, "saved work");
        Ok(Some(NewCheckpoint {
            loop_id: self.loop_id.clone(),
            test_id: test.cloned(),
            git_ref,
            checkpoint_type: CheckpointType::Stash,
            commit_hash: commit.to_string(),
            reason: reason.to_owned(),
        }))
    }

    /// Keeps commits that only the loop's branch has, where the agent has left it for another branch or for none.
    fn save_branch(&self, worktree: &WorkTree, base: &CommitHash, beside: &str) -> Result<()> {
        let branch = self.branch()?;
        if worktree.branch()?.as_deref() == Some(branch.as_str()) {
            return Ok(());
        }
        let Some(commit) = self.repository.resolve(&format!("refs/heads/{branch}"))? else { return Ok(()) };
        for kept in [base, &worktree.head()?] {
            if self.repository.is_ancestor(&commit, kept)? {
                return Ok(());
            }
        }
        Ok(self.repository.set_ref(&format!("{beside}-branch"), &commit, &RefExpectation::Absent)?)
    }

    /// Saves and then puts away whatever an earlier life or a hand has left in the worktree.
    pub(crate) fn tidy(&self, worktree: &WorkTree, test: Option<&TestId>, reason: &str) -> Result<CommitHash> {
        let base = self.integration_head()?;
        if let Some(saved) = self.save_work(worktree, test, &base, reason)? {
            self.db.write(|tx| tx.add_checkpoint(&saved))?;
        }
        worktree.restore_branch_to(&self.branch()?, &base)?;
        Ok(base)
    }

    /// Puts the worktree where an attempt begins, and a checkpoint there.
    pub(crate) fn begin(&self, test: Test) -> Result<Attempt> {
        let worktree = self.worktree()?;
        let base = self.tidy(&worktree, None, "left from before the attempt")?;
        let checkpoint_ref = format!("refs/coding-loops/checkpoints/{}/{}/{}", self.loop_id, test.id, coord_db::new_id());
        self.repository.set_ref(&checkpoint_ref, &base, &RefExpectation::Any)?;
        self.db.write(|tx| {
            tx.add_checkpoint(&NewCheckpoint {
                loop_id: self.loop_id.clone(),
                test_id: Some(test.id.clone()),
                git_ref: checkpoint_ref.clone(),
                checkpoint_type: CheckpointType::Branch,
                commit_hash: base.to_string(),
                reason: format!("before attempt {}", test.attempts),
            })
        })?;
        Ok(Attempt {
            branch: self.branch()?,
            test,
            worktree,
            base,
            checkpoint_ref,
            tokens: std::collections::BTreeMap::new(),
            waiting: Vec::new(),
            begun: std::time::Instant::now(),
            tokens_spent: 0,
        })
    }
}
