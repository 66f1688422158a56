//! Saves the work in a linked worktree, which only an installation of an older version has.
//!
//! It must not change the worktree's index and files: it uses a copy of the index.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::changes;
use crate::call::{Git, fields, to_path};
use crate::commit::build_message;
use crate::folders::copy_index;
use crate::repository::{changed_between, commit_tree, tree_of};
use crate::{CommitHash, Error, RefExpectation, Repository, Result, WorkTree};

/// A copy of a worktree's index, removed with its lock when dropped.
struct IndexCopy {
    path: PathBuf,
}

impl IndexCopy {
    /// Copies the index; if it is missing, creates one with `head`'s tree.
    fn new(git: &Git, git_dir: &Path, head: &CommitHash) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let copy = Self { path: git_dir.join(format!("coding-loops-index.{}.{number}", std::process::id())) };
        let index = git_dir.join("index");
        match copy_index(&index, &copy.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                git.call(["read-tree", head.as_str()]).env("GIT_INDEX_FILE", &copy.path).ok()?;
            }
            Err(error) => return Err(Error::io("copy", index)(error)),
        }
        Ok(copy)
    }
}

impl Drop for IndexCopy {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
        drop(fs::remove_file(
            self.path.with_extension(format!("{}.lock", self.path.extension().unwrap_or_default().to_string_lossy())),
        ));
    }
}

impl WorkTree {
    /// Saves everything beyond `base`, commits and changes, under a reference (full name) of its repository; none if
    /// there is nothing. Saving the same again gives the same commit.
    ///
    /// The commit's first parent is HEAD, unless it is HEAD itself. Staged content that is neither in HEAD nor in the
    /// files is kept as a second parent, as `git stash` does. A repository inside the worktree is left out.
    ///
    /// # Errors
    /// [`Error::RefMoved`] if other work is saved there: saved work is never overwritten.
    pub fn save_under(&self, refname: &str, message: &str, base: &CommitHash) -> Result<Option<CommitHash>> {
        let head = self.head()?;
        let saved = self.snapshot(&head, &build_message(message, &[])?)?;
        let repository = Repository::open(&self.common_dir)?;
        if saved == head && repository.is_ancestor(&head, base)? {
            return Ok(None);
        }
        match repository.set_ref(refname, &saved, &RefExpectation::Absent) {
            Ok(()) => Ok(Some(saved)),
            Err(Error::RefMoved { found: Some(found), .. }) if self.same_work(&found, &saved)? => Ok(Some(found)),
            Err(error) => Err(error),
        }
    }

    fn same_work(&self, a: &CommitHash, b: &CommitHash) -> Result<bool> {
        let essence = |commit: &CommitHash| {
            let parent = self.git.call(["rev-parse", "--verify", "--quiet"]).arg(format!("{commit}^1")).hash_if_any()?;
            Ok::<_, Error>((tree_of(&self.git, commit)?, parent))
        };
        Ok(a == b || essence(a)? == essence(b)?)
    }

    /// A commit of everything that is not ignored on top of `head`; `head` itself if nothing differs.
    fn snapshot(&self, head: &CommitHash, message: &str) -> Result<CommitHash> {
        let index = IndexCopy::new(&self.git, &self.git_dir, head)?;
        let git = self.git.with_env("GIT_INDEX_FILE", &index.path);
        clear_hiding_flags(&git, &self.root)?;
        // An index with unresolved conflicts has no tree; its additional content are the two sides, which are already
        // commits.
        let staged = git.call(["write-tree"]).hash().ok();
        let nested =
            changes(&git, self.submodules())?.into_iter().filter(|change| change.nested_repository).map(|change| change.path);
        stage(&git, nested)?;
        let tree = git.call(["write-tree"]).hash()?;
        let head_tree = tree_of(&git, head)?;
        let mut index_commit = None;
        if let Some(staged) = staged {
            let in_index = changed_between(&git, &head_tree, &staged)?;
            let beyond = changed_between(&git, &staged, &tree)?;
            if in_index.iter().any(|path| beyond.binary_search(path).is_ok()) {
                index_commit = Some(commit_tree(&git, &staged, &[head], &format!("index of: {message}"))?);
            }
        }
        if tree == head_tree && index_commit.is_none() {
            return Ok(head.clone());
        }
        let parents: Vec<&CommitHash> = [head].into_iter().chain(&index_commit).collect();
        commit_tree(&git, &tree, &parents, message)
    }
}

/// Clears the index flags that hide changes: `assume-unchanged`, and `skip-worktree` if the file exists.
fn clear_hiding_flags(git: &Git, root: &Path) -> Result<()> {
    let listed = git.call(["ls-files", "-v", "-z"]).ok()?;
    let (mut assumed, mut skipped) = (Vec::new(), Vec::new());
    for entry in fields(&listed) {
        let (Some(&flag), Some(path)) = (entry.first(), entry.get(2..)) else { continue };
        let ended = path.iter().copied().chain([0]);
        if flag.is_ascii_lowercase() {
            assumed.extend(ended.clone());
        }
        if flag.eq_ignore_ascii_case(&b'S') && root.join(to_path(path)).symlink_metadata().is_ok() {
            skipped.extend(ended);
        }
    }
    for (option, paths) in [("--no-assume-unchanged", assumed), ("--no-skip-worktree", skipped)] {
        if !paths.is_empty() {
            git.call(["update-index", option, "-z", "--stdin"]).stdin(paths).ok()?;
        }
    }
    Ok(())
}

/// Adds everything except `excluded` to the index. Unreadable files are left out, and a file that does not fit its
/// attributes is stored unconverted, which is better than not saving it.
fn stage(git: &Git, excluded: impl Iterator<Item = PathBuf>) -> Result<()> {
    let mut paths: Vec<u8> = b":(top)\0".to_vec();
    for path in excluded {
        paths.extend_from_slice(b":(top,literal,exclude)");
        paths.extend_from_slice(path.as_os_str().as_bytes());
        paths.push(0);
    }
    let options = ["add", "--all", "--ignore-errors", "--pathspec-from-file=-", "--pathspec-file-nul"];
    let add = git.call(options).stdin(paths);
    let answer = add.answer()?;
    match answer.code {
        Some(0) => return Ok(()),
        Some(1) => {
            tracing::warn!(error = %add.failed(answer), "cannot save some files");
            return Ok(());
        }
        _ => {}
    }
    // Files whose attributes prevent storing them (an encoding that does not fit) can be stored unconverted.
    let empty = git.call(["hash-object", "-t", "tree", "/dev/null"]).hash()?;
    let error = add.failed(answer);
    match add.env("GIT_ATTR_SOURCE", empty.as_str()).answer()?.code {
        Some(0 | 1) => Ok(()),
        _ => Err(error),
    }
}
