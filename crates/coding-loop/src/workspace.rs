//! The loop's worktree: put at the head of the integration branch before an attempt, restored after it; work is saved first.

use std::path::Path;

use coord_db::{Test, TestId};
use crash_point::{Point, reach};
use serde_json::json;
use work_tree::{CommitHash, WorkTree};

use crate::Result;
use crate::context::{Attempt, Context};
use crate::journal::{MAKE_WORKTREE, PutAway, SAVED};

impl Context<'_> {
    /// The loop's branch.
    pub(crate) fn branch(&self) -> Result<String> {
        let row = self.db.read(|tx| tx.loop_row(&self.loop_id))?;
        Ok(row.branch.unwrap_or_else(|| format!("coding-loops/{}", self.loop_id)))
    }

    /// True if a worktree's folder is there and is a worktree still.
    pub(crate) fn worktree_is_whole(&self, worktree: &WorkTree) -> bool {
        worktree.root().join(".git").is_file() && worktree.head().is_ok()
    }

    /// What an agent has left of a folder that is no worktree any more is kept beside it.
    fn set_damaged_aside(&self, path: &Path) -> Result<()> {
        if !path.exists() || path.join(".git").is_file() {
            return Ok(());
        }
        let aside = path.with_file_name(format!("{}.damaged-{}", self.loop_id, coord_db::new_id()));
        tracing::warn!(folder = %path.display(), kept = %aside.display(), "the working folder is damaged; it is made again");
        std::fs::rename(path, &aside).map_err(|error| crate::Error::io(format!("cannot move {} aside", path.display()), error))
    }

    /// The loop's worktree as it stands, made if there is none.
    pub(crate) fn worktree(&self) -> Result<WorkTree> {
        self.make_worktree(None)
    }

    /// As [`Context::worktree`]. `entry` is the journal's, if the making has been written down already.
    pub(crate) fn make_worktree(&self, entry: Option<String>) -> Result<WorkTree> {
        let path = self.worktrees().join(self.loop_id.as_str());
        std::fs::create_dir_all(self.worktrees())
            .map_err(|error| crate::Error::io("cannot make the folder for worktrees", error))?;
        self.set_damaged_aside(&path)?;
        let branch = self.branch()?;
        let there = path.join(".git").exists()
            && self.repository.resolve(&self.integration_ref())?.is_some()
            && self.repository.resolve(&format!("refs/heads/{branch}"))?.is_some();
        if there && entry.is_none() {
            let head = self.integration_head()?;
            return Ok(self.repository.add_worktree(&path, &branch, head.as_str())?);
        }
        if entry.is_none() {
            self.must_not_be_anothers(&branch, &path)?;
        }
        let entry = match entry {
            Some(entry) => entry,
            // One that failed before stays open until it goes well.
            None => match self
                .db
                .read(|tx| tx.open_journal(self.loop_id.as_str()))?
                .into_iter()
                .find(|entry| entry.operation == MAKE_WORKTREE)
            {
                Some(entry) => entry.id,
                None => self.intend(
                    MAKE_WORKTREE,
                    json!({"path": path, "branch": branch, "integration_branch": self.integration_branch()}),
                )?,
            },
        };
        reach(Point::WorktreeIntended);
        let head = self.integration_head()?;
        self.repository.ensure_branch(&branch, head.as_str())?;
        reach(Point::WorktreeBranched);
        let worktree = self.repository.add_worktree(&path, &branch, head.as_str())?;
        reach(Point::WorktreeAdded);
        self.settle(&entry, true)?;
        reach(Point::WorktreeSettled);
        Ok(worktree)
    }

    /// A branch that was there before the loop is the user's: the loop would move it with each attempt.
    fn must_not_be_anothers(&self, branch: &str, path: &Path) -> Result<()> {
        if branch.starts_with("coding-loops/") && branch != self.integration_branch() || path.join(".git").exists() {
            return Ok(());
        }
        let there = self.repository.resolve(&format!("refs/heads/{branch}"))?.is_some();
        if !there && branch != self.integration_branch() {
            return Ok(());
        }
        let made = self.db.read(|tx| tx.journal(Some(self.loop_id.as_str()), usize::MAX / 2))?;
        if branch != self.integration_branch()
            && made.iter().any(|entry| entry.operation == MAKE_WORKTREE && entry.steps.text("branch") == Some(branch))
        {
            return Ok(());
        }
        Err(crate::Error::SetUp(format!(
            "the branch {branch} of loop {} was there before the loop, and would be moved with each attempt; \
             give the loop a branch of its own (loopctl loop remove, then loopctl loop add --branch)",
            self.loop_id
        )))
    }

    /// Saves what the worktree has beyond `base` under a ref of its own, and puts it at `target` if there is one.
    pub(crate) fn save_work(
        &self,
        worktree: &WorkTree,
        test: Option<&TestId>,
        base: &CommitHash,
        target: Option<&CommitHash>,
        reason: &str,
    ) -> Result<()> {
        let name = test.map_or("none", |test| test.as_str());
        let work = PutAway {
            git_ref: format!("{SAVED}{}/{name}/{}", self.loop_id, coord_db::new_id()),
            test: test.cloned(),
            base: base.clone(),
            branch: self.branch()?,
            target: target.cloned(),
            reason: reason.to_owned(),
        };
        self.put_away(worktree, &work)
    }

    /// Saves and then puts away whatever an earlier life or a hand has left in the worktree.
    pub(crate) fn tidy(&self, worktree: &WorkTree, test: Option<&TestId>, reason: &str) -> Result<CommitHash> {
        self.recover()?;
        reach(Point::StartRecovered);
        let base = self.integration_head()?;
        self.save_work(worktree, test, &base, Some(&base), reason)?;
        Ok(base)
    }

    /// Puts the worktree where an attempt begins, and a checkpoint there.
    pub(crate) fn begin(&self, test: Test) -> Result<Attempt> {
        let worktree = self.worktree()?;
        let base = self.tidy(&worktree, None, "left from before the attempt")?;
        let checkpoint_ref = self.make_checkpoint(&test, &base)?;
        Ok(Attempt {
            test,
            worktree,
            base,
            checkpoint_ref,
            tokens: std::collections::BTreeMap::new(),
            waiting: Vec::new(),
            begun: std::time::Instant::now(),
            tokens_spent: 0,
            changed: false,
            may_be_empty: false,
            last_words: String::new(),
        })
    }
}
