//! Reads the references of a repository from its files, as git does, without starting it.
//!
//! It must answer only what is certain: for another format of references, or a file with other content than git writes, there is
//! no answer, and the caller has to run git.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Result};
use std::path::Path;

use crate::CommitHash;

/// The target of a reference, by its full name, and whether it exists; none if git has to be run. Tags are not peeled.
pub(crate) fn target(git_dir: &Path, name: &str) -> Option<Option<CommitHash>> {
    if !is_name(name) || !has_files(git_dir) {
        return None;
    }
    let mut loose = BTreeMap::new();
    let path = git_dir.join(name);
    // A folder holds other references.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        add_loose(git_dir, name, &mut loose)?;
    }
    match loose.remove(name) {
        Some(hash) => Some(Some(hash)),
        None => Some(packed(git_dir)?.remove(name)),
    }
}

/// The references at or below these full names, sorted by name; none if git has to be run.
pub(crate) fn list(git_dir: &Path, below: &[&str]) -> Option<Vec<(String, CommitHash)>> {
    if !has_files(git_dir) {
        return None;
    }
    let mut loose = BTreeMap::new();
    for name in below {
        add_loose(git_dir, name, &mut loose)?;
    }
    // They are read last: git writes a reference there before it removes the file.
    let mut all = packed(git_dir)?;
    all.retain(|name, _| below.iter().any(|below| Path::new(name).starts_with(below)));
    all.append(&mut loose);
    Some(all.into_iter().collect())
}

/// True if this is a repository whose references are files.
fn has_files(git_dir: &Path) -> bool {
    let is_folder = |name: &str| git_dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let config = git_dir.join("config");
    git_dir.join("HEAD").is_file()
        && is_folder("objects")
        && is_folder("refs")
        && config.is_file()
        && fs::read(config).is_ok_and(|text| !text.to_ascii_lowercase().windows(10).any(|part| part == b"refstorage"))
}

fn add_loose(git_dir: &Path, name: &str, found: &mut BTreeMap<String, CommitHash>) -> Option<()> {
    let path = git_dir.join(name);
    let Some(meta) = if_any(path.symlink_metadata())? else { return Some(()) };
    if meta.is_dir() {
        let Some(entries) = if_any(fs::read_dir(&path))? else { return Some(()) };
        for entry in entries {
            let entry = entry.ok()?.file_name();
            let entry = entry.to_str()?;
            // The lock of a git that writes a reference.
            if !entry.ends_with(".lock") {
                add_loose(git_dir, &format!("{name}/{entry}"), found)?;
            }
        }
        return Some(());
    }
    if !meta.is_file() || !is_name(name) {
        return None;
    }
    // It may have been packed or deleted meanwhile.
    let Some(text) = if_any(fs::read_to_string(&path))? else { return Some(()) };
    found.insert(name.to_owned(), hash(text.strip_suffix('\n')?)?);
    Some(())
}

fn packed(git_dir: &Path) -> Option<BTreeMap<String, CommitHash>> {
    let path = git_dir.join("packed-refs");
    let Some(meta) = if_any(path.symlink_metadata())? else { return Some(BTreeMap::new()) };
    if !meta.is_file() {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let entry = |line: &str| {
        let (target, name) = line.split_once(' ')?;
        Some((name.to_owned(), hash(target).filter(|_| is_name(name))?))
    };
    // Lines with `^` have the commits of tags.
    text.lines().filter(|line| !line.starts_with(['#', '^'])).map(entry).collect()
}

/// None for content that git does not accept as the target of a reference.
fn hash(text: &str) -> Option<CommitHash> {
    CommitHash::new(text).ok().filter(|hash| hash.zero_like() != hash.as_str())
}

/// None for an error; `Some(None)` for a missing file.
fn if_any<T>(result: Result<T>) -> Option<Option<T>> {
    match result {
        Ok(value) => Some(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Some(None),
        Err(_) => None,
    }
}

/// True if git allows this as the full name of a reference, by the rules of `git check-ref-format`.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |each: char| !each.is_ascii_control() && !" ~^:?*[\\".contains(each);
    let is_component = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.strip_prefix("refs/").is_some_and(|rest| rest.split('/').all(is_component))
        && name.chars().all(allowed)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Git;

    #[test]
    fn names_of_references_as_git_allows_them() {
        let parts =
            ["a", ".a", "a.", "a.lock", "a.lock.b", "", "a..b", "@", "@{", "a@{b", "{", "é", "a b", "-", "\u{7f}", "\n"];
        let parts = parts.iter().chain(&["a~", "^a", "a:b", "a?", "*", "[a", "a]", "a\\b", "HEAD", ".lock", ".", ".."]);
        let names =
            parts.flat_map(|part| [format!("refs/{part}"), format!("refs/heads/{part}"), format!("refs/heads/{part}/x")]);
        let git = Git::discovering(Path::new("/"));
        for name in names {
            let by_git = git.call(["check-ref-format", &name]).answer().unwrap().code == Some(0);
            assert_eq!(is_name(&name), by_git, "{name:?}");
        }
        for name in ["", "refs", "refs/", "a", "heads/a", "/refs/a"] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    /// A bare repository with references of each kind; `run` runs git in it.
    fn repository(options: &[&str]) -> (tempfile::TempDir, Git) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        let init = Git::discovering(folder.path());
        init.call(["init", "--quiet", "--bare", "--template="]).args(options).arg(&path).ok().unwrap();
        let git = Git::in_repository(&path);
        let tree = git.call(["mktree"]).hash().unwrap();
        let commit = git.call(["commit-tree", tree.as_str(), "-m", "x"]).with_identity().hash().unwrap();
        for name in ["refs/heads/a", "refs/heads/a-b", "refs/heads/d/e", "refs/tags/t", "refs/coding-loops/x/y/z"] {
            git.call(["update-ref", name, commit.as_str()]).ok().unwrap();
        }
        let tag = git.call(["tag", "-a", "-m", "x", "annotated", commit.as_str()]).with_identity();
        tag.ok().unwrap();
        (folder, git)
    }

    fn by_git(git: &Git, below: &[&str]) -> Vec<(String, CommitHash)> {
        let listed = git.call(["for-each-ref", "--format=%(refname) %(objectname)", "--"]).args(below).ok().unwrap();
        let pair = |line: &str| line.split_once(' ').map(|(name, hash)| (name.to_owned(), CommitHash::new(hash).unwrap()));
        String::from_utf8(listed).unwrap().lines().filter_map(pair).collect()
    }

    #[test]
    fn references_are_listed_as_git_lists_them() {
        let (folder, git) = repository(&[]);
        let path = folder.path().join("r");
        let check = |when: &str| {
            for below in [&["refs"][..], &["refs/heads", "refs/tags"], &["refs/heads/a"], &["refs/heads/d"], &["refs/none"]] {
                assert_eq!(list(&path, below), Some(by_git(&git, below)), "{when}: {below:?}");
            }
            for name in ["refs/heads/a", "refs/heads/d", "refs/heads/d/e", "refs/heads/a/b", "refs/tags/annotated", "refs/none"]
            {
                let found = by_git(&git, &[name]).into_iter().find(|(found, _)| found == name).map(|(_, hash)| hash);
                assert_eq!(target(&path, name), Some(found), "{when}: {name}");
            }
        };
        check("loose");
        git.call(["pack-refs", "--all"]).ok().unwrap();
        check("packed");
        let tree = git.call(["mktree"]).hash().unwrap();
        let other = git.call(["commit-tree", tree.as_str(), "-m", "other"]).with_identity().hash().unwrap();
        git.call(["update-ref", "refs/heads/a", other.as_str()]).ok().unwrap();
        git.call(["update-ref", "-d", "refs/heads/d/e"]).ok().unwrap();
        check("both");
        fs::write(path.join("refs/heads/new.lock"), "").unwrap();
        check("beside the lock of a reference");
    }

    #[test]
    fn what_is_not_certain_is_left_to_git() {
        let (folder, git) = repository(&[]);
        let path = folder.path().join("r");
        let is_left = || list(&path, &["refs/heads"]).is_none() && target(&path, "refs/heads/odd").is_none();
        let odd = path.join("refs/heads/odd");
        for content in ["", "ref: refs/heads/a\n", "0123\n", &format!("{}\n", "0".repeat(40)), &"a".repeat(40)] {
            fs::write(&odd, content).unwrap();
            assert!(is_left(), "{content:?}");
        }
        fs::remove_file(&odd).unwrap();
        std::os::unix::fs::symlink("a", &odd).unwrap();
        assert!(is_left(), "a link");
        fs::remove_file(&odd).unwrap();
        assert!(!is_left());
        fs::write(path.join("packed-refs"), "not references\n").unwrap();
        assert!(is_left());
        fs::remove_file(path.join("packed-refs")).unwrap();
        git.call(["config", "core.repositoryFormatVersion", "1"]).ok().unwrap();
        git.call(["config", "extensions.refStorage", "files"]).ok().unwrap();
        assert!(is_left());
        fs::remove_file(path.join("HEAD")).unwrap();
        assert!(is_left());
    }
}
