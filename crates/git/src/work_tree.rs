//! A commit's files in a folder: the user's checkout, a linked worktree, a check-out.
//!
//! It must only change check-outs for checks.

mod checkout;
mod saving;

pub(crate) use checkout::LAST_SECOND;

use std::fs;
use std::path::{Path, PathBuf};

use crate::call::{Git, fields, to_path};
use crate::place::Place;
use crate::{CommitHash, Error, Result};

/// A folder with a commit's files and a pinned repository: if its `.git` is lost, calls fail instead of using another
/// repository.
#[derive(Clone, Debug)]
pub struct WorkTree {
    git: Git,
    root: PathBuf,
    git_dir: PathBuf,
    common_dir: PathBuf,
    /// For a clone used only for checks, whose files may be overwritten and whose `.git` is not used here: the folder
    /// of the submodule repositories in the store.
    modules: Option<PathBuf>,
}

/// A changed path of `git status`.
struct Change {
    path: PathBuf,
    /// Another repository inside the worktree, of which git can only store the commit.
    nested_repository: bool,
}

impl WorkTree {
    /// Opens the worktree with exactly this root.
    ///
    /// # Errors
    /// [`Error::NotARepository`], also for a folder inside a worktree and for a bare repository.
    pub fn open(path: &Path) -> Result<Self> {
        let not_one = || Error::NotARepository { path: path.to_owned() };
        let root = path.canonicalize().map_err(|_| not_one())?;
        if !root.is_dir() {
            return Err(not_one());
        }
        let place = Place::of(&root)?;
        let top = match place.path("--show-toplevel") {
            Ok(top) => top,
            Err(Error::GitFailed { stderr, .. }) if stderr.contains("work tree") => {
                return Err(not_one());
            }
            Err(error) => return Err(error),
        };
        if top != root {
            return Err(not_one());
        }
        let git_dir = place.path("--git-dir")?;
        let common_dir = place.path("--git-common-dir")?;
        Ok(Self { git: Git::in_work_tree(&git_dir, &root), root, git_dir, common_dir, modules: None })
    }

    /// A check-out in which nobody works, with a separate git folder.
    pub(crate) fn for_checks(git: Git, root: PathBuf, git_dir: PathBuf, modules: PathBuf) -> Self {
        Self { git, root, common_dir: git_dir.clone(), git_dir, modules: Some(modules) }
    }

    /// # Errors
    /// [`Error::NotForChecks`] for a folder in which somebody may work.
    pub(crate) fn must_be_for_checks(&self) -> Result<()> {
        if self.modules.is_some() { Ok(()) } else { Err(Error::NotForChecks { path: self.root.clone() }) }
    }

    pub(crate) fn modules(&self) -> Option<&Path> {
        self.modules.as_deref()
    }

    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    /// The root of its files.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its own git folder.
    pub(crate) fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// True for the repository's main checkout, false for a linked worktree.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.git_dir == self.common_dir
    }

    /// The checked-out commit.
    ///
    /// # Errors
    /// [`Error::UnknownRevision`] before the first commit.
    pub fn head(&self) -> Result<CommitHash> {
        if let Some(head) = self.checked_out() {
            return Ok(head);
        }
        let head = self.git.call(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).hash_if_any()?;
        head.ok_or_else(|| Error::UnknownRevision { rev: "HEAD".to_owned() })
    }

    /// The HEAD of a check-out for checks, in whose git folder only we have written a commit there.
    fn checked_out(&self) -> Option<CommitHash> {
        let text = self.modules.as_ref().and_then(|_| fs::read_to_string(self.git_dir.join("HEAD")).ok())?;
        CommitHash::new(text.strip_suffix('\n')?).ok()
    }

    /// True if nothing differs from HEAD: no change, nothing staged, no untracked file except ignored ones.
    pub fn is_clean(&self) -> Result<bool> {
        Ok(self.changes()?.is_empty())
    }

    /// The files that differ from HEAD: modified, deleted, added, and untracked but not ignored. Relative to the root,
    /// sorted, a renamed file under both names. Another repository inside the worktree counts as one file.
    pub fn changed_files(&self) -> Result<Vec<PathBuf>> {
        Ok(self.changes()?.into_iter().map(|change| change.path).collect())
    }

    /// The option for git about submodules: changes of checks in them are found separately.
    fn submodules(&self) -> &'static str {
        if self.modules.is_some() { "--ignore-submodules=dirty" } else { "--ignore-submodules=none" }
    }

    fn changes(&self) -> Result<Vec<Change>> {
        changes(&self.git, self.submodules())
    }
}

/// All differences from HEAD in the index or in the files, including untracked files but not ignored ones.
fn changes(git: &Git, submodules: &str) -> Result<Vec<Change>> {
    let call =
        git.call(["status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames", submodules, "--no-ahead-behind"]);
    let mut list = Vec::new();
    for entry in fields(&call.ok()?) {
        let (Some(state), Some(path)) = (entry.get(..2), entry.get(3..)) else {
            return Err(call.unexpected("an entry without a path"));
        };
        let nested_repository = state == b"??" && path.ends_with(b"/");
        let path = path.strip_suffix(b"/").unwrap_or(path);
        list.push(Change { path: to_path(path), nested_repository });
    }
    list.sort_by(|a, b| a.path.cmp(&b.path));
    list.dedup_by(|a, b| a.path == b.path);
    Ok(list)
}
