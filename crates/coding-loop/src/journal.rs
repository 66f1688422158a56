//! What a loop does to the repository is written down before it is done, and settled after it. What is found open belongs
//! to a life that was cut off: it is finished where that loses nothing, else undone.
//!
//! | operation | effect | found open |
//! | --- | --- | --- |
//! | `make_worktree` | branches and worktree of the loop | finished |
//! | `make_gate_worktree` | the gate's worktree | removed; the next gate makes it |
//! | `checkpoint` | a ref to go back to | the ref is deleted: the attempt never began |
//! | `put_away` | work saved under a ref, the worktree put back | finished; if the ref is not there yet, nothing was done |
//! | `squash`, `rebase` | the loop's branch rewritten | undone: all work is in the worktree, which is put away next |
//! | `integrate` | the integration branch moved | the commit is on it: recorded; else nothing was done |
//!
//! Every step can be done twice. A worktree is touched only by its own loop; refs and rows of a loop that is dead also by others.

use coord_db::process::{Liveness, ProcessIdentity};
use coord_db::{CheckpointType, JournalEntry, LoopStatus, NewCheckpoint, TestId, owned_intent};
use crash_point::{Point, reach};
use serde_json::{Value, json};
use work_tree::{CommitHash, RefExpectation, WorkTree};

use crate::Result;
use crate::context::Context;
use crate::landing::INTEGRATE;

pub(crate) const MAKE_WORKTREE: &str = "make_worktree";
pub(crate) const MAKE_GATE_WORKTREE: &str = "make_gate_worktree";
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const PUT_AWAY: &str = "put_away";
pub(crate) const SQUASH: &str = "squash";
pub(crate) const REBASE: &str = "rebase";

/// Where saved work is kept, and where refs to go back to are.
pub(crate) const SAVED: &str = "refs/coding-loops/saved/";
const CHECKPOINTS: &str = "refs/coding-loops/checkpoints/";

/// Work to be put away, as the intent has it.
pub(crate) struct PutAway {
    pub(crate) git_ref: String,
    pub(crate) test: Option<TestId>,
    pub(crate) base: CommitHash,
    pub(crate) branch: String,
    /// Where the worktree goes; none if it stays as it is.
    pub(crate) target: Option<CommitHash>,
    pub(crate) reason: String,
}

impl PutAway {
    fn intent(&self, worktree: &WorkTree) -> Value {
        json!({
            "git_ref": self.git_ref, "test": self.test, "base": self.base.as_str(), "branch": self.branch,
            "target": self.target.as_ref().map(CommitHash::as_str), "reason": self.reason, "worktree": worktree.root(),
        })
    }

    fn of(entry: &JournalEntry) -> Option<Self> {
        let text = |key| entry.steps.text(key);
        Some(Self {
            git_ref: text("git_ref").filter(|name| name.starts_with(SAVED))?.to_owned(),
            test: text("test").and_then(|id| id.parse().ok()),
            base: CommitHash::new(text("base")?).ok()?,
            branch: text("branch")?.to_owned(),
            target: text("target").and_then(|hash| CommitHash::new(hash).ok()),
            reason: text("reason").unwrap_or("unknown").to_owned(),
        })
    }

    /// Where commits go that only the loop's branch has, where the agent has left it for another branch or for none.
    fn branch_ref(&self) -> String {
        format!("{}-branch", self.git_ref)
    }

    /// Where commits go that the agent has amended, reset away or left behind.
    fn commits_ref(&self) -> String {
        format!("{}-commits", self.git_ref)
    }
}

/// What came of an entry that was found open.
enum Found {
    /// To be settled so.
    Ended(bool),
    /// Settled already.
    Settled,
}

impl Context<'_> {
    /// Writes down an intent, so that it outlives a power cut. Gives its id.
    pub(crate) fn intend(&self, operation: &str, intent: Value) -> Result<String> {
        let intent = owned_intent(intent, &ProcessIdentity::own());
        let id = &self.loop_id;
        Ok(self.db.write_durably(|tx| tx.begin_operation(operation, id.as_str(), Some(id), &intent, None))?)
    }

    /// The operation is done, or undone.
    pub(crate) fn settle(&self, entry: &str, committed: bool) -> Result<()> {
        match self.db.write_quietly(|tx| tx.end_operation(entry, committed)) {
            // Somebody took this process for gone. What is done is done.
            Err(error) if error.is_refusal() => tracing::warn!(%error, "the journal was settled by another hand"),
            other => drop(other?),
        }
        Ok(())
    }

    /// Saves what a worktree has beyond `base`, and puts it back where it is wanted. Does nothing if nothing is to be done.
    pub(crate) fn put_away(&self, worktree: &WorkTree, work: &PutAway) -> Result<()> {
        let place = work.target.as_ref().unwrap_or(&work.base);
        worktree.overlook_nothing()?;
        let forgotten = worktree.forgotten_commits("what was amended or left behind")?.is_some();
        let in_order = !forgotten
            && worktree.is_clean()?
            && worktree.head()? == *place
            && worktree.branch()?.as_deref() == Some(work.branch.as_str());
        if in_order {
            // A git that was killed may have left its locks all the same.
            if let Some(target) = &work.target {
                worktree.restore_branch_to(&work.branch, target)?;
            }
            return Ok(());
        }
        let entry = self.intend(PUT_AWAY, work.intent(worktree))?;
        reach(Point::PutAwayIntended);
        self.carry_away(worktree, work, &entry)
    }

    /// Every step may have been done before.
    fn carry_away(&self, worktree: &WorkTree, work: &PutAway, entry: &str) -> Result<()> {
        self.save_branch(worktree, work)?;
        self.save_forgotten(worktree, work)?;
        let name = work.test.as_ref().map_or("none", TestId::as_str);
        let message = format!("Work of {} on {name}, saved: {}", self.loop_id, work.reason);
        if worktree.save_under(&work.git_ref, &message, &work.base)?.is_some() {
            tracing::info!(git_ref = work.git_ref, reason = work.reason, "saved work");
        }
        reach(Point::PutAwaySaved);
        self.record_saved(work, entry)?;
        reach(Point::PutAwayRecorded);
        if let Some(target) = &work.target {
            worktree.restore_branch_to(&work.branch, target)?;
            reach(Point::PutAwayRestored);
        }
        self.settle(entry, true)?;
        reach(Point::PutAwaySettled);
        Ok(())
    }

    fn save_branch(&self, worktree: &WorkTree, work: &PutAway) -> Result<()> {
        if worktree.branch()?.as_deref() == Some(work.branch.as_str()) {
            return Ok(());
        }
        let Some(commit) = self.repository.resolve(&format!("refs/heads/{}", work.branch))? else { return Ok(()) };
        for kept in [&work.base, &worktree.head()?] {
            if self.repository.is_ancestor(&commit, kept)? {
                return Ok(());
            }
        }
        match self.repository.set_ref(&work.branch_ref(), &commit, &RefExpectation::Absent) {
            Err(work_tree::Error::RefMoved { found: Some(found), .. }) if found == commit => Ok(()),
            other => Ok(other?),
        }
    }

    fn save_forgotten(&self, worktree: &WorkTree, work: &PutAway) -> Result<()> {
        let Some(commit) = worktree.forgotten_commits("what was amended or left behind")? else { return Ok(()) };
        match self.repository.set_ref(&work.commits_ref(), &commit, &RefExpectation::Absent) {
            Err(work_tree::Error::RefMoved { found: Some(_), .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Gives every ref that is there its row. True if there is one.
    fn record_saved(&self, work: &PutAway, entry: &str) -> Result<bool> {
        let mut saved = Vec::new();
        for git_ref in [work.git_ref.clone(), work.branch_ref(), work.commits_ref()] {
            if let Some(commit) = self.repository.resolve(&git_ref)? {
                saved.push((git_ref, commit));
            }
        }
        if saved.is_empty() {
            return Ok(false);
        }
        self.db.write(|tx| {
            let owner = tx.journal_entry(entry)?.and_then(|entry| entry.loop_id).unwrap_or_else(|| self.loop_id.clone());
            let test_id = match &work.test {
                Some(test) => tx.find_test(test.as_str())?.map(|test| test.id),
                None => None,
            };
            for (git_ref, commit) in &saved {
                if tx.checkpoint_of_ref(&owner, git_ref)?.is_none() {
                    tx.add_checkpoint(&NewCheckpoint {
                        loop_id: owner.clone(),
                        test_id: test_id.clone(),
                        git_ref: git_ref.clone(),
                        checkpoint_type: CheckpointType::Stash,
                        commit_hash: commit.to_string(),
                        reason: work.reason.clone(),
                    })?;
                }
            }
            let refs: Vec<&String> = saved.iter().map(|(git_ref, _)| git_ref).collect();
            tx.note_step(entry, "saved", json!({ "refs": refs }))
        })?;
        Ok(true)
    }

    /// Makes a ref to go back to.
    pub(crate) fn make_checkpoint(&self, test: &coord_db::Test, commit: &CommitHash) -> Result<String> {
        let git_ref = format!("{CHECKPOINTS}{}/{}/{}", self.loop_id, test.id, coord_db::new_id());
        let intent = json!({"git_ref": git_ref, "commit": commit.as_str(), "test": test.id, "attempt": test.attempts});
        let entry = self.intend(CHECKPOINT, intent)?;
        reach(Point::CheckpointIntended);
        self.repository.set_ref(&git_ref, commit, &RefExpectation::Any)?;
        reach(Point::CheckpointMade);
        self.db.write(|tx| {
            tx.add_checkpoint(&NewCheckpoint {
                loop_id: self.loop_id.clone(),
                test_id: Some(test.id.clone()),
                git_ref: git_ref.clone(),
                checkpoint_type: CheckpointType::Branch,
                commit_hash: commit.to_string(),
                reason: format!("before attempt {}", test.attempts),
            })?;
            tx.end_operation(&entry, true)
        })?;
        reach(Point::CheckpointSettled);
        Ok(git_ref)
    }

    /// Finishes or undoes what this loop has begun in the repository and not ended, in this life or a former one.
    pub(crate) fn recover(&self) -> Result<()> {
        let own = ProcessIdentity::own();
        for entry in self.db.read(|tx| tx.open_journal(self.loop_id.as_str()))? {
            if entry.steps.in_other_hands(&own) {
                continue;
            }
            let found = match entry.operation.as_str() {
                INTEGRATE => {
                    self.db.write(|tx| self.settle_landing(tx, &entry))?;
                    Found::Settled
                }
                MAKE_WORKTREE => {
                    self.make_worktree(Some(entry.id.clone()))?;
                    Found::Settled
                }
                MAKE_GATE_WORKTREE => {
                    // What cannot be removed is told by the next gate, where it matters.
                    if let Err(error) = self.repository.remove_worktree(&self.gate_folder(), &self.worktrees()) {
                        tracing::warn!(%error, "a worktree of the gate that was cut off cannot be removed");
                    }
                    Found::Ended(false)
                }
                PUT_AWAY => self.recover_put_away(&entry)?,
                _ => self.recover_refs(&entry)?,
            };
            self.settle_found(&entry, &found)?;
        }
        Ok(())
    }

    /// As [`Context::recover`], for loops that are dead: what has landed is recorded before anyone does it again. Their worktrees
    /// stay as they are, for a life to come.
    pub(crate) fn recover_for_the_dead(&self) -> Result<()> {
        for entry in self.db.read(|tx| tx.open_journal_of_all())? {
            let Some(other) = entry.loop_id.clone().filter(|id| *id != self.loop_id) else { continue };
            let row = self.db.read(|tx| tx.loops())?.into_iter().find(|row| row.id == other);
            let Some(row) = row else { continue };
            let gone = entry.steps.owner().is_some_and(|owner| owner.liveness() == Liveness::Gone);
            if row.status != LoopStatus::Error && !(gone && entry.operation == INTEGRATE) {
                continue;
            }
            tracing::info!(operation = entry.operation, loop_id = %other, "settling what a loop that is gone has begun");
            match self.recover_one_for_the_dead(&entry) {
                Err(error) if error.is_temporary() => return Err(error),
                // It is told as open, and must not keep this loop from its work.
                Err(error) => tracing::warn!(%error, entry = entry.id, "cannot settle what a loop that is gone has begun"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn recover_one_for_the_dead(&self, entry: &JournalEntry) -> Result<()> {
        if entry.operation == INTEGRATE {
            return self.db.write(|tx| self.settle_landing(tx, entry));
        }
        let found = self.recover_refs(entry)?;
        self.settle_found(entry, &found)
    }

    fn settle_found(&self, entry: &JournalEntry, found: &Found) -> Result<()> {
        if let Found::Ended(committed) = *found {
            reach(Point::StartEntryRecovered);
            tracing::info!(operation = entry.operation, committed, "what was begun and cut off is settled");
            self.settle(&entry.id, committed)?;
        }
        Ok(())
    }

    fn recover_put_away(&self, entry: &JournalEntry) -> Result<Found> {
        let (Some(work), Some(root)) = (PutAway::of(entry), entry.steps.text("worktree")) else {
            return Ok(Found::Ended(false));
        };
        // A row can name any folder; only the loop's own is ever put back.
        let own = |worktree: &WorkTree| {
            let usual = self.worktrees().join(self.loop_id.as_str()).canonicalize();
            usual.is_ok_and(|usual| usual == worktree.root())
                || worktree.branch().is_ok_and(|on| on.as_deref() == Some(&work.branch))
        };
        let begun = self.repository.resolve(&work.git_ref)?.is_some() || entry.steps.has("saved");
        if begun && let Some(worktree) = WorkTree::open(root.as_ref()).ok().filter(own) {
            match self.carry_away(&worktree, &work, &entry.id) {
                Ok(()) => return Ok(Found::Settled),
                Err(error) if error.is_temporary() => return Err(error),
                // Somebody has worked there since. It is put away as what it is now.
                Err(error) => tracing::warn!(%error, "work that was being put away is not as it was"),
            }
        }
        self.recover_refs(entry)
    }

    /// Settles what can be told from refs alone.
    fn recover_refs(&self, entry: &JournalEntry) -> Result<Found> {
        Ok(Found::Ended(match entry.operation.as_str() {
            PUT_AWAY => match PutAway::of(entry) {
                Some(work) => self.record_saved(&work, &entry.id)?,
                None => false,
            },
            CHECKPOINT => {
                if let Some(git_ref) = entry.steps.text("git_ref").filter(|name| name.starts_with(CHECKPOINTS))
                    && let Some(commit) = self.repository.resolve(git_ref)?
                {
                    self.repository.delete_ref(git_ref, &RefExpectation::At(commit))?;
                }
                false
            }
            _ => false,
        }))
    }
}
