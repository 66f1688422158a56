//! A repository with one commit, for tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use git::{CommitHash, Repository, Trailer, WorkTree};
use tempfile::TempDir;

/// A repository with a main checkout on `main` and a folder for linked worktrees inside it, as older versions made it.
pub struct Lab {
    _dir: TempDir,
    pub root: PathBuf,
    pub managed: PathBuf,
    pub repository: Repository,
    pub base: CommitHash,
}

impl Lab {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("work tree ünï").unwrap();
        let root = dir.path().canonicalize().unwrap().join("re\npo");
        fs::create_dir(&root).unwrap();
        git(&root, ["init", "--quiet", "-b", "main"]);
        fs::write(root.join(".gitignore"), "target/\n/coding-loops/\n").unwrap();
        fs::write(root.join("a.txt"), "one\n").unwrap();
        fs::write(root.join("b.txt"), "one\n").unwrap();
        git(&root, ["add", "-A"]);
        git(&root, ["commit", "--quiet", "-m", "first"]);
        let managed = root.join("coding-loops/worktrees");
        fs::create_dir_all(&managed).unwrap();
        let repository = Repository::open(&root).unwrap();
        let base = repository.commit("main").unwrap();
        Self { _dir: dir, root, managed, repository, base }
    }

    pub fn worktree(&self, name: &str) -> WorkTree {
        let path = self.managed.join(name);
        git(&self.root, ["worktree", "add", "--quiet", "-b", &format!("loop/{name}"), path.to_str().unwrap(), "main"]);
        WorkTree::open(&path).unwrap()
    }

    /// A commit on `parent` that writes one file.
    pub fn commit_on(&self, parent: &CommitHash, file: &str, content: &str) -> CommitHash {
        let path = self.managed.join("for-a-commit");
        git(&self.root, ["worktree", "add", "--quiet", "--detach", path.to_str().unwrap(), parent.as_str()]);
        fs::write(path.join(file), content).unwrap();
        let commit = commit(&WorkTree::open(&path).unwrap());
        git(&self.root, ["worktree", "remove", "--force", path.to_str().unwrap()]);
        commit
    }
}

pub fn git<A: AsRef<OsStr>>(dir: &Path, args: impl IntoIterator<Item = A>) -> String {
    let identity = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"];
    let output = Command::new("git").args(identity).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Commits everything in a worktree.
pub fn commit(tree: &WorkTree) -> CommitHash {
    git(tree.root(), ["add", "-A"]);
    git(tree.root(), ["commit", "--quiet", "-m", "work"]);
    tree.head().unwrap()
}

pub fn write(tree: &WorkTree, file: impl AsRef<Path>, content: &str) {
    let path = tree.root().join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub fn read(tree: &WorkTree, file: &str) -> Option<String> {
    fs::read_to_string(tree.root().join(file)).ok()
}

pub fn trailers(list: &[(&str, &str)]) -> Vec<Trailer> {
    list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub fn paths(list: &[&str]) -> Vec<PathBuf> {
    list.iter().map(PathBuf::from).collect()
}
