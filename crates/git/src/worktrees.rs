//! The linked worktrees of the user's repository: finds checked-out branches, and removes worktrees of an older
//! version.
//!
//! It must never change the main checkout, nor the registration of another worktree: a worktree on a disk that is not
//! mounted looks like a deleted one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::call::{fields, to_path};
use crate::folders::absolute;
use crate::refs;
use crate::repository::short_name;
use crate::{CommitHash, Error, Repository, Result};

/// A registered worktree.
pub(crate) struct WorktreeEntry {
    /// The root of its files; for the entry of a bare repository the repository.
    pub(crate) path: PathBuf,
    /// The short name of the branch; none if detached.
    branch: Option<String>,
    /// True if its folder is missing, so that git would drop the entry.
    prunable: bool,
}

impl Repository {
    /// All registered worktrees, the main checkout (or the bare repository) first.
    pub(crate) fn worktrees(&self) -> Result<Vec<WorktreeEntry>> {
        let stdout = self.git.call(["worktree", "list", "--porcelain", "-z"]).ok()?;
        let mut list: Vec<WorktreeEntry> = Vec::new();
        for line in fields(&stdout) {
            let cut = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
            let (key, value) = (&line[..cut], line.get(cut + 1..).unwrap_or_default());
            if key == b"worktree" {
                list.push(WorktreeEntry { path: to_path(value), branch: None, prunable: false });
                continue;
            }
            let Some(entry) = list.last_mut() else {
                continue;
            };
            match key {
                b"branch" => entry.branch = Some(short_name(&String::from_utf8_lossy(value))),
                b"prunable" => entry.prunable = true,
                _ => {}
            }
        }
        Ok(list)
    }

    /// The git folder and the root of each worktree; for the main checkout the common folder and its root.
    fn git_dirs(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let mut list = vec![(self.common_dir.clone(), self.root.clone())];
        let below = self.common_dir.join("worktrees");
        let Ok(entries) = fs::read_dir(&below) else {
            return Ok(list);
        };
        for entry in entries {
            let git_dir = entry.map_err(Error::io("list", &below))?.path();
            let top = fs::read(git_dir.join("gitdir")).unwrap_or_default();
            let top = to_path(top.strip_suffix(b"\n").unwrap_or(&top));
            list.push((git_dir.clone(), top.parent().unwrap_or(&git_dir).to_owned()));
        }
        Ok(list)
    }

    /// The worktree (or main checkout) in which a branch is checked out or being rebased. Entries with a missing folder
    /// do not count.
    pub fn branch_checked_out(&self, name: &str) -> Result<Option<PathBuf>> {
        let full = format!("refs/heads/{name}");
        let dirs = self.git_dirs()?;
        if dirs.iter().all(|(git_dir, _)| is_elsewhere(git_dir, &full)) {
            return Ok(None);
        }
        let worktrees = self.worktrees()?;
        for entry in worktrees.iter().filter(|entry| !entry.prunable) {
            if entry.branch.as_deref() == Some(name) {
                return Ok(Some(entry.path.clone()));
            }
        }
        for (git_dir, path) in dirs {
            let is_deleted = worktrees.iter().any(|entry| entry.prunable && entry.path == path);
            if !is_deleted && branch_being_rebased(&git_dir).as_deref() == Some(full.as_str()) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Removes a worktree with all its files, and its registration. Only strictly below `managed`; nothing happens if
    /// it does not exist. Save its work first.
    ///
    /// # Errors
    /// [`Error::NotManaged`], [`Error::Io`] if a file cannot be deleted.
    pub fn remove_worktree(&self, path: &Path, managed: &Path) -> Result<()> {
        let refused = || Error::NotManaged { path: path.to_owned(), managed: managed.to_owned() };
        let managed_dir = managed.canonicalize().map_err(Error::io("resolve", managed))?;
        let path = absolute(path)?;
        let inside = path.starts_with(&managed_dir) && path != managed_dir;
        if !inside || self.common_dir.starts_with(&path) || self.root.starts_with(&path) {
            return Err(refused());
        }
        if path.symlink_metadata().is_ok_and(|meta| !meta.is_dir()) {
            // git would follow the link.
            return fs::remove_file(&path).map_err(Error::io("remove", &path));
        }
        let unregister = || self.git.call(["worktree", "remove", "--force", "--force", "--"]).arg(&path).answer();
        if unregister()?.code == Some(0) {
            return Ok(());
        }
        if path.symlink_metadata().is_ok() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        if self.worktrees()?.iter().any(|entry| entry.path == path) {
            unregister()?;
        }
        Ok(())
    }
}

/// True if the files of a git folder show that a branch (full name) is not checked out there.
fn is_elsewhere(git_dir: &Path, branch: &str) -> bool {
    let head = git_dir.join("HEAD");
    let is_file = head.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let text = if is_file { fs::read_to_string(head).ok() } else { None };
    let is_known_head = text.as_deref().and_then(|text| text.strip_suffix('\n')).is_some_and(|text| {
        // Other formats of references have a name there that git does not allow.
        let name = text.strip_prefix("ref:").map(str::trim);
        name.map_or_else(|| CommitHash::new(text).is_ok(), |name| refs::is_name(name) && name != branch)
    });
    is_known_head && branch_being_rebased(git_dir).as_deref() != Some(branch)
}

/// The full name of the branch that an unfinished rebase has detached from its worktree.
fn branch_being_rebased(git_dir: &Path) -> Option<String> {
    ["rebase-merge", "rebase-apply"].iter().find_map(|folder| {
        let name = fs::read_to_string(git_dir.join(folder).join("head-name")).ok()?;
        let name = name.trim_end();
        name.starts_with("refs/heads/").then(|| name.to_owned())
    })
}
