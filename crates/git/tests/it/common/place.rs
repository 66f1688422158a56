//! A user's repository with a store and a workspace beside it, for tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::path::PathBuf;

use git::{Change, CommitHash, Finding, Opened, Repository, Snapshot, SnapshotOptions, Store, Workspace, WorkspaceSpec};
use tempfile::TempDir;
use test_support::{commit, git, git_command, run, write};

pub const BRANCH: &str = "coding-loops/integration";

/// A user's repository and what we put beside it.
pub struct Place {
    pub dir: TempDir,
    pub root: PathBuf,
    pub loops: PathBuf,
    pub user: Repository,
}

impl Place {
    /// A repository with these files, committed on `main`.
    pub fn new(files: &[(&str, &str)]) -> Self {
        Self::with_options(&[], files)
    }

    pub fn with_options(options: &[&str], files: &[(&str, &str)]) -> Self {
        let dir = TempDir::with_prefix("place ünï").unwrap();
        let top = dir.path().canonicalize().unwrap();
        let root = top.join("re po");
        fs::create_dir(&root).unwrap();
        git(&root, ["init", "--quiet", "-b", "main"].iter().chain(options));
        git(&root, ["config", "user.name", "Zoë"]);
        git(&root, ["config", "user.email", "zoe@example.org"]);
        let place = Self { user: Repository::open(&root).unwrap(), root: root.clone(), loops: top.join("re po-loops"), dir };
        place.commit(files);
        place
    }

    /// Writes files in the user's checkout and commits everything.
    pub fn commit(&self, files: &[(&str, &str)]) -> CommitHash {
        CommitHash::new(commit(&self.root, "work", files)).unwrap()
    }

    pub fn store(&self) -> Store {
        let store = Store::create(&self.user, &self.loops.join("store.git"), BRANCH).unwrap().0;
        store.start_integration(&self.user.commit("main").unwrap()).unwrap();
        store
    }

    pub fn spec(&self, name: &str) -> WorkspaceSpec {
        WorkspaceSpec {
            path: self.loops.join("loops").join(name),
            state: self.loops.join("state").join(name),
            branch: format!("loop/{name}"),
        }
    }

    /// A workspace at integration, started.
    pub fn workspace(&self, store: &Store, name: &str) -> Workspace {
        let base = store.integration().unwrap().unwrap();
        let (workspace, opened) = Workspace::open_or_create(store, &self.spec(name), &base).unwrap();
        assert_eq!(opened, Opened::Created);
        workspace.snapshot_start(&OPTIONS).unwrap();
        workspace
    }

    /// Everything that git can say about the user's repository, the integration branch apart.
    pub fn fingerprint(&self) -> String {
        let files = git(&self.root, ["--no-optional-locks", "status", "--porcelain", "--ignored"]);
        let read = |name: &str| format!("{:?}", fs::read(self.root.join(".git").join(name)).ok());
        let refs = git(&self.root, ["for-each-ref", "--format=%(refname) %(objectname)"]);
        let refs: Vec<&str> = refs.lines().filter(|line| !line.contains(BRANCH)).collect();
        let hooks = git(&self.root, ["stash", "list"]);
        [read("HEAD"), read("config"), read("index"), read("FETCH_HEAD"), files, refs.join("\n"), hooks].join("\n")
    }
}

pub const OPTIONS: SnapshotOptions<'static> =
    SnapshotOptions { own_folder: "coding-loops", file_bytes: 1_000_000, user: None, take_unignored: false };

/// The names of what a workspace has changed, and the findings.
pub fn look(workspace: &Workspace) -> (Vec<String>, Vec<Finding>) {
    let snapshot = workspace.snapshot(&OPTIONS).unwrap();
    (names(&snapshot.changed), snapshot.findings)
}

pub fn names(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

pub fn change(workspace: &Workspace) -> (Snapshot, Change) {
    let snapshot = workspace.snapshot(&OPTIONS).unwrap();
    let change = workspace.change(&snapshot).unwrap();
    (snapshot, change)
}

/// A commit on integration that changes files, as another loop's landing makes it.
pub fn land(store: &Store, files: &[(&str, &str)]) -> CommitHash {
    let head = store.integration().unwrap().unwrap();
    let commit = commit_on(store, &head, files);
    store.move_integration(&commit, &head).unwrap();
    commit
}

/// A commit that changes files, on another one.
pub fn commit_on(store: &Store, head: &CommitHash, files: &[(&str, &str)]) -> CommitHash {
    let folder = tempfile::tempdir().unwrap();
    let index = folder.path().join("index");
    let git = |args: &[&str]| {
        let place = ["--git-dir", store.path().to_str().unwrap(), "--work-tree", folder.path().to_str().unwrap()];
        run(git_command(folder.path()).env("GIT_INDEX_FILE", &index).args(place).args(args))
    };
    git(&["read-tree", head.as_str()]);
    for (name, content) in files {
        write(folder.path(), name, content);
        git(&["update-index", "--add", name]);
    }
    let tree = CommitHash::new(git(&["write-tree"])).unwrap();
    store.commit(&tree, &[head], "landed", &[]).unwrap()
}

pub fn show(store: &Store, tree: &CommitHash, name: &str) -> Option<String> {
    let output = std::process::Command::new("git")
        .args(["--git-dir", store.path().to_str().unwrap(), "cat-file", "blob", &format!("{tree}:{name}")])
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
