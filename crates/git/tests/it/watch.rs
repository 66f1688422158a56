//! Watches over workspaces, on the real kernel.

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use crate::place::Place;
use git::{Notice, Store, Watches, Workspace};
use test_support::{BOUND, git, write};

struct Watched {
    place: Place,
    store: Store,
    workspace: Workspace,
    watches: Watches,
    notices: Receiver<String>,
}

impl Watched {
    fn new(with_ignored: bool, files: &[(&str, &str)]) -> Self {
        let place = Place::new(files);
        let store = place.store();
        let workspace = place.workspace(&store, "a");
        let (sent, notices) = channel();
        let watches = Watches::new(with_ignored, move |notice| {
            let text = match notice {
                Notice::Changed { path, .. } => path.to_string_lossy().into_owned(),
                Notice::Ignored { .. } => "(ignored)".to_owned(),
                Notice::Unknown { .. } => "(unknown)".to_owned(),
                Notice::Unwatched { .. } => "(unwatched)".to_owned(),
            };
            sent.send(text).unwrap_or_default();
        });
        let watched = Self { place, store, workspace, watches: watches.unwrap(), notices };
        watched.watches.watch(&watched.workspace);
        assert_eq!(watched.until("(unknown)"), Vec::<String>::new());
        watched
    }

    fn root(&self) -> &Path {
        self.workspace.root()
    }

    /// The notices before this one, without repetitions.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut before: Vec<String> = Vec::new();
        loop {
            let notice = self.notices.recv_timeout(BOUND).unwrap_or_else(|_| panic!("no {wanted} after {before:?}"));
            if notice == wanted {
                return before;
            }
            if !before.contains(&notice) {
                before.push(notice);
            }
        }
    }

    /// What was noticed until now: a file is written last, and noticed last.
    fn noticed(&self) -> Vec<String> {
        fs::write(self.root().join("last"), "").unwrap();
        let before = self.until("last");
        fs::remove_file(self.root().join("last")).unwrap();
        self.until("last");
        before.into_iter().filter(|notice| notice != "last").collect()
    }
}

const FILES: &[(&str, &str)] = &[("a.txt", "one\n"), ("src/b.txt", "one\n"), (".gitignore", "target/\n")];

#[test]
fn changes_are_noticed_and_reading_is_not() {
    let watched = Watched::new(false, FILES);
    let root = watched.root();
    write(root, "src/b.txt", "two\n");
    assert_eq!(watched.noticed(), ["src/b.txt"]);
    write(root, "deep/er/new.txt", "new\n");
    watched.until("deep");
    // Whatever of it came before its folder was watched.
    watched.noticed();
    write(root, "deep/er/new.txt", "newer\n");
    assert_eq!(watched.noticed(), ["deep/er/new.txt"]);
    fs::rename(root.join("deep"), root.join("moved")).unwrap();
    watched.until("moved");
    watched.noticed();
    write(root, "moved/er/new.txt", "newest\n");
    assert_eq!(watched.noticed(), ["moved/er/new.txt"]);
    fs::remove_dir_all(root.join("moved")).unwrap();
    let noticed = watched.noticed();
    // Whether its folders are named too depends on when their watches end; without files they are nothing to git.
    assert!(noticed.contains(&"moved/er/new.txt".to_owned()), "{noticed:?}");
    assert!(noticed.iter().all(|notice| notice.starts_with("moved")), "{noticed:?}");
    assert!(watched.workspace.glance().unwrap().is_some());
    git(root, ["--no-optional-locks", "status"]);
    assert_eq!(watched.noticed(), Vec::<String>::new());
}

#[test]
fn neither_git_folders_nor_ignored_ones_are_noticed() {
    let watched = Watched::new(false, FILES);
    let root = watched.root();
    write(root, "target/debug/out", "built\n");
    write(root, "target/debug/out", "built again\n");
    git(root, ["commit", "--quiet", "--allow-empty", "-m", "mine"]);
    git(root, ["branch", "elsewhere"]);
    fs::remove_dir_all(root.join("target")).unwrap();
    assert_eq!(watched.noticed(), Vec::<String>::new());
    // Rules that change make other folders count.
    write(root, "target/debug/out", "built\n");
    write(root, ".gitignore", "src/\n");
    watched.until("(unknown)");
    watched.noticed();
    write(root, "target/debug/out", "built again\n");
    write(root, "target/release/out", "built\n");
    assert!(watched.noticed().contains(&"target/debug/out".to_owned()));
}

#[test]
fn ignored_folders_are_a_sign_of_life_where_that_is_asked_for() {
    let watched = Watched::new(true, FILES);
    let root = watched.root();
    write(root, "target/debug/out", "built\n");
    watched.until("(ignored)");
    watched.noticed();
    // What is written before a new folder is watched was part of the folder's own notice.
    let is_seen = |run: usize| {
        write(root, "target/debug/out", format!("built again, run {run}\n"));
        watched.noticed().contains(&"(ignored)".to_owned())
    };
    assert!((0..100).any(is_seen), "changes in an ignored folder are not noticed");
    write(root, "target/debug/deps/out", "built\n");
    watched.until("(ignored)");
}

#[test]
fn a_workspace_that_was_replaced_is_watched_again() {
    let watched = Watched::new(false, FILES);
    let root = watched.root().to_owned();
    let aside = root.with_file_name("aside");
    fs::rename(&root, &aside).unwrap();
    let base = watched.store.integration().unwrap().unwrap();
    Workspace::open_or_create(&watched.store, &watched.place.spec("a"), &base).unwrap();
    watched.watches.watch(&watched.workspace);
    watched.until("(unknown)");
    write(&aside, "src/b.txt", "elsewhere\n");
    write(&root, "a.txt", "two\n");
    let noticed = watched.noticed();
    assert!(noticed.contains(&"a.txt".to_owned()) && !noticed.contains(&"src/b.txt".to_owned()), "{noticed:?}");
    // No more, once it is unwatched.
    watched.watches.unwatch(&root);
    watched.watches.watch(&watched.workspace);
    watched.until("(unknown)");
    write(&root, "a.txt", "three\n");
    assert_eq!(watched.noticed(), ["a.txt"]);
}

#[test]
fn the_thread_ends_with_its_owner() {
    let Watched { notices, watches, .. } = Watched::new(false, FILES);
    drop(watches);
    // The sender is dropped with the thread.
    while notices.recv_timeout(BOUND).is_ok() {}
    assert_eq!(notices.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected));
}
