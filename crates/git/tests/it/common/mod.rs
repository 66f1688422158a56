//! A repository with one commit, for tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::PathBuf;

use git::{CommitHash, Repository, Trailer, WorkTree};
use tempfile::TempDir;
use test_support::{git, make_repository};

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
        make_repository(&root, &[(".gitignore", "target/\n/coding-loops/\n"), ("a.txt", "one\n"), ("b.txt", "one\n")]);
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

/// Commits everything in a worktree.
pub fn commit(tree: &WorkTree) -> CommitHash {
    git(tree.root(), ["add", "-A"]);
    git(tree.root(), ["commit", "--quiet", "-m", "work"]);
    tree.head().unwrap()
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
