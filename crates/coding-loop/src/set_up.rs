//! Maintains the store while a loop works: starts integration, repairs the store, and imports the worktree of an older
//! installation.

use coord_db::{CheckpointType, Counts, ErrorCategory, FailedAttempt, NewCheckpoint, new_id};
use git::{CommitHash, Depth, Error as GitError, RefExpectation, WorkTree, Workspace};

use crate::context::Context;
use crate::end::error_as_failure;
use crate::operation::SAVED;
use crate::store::{OURS, passed, rebuild, store};
use crate::{Error, Result};

impl Context<'_> {
    /// Creates the store again if it was removed while the loop runs.
    pub(crate) fn remake_lost_store(&self) -> Result<()> {
        if !self.store.is_there() {
            tracing::error!(path = %self.layout.store_path().display(), "cannot open the store; creating it again");
            store(self.db, self.config, &self.user, &self.layout, Some(&self.loop_id))?;
        }
        Ok(())
    }

    /// True if a damaged store may have caused an error.
    pub(crate) fn is_store_damaged(&self, error: &Error) -> bool {
        let is_of_git = match error {
            Error::Git(GitError::GitMissing | GitError::GitTimedOut { .. } | GitError::NotSigned { .. }) => false,
            Error::Git(error) => !error.is_disk_full(),
            _ => false,
        };
        is_of_git && matches!(self.store.damage(&self.user, Depth::All), Ok(Some(_)))
    }

    /// Converts an error of an attempt to its end. A damaged store is nobody's failure: it is created again.
    pub(crate) fn failure_of(&self, error: &Error) -> FailedAttempt {
        match self.repair_store(error) {
            Ok(true) => FailedAttempt {
                counts: Counts::GivenBack,
                ..FailedAttempt::new(
                    ErrorCategory::Transient,
                    "the store was damaged and has been created again; the attempt is repeated",
                )
            },
            Ok(false) => error_as_failure(error),
            Err(other) => {
                tracing::error!(error = coord_db::error_chain(&other), "cannot create the store again");
                error_as_failure(error)
            }
        }
    }

    /// Creates the store again if it is damaged, as an error suggests. False if it is intact.
    pub(crate) fn repair_store(&self, error: &Error) -> Result<bool> {
        if !self.is_store_damaged(error) {
            return Ok(false);
        }
        tracing::error!(%error, path = %self.layout.store_path().display(), "the store is damaged; creating it again");
        rebuild(self.db, &self.user, &self.layout, &self.config.repository)?;
        Ok(true)
    }

    /// Starts integration at the commit checked out by the user.
    pub(crate) fn start_integration(&self) -> Result<CommitHash> {
        // A started integration is not started at another commit because its objects are missing.
        if self.db.read(|tx| tx.store_makings())?.iter().any(|made| made.integration.is_some()) || !passed(self.db)?.is_empty()
        {
            rebuild(self.db, &self.user, &self.layout, &self.config.repository)?;
            if let Some(head) = self.store.integration()? {
                return Ok(head);
            }
        }
        let start = self.store.fetch_from_user(&self.user, "HEAD").map_err(|error| match error {
            git::Error::UnknownRevision { .. } => Error::SetUp(format!(
                "the repository {} has no commit; create the first commit and start the loop again",
                self.user.root().display()
            )),
            error => error.into(),
        })?;
        Ok(self.store.start_integration(&start)?)
    }

    /// Imports what an older version has left of this loop in the user's repository: saves the work in its linked
    /// worktree, copies it to the workspace for a loop that is driven by hand, and then removes the worktree and its
    /// branch.
    pub(crate) fn bring_worktree_over(&self) -> Result<()> {
        let folder = self.home.join("worktrees");
        if !folder.is_dir() {
            return Ok(());
        }
        let own = folder.join(self.loop_id.as_str());
        if let Ok(worktree) = WorkTree::open(&own)
            && !worktree.is_main()
        {
            self.save_worktree(&worktree)?;
            let branch = self.branch()?;
            self.user.remove_worktree(&own, &folder)?;
            // A branch with a name chosen by the user belongs to the user.
            if branch.starts_with("coding-loops/") && branch != self.integration_branch() {
                self.user.delete_ref(&format!("refs/heads/{branch}"), &RefExpectation::Any)?;
            }
            tracing::info!(folder = %own.display(), "importing the loop's worktree of an older version");
        }
        let gate = format!(".gate-{}", self.loop_id);
        for name in std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.file_name()) {
            let text = name.to_string_lossy();
            if text == gate || text.starts_with(".regression-") {
                self.user.remove_worktree(&folder.join(&name), &folder)?;
            }
        }
        // References that are in the store are no longer needed in the user's repository.
        for (name, commit) in self.user.list_refs(OURS)? {
            if self.history().resolve(&name)?.as_ref() == Some(&commit) {
                self.user.delete_ref(&name, &RefExpectation::At(commit))?;
            }
        }
        // The folder stays while another loop uses it.
        drop(std::fs::remove_dir(&folder));
        Ok(())
    }

    fn save_worktree(&self, worktree: &WorkTree) -> Result<()> {
        let head = self.integration_head()?;
        let base = self.user.merge_base(&worktree.head()?, &head)?.unwrap_or_else(|| head.clone());
        let test = self.db.read(|tx| tx.loop_row(&self.loop_id))?.current_test_id;
        let name = test.as_ref().map_or("none", |test| test.as_str());
        let git_ref = format!("{SAVED}{}/{name}/{}", self.loop_id, new_id());
        let reason = "imported from the worktree of an older version";
        let Some(saved) = worktree.save_under(&git_ref, reason, &base)? else { return Ok(()) };
        self.store.import_refs(&self.user, &git_ref)?;
        self.db.write(|tx| {
            let checkpoint = NewCheckpoint {
                loop_id: self.loop_id.clone(),
                test_id: test.clone(),
                git_ref: git_ref.clone(),
                checkpoint_type: CheckpointType::Stash,
                commit_hash: saved.to_string(),
                reason: reason.to_owned(),
            };
            tx.add_checkpoint(&checkpoint).map(drop)
        })?;
        tracing::info!(git_ref, "work saved");
        if !self.managed {
            let (workspace, _) = Workspace::open_or_create(&self.store, &self.workspace_spec()?, &head)?;
            self.restore(&workspace, &saved)?;
        }
        Ok(())
    }
}
