//! Repositories, references, and the making, mending and removing of worktrees.

mod common;

use std::fs;
use std::path::Path;

use common::{Lab, git, paths, read, write};
use work_tree::{Error, RefExpectation, Repository, WorkTree};

#[test]
fn a_repository_is_found_from_everywhere_in_it() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    fs::create_dir(lab.root.join("sub")).unwrap();
    for path in [lab.root.clone(), lab.root.join("sub"), lab.root.join(".git"), tree.root().to_owned()] {
        let repository = Repository::open(&path).unwrap();
        assert_eq!(repository.root(), lab.root, "from {path:?}");
        assert_eq!(repository.common_dir(), lab.root.join(".git"));
    }
    assert_eq!(lab.repository.current_branch().unwrap().as_deref(), Some("main"));

    let elsewhere = tempfile::tempdir().unwrap();
    assert!(matches!(Repository::open(elsewhere.path()), Err(Error::NotARepository { .. })));
    assert!(matches!(Repository::open(&elsewhere.path().join("none")), Err(Error::NotARepository { .. })));
    git(elsewhere.path(), ["clone", "--quiet", "--bare", lab.root.to_str().unwrap(), "bare.git"]);
    let bare = Repository::open(&elsewhere.path().join("bare.git")).unwrap();
    assert_eq!(bare.root(), elsewhere.path().join("bare.git").canonicalize().unwrap());
    let tree = bare.add_worktree(&elsewhere.path().join("w"), "x", "main").unwrap();
    assert_eq!(tree.head().unwrap(), lab.base);
    assert_eq!(Repository::open(tree.root()).unwrap().root(), bare.root());
    assert!(WorkTree::open(bare.root()).is_err());
}

#[test]
fn names_resolve_or_not_and_none_is_an_option() {
    let lab = Lab::new();
    for good in ["main", "HEAD", "refs/heads/main", lab.base.as_str()] {
        assert_eq!(lab.repository.resolve(good).unwrap(), Some(lab.base.clone()), "{good}");
    }
    for bad in ["", "nope", "--all", "-n1", "main..HEAD", "HEAD^{", "HEAD:a.txt", "a\0b", "a\nb", &"0".repeat(40)] {
        assert_eq!(lab.repository.resolve(bad).unwrap(), None, "{bad:?}");
    }
    for bad in ["", "-x", "a..b", "a b", "HEAD", "x.lock", "a\nb"] {
        assert!(matches!(lab.repository.ensure_branch(bad, "main"), Err(Error::BadName { .. })), "{bad:?}");
    }
    assert!(matches!(lab.repository.ensure_branch("x", "nope"), Err(Error::UnknownRevision { .. })));
}

#[test]
fn references_move_only_from_where_they_are_expected() {
    let lab = Lab::new();
    let next = lab.commit_elsewhere("a", "a.txt", "two\n");
    let (repository, name) = (&lab.repository, "refs/heads/coding-loops/integration");
    let at = |commit: &work_tree::CommitHash| RefExpectation::At(commit.clone());

    repository.set_ref(name, &lab.base, &RefExpectation::Absent).unwrap();
    let refused = repository.set_ref(name, &next, &RefExpectation::Absent).unwrap_err();
    assert!(matches!(&refused, Error::RefMoved { expected: None, found: Some(found), .. } if *found == lab.base));
    let refused = repository.set_ref(name, &lab.base, &at(&next)).unwrap_err();
    assert!(matches!(&refused, Error::RefMoved { expected: Some(e), found: Some(f), .. } if *e == next && *f == lab.base));
    repository.set_ref(name, &next, &at(&lab.base)).unwrap();
    assert_eq!(repository.resolve(name).unwrap(), Some(next.clone()));
    assert_eq!(repository.list_refs("refs/heads/coding-loops/").unwrap(), [(name.to_owned(), next.clone())]);
    assert!(repository.list_refs("refs/heads/coding-loop").unwrap().is_empty(), "whole parts of names count");
    assert!(repository.list_refs("refs/*").is_err());

    assert!(matches!(repository.delete_ref(name, &at(&lab.base)), Err(Error::RefMoved { .. })));
    repository.delete_ref(name, &at(&next)).unwrap();
    repository.delete_ref(name, &RefExpectation::Any).unwrap();
    assert!(matches!(repository.delete_ref(name, &at(&next)), Err(Error::RefMoved { found: None, .. })));
    let refused = repository.set_ref(name, &lab.base, &at(&next)).unwrap_err();
    assert!(matches!(refused, Error::RefMoved { found: None, .. }));
    for bad in ["heads/x", "refs/heads/../x", "refs/heads/a b", "--stdin", "refs/heads/x\n"] {
        assert!(matches!(repository.set_ref(bad, &next, &RefExpectation::Any), Err(Error::BadName { .. })), "{bad:?}");
    }
}

#[test]
fn only_one_of_many_swaps_wins() {
    let lab = Lab::new();
    let commits: Vec<_> = (0..6).map(|n| lab.commit_elsewhere(&format!("w{n}"), "a.txt", &format!("{n}\n"))).collect();
    lab.repository.set_ref("refs/heads/race", &lab.base, &RefExpectation::Absent).unwrap();
    let won: usize = std::thread::scope(|scope| {
        let swap = |commit| lab.repository.set_ref("refs/heads/race", commit, &RefExpectation::At(lab.base.clone()));
        let threads: Vec<_> = commits.iter().map(|commit| scope.spawn(move || swap(commit))).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results
            .map(|result| usize::from(result.inspect_err(|e| assert!(matches!(e, Error::RefMoved { .. }), "{e}")).is_ok()))
            .sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn history_is_told_oldest_first() {
    let lab = Lab::new();
    let first = lab.commit_elsewhere("a", "a.txt", "two\n");
    let second = lab.commit_elsewhere("a", "new.txt", "x\n");
    let list = lab.repository.commits_between(&lab.base, &second).unwrap();
    let hashes: Vec<_> = list.iter().map(|commit| commit.hash.clone()).collect();
    assert_eq!(hashes, [first.clone(), second.clone()]);
    assert_eq!(list[1].parents, std::slice::from_ref(&first));
    assert_eq!(list[1].tree, lab.repository.tree_of(&second).unwrap());
    assert!(lab.repository.commits_between(&second, &lab.base).unwrap().is_empty());
    assert_eq!(lab.repository.changed_between(&lab.base, &second).unwrap(), paths(&["a.txt", "new.txt"]));
    assert!(lab.repository.is_ancestor(&lab.base, &second).unwrap());
    assert!(!lab.repository.is_ancestor(&second, &lab.base).unwrap());
    assert_eq!(lab.repository.merge_base(&second, &lab.base).unwrap(), Some(lab.base.clone()));
    let file = |commit, path: &str| lab.repository.read_file_at(commit, Path::new(path)).unwrap();
    assert_eq!(file(&lab.base, "a.txt").as_deref(), Some(b"one\n".as_slice()));
    assert_eq!(file(&second, "a.txt").as_deref(), Some(b"two\n".as_slice()));
    assert_eq!(file(&lab.base, "new.txt"), None);
}

#[test]
fn a_worktree_is_made_reused_and_made_again() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
    assert_eq!(lab.repository.branch_checked_out("loop/a").unwrap().as_deref(), Some(tree.root()));
    assert_eq!(lab.repository.branch_checked_out("loop/b").unwrap(), None);
    write(&tree, "work.txt", "unlanded");
    assert_eq!(read(&lab.worktree("a"), "work.txt").as_deref(), Some("unlanded"), "reused as it is");

    let other = lab.repository.add_worktree(&lab.managed.join("b"), "loop/a", "main").unwrap_err();
    assert!(matches!(other, Error::BranchCheckedOut { .. }), "{other}");

    fs::remove_dir_all(tree.root()).unwrap();
    assert!(tree.head().is_err() || lab.repository.worktrees().unwrap().len() == 2);
    assert!(lab.worktree("a").is_clean().unwrap(), "gone, but registered");
    fs::remove_dir_all(tree.root()).unwrap();
    git(&lab.root, ["worktree", "prune"]);
    assert!(lab.worktree("a").is_clean().unwrap(), "gone and pruned");

    fs::create_dir(lab.managed.join("full")).unwrap();
    fs::write(lab.managed.join("full/x"), "").unwrap();
    let error = lab.repository.add_worktree(&lab.managed.join("full"), "loop/full", "main").unwrap_err();
    assert!(matches!(error, Error::InTheWay { .. }));
    assert!(lab.managed.join("full/x").exists());
    fs::create_dir(lab.managed.join("empty")).unwrap();
    assert!(lab.worktree("empty").is_clean().unwrap());
}

#[test]
fn a_worktree_that_lost_its_registration_keeps_its_work() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "changed\n");
    write(&tree, "new.txt", "untracked\n");
    fs::remove_dir_all(tree.git_dir()).unwrap();
    assert!(tree.is_clean().is_err());
    let tree = lab.worktree("a");
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
    assert_eq!(tree.changed_files().unwrap(), paths(&["a.txt", "new.txt"]));
    assert_eq!(read(&tree, "a.txt").as_deref(), Some("changed\n"));
    assert_eq!(fs::read_dir(&lab.managed).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_worktree_half_made_by_a_killed_git_is_made_anew() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    fs::write(tree.git_dir().join("locked"), "initializing").unwrap();
    fs::remove_file(tree.root().join("a.txt")).unwrap();
    assert!(lab.worktree("a").is_clean().unwrap());
}

#[test]
fn a_moved_worktree_is_found_again() {
    let lab = Lab::new();
    write(&lab.worktree("a"), "new.txt", "x");
    let moved = lab.root.with_file_name("moved");
    fs::rename(&lab.root, &moved).unwrap();
    let repository = Repository::open(&moved).unwrap();
    let tree = repository.add_worktree(&moved.join("coding-loops/worktrees/a"), "loop/a", "main").unwrap();
    assert_eq!(tree.changed_files().unwrap(), paths(&["new.txt"]));
}

#[test]
fn a_worktree_without_its_dot_git_never_falls_through_to_the_users_checkout() {
    let lab = Lab::new();
    fs::write(lab.root.join("a.txt"), "the user's\n").unwrap();
    let tree = lab.worktree("a");
    write(&tree, "new.txt", "x");
    fs::remove_file(tree.root().join(".git")).unwrap();
    assert!(matches!(WorkTree::open(tree.root()), Err(Error::NotARepository { .. })));
    tree.restore_to(&lab.base).unwrap();
    assert!(WorkTree::open(tree.root()).unwrap().is_clean().unwrap());
    assert_eq!(fs::read_to_string(lab.root.join("a.txt")).unwrap(), "the user's\n");

    let main = WorkTree::open(&lab.root).unwrap();
    assert_eq!(main.changed_files().unwrap(), paths(&["a.txt"]));
    assert!(matches!(main.restore_to(&lab.base), Err(Error::MainCheckout { .. })));
    assert!(matches!(main.commit_all("x", &[], None), Err(Error::MainCheckout { .. })));
    assert!(matches!(main.rebase_onto(&lab.base, &lab.base), Err(Error::MainCheckout { .. })));
    assert!(matches!(WorkTree::open(&lab.managed), Err(Error::NotARepository { .. })), "a folder inside is none");
}

#[test]
fn detached_worktrees_follow_the_commit() {
    let lab = Lab::new();
    let next = lab.commit_elsewhere("a", "a.txt", "two\n");
    let path = lab.managed.join("gate");
    let tree = lab.repository.add_detached_worktree(&path, &lab.base).unwrap();
    write(&tree, "junk.txt", "x");
    write(&tree, "target/cache", "kept");
    let tree = lab.repository.add_detached_worktree(&path, &next).unwrap();
    assert_eq!((tree.head().unwrap(), tree.branch().unwrap()), (next.clone(), None));
    assert!(tree.is_clean().unwrap());
    assert_eq!(read(&tree, "target/cache").as_deref(), Some("kept"));

    git(tree.root(), ["checkout", "--quiet", "-b", "strayed"]);
    let tree = lab.repository.add_detached_worktree(&path, &lab.base).unwrap();
    assert_eq!(tree.branch().unwrap(), None);
    assert_eq!(lab.repository.resolve("strayed").unwrap(), Some(next), "a branch is not moved by it");
}

#[test]
fn each_check_out_gives_what_it_changes_a_second_of_its_own() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    let next = lab.commit_elsewhere("a", "a.txt", "two\n");
    let path = lab.managed.join("gate");
    let second = |file: &str| fs::symlink_metadata(path.join(file)).unwrap().mtime();
    let mut seconds = Vec::new();
    for commit in [&lab.base, &next, &lab.base, &next, &lab.base] {
        let tree = lab.repository.add_detached_worktree(&path, commit).unwrap();
        assert!(tree.is_clean().unwrap());
        seconds.push(second("a.txt"));
        // What a check has changed is brought back in another second than the one that it was changed in.
        write(&tree, "a.txt", "six\n");
        lab.repository.add_detached_worktree(&path, commit).unwrap();
        seconds.push(second("a.txt"));
    }
    let given: std::collections::BTreeSet<_> = seconds.iter().collect();
    assert_eq!(given.len(), 10, "{seconds:?}");
    assert!(second("b.txt") <= seconds[0], "what is the same in both keeps its time");
}

#[test]
fn only_what_is_managed_is_removed() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(&tree, "target/x", "");
    write(&tree, "new.txt", "");
    let outside = lab.root.with_file_name("outside");
    lab.repository.add_worktree(&outside, "out", "main").unwrap();
    std::os::unix::fs::symlink(&outside, lab.managed.join("link")).unwrap();
    let attempts =
        [outside.clone(), lab.root.clone(), lab.managed.clone(), lab.managed.join(".."), lab.managed.join("../../src")];
    for path in attempts {
        let result = lab.repository.remove_worktree(&path, &lab.managed);
        assert!(matches!(result, Err(Error::NotManaged { .. } | Error::Io { .. })), "{path:?}: {result:?}");
    }
    lab.repository.remove_worktree(&lab.managed.join("link"), &lab.managed).unwrap();
    assert!(outside.join("a.txt").exists(), "only the link is removed");

    lab.repository.remove_worktree(tree.root(), &lab.managed).unwrap();
    assert!(!tree.root().exists());
    assert_eq!(lab.repository.worktrees().unwrap().len(), 2);
    lab.repository.remove_worktree(tree.root(), &lab.managed).unwrap();
    fs::create_dir(lab.managed.join("stray")).unwrap();
    lab.repository.remove_worktree(&lab.managed.join("stray"), &lab.managed).unwrap();
    assert!(!lab.managed.join("stray").exists());
    assert!(lab.repository.resolve("loop/a").unwrap().is_some(), "the branch stays");
}

#[test]
fn a_stale_lock_of_a_reference_is_overcome() {
    let lab = Lab::new();
    let lock = lab.root.join(".git/refs/heads/x.lock");
    fs::write(&lock, "").unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&lock).unwrap().set_modified(old).unwrap();
    lab.repository.set_ref("refs/heads/x", &lab.base, &RefExpectation::Absent).unwrap();
    assert_eq!(lab.repository.resolve("x").unwrap(), Some(lab.base.clone()));
}

#[test]
fn a_worktree_that_another_git_is_just_making_is_waited_for() {
    let lab = Lab::new();
    // What git has written at that moment: the file is there, and nothing in it.
    let half = lab.root.join(".git/worktrees/half");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("gitdir"), "/nowhere/.git\n").unwrap();
    fs::write(half.join("HEAD"), "ref: refs/heads/half\n").unwrap();
    fs::write(half.join("commondir"), "").unwrap();
    assert!(lab.repository.worktrees().unwrap_err().to_string().contains("worktree list"), "git cares no more");
    std::thread::scope(|scope| {
        let listed = scope.spawn(|| lab.repository.worktrees());
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        fs::write(half.join("commondir"), "../..\n").unwrap();
        let listed = listed.join().unwrap().unwrap();
        assert_eq!(listed.len(), 2);
    });
}
