//! Glances at a workspace: they see what a snapshot sees, and what has landed is no change any more; they write nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::place::{OPTIONS, Place, change, land, look, names};
use git::{Error, Glance, PutOn, Store, Workspace};
use test_support::{git, wait_for, write};

fn glance(workspace: &Workspace) -> Vec<String> {
    names(&look_at(workspace).changed)
}

/// A lock that was released may live on for a moment in a child that another test is just starting.
fn look_at(workspace: &Workspace) -> Glance {
    wait_for("its lock to be released", || workspace.glance().unwrap())
}

/// Name, inode and change times of all that is below a folder.
fn trace(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let meta = entry.path().symlink_metadata().unwrap();
            found.insert(entry.path(), (meta.ino(), meta.ctime(), meta.ctime_nsec()));
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// Lands what a workspace has changed, merged where others have landed the same file.
fn land_work(store: &Store, workspace: &Workspace) {
    let (_, change) = change(workspace);
    let head = store.integration().unwrap().unwrap();
    let PutOn::Tree(tree) = store.put_on(&change, &head).unwrap() else { panic!("a conflict") };
    store.move_integration(&store.commit(&tree, &[&head], "landed", &[]).unwrap(), &head).unwrap();
}

const FIVE: &str = "one\ntwo\nthree\nfour\nfive\n";

#[test]
fn a_glance_sees_what_a_snapshot_sees_and_writes_nothing() {
    let place = Place::new(&[("a.txt", "one\n"), ("b.txt", "one\n"), ("src/c.rs", "one\n"), (".gitignore", "target/\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root().to_owned();
    assert_eq!(glance(&workspace), Vec::<String>::new());
    write(&root, "a.txt", "two\n");
    fs::remove_file(root.join("b.txt")).unwrap();
    write(&root, "new/d ünï\n.txt", "new\n");
    write(&root, "target/out", "built\n");
    fs::set_permissions(root.join("src/c.rs"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = trace(&place.loops);
    let expected = ["a.txt", "b.txt", "new/d ünï\n.txt", "src/c.rs"];
    assert_eq!(glance(&workspace), expected);
    assert_eq!(trace(&place.loops), before);
    // The loop's own snapshots change nothing about it.
    assert_eq!(look(&workspace).0, expected);
    assert_eq!(glance(&workspace), expected);
    // Reverted by hand after a snapshot.
    write(&root, "a.txt", "one\n");
    write(&root, "b.txt", "one\n");
    fs::remove_dir_all(root.join("new")).unwrap();
    assert_eq!(glance(&workspace), ["src/c.rs"]);
    fs::set_permissions(root.join("src/c.rs"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(glance(&workspace), Vec::<String>::new());
    assert_eq!(look(&workspace).0, Vec::<String>::new());
}

#[test]
fn a_touched_file_is_no_change_and_a_quick_one_is() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let file = workspace.root().join("a.txt");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, "two\n").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    assert_eq!(glance(&workspace), ["a.txt"]);
    fs::write(&file, "one\n").unwrap();
    assert_eq!(glance(&workspace), Vec::<String>::new());
}

#[test]
fn the_agents_git_cannot_mislead() {
    let place = Place::new(&[("a.txt", "one\n"), ("b.txt", "one\n"), ("c.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, "a.txt", "two\n");
    git(root, ["commit", "--quiet", "-am", "mine"]);
    assert_eq!(glance(&workspace), ["a.txt"], "a commit hides nothing");
    git(root, ["checkout", "--quiet", "-b", "elsewhere"]);
    write(root, "b.txt", "two\n");
    git(root, ["stash"]);
    assert_eq!(glance(&workspace), ["a.txt"], "what is stashed is not there");
    git(root, ["checkout", "--quiet", "HEAD~1"]);
    assert_eq!(glance(&workspace), Vec::<String>::new(), "nor what is committed elsewhere");
    git(root, ["update-index", "--assume-unchanged", "a.txt"]);
    git(root, ["update-index", "--skip-worktree", "b.txt"]);
    git(root, ["rm", "--quiet", "--cached", "c.txt"]);
    write(root, "a.txt", "three\n");
    write(root, "b.txt", "three\n");
    assert_eq!(glance(&workspace), ["a.txt", "b.txt"], "nor do the flags of its index hide anything");
    write(root, ".git/info/exclude", "*\n");
    write(root, "app/d.txt", "four\n");
    git(&root.join("app"), ["init", "--quiet"]);
    git(&root.join("app"), ["config", "core.fsmonitor", "touch ../executed"]);
    assert_eq!(glance(&workspace), ["a.txt", "app/d.txt", "b.txt"]);
    assert!(!root.join("executed").exists());
    fs::remove_dir_all(root.join(".git")).unwrap();
    assert_eq!(glance(&workspace), ["a.txt", "app/d.txt", "b.txt"]);
    write(root, ".git", "gitdir: /nowhere\n");
    assert_eq!(glance(&workspace), ["a.txt", "app/d.txt", "b.txt"]);
}

#[test]
fn what_has_landed_is_no_change() {
    let place = Place::new(&[("x.txt", FIVE), ("y.txt", "one\n"), ("gone.txt", "one\n")]);
    let store = place.store();
    let (a, b) = (place.workspace(&store, "a"), place.workspace(&store, "b"));
    write(a.root(), "x.txt", FIVE.replace("one", "ONE"));
    write(a.root(), "new.txt", "new\n");
    fs::remove_file(a.root().join("gone.txt")).unwrap();
    write(b.root(), "x.txt", FIVE.replace("five", "FIVE"));
    let before = look_at(&a);
    assert_eq!(names(&before.changed), ["gone.txt", "new.txt", "x.txt"]);
    land_work(&store, &a);
    let after = look_at(&a);
    assert_eq!((after.changed, after.start), (vec![], before.start));
    assert_ne!(after.integration, before.integration);
    // What others have landed is not b's change.
    assert_eq!(glance(&b), ["x.txt"]);
    // Changed again after it has landed.
    write(a.root(), "new.txt", "newer\n");
    write(a.root(), "gone.txt", "one\n");
    assert_eq!(glance(&a), ["new.txt"], "gone.txt is again as at the start");
    // Merged, it is not as b has left it until b starts from there.
    land_work(&store, &b);
    assert_eq!(glance(&b), ["x.txt"]);
    b.reset_to(&store.integration().unwrap().unwrap()).unwrap();
    b.snapshot_start(&OPTIONS).unwrap();
    assert_eq!(glance(&b), Vec::<String>::new());
}

#[test]
fn files_that_were_brought_up_to_date_are_no_change() {
    let place = Place::new(&[("x.txt", "one\n"), ("y.txt", "one\n"), ("z.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, "z.txt", "mine\n");
    let head = land(&store, &[("x.txt", "two\n"), ("y.txt", "two\n")]);
    let before = look_at(&workspace);
    assert_eq!(names(&before.changed), ["z.txt"]);
    // By us, one of them.
    workspace.update_paths(&["x.txt".into()], &head).unwrap();
    let after = look_at(&workspace);
    assert_eq!(names(&after.changed), ["z.txt"]);
    assert_ne!(after.start, before.start);
    // By the agent, before and after its HEAD is taken as a hint.
    git(root, ["stash"]);
    git(root, ["fetch", "--quiet"]);
    git(root, ["reset", "--quiet", "--hard", "origin/coding-loops/integration"]);
    git(root, ["stash", "pop", "--quiet"]);
    assert_eq!(glance(&workspace), ["z.txt"]);
    let newest = land(&store, &[("y.txt", "three\n")]);
    git(root, ["pull", "--quiet", "--rebase", "--autostash"]);
    assert_eq!(glance(&workspace), ["z.txt"]);
    workspace.follow_agent(&newest).unwrap().unwrap();
    assert_eq!(glance(&workspace), ["z.txt"]);
}

#[test]
fn while_the_loop_works_on_it_nothing_is_said_and_nobody_waits() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    write(workspace.root(), "a.txt", "two\n");
    let lock = fs::File::open(place.spec("a").state.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(workspace.glance().unwrap(), None);
    drop(lock);
    assert_eq!(glance(&workspace), ["a.txt"]);
    fs::remove_dir_all(workspace.root()).unwrap();
    assert!(matches!(workspace.glance(), Err(Error::WorkspaceDamaged { .. })));
}

#[test]
fn submodules_count_by_their_commit() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let library = place.dir.path().canonicalize().unwrap().join("library");
    fs::create_dir(&library).unwrap();
    git(&library, ["init", "--quiet", "-b", "main"]);
    write(&library, "l.txt", "one\n");
    git(&library, ["add", "-A"]);
    git(&library, ["commit", "--quiet", "-m", "first"]);
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add"];
    git(&place.root, add.iter().copied().chain([library.to_str().unwrap(), "lib"]));
    place.commit(&[]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    assert_eq!(glance(&workspace), Vec::<String>::new());
    git(root, ["-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init"]);
    write(&root.join("lib"), "l.txt", "two\n");
    assert_eq!(glance(&workspace), Vec::<String>::new());
    git(&root.join("lib"), ["commit", "--quiet", "-am", "second"]);
    assert_eq!(glance(&workspace), ["lib"]);
    look(&workspace);
    assert_eq!(glance(&workspace), ["lib"]);
}
