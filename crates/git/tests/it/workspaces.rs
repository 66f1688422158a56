//! Store, workspaces and the published branch.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::place::{BRANCH, OPTIONS, Place, land, look, names};
use git::{Damage, Divergence, Error, Obstacle, Opened, Published, Repository, Store, Workspace, publish, republish};
use test_support::{git, write};

fn at(place: &Place, branch: &str) -> String {
    git(&place.root, ["rev-parse", branch]).to_owned()
}

fn fails<'a>(folder: &Path, args: impl IntoIterator<Item = &'a str>) -> String {
    let output = Command::new("git").args(args).current_dir(folder).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// ---- the store ----

#[test]
fn a_store_follows_the_users_repository() {
    for options in [&[][..], &["--object-format=sha256"], &["--ref-format=reftable"]] {
        let place = Place::with_options(options, &[("a.txt", "one\n")]);
        git(&place.root, ["tag", "-a", "v1", "-m", "first"]);
        git(&place.root, ["branch", "topic"]);
        for (key, value) in [
            ("core.autocrlf", "input"),
            ("filter.up.clean", "tr a-z A-Z | sed 's/\"/#/'"),
            ("merge.mine.driver", "true %A"),
            ("core.fsmonitor", "/bin/false"),
            ("core.hooksPath", "/tmp"),
            ("alias.st", "status"),
            ("commit.gpgSign", "true"),
            ("user.signingKey", "ABC"),
            ("credential.helper", "store"),
            ("core.excludesFile", "my-excludes"),
        ] {
            git(&place.root, ["config", key, value]);
        }
        fs::write(place.root.join("my-excludes"), "*.mine").unwrap();
        write(&place.root, ".git/info/exclude", "*.private\n");
        write(&place.root, ".git/info/attributes", "*.x -text\n");
        write(&place.root, ".git/lfs/objects/ab/cd/abcd", "large\n");
        let before = place.fingerprint();
        let store = place.store();
        let workspace = place.workspace(&store, "a");
        assert_eq!(place.fingerprint(), before, "nothing of the user's has changed");
        let read = |folder: &Path, key: &str| {
            let output = Command::new("git").args(["config", "--local", "--get", key]).current_dir(folder).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned()
        };
        for folder in [store.path(), workspace.root()] {
            assert_eq!(read(folder, "user.email"), "zoe@example.org");
            assert_eq!(read(folder, "core.autocrlf"), "input");
            assert_eq!(read(folder, "filter.up.clean"), "tr a-z A-Z | sed 's/\"/#/'");
            assert_eq!(read(folder, "merge.mine.driver"), "true %A");
            for key in ["core.hooksPath", "alias.st", "user.signingKey", "credential.helper", "core.excludesFile"] {
                assert_eq!(read(folder, key), "", "{key}");
            }
            assert_ne!(read(folder, "core.fsmonitor"), "/bin/false");
            assert_ne!(read(folder, "commit.gpgSign"), "true");
            for what in ["--show-object-format", "--show-ref-format"] {
                assert_eq!(git(folder, ["rev-parse", what]), git(&place.root, ["rev-parse", what]));
            }
            let common = if folder == store.path() { folder.to_owned() } else { folder.join(".git") };
            let exclude = fs::read_to_string(common.join("info/exclude")).unwrap();
            for line in ["*.mine", "*.private", ".aider*"] {
                assert!(exclude.lines().any(|found| found == line), "{line} in {exclude}");
            }
            assert_eq!(fs::read_to_string(common.join("info/attributes")).unwrap(), "*.x -text\n");
        }
        assert_eq!(fs::read_to_string(store.path().join("lfs/objects/ab/cd/abcd")).unwrap(), "large\n");
        let seen = git(workspace.root(), ["branch", "-a", "--format=%(refname:short)"]);
        for name in ["loop/a", "origin/main", "origin/topic", "origin/coding-loops/integration"] {
            assert!(seen.lines().any(|found| found == name), "{name} in {seen}");
        }
        assert_eq!(git(workspace.root(), ["describe"]), "v1");
        git(workspace.root(), ["fsck", "--strict"]);
        assert!(!store.path().join("objects/info/alternates").exists());
        // Again: the same, with the settings of today.
        git(&place.root, ["config", "user.email", "new@example.org"]);
        let (_, made) = Store::create(&place.user, store.path(), BRANCH).unwrap();
        assert!(!made.is_new);
        assert_eq!(read(store.path(), "user.email"), "new@example.org");
    }
}

#[test]
fn a_store_of_every_layout() {
    let place = Place::new(&[("sub/a.txt", "one\n")]);
    let top = place.dir.path().canonicalize().unwrap();
    let main = at(&place, "main");
    git(&place.root, ["worktree", "add", "--quiet", "--detach", "../linked"]);
    git(&top, ["clone", "--quiet", "--shared", place.root.to_str().unwrap(), "borrows"]);
    fs::create_dir(top.join("layout")).unwrap();
    git(&top, ["clone", "--quiet", "--bare", place.root.to_str().unwrap(), "layout/.bare"]);
    git(&top.join("layout/.bare"), ["worktree", "add", "--quiet", "../main", "main"]);
    let url = format!("file://{}", place.root.display());
    place.commit(&[]);
    git(&top, ["clone", "--quiet", "--depth=1", &url, "shallow"]);
    for (number, folder) in ["re po/sub", "linked", "borrows", "layout/main", "shallow"].iter().enumerate() {
        let user = Repository::open(&top.join(folder)).unwrap();
        let store = Store::create(&user, &top.join(format!("loops/store{number}.git")), BRANCH).unwrap().0;
        let base = user.commit("main").unwrap();
        assert_eq!(store.start_integration(&base).unwrap(), base);
        assert!(!store.path().join("objects/info/alternates").exists(), "{folder}");
        let spec = place.spec(&format!("w{number}"));
        let workspace = Workspace::open_or_create(&store, &spec, &base).unwrap().0;
        assert_eq!(fs::read_to_string(workspace.root().join("sub/a.txt")).unwrap(), "one\n");
        git(workspace.root(), ["fsck", "--connectivity-only"]);
        git(workspace.root(), ["log", "--oneline"]);
        assert!(*folder == "shallow" || store.missing(&[git::CommitHash::new(&*main).unwrap()]).unwrap().is_empty());
    }
    // It goes on without what it was made from.
    fs::remove_dir_all(place.root.join(".git/objects")).unwrap();
    git(&top.join("loops/store2.git"), ["fsck", "--strict"]);
}

#[test]
fn broken_references_stop_nothing() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let gone = "1234567890123456789012345678901234567890";
    for (name, content) in [("remotes/origin/old", gone), ("heads/broken", gone), ("heads/empty", ""), ("tags/bad", "x")] {
        write(&place.root, format!(".git/refs/{name}"), format!("{content}\n"));
    }
    let (store, made) = Store::create(&place.user, &place.loops.join("store.git"), BRANCH).unwrap();
    assert_eq!(made.skipped_refs, ["refs/heads/broken"]);
    let base = place.user.commit("main").unwrap();
    store.start_integration(&base).unwrap();
    place.workspace(&store, "a");
    assert!(matches!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { from: None, .. }));
    let next = place.commit(&[("a.txt", "two\n")]);
    assert_eq!(store.fetch_from_user(&place.user, "main").unwrap(), next);
    assert!(store.missing(&[next]).unwrap().is_empty());
}

#[test]
fn a_killed_creation_is_repeated_and_a_foreign_folder_refused() {
    let place = Place::new(&[("a.txt", "one\n")]);
    write(&place.loops, "store.git.new/objects/junk", "x");
    let store = place.store();
    assert!(!place.loops.join("store.git.new").exists());
    write(&place.loops, "loops/a.new/junk", "x");
    place.workspace(&store, "a");
    write(&place.loops, "other/file", "mine");
    let refused = Store::create(&place.user, &place.loops.join("other"), BRANCH).unwrap_err();
    assert!(matches!(refused, Error::InTheWay { .. }));
    let mut spec = place.spec("b");
    spec.path = place.loops.join("other");
    let base = store.integration().unwrap().unwrap();
    assert!(matches!(Workspace::open_or_create(&store, &spec, &base), Err(Error::InTheWay { .. })));
    spec.path = place.root.clone();
    assert!(matches!(Workspace::open_or_create(&store, &spec, &base), Err(Error::InTheWay { .. })));
    assert_eq!(fs::read_to_string(place.loops.join("other/file")).unwrap(), "mine");
    assert!(matches!(Store::open(&place.root), Err(Error::NotARepository { .. })));
}

#[test]
fn integration_moves_by_compare_and_swap() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let first = store.integration().unwrap().unwrap();
    let second = land(&store, &[("a.txt", "two\n")]);
    assert!(matches!(store.move_integration(&first, &first), Err(Error::RefMoved { .. })));
    assert_eq!(store.start_integration(&first).unwrap(), second);
    assert_eq!(store.repository().changed_between(&first, &second).unwrap(), [Path::new("a.txt")]);
}

#[test]
fn a_lost_store_is_rebuilt_from_the_published_branch() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let published = land(&store, &[("a.txt", "two\n")]);
    publish(&store, &place.user, BRANCH).unwrap();
    let lost = land(&store, &[("a.txt", "three\n")]);
    fs::remove_dir_all(store.path()).unwrap();
    let (store, made) = Store::create(&place.user, store.path(), BRANCH).unwrap();
    assert!(made.is_new);
    assert_eq!(store.integration().unwrap(), Some(published.clone()));
    assert_eq!(store.missing(&[published, lost.clone()]).unwrap(), [lost]);
    assert!(matches!(publish(&store, &place.user, BRANCH).unwrap(), Published::Already(_)));
}

#[test]
fn references_of_an_old_installation_are_imported() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let main = at(&place, "main");
    git(&place.root, ["update-ref", "refs/coding-loops/saved/x/1", &main]);
    let tree = git(&place.root, ["rev-parse", "main^{tree}"]);
    let alone = git(&place.root, ["commit-tree", "-m", "alone", tree.trim()]);
    let store = place.store();
    git(&place.root, ["update-ref", "refs/coding-loops/checkpoints/x/1", alone.trim()]);
    write(&place.root, ".git/refs/coding-loops/saved/x/2", "1234567890123456789012345678901234567890\n");
    let broken = store.import_refs(&place.user, "refs/coding-loops").unwrap();
    assert_eq!(broken, ["refs/coding-loops/saved/x/2"]);
    assert_eq!(store.repository().list_refs("refs/coding-loops").unwrap().len(), 2);
    assert!(store.import_refs(&place.user, "refs/coding-loops").is_ok(), "again");
}

/// Ends a thread, also where a test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_users_gc_beside_it() {
    let place = Place::new(&[("a.txt", "one\n")]);
    for number in 0..30 {
        place.commit(&[("a.txt", &format!("{number}\n")), (&format!("f{number}"), "x\n")]);
    }
    let stop = AtomicBool::new(false);
    // The user does not commit beside a `gc --prune=now`: git itself loses objects then.
    let by_hand = Mutex::new(());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                let what: &[&str] = match number % 4 {
                    0 => &["gc", "--prune=now", "--quiet"],
                    1 => &["prune", "--expire=now"],
                    2 => &["pack-refs", "--all"],
                    _ => &["worktree", "prune", "--expire=now"],
                };
                let _one = by_hand.lock().unwrap();
                drop(Command::new("git").args(what).current_dir(&place.root).output().unwrap());
            }
        });
        let _stop = Stop(&stop);
        let store = place.store();
        let workspace = place.workspace(&store, "a");
        for number in 0..20 {
            let (other, made) = Store::create(&place.user, &place.loops.join(format!("s{number}.git")), BRANCH).unwrap();
            assert!(made.is_new);
            git(other.path(), ["rev-list", "--objects", "--all", "--quiet"]);
            let landed = land(&store, &[("landed.txt", &format!("{number}\n"))]);
            let outcome = publish(&store, &place.user, BRANCH).unwrap();
            assert!(matches!(outcome, Published::Moved { to, .. } if to == landed));
            git(&place.root, ["rev-list", "--objects", BRANCH, "--quiet"]);
            let one = by_hand.lock().unwrap();
            let new = place.commit(&[("b.txt", &format!("{number}\n"))]);
            drop(one);
            assert_eq!(store.fetch_from_user(&place.user, "main").unwrap(), new);
            workspace.reset_to(&landed).unwrap();
        }
        git(store.path(), ["fsck", "--connectivity-only"]);
    });
    git(&place.root, ["gc", "--prune=now", "--quiet"]);
    git(&place.root, ["fsck", "--connectivity-only"]);
    let packs = fs::read_dir(place.root.join(".git/objects/pack")).unwrap().flatten().map(|entry| entry.path());
    let keeps: Vec<_> = packs.filter(|path| path.extension().is_some_and(|ext| ext == "keep")).collect();
    assert!(keeps.is_empty(), "left: {keeps:?}");
}

// ---- the published branch ----

#[test]
fn processes_that_start_at_once_make_the_folder_together() {
    for _ in 0..5 {
        let place = Place::new(&[("a.txt", "one\n")]);
        let database = place.root.join("coordination.db");
        write(&place.root, "coordination.db", "");
        let layout = git::Layout::new(place.dir.path().join("together"));
        std::thread::scope(|scope| {
            let started: Vec<_> =
                (0..6).map(|_| scope.spawn(|| layout.create(&place.user, &database, BRANCH).unwrap().1.is_new)).collect();
            let new = started.into_iter().map(|thread| thread.join().unwrap()).filter(|is_new| *is_new).count();
            assert_eq!(new, 1);
        });
        assert_eq!(layout.database().unwrap().canonicalize().unwrap(), database.canonicalize().unwrap());
        layout.open_store().unwrap();
    }
}

#[test]
fn locks_that_a_killed_git_has_left_do_not_damage_a_workspace() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let head = store.integration().unwrap().unwrap();
    let branch = git(workspace.root(), ["symbolic-ref", "HEAD"]);
    for name in [branch.trim(), "refs/remotes/origin/main", "packed-refs", "index", "HEAD", "config"] {
        write(workspace.root(), format!(".git/{name}.lock"), "");
    }
    write(workspace.root(), "a.txt", "left\n");
    assert_eq!(workspace.reset_to(&head).unwrap(), Opened::Kept);
    git(workspace.root(), ["commit", "--allow-empty", "--message", "on"]);
    git(workspace.root(), ["pack-refs", "--all"]);
}

#[test]
fn processes_that_land_and_publish_at_once_are_no_other_hand() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let landing = Mutex::new(());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (store, user, landing) = (&store, &place.user, &landing);
            scope.spawn(move || {
                for number in 0..8 {
                    if worker < 2 {
                        let _one = landing.lock().unwrap();
                        land(store, &[(format!("{worker}-{number}.txt").as_str(), "landed\n")]);
                    }
                    let published = publish(store, user, BRANCH).unwrap();
                    assert!(!matches!(published, Published::Diverged(_)), "{worker} {number}: {published:?}");
                }
            });
        }
    });
    publish(&store, &place.user, BRANCH).unwrap();
    assert_eq!(at(&place, BRANCH), store.integration().unwrap().unwrap().as_str());
}

#[test]
fn publishing_moves_one_branch_and_nothing_else() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let hook = place.root.join(".git/hooks/reference-transaction");
    let marker = place.dir.path().join("ran");
    write(&place.root, ".git/hooks/reference-transaction", format!("#!/bin/sh\ntouch '{}'\n", marker.display()));
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    write(&place.root, "a.txt", "the user's\n");
    let before = place.fingerprint();
    let store = place.store();
    let first = store.integration().unwrap().unwrap();
    assert_eq!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { from: None, to: first.clone() });
    assert_eq!(publish(&store, &place.user, BRANCH).unwrap(), Published::Already(first.clone()));
    let second = land(&store, &[("a.txt", "two\n")]);
    assert_eq!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { from: Some(first), to: second.clone() });
    assert_eq!(at(&place, BRANCH), second.as_str());
    assert_eq!(place.fingerprint(), before);
    assert!(!marker.exists());
    // A crash between the branch and the note: what lies between is ours.
    let third = land(&store, &[("a.txt", "three\n")]);
    publish(&store, &place.user, BRANCH).unwrap();
    git(store.path(), ["update-ref", &format!("refs/coding-loops/published/{BRANCH}"), second.as_str()]);
    let fourth = land(&store, &[("a.txt", "four\n")]);
    assert_eq!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { from: Some(third), to: fourth });
}

#[test]
fn publishing_waits_for_a_checkout() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    publish(&store, &place.user, BRANCH).unwrap();
    let linked = place.dir.path().canonicalize().unwrap().join("linked");
    git(&place.root, ["worktree", "add", "--quiet", linked.to_str().unwrap(), BRANCH]);
    let next = land(&store, &[("a.txt", "two\n")]);
    let waiting = publish(&store, &place.user, BRANCH).unwrap();
    assert_eq!(waiting, Published::Waiting(Obstacle::CheckedOut(linked.clone())));
    fs::remove_dir_all(&linked).unwrap();
    let moved = publish(&store, &place.user, BRANCH).unwrap();
    assert!(matches!(moved, Published::Moved { to, .. } if to == next), "the entry of a deleted worktree does not count");
    git(&place.root, ["worktree", "prune"]);
    git(&place.root, ["checkout", "--quiet", BRANCH]);
    land(&store, &[("a.txt", "three\n")]);
    let waiting = publish(&store, &place.user, BRANCH).unwrap();
    assert_eq!(waiting, Published::Waiting(Obstacle::CheckedOut(place.root.clone())));
}

#[test]
fn a_branch_that_others_moved_is_left_alone() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let first = store.integration().unwrap().unwrap();
    let second = land(&store, &[("a.txt", "two\n")]);
    publish(&store, &place.user, BRANCH).unwrap();
    let full = format!("refs/heads/{BRANCH}");
    let diverged = |expected: Option<&str>, contains_ours: bool| -> Divergence {
        let Published::Diverged(found) = publish(&store, &place.user, BRANCH).unwrap() else { panic!("not diverged") };
        assert_eq!(found.found.as_ref().map(git::CommitHash::as_str), expected);
        assert_eq!(found.contains_ours, contains_ours);
        found
    };
    // Back, by hand.
    git(&place.root, ["update-ref", &full, first.as_str()]);
    let seen = diverged(Some(first.as_str()), false);
    assert!(matches!(republish(&store, &place.user, BRANCH, &seen).unwrap(), Published::Moved { .. }));
    // Forward, on top of ours.
    let tree = git(&place.root, ["rev-parse", "main^{tree}"]);
    let on_top = git(&place.root, ["commit-tree", "-m", "mine", "-p", second.as_str(), tree.trim()]);
    git(&place.root, ["update-ref", &full, on_top.trim()]);
    diverged(Some(on_top.trim()), true);
    let other = place.commit(&[("z", "z\n")]);
    git(&place.root, ["update-ref", &full, other.as_str()]);
    diverged(Some(other.as_str()), false);
    assert!(matches!(republish(&store, &place.user, BRANCH, &seen).unwrap(), Published::Diverged(_)), "not what was seen");
    // Deleted.
    git(&place.root, ["update-ref", "-d", &full]);
    let seen = diverged(None, false);
    assert!(matches!(republish(&store, &place.user, BRANCH, &seen).unwrap(), Published::Moved { from: None, .. }));
    // A symbolic one.
    git(&place.root, ["symbolic-ref", &full, "refs/heads/main"]);
    let seen = diverged(Some(other.as_str()), false);
    assert_eq!(seen.symbolic.as_deref(), Some("refs/heads/main"));
    assert!(matches!(republish(&store, &place.user, BRANCH, &seen).unwrap(), Published::Moved { .. }));
    assert_eq!(at(&place, "main"), other.as_str(), "its target has not moved");
    assert_eq!(at(&place, BRANCH), second.as_str());
}

#[test]
fn broken_and_locked_branches() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    publish(&store, &place.user, BRANCH).unwrap();
    let file = place.root.join(".git/refs/heads").join(BRANCH);
    // A crash of the machine leaves an empty file, or zeros.
    for content in ["", "\0\0\0\0", "nonsense\n"] {
        fs::write(&file, content).unwrap();
        let head = land(&store, &[("a.txt", content)]);
        assert!(matches!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { .. }), "{content:?}");
        assert_eq!(at(&place, BRANCH), head.as_str());
    }
    // The commit that it names does not exist.
    fs::write(&file, "1234567890123456789012345678901234567890\n").unwrap();
    let Published::Diverged(seen) = publish(&store, &place.user, BRANCH).unwrap() else { panic!("not diverged") };
    assert_eq!(seen.found, None);
    assert!(matches!(republish(&store, &place.user, BRANCH, &seen).unwrap(), Published::Moved { .. }));
    // Locked by a git that lives, and by one that is long dead.
    let lock = file.with_extension("lock");
    fs::write(&lock, "").unwrap();
    land(&store, &[("a.txt", "locked\n")]);
    assert_eq!(publish(&store, &place.user, BRANCH).unwrap(), Published::Waiting(Obstacle::Locked(lock.clone())));
    let long_ago = fs::metadata(&lock).unwrap().modified().unwrap() - std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&lock).unwrap().set_modified(long_ago).unwrap();
    assert!(matches!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { .. }));
}

#[test]
fn a_name_that_is_taken() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    git(&place.root, ["branch", "coding-loops"]);
    let waiting = publish(&store, &place.user, BRANCH).unwrap();
    assert_eq!(waiting, Published::Waiting(Obstacle::NameTaken("refs/heads/coding-loops".to_owned())));
}

#[test]
fn what_is_missing_in_the_users_repository_comes_back() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let head = land(&store, &[("a.txt", "two\n")]);
    publish(&store, &place.user, BRANCH).unwrap();
    let packs = place.root.join(".git/objects/pack");
    for entry in fs::read_dir(&packs).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
    assert!(matches!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { .. }));
    git(&place.root, ["rev-list", "--objects", "--quiet", head.as_str()]);
}

// ---- workspaces ----

#[test]
fn what_an_agent_does_reaches_nobody() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    publish(&store, &place.user, BRANCH).unwrap();
    let (a, b) = (place.workspace(&store, "a"), place.workspace(&store, "b"));
    let head = store.integration().unwrap();
    let before = (place.fingerprint(), at(&place, BRANCH));
    let root = a.root();
    write(root, "a.txt", "mine\n");
    git(root, ["stash"]);
    git(root, ["checkout", "--quiet", "-B", BRANCH, "origin/coding-loops/integration"]);
    write(root, "a.txt", "ungated\n");
    git(root, ["commit", "--quiet", "-am", "ungated"]);
    let elsewhere = place.dir.path().join("elsewhere.git");
    git(place.dir.path(), ["init", "--quiet", "--bare", elsewhere.to_str().unwrap()]);
    assert!(fails(root, ["push", elsewhere.to_str().unwrap(), "HEAD:main"]).contains("pushing is disabled"));
    git(root, ["config", "core.hooksPath", "/nowhere"]);
    git(root, ["update-ref", "-d", "refs/remotes/origin/main"]);
    assert!(fails(root, ["push", "origin", "HEAD:main"]).contains("pushing is disabled"));
    assert!(fails(root, ["push", "-f", store.path().to_str().unwrap(), "HEAD:refs/heads/main"]).contains("hidden ref"));
    drop(Command::new("chmod").args(["-R", "a-w", ".git"]).current_dir(root).output().unwrap());
    drop(Command::new("chmod").args(["-R", "u+w", ".git"]).current_dir(root).output().unwrap());
    assert_eq!((place.fingerprint(), at(&place, BRANCH)), before);
    assert_eq!(store.integration().unwrap(), head);
    assert_eq!(git(b.root(), ["stash", "list"]), "");
    assert_eq!(look(&b), (vec![], vec![]));
    // Back at the base: on its branch, no longer in the way, its stash its own.
    let next = land(&store, &[("a.txt", "two\n"), ("n.txt", "new\n")]);
    git(root, ["bisect", "start"]);
    write(root, "junk/file", "x\n");
    fs::create_dir(root.join("nested")).unwrap();
    git(&root.join("nested"), ["init", "--quiet"]);
    git(root, ["config", "core.worktree", "/"]);
    assert_eq!(a.reset_to(&next).unwrap(), Opened::Kept);
    assert_eq!(fs::read_to_string(root.join("n.txt")).unwrap(), "new\n");
    assert_eq!(git(root, ["status", "--porcelain", "--branch"]), "## loop/a...origin/coding-loops/integration");
    assert_eq!(git(root, ["rev-parse", "HEAD", "origin/coding-loops/integration"]), format!("{next}\n{next}"));
    assert_eq!(git(root, ["stash", "list"]).lines().count(), 1);
    assert_eq!(a.base().unwrap(), next);
    assert_eq!(look(&a), (vec![], vec![]));
    git(root, ["fetch", "--quiet"]);
}

/// What damages the workspace at a path.
type Harm<'a> = &'a dyn Fn(&Path);

#[test]
fn every_damage_is_an_outcome() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let base = store.integration().unwrap().unwrap();
    let elsewhere = place.dir.path().join("elsewhere");
    let damages: [(&str, Harm<'_>); 11] = [
        ("index", &|root| fs::write(root.join(".git/index"), b"DIRC\0\0\0\x02").unwrap()),
        ("gone", &|root| fs::remove_dir_all(root.join(".git")).unwrap()),
        ("moved", &|root| fs::rename(root.join(".git"), root.join("other")).unwrap()),
        ("link", &|root| {
            fs::remove_dir_all(root.join(".git")).unwrap();
            symlink(place.root.join(".git"), root.join(".git")).unwrap();
        }),
        ("file", &|root| {
            fs::remove_dir_all(root.join(".git")).unwrap();
            fs::write(root.join(".git"), format!("gitdir: {}\n", place.root.join(".git").display())).unwrap();
        }),
        ("config", &|root| fs::write(root.join(".git/config"), "[core\n").unwrap()),
        ("head", &|root| fs::write(root.join(".git/HEAD"), "").unwrap()),
        ("missing", &|root| fs::rename(root, &elsewhere).unwrap()),
        ("a link", &|root| {
            fs::rename(root, root.with_extension("away")).unwrap();
            symlink(&place.root, root).unwrap();
        }),
        ("foreign", &|root| {
            fs::remove_dir_all(root).unwrap();
            git(place.dir.path(), ["clone", "--quiet", place.root.to_str().unwrap(), root.to_str().unwrap()]);
        }),
        ("state", &|root| fs::remove_dir_all(root.parent().unwrap().parent().unwrap().join("state")).unwrap()),
    ];
    let before = place.fingerprint();
    for (number, (name, damage)) in damages.iter().enumerate() {
        let spec = place.spec(&format!("w{number}"));
        let (workspace, opened) = Workspace::open_or_create(&store, &spec, &base).unwrap();
        assert_eq!(opened, Opened::Created);
        workspace.snapshot_start(&OPTIONS).unwrap();
        write(workspace.root(), "work.txt", "unsaved\n");
        damage(workspace.root());
        let (workspace, opened) = Workspace::open_or_create(&store, &spec, &base).unwrap();
        match (*name, &opened) {
            ("index" | "gone" | "moved" | "link" | "file" | "config" | "head", Opened::Repaired { damage, kept_as }) => {
                assert_eq!(kept_as.is_some(), *damage != Damage::GitMissing, "{name}: {opened:?}");
                let work = fs::read_to_string(workspace.root().join("work.txt")).unwrap();
                assert_eq!(work, "unsaved\n", "{name}: the agent's files are as they were");
                assert!(look(&workspace).0.contains(&"work.txt".to_owned()));
            }
            ("missing" | "a link" | "foreign" | "state", Opened::Replaced { damage, kept_as }) => {
                assert_eq!(kept_as.is_some(), *damage != Damage::Missing, "{name}: {opened:?}");
            }
            _ => panic!("{name}: {opened:?}"),
        }
        assert_eq!(Workspace::open_or_create(&store, &spec, &base).unwrap().1, Opened::Kept, "{name}");
        assert_eq!(workspace.reset_to(&base).unwrap(), Opened::Kept);
        assert_eq!(git(workspace.root(), ["status", "--porcelain"]), "", "{name}");
        git(workspace.root(), ["log", "-1"]);
    }
    assert_eq!(place.fingerprint(), before);
    // At a reset, too.
    let workspace = place.workspace(&store, "x");
    fs::remove_dir_all(workspace.root()).unwrap();
    assert!(matches!(workspace.reset_to(&base).unwrap(), Opened::Replaced { damage: Damage::Missing, .. }));
    fs::write(place.spec("x").state.join("index"), "cut").unwrap();
    assert!(matches!(workspace.reset_to(&base).unwrap(), Opened::Replaced { damage: Damage::StateLost, .. }));
    let root = workspace.root().to_owned();
    workspace.remove().unwrap();
    assert!(!root.exists() && !place.spec("x").state.exists());
}

#[test]
fn repository_and_workspaces_move_together() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    write(workspace.root(), "a.txt", "two\n");
    let there = tempfile::tempdir().unwrap();
    let new = there.path().canonicalize().unwrap().join("moved");
    fs::rename(place.dir.path(), &new).unwrap();
    let store = Store::open(&new.join("re po-loops/store.git")).unwrap();
    let mut spec = place.spec("a");
    spec.path = new.join("re po-loops/loops/a");
    spec.state = new.join("re po-loops/state/a");
    let (workspace, opened) = Workspace::open_or_create(&store, &spec, &store.integration().unwrap().unwrap()).unwrap();
    assert_eq!(opened, Opened::Kept);
    assert_eq!(look(&workspace).0, ["a.txt"]);
    git(workspace.root(), ["fetch", "--quiet"]);
    git(workspace.root(), ["fsck", "--connectivity-only"]);
    assert!(matches!(
        publish(&store, &Repository::open(&new.join("re po")).unwrap(), BRANCH).unwrap(),
        Published::Moved { .. }
    ));
    fs::create_dir(place.dir.path()).unwrap();
}

#[test]
fn a_reset_writes_files_by_the_rules_of_the_base() {
    let place = Place::new(&[("a.txt", "one\n"), ("b.txt", "one\n"), (".gitignore", "cache/\n")]);
    let store = place.store();
    let base = store.integration().unwrap().unwrap();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, ".gitattributes", "*.txt eol=crlf\n");
    write(root, "a.txt", "two\r\n");
    write(root, "cache/x", "kept\n");
    look(&workspace);
    workspace.reset_to(&base).unwrap();
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!((read("a.txt"), read("cache/x")), ("one\n".to_owned(), "kept\n".to_owned()));
    let crlf = land(&store, &[(".gitattributes", "*.txt eol=crlf\n")]);
    workspace.reset_to(&crlf).unwrap();
    assert_eq!((read("a.txt"), read("b.txt")), ("one\r\n".to_owned(), "one\r\n".to_owned()));
    assert_eq!(look(&workspace), (vec![], vec![]));
    workspace.reset_to(&base).unwrap();
    assert_eq!(read("b.txt"), "one\n");
    assert_eq!(names(&workspace.snapshot(&OPTIONS).unwrap().changed), Vec::<String>::new());
}

#[test]
fn the_git_of_a_process_that_died_is_waited_for() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let state = place.spec("a").state;
    // What a killed holder of the lock leaves, and its git, which goes on.
    write(&state, "lock", "held\n");
    write(&state, "index.lock", "");
    let script = "echo; sleep 0.5; [ -e index.lock ] && touch kept";
    let mut orphan = Command::new("sh");
    orphan.args(["-c", script]).current_dir(&state).env("GIT_INDEX_FILE", state.join("index")).stdout(Stdio::piped());
    let mut orphan = orphan.spawn().unwrap();
    orphan.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let waiting = std::thread::spawn(move || orphan.wait().unwrap());
    look(&workspace);
    assert!(state.join("kept").exists(), "its index lock was taken from it");
    assert!(waiting.join().unwrap().success());
    // One that has ended well leaves no mark.
    assert_eq!(fs::read(state.join("lock")).unwrap(), b"");
}
