//! Repositories inside a workspace: submodules, and repositories created by an agent.
//!
//! Their configs may name programs that git would run, so git must never run in them. Their files are read directly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::call::{Git, fields, to_path};
use crate::transfer::missing;
use crate::{CommitHash, Repository, Result};

/// Maximum number of symbolic references that are followed.
const MAX_DEPTH: u32 = 5;

/// The commit of a repository's HEAD; none if it cannot be read (an unborn branch, another format).
pub(crate) fn head_of(folder: &Path) -> Option<CommitHash> {
    head_in(&git_dir_of(folder)?)
}

/// The commit of HEAD in a git folder.
pub(crate) fn head_in(git_dir: &Path) -> Option<CommitHash> {
    read_ref(git_dir, "HEAD", MAX_DEPTH)
}

/// The git folder of a repository: `.git`, or the target of that file.
pub(crate) fn git_dir_of(folder: &Path) -> Option<PathBuf> {
    let dot_git = folder.join(".git");
    if dot_git.is_dir() {
        return Some(dot_git);
    }
    let text = read(&dot_git)?;
    let way = text.strip_prefix(b"gitdir: ")?.trim_ascii_end();
    let git_dir = folder.join(to_path(way));
    git_dir.is_dir().then_some(git_dir)
}

/// The content of a file; none if it cannot be read, or is a named pipe or a device, on which reading would block.
fn read(path: &Path) -> Option<Vec<u8>> {
    let is_file = fs::metadata(path).is_ok_and(|meta| meta.is_file());
    is_file.then(|| fs::read(path).ok())?
}

fn read_text(path: &Path) -> Option<String> {
    String::from_utf8(read(path)?).ok()
}

/// True if git, which reads HEAD and references of each nested repository, would block on one of them, because a file
/// is replaced by a named pipe or a device.
pub(crate) fn would_wait(folder: &Path) -> bool {
    let Some(git_dir) = git_dir_of(folder) else { return false };
    let mut places: Vec<PathBuf> =
        ["HEAD", "packed-refs", "commondir", "config", "index", "refs"].iter().map(|name| git_dir.join(name)).collect();
    while let Some(place) = places.pop() {
        match fs::metadata(&place) {
            // Links to folders are not followed, because they could form a cycle.
            Ok(meta) if meta.is_dir() && !place.is_symlink() => {
                places.extend(fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
            Ok(meta) if !meta.is_dir() && !meta.is_file() => return true,
            _ => {}
        }
    }
    false
}

fn read_ref(git_dir: &Path, name: &str, depth: u32) -> Option<CommitHash> {
    if depth == 0 || name.split('/').any(|part| part == "..") {
        return None;
    }
    let Some(text) = read_text(&git_dir.join(name)) else {
        return packed(git_dir).into_iter().find(|(found, _)| found == name).map(|(_, hash)| hash);
    };
    match text.trim().strip_prefix("ref: ") {
        Some(target) => read_ref(git_dir, target.trim(), depth - 1),
        None => CommitHash::new(text.trim()).ok(),
    }
}

/// The packed references, whatever else is in their file.
fn packed(git_dir: &Path) -> Vec<(String, CommitHash)> {
    let text = read_text(&git_dir.join("packed-refs")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(hash, name)| Some((name.to_owned(), CommitHash::new(hash).ok()?))).collect()
}

/// The targets of the references below these names.
pub(crate) fn tips(git_dir: &Path, below: &[&str]) -> Vec<CommitHash> {
    let wanted = |name: &str| below.iter().any(|below| Path::new(name).starts_with(below));
    named_refs(git_dir, below).into_iter().filter(|(name, _)| wanted(name)).map(|(_, hash)| hash).collect()
}

/// All references with their targets.
pub(crate) fn named_tips(git_dir: &Path) -> Vec<(String, CommitHash)> {
    named_refs(git_dir, &["refs"])
}

/// The packed references, and the loose ones below these names. A reference that is both appears with both values, the
/// packed one last.
fn named_refs(git_dir: &Path, below: &[&str]) -> Vec<(String, CommitHash)> {
    let mut found = Vec::new();
    let mut places: Vec<PathBuf> = below.iter().map(|name| git_dir.join(name)).collect();
    while let Some(place) = places.pop() {
        if place.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            places.extend(fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path()));
            continue;
        }
        let hash = read_text(&place).and_then(|text| CommitHash::new(text.trim()).ok());
        let name = place.strip_prefix(git_dir).ok().and_then(Path::to_str);
        found.extend(name.map(str::to_owned).zip(hash));
    }
    found.extend(packed(git_dir));
    found
}

/// The names and paths in a checkout's `.gitmodules`.
pub(crate) fn named_submodules(git: &Git, root: &Path) -> Vec<(String, PathBuf)> {
    let file = root.join(".gitmodules");
    if !file.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return Vec::new();
    }
    let call =
        git.call(["config", "-z", "--no-includes", "--file"]).arg(&file).args(["--get-regexp", r"^submodule\..*\.path$"]);
    names_and_paths(&call.answer().map(|answer| answer.stdout).unwrap_or_default())
}

/// Parses the output of `git config -z --get-regexp '^submodule\..*\.path$'`.
pub(crate) fn names_and_paths(stdout: &[u8]) -> Vec<(String, PathBuf)> {
    let pair = |entry: &[u8]| {
        let end = entry.iter().position(|&byte| byte == b'\n')?;
        let key = String::from_utf8_lossy(&entry[..end]).into_owned();
        let name = key.strip_prefix("submodule.")?.strip_suffix(".path")?.to_owned();
        Some((name, to_path(&entry[end + 1..])))
    };
    fields(stdout).filter_map(pair).collect()
}

/// The paths in the workspace's `.gitmodules`.
pub(crate) fn declared_submodules(git: &Git, root: &Path) -> BTreeSet<PathBuf> {
    named_submodules(git, root).into_iter().map(|(_, path)| path).collect()
}

/// The repository on this machine from which others can get a submodule's commit: the user's, or the workspace's if a
/// remote from which the submodule was fetched has it.
pub(crate) fn can_be_fetched(
    git: &Git,
    root: &Path,
    name: Option<&str>,
    path: &Path,
    commit: &CommitHash,
    user: Option<&Repository>,
) -> Result<Option<PathBuf>> {
    let has = |git_dir: &PathBuf| {
        // Its config may name a missing work tree.
        let git = Git::in_work_tree(git_dir, git_dir);
        git_dir.is_dir() && missing(&git, std::slice::from_ref(commit)).is_ok_and(|lost| lost.is_empty())
    };
    if let Some(user) = user {
        let here = git_dir_of(&user.root().join(path));
        let modules = name.map(|name| user.common_dir().join("modules").join(name));
        if let Some(found) = here.into_iter().chain(modules).find(has) {
            return Ok(Some(found));
        }
    }
    let Some(git_dir) = git_dir_of(&root.join(path)) else { return Ok(None) };
    // Its objects are read by a git that ignores its config.
    let reader = git.with_env("GIT_ALTERNATE_OBJECT_DIRECTORIES", git_dir.join("objects"));
    for tip in tips(&git_dir, &["refs/remotes"]) {
        let call = reader.call(["merge-base", "--is-ancestor", commit.as_str(), tip.as_str()]);
        if call.answer()?.code == Some(0) {
            return Ok(Some(git_dir));
        }
    }
    Ok(None)
}

/// The name of the submodule at a path.
pub(crate) fn submodule_name(git: &Git, tree: &CommitHash, path: &Path) -> Option<String> {
    let call = git.call(["config", "-z", "--no-includes", "--blob"]).arg(format!("{tree}:.gitmodules"));
    let stdout = call.args(["--get-regexp", r"^submodule\..*\.path$"]).answer().ok()?.stdout;
    let name = names_and_paths(&stdout).into_iter().find_map(|(name, found)| (found == path).then_some(name))?;
    (!name.split('/').any(|part| part == "..")).then_some(name)
}
