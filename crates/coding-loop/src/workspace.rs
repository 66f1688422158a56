//! The loop's workspace: brought to the head of integration before and after an attempt; work is saved first.

use std::path::PathBuf;

use coord_db::{ErrorCategory, LandingState, Test, TestId, TestStatus};
use crash_point::{Point, reach};
use git::{CommitHash, Error as GitError, Finding, Opened, SnapshotOptions, Workspace};

use crate::Result;
use crate::context::{Attempt, Context};
use crate::operation::{PutAway, SAVED};

impl Context<'_> {
    /// Opens the loop's workspace; creates it if there is none, repairs or replaces it if it is damaged.
    pub(crate) fn workspace(&self) -> Result<Workspace> {
        let head = self.integration_head()?;
        let (workspace, opened) = Workspace::open_or_create(&self.store, &self.workspace_spec()?, &head)?;
        log_damage(&workspace, &opened);
        reach(Point::WorkspaceReady);
        Ok(workspace)
    }

    /// Saves the changes of the workspace under a new reference, and brings it to `target` if given.
    pub(crate) fn save_work(
        &self,
        workspace: &Workspace,
        test: Option<&TestId>,
        target: Option<&CommitHash>,
        reason: &str,
    ) -> Result<()> {
        let id = coord_db::new_id();
        // Files that no commit can contain are moved aside before they would be deleted.
        let commit = match self.saved_commit(workspace, test, reason, target.map(|_| id.as_str())) {
            // The whole folder is kept when the workspace is created again.
            Err(crate::Error::Git(error @ GitError::WorkspaceDamaged { .. })) => {
                tracing::warn!(%error, "cannot save the work of a damaged workspace");
                None
            }
            saved => saved?,
        };
        let Some(commit) = commit else {
            return match target {
                Some(target) => self.restore(workspace, target),
                None => Ok(()),
            };
        };
        let name = test.map_or("none", |test| test.as_str());
        let work = PutAway {
            git_ref: format!("{SAVED}{}/{name}/{id}", self.loop_id),
            commit: Some(commit),
            test: test.cloned(),
            reason: reason.to_owned(),
            target: target.cloned(),
        };
        self.put_away(workspace, work)
    }

    /// The work in the workspace as a commit, on its base and on the agent's own commits. None if there is nothing that
    /// integration does not contain. `aside` names the folder for files that no commit can contain.
    fn saved_commit(
        &self,
        workspace: &Workspace,
        test: Option<&TestId>,
        reason: &str,
        aside: Option<&str>,
    ) -> Result<Option<CommitHash>> {
        let options = SnapshotOptions { take_unignored: true, ..self.look_options(self.config.landing.file_bytes) };
        let snapshot = workspace.snapshot(&options)?;
        reach(Point::WorkLooked);
        let not_taken = |finding: &Finding| match finding {
            Finding::TooLarge { path, .. } | Finding::Unstorable { path, .. } => Some(path.clone()),
            _ => None,
        };
        let left_out: Vec<PathBuf> = snapshot.findings.iter().filter_map(not_taken).collect();
        let mut note = String::new();
        if let (false, Some(id)) = (left_out.is_empty(), aside) {
            let folder = self.layout.left(self.loop_id.as_str()).join(id);
            match workspace.set_aside(&left_out, &folder) {
                Ok(()) => {
                    note = format!("\n\nFiles that are not in this commit are in {}", folder.display());
                    reach(Point::PutAwaySetAside);
                }
                // They would be deleted otherwise.
                Err(error) if error.is_disk_full() => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "files that no commit can contain stay in the workspace"),
            }
        }
        let change = workspace.change(&snapshot)?;
        let own_commits = match workspace.left_behind() {
            Err(error) if error.is_disk_full() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "cannot save the agent's own commits; they remain in its workspace");
                Vec::new()
            }
            Ok(commits) => commits,
        };
        let base = workspace.base()?;
        if own_commits.is_empty() && left_out.is_empty() {
            if change.paths.is_empty() {
                return Ok(None);
            }
            // It may have landed meanwhile.
            let head = self.integration_head()?;
            let landed = git::PutOn::Tree(self.history().tree_of(&head)?);
            if self.store.put_on(&change, &head)? == landed {
                return Ok(None);
            }
        }
        let name = test.map_or("none", TestId::as_str);
        let message = format!("Work of {} on {name}, saved: {reason}{note}", self.loop_id);
        let parents: Vec<&CommitHash> = std::iter::once(&base).chain(&own_commits).collect();
        Ok(Some(self.store.commit(&change.tree, &parents, &message, &[])?))
    }

    /// Resets the workspace after its work was queued: to where it has landed, if it has. What was written since is saved.
    pub(crate) fn leave_queued(&self, attempt: &Attempt) -> Result<()> {
        let (workspace, test) = (&attempt.workspace, &attempt.test.id);
        workspace.left_behind()?;
        let row = self.db.read(|tx| tx.test(test))?;
        if let (TestStatus::Passed, Some(Ok(landed))) = (row.status, row.commit_hash.map(CommitHash::new)) {
            return self.save_work(workspace, Some(test), Some(&landed), "written while the work was landed");
        }
        let queued = attempt.work.as_ref().filter(|_| attempt.in_place.is_none()).map(|work| &work.change.tree);
        let options = SnapshotOptions { take_unignored: true, ..self.look_options(self.config.landing.file_bytes) };
        let change = workspace.snapshot(&options).and_then(|snapshot| workspace.change(&snapshot))?;
        if Some(&change.tree) == queued {
            return self.restore(workspace, &attempt.base);
        }
        self.save_work(workspace, Some(test), Some(&attempt.base), "written while the work was queued")
    }

    /// Brings the workspace to a commit. For work that has not landed, it goes to the base of the work, with the work
    /// in its files.
    pub(crate) fn restore(&self, workspace: &Workspace, target: &CommitHash) -> Result<()> {
        let head = self.integration_head()?;
        let base = self.history().merge_base(target, &head)?.unwrap_or_else(|| target.clone());
        let opened = workspace.start_at(&base, &self.look_options(self.config.landing.file_bytes))?;
        log_damage(workspace, &opened);
        if base != *target {
            workspace.put_back(&self.history().tree_of(target)?)?;
        }
        Ok(())
    }

    /// Saves and removes changes left in the workspace by an earlier process or by hand.
    pub(crate) fn tidy(&self, workspace: &Workspace, test: Option<&TestId>, reason: &str) -> Result<CommitHash> {
        self.recover(Some(workspace))?;
        reach(Point::StartRecovered);
        let base = self.integration_head()?;
        self.save_work(workspace, test, Some(&base), reason)?;
        Ok(base)
    }

    /// Brings the workspace to the start of an attempt and creates a checkpoint.
    pub(crate) fn begin(&self, test: Test) -> Result<Attempt> {
        let workspace = self.workspace()?;
        let base = self.tidy(&workspace, None, "left before the attempt")?;
        let checkpoint_ref = self.make_checkpoint(&test, &base)?;
        let is_back = self.put_returned_back(&test, &workspace, &base)?;
        // Without its work in the files, a session would remember what is not there.
        let session = match is_back {
            Some(false) => None,
            _ => self.interrupted_session(&test, &workspace, &base, is_back.is_some())?,
        };
        let mut attempt = Attempt::new(test, workspace, base, checkpoint_ref);
        attempt.mend = attempt.test.last_error.clone().filter(|_| is_back == Some(true));
        attempt.session = session;
        Ok(attempt)
    }

    /// Puts work into the files that the landing train has given back. None if there is none, false if it does not merge with
    /// the base.
    fn put_returned_back(&self, test: &Test, workspace: &Workspace, base: &CommitHash) -> Result<Option<bool>> {
        let landings = self.db.read(|tx| tx.landings_of(&test.id))?;
        let Some(returned) = landings.last().filter(|landing| landing.state == LandingState::Returned) else {
            return Ok(None);
        };
        // Only directly after it came back: a later attempt has received other errors.
        if test.error_category != Some(ErrorCategory::Conflict) || self.history().resolve(&returned.commit_hash)?.is_none() {
            return Ok(None);
        }
        let git::PutOn::Tree(tree) = self.store.put_on(&self.change_of(returned)?, base)? else { return Ok(Some(false)) };
        workspace.put_back(&tree)?;
        Ok(Some(true))
    }
}

fn log_damage(workspace: &Workspace, opened: &Opened) {
    let (Opened::Repaired { damage, kept_as } | Opened::Replaced { damage, kept_as }) = opened else { return };
    let kept = kept_as.as_ref().map(|kept| kept.display().to_string()).unwrap_or_default();
    tracing::warn!(workspace = %workspace.root().display(), ?damage, kept, "the workspace was damaged and has been repaired");
}
