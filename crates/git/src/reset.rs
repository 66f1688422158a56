//! Resets a workspace to a commit.

use std::fs;
use std::path::Path;

use crash_point::{Point, reach};

use crate::call::LONG_TIME_LIMIT;
use crate::folders::remove_all;
use crate::repository::{changed_between, tree_of};
use crate::settings::{pairs, read_config, write_config};
use crate::submodules::Files;
use crate::transfer::retried;
use crate::workspace::Inherited;
use crate::{CommitHash, Damage, Error, Opened, Result, SnapshotOptions, Workspace};

/// The files of unfinished operations in a git folder.
const UNFINISHED: &[&str] = &[
    "MERGE_HEAD",
    "MERGE_MODE",
    "MERGE_MSG",
    "MERGE_AUTOSTASH",
    "SQUASH_MSG",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "sequencer",
    "rebase-merge",
    "rebase-apply",
    "BISECT_START",
    "BISECT_LOG",
    "BISECT_TERMS",
    "BISECT_NAMES",
    "BISECT_EXPECTED_REV",
    "BISECT_ANCESTORS_OK",
    "BISECT_RUN",
    "HEAD.lock",
    "index.lock",
    "config.lock",
    "packed-refs.lock",
    "reftable/tables.list.lock",
];

impl Workspace {
    /// Resets files, index and branch to a commit and discards everything that the agent has left, except ignored files
    /// and the content of its git folder (branches, stash, hooks). A workspace that is damaged or cannot be reset is
    /// replaced.
    pub fn reset_to(&self, base: &CommitHash) -> Result<Opened> {
        let _lock = self.lock()?;
        self.reset(base).map(|(opened, _)| opened)
    }

    /// Resets it like [`Self::reset_to`], and records its content as the start like [`Self::snapshot_start`].
    pub fn start_at(&self, base: &CommitHash, options: &SnapshotOptions<'_>) -> Result<Opened> {
        let _lock = self.lock()?;
        let (opened, was_there) = self.reset(base)?;
        if !was_there {
            self.record_start(options)?;
        }
        Ok(opened)
    }

    /// True if the files were those of the commit: they are recorded as the start then.
    fn reset(&self, base: &CommitHash) -> Result<(Opened, bool)> {
        let opened = match self.mend(base)? {
            opened @ Opened::Replaced { .. } => return Ok((opened, false)),
            opened => opened,
        };
        // A gc of the agent may still run.
        match retried(|| self.reset_in_place(base)) {
            Ok(was_there) => Ok((opened, was_there)),
            Err(error @ (Error::GitMissing | Error::GitTimedOut { .. })) => Err(error),
            Err(error) if error.is_disk_full() => Err(error),
            Err(error) => {
                // If the store lacks this commit, creating the workspace fails the same way.
                Ok((self.replace(Damage::ResetFailed(error.to_string()), base)?, false))
            }
        }
    }

    fn reset_in_place(&self, base: &CommitHash) -> Result<bool> {
        let was_there = self.reset_files(base)?;
        reach(Point::WorkspaceReset);
        let git_dir = self.git_dir();
        for name in UNFINISHED {
            remove_all(&git_dir.join(name))?;
        }
        remove_locks(&git_dir.join("refs"))?;
        let inherited = self.inherited()?;
        self.restore_config(&git_dir, &inherited)?;
        self.connect(&git_dir, base)?;
        self.record(base, &inherited)?;
        self.fill_submodules(self.root(), base, Files::Reset, None)?;
        Ok(was_there)
    }

    /// True if there was nothing to do.
    fn reset_files(&self, base: &CommitHash) -> Result<bool> {
        // Untracked files first: an attributes file among them would change how files are written. What was removed is printed.
        let clean = self.git.call(["clean", "--force", "--force", "-d"]).time_limit(LONG_TIME_LIMIT);
        let has_removed = !clean.ok()?.is_empty();
        let differing = self.git.call(["diff-files", "-z", "--name-only", "--ignore-submodules=all"]).paths()?;
        let mut state = self.state()?;
        let index_tree = match state.index_tree.take() {
            Some(tree) => tree,
            None => self.git.call(["write-tree"]).hash()?,
        };
        let is_simple = !state.converts && !state.has_links;
        let is_there = differing.is_empty() && index_tree == tree_of(self.store.git(), base)?;
        if is_simple && is_there && !has_removed {
            return Ok(true);
        }
        let moved = changed_between(&self.git, &index_tree, base)?;
        let differ =
            |name: &str| differing.iter().chain(&moved).any(|path| path.file_name().is_some_and(|found| found == name));
        // The index is about to become another one.
        state.write(&self.spec)?;
        if differ(".gitattributes") {
            // Files written under other rules look unchanged to git but are not: all are written again, after the files
            // with the rules are removed.
            remove_all(&self.spec.state.join("index"))?;
            self.git.call(["read-tree", base.as_str()]).ok()?;
            clean.ok()?;
            self.git.call(["checkout-index", "-q", "-f", "-u", "-a"]).time_limit(LONG_TIME_LIMIT).ok()?;
        } else {
            self.git.call(["read-tree", "--reset", "-u", base.as_str()]).time_limit(LONG_TIME_LIMIT).ok()?;
            // Files that only the rules of the agent ignored.
            if has_removed || differ(".gitignore") {
                clean.ok()?;
            }
        }
        Ok(false)
    }

    /// Restores the required settings of the agent's config; others belong to the agent.
    fn restore_config(&self, git_dir: &Path, inherited: &Inherited) -> Result<()> {
        let (path, settings) = (git_dir.join("config"), self.settings()?);
        let mut config = read_config(&path)?;
        let before = config.clone();
        let wanted = self.own_settings(&settings, inherited);
        let is_wanted = |key: &[u8]| wanted.iter().chain(&settings.pairs).any(|(name, _)| name == key);
        config.retain(|(key, _)| !is_wanted(key) && key != b"core.worktree" && key != b"core.bare");
        config.extend(pairs(&[("core.bare", "false")]));
        config.extend(settings.pairs);
        config.extend(wanted);
        if config == before { Ok(()) } else { write_config(&path, &config) }
    }
}

/// Removes stale locks of references left by a killed git. No reference has this kind of name.
fn remove_locks(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_locks(&path)?;
        } else if path.extension().is_some_and(|end| end == "lock") {
            remove_all(&path)?;
        }
    }
    Ok(())
}
