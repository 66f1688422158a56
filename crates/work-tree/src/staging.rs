//! Turning what lies in a worktree into trees, with the real index or a copy of it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::git::{Call, Git, fields, to_path};
use crate::repository::{changed_between, tree_of};
use crate::{CommitHash, Error, Result};

/// How the copies are called, before the process's id.
const INDEX_COPY: &str = "coding-loops-index.";

/// A copy of a worktree's index, removed with its lock when dropped.
pub(crate) struct IndexCopy {
    path: PathBuf,
}

impl IndexCopy {
    /// Copies the index; a missing one gives one that holds `head`'s tree.
    pub(crate) fn new(git: &Git, git_dir: &Path, head: &CommitHash) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let copy = Self { path: git_dir.join(format!("{INDEX_COPY}{}.{number}", std::process::id())) };
        let index = git_dir.join("index");
        match fs::copy(&index, &copy.path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                git.call(["read-tree", head.as_str()]).env("GIT_INDEX_FILE", &copy.path).ok()?;
            }
            Err(error) => return Err(Error::io("copy", index)(error)),
        }
        Ok(copy)
    }

    fn on<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.env("GIT_INDEX_FILE", &self.path)
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

/// A changed path as `git status` tells it.
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// Another repository that lies in the worktree. It is nobody's file: git can only store which commit it is at.
    pub(crate) nested_repository: bool,
}

/// Everything that differs from HEAD in the index or in the files, untracked files included, ignored ones not.
pub(crate) fn changes(git: &Git) -> Result<Vec<Change>> {
    let call = git.call([
        "status",
        "--porcelain=v1",
        "-z",
        "--untracked-files=all",
        "--no-renames",
        "--ignore-submodules=none",
        "--no-ahead-behind",
    ]);
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

/// Brings everything but `excluded` into the index (or its copy).
///
/// With `lenient`, a file that cannot be read is left out, and one whose attributes do not fit it is taken as it is, which is
/// better than saving nothing.
///
/// # Errors
/// [`Error::Unstorable`] if it is the files' own attributes that stand in the way.
pub(crate) fn stage(git: &Git, index: Option<&IndexCopy>, excluded: &[PathBuf], lenient: bool) -> Result<()> {
    let mut paths: Vec<u8> = b":(top)\0".to_vec();
    for path in excluded {
        paths.extend_from_slice(b":(top,literal,exclude)");
        paths.extend_from_slice(path.as_os_str().as_bytes());
        paths.push(0);
    }
    let call = || {
        let mut call = git.call(["add", "--all", "--pathspec-from-file=-", "--pathspec-file-nul"]).stdin(paths.clone());
        if lenient {
            call = call.arg("--ignore-errors");
        }
        if let Some(index) = index { index.on(call) } else { call }
    };
    let first = call();
    let answer = first.answer()?;
    match answer.code {
        Some(0) => return Ok(()),
        Some(1) if lenient => {
            tracing::warn!(error = %first.failed(answer), "some files could not be saved");
            return Ok(());
        }
        _ => {}
    }
    // What only the attributes of the files stand in the way of (an encoding that a file does not have) can be stored as it is.
    let fatal = answer.stderr.lines().rev().find_map(|line| line.strip_prefix("fatal: ")).unwrap_or_default().to_owned();
    let empty = git.call(["hash-object", "-t", "tree", "/dev/null"]).hash()?;
    let plain = call().env("GIT_ATTR_SOURCE", empty.as_str()).answer()?;
    match plain.code {
        Some(0 | 1) if lenient => Ok(()),
        Some(0) => Err(Error::Unstorable { what: fatal }),
        _ => Err(first.failed(answer)),
    }
}

/// Writes the index (or its copy) as a tree.
pub(crate) fn write_tree(git: &Git, index: Option<&IndexCopy>) -> Result<CommitHash> {
    let call = git.call(["write-tree"]);
    if let Some(index) = index { index.on(call).hash() } else { call.hash() }
}

/// Makes a commit object.
pub(crate) fn commit_tree(git: &Git, tree: &CommitHash, parents: &[&CommitHash], message: &str) -> Result<CommitHash> {
    let mut call = git.call(["commit-tree", tree.as_str(), "-F", "-"]).stdin(message).with_identity();
    for parent in parents {
        call = call.args(["-p", parent.as_str()]);
    }
    call.hash()
}

/// A commit of everything that is not ignored on top of `head`, made beside the real index and files. Content that only
/// the index holds becomes reachable through a second parent.
pub(crate) fn snapshot(git: &Git, git_dir: &Path, head: &CommitHash, message: &str) -> Result<CommitHash> {
    let index = IndexCopy::new(git, git_dir, head)?;
    // An index with unresolved conflicts has no tree; what it holds beyond the files are the two sides, which are
    // commits already.
    let staged = write_tree(git, Some(&index)).ok();
    let nested: Vec<PathBuf> =
        changes(git)?.into_iter().filter(|change| change.nested_repository).map(|change| change.path).collect();
    stage(git, Some(&index), &nested, true)?;
    let tree = write_tree(git, Some(&index))?;
    let mut parents = vec![head];
    let mut index_commit = None;
    if let Some(staged) = staged {
        let in_index = changed_between(git, &tree_of(git, head)?, &staged)?;
        let beyond = changed_between(git, &staged, &tree)?;
        if in_index.iter().any(|path| beyond.binary_search(path).is_ok()) {
            index_commit = Some(commit_tree(git, &staged, &[head], &format!("index of: {message}"))?);
        }
    }
    parents.extend(&index_commit);
    commit_tree(git, &tree, &parents, message)
}

/// Removes what was left in a worktree's git folder by those who were killed: the locks of a git, and copies of the index.
pub(crate) fn remove_locks(git_dir: &Path) -> Result<()> {
    let entries = fs::read_dir(git_dir).map_err(Error::io("list", git_dir))?;
    for entry in entries {
        let path = entry.map_err(Error::io("list", git_dir))?.path();
        let copy = path.file_name().is_some_and(|name| name.as_bytes().starts_with(INDEX_COPY.as_bytes()));
        if (copy || path.extension() == Some(OsStr::new("lock"))) && path.is_file() {
            tracing::warn!(file = ?path, "removing what was left by a process that is gone");
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path)(error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
