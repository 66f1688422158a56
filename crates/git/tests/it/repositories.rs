//! Repositories, references, history and linked worktrees.

use std::fs;
use std::path::Path;

use crate::common::{Lab, commit, paths, trailers};
use crate::place::Place;
use git::{Error, RefExpectation, Repository, Trailer, WorkTree};
use test_support::{git, write};

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

    let elsewhere = tempfile::tempdir().unwrap();
    assert!(matches!(Repository::open(elsewhere.path()), Err(Error::NotARepository { .. })));
    assert!(matches!(Repository::open(&elsewhere.path().join("none")), Err(Error::NotARepository { .. })));
    git(elsewhere.path(), ["clone", "--quiet", "--bare", lab.root.to_str().unwrap(), "bare.git"]);
    let bare = Repository::open(&elsewhere.path().join("bare.git")).unwrap();
    assert_eq!(bare.root(), elsewhere.path().join("bare.git").canonicalize().unwrap());
    git(bare.root(), ["worktree", "add", "--quiet", "../w", "main"]);
    assert_eq!(Repository::open(&elsewhere.path().join("w")).unwrap().root(), bare.root());
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
}

#[test]
fn references_move_only_from_where_they_are_expected() {
    let lab = Lab::new();
    let next = lab.commit_on(&lab.base, "a.txt", "two\n");
    let (repository, name) = (&lab.repository, "refs/heads/coding-loops/integration");
    let at = |commit: &git::CommitHash| RefExpectation::At(commit.clone());

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
    let commits: Vec<_> = (0..6).map(|n| lab.commit_on(&lab.base, "a.txt", &format!("{n}\n"))).collect();
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
fn history_is_listed_oldest_first() {
    let lab = Lab::new();
    let first = lab.commit_on(&lab.base, "a.txt", "two\n");
    let second = lab.commit_on(&first, "new.txt", "x\n");
    let list = lab.repository.commits_between(&lab.base, &second).unwrap();
    let hashes: Vec<_> = list.iter().map(|commit| commit.hash.clone()).collect();
    assert_eq!(hashes, [first.clone(), second.clone()]);
    assert_eq!(list[1].parents, std::slice::from_ref(&first));
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
fn a_worktree_without_its_dot_git_never_falls_through_to_the_users_checkout() {
    let lab = Lab::new();
    fs::write(lab.root.join("a.txt"), "the user's\n").unwrap();
    let tree = lab.worktree("a");
    write(tree.root(), "new.txt", "x");
    fs::remove_file(tree.root().join(".git")).unwrap();
    assert!(matches!(WorkTree::open(tree.root()), Err(Error::NotARepository { .. })));
    assert_eq!(tree.changed_files().unwrap(), paths(&["new.txt"]), "one that is open keeps its place");
    assert!(matches!(WorkTree::open(&lab.managed), Err(Error::NotARepository { .. })), "a folder inside is none");
    let main = WorkTree::open(&lab.root).unwrap();
    assert_eq!(main.changed_files().unwrap(), paths(&["a.txt"]));
    assert!(main.is_main() && !tree.is_main());
}

#[test]
fn a_branch_is_checked_out_also_while_it_is_rebased() {
    let lab = Lab::new();
    let other = lab.commit_on(&lab.base, "a.txt", "theirs\n");
    let tree = lab.worktree("a");
    let checked_out = |name| lab.repository.branch_checked_out(name).unwrap();
    assert_eq!(checked_out("main").as_deref(), Some(lab.root.as_path()));
    assert_eq!(checked_out("loop/a").as_deref(), Some(tree.root()));
    assert_eq!(checked_out("loop/b"), None);
    write(tree.root(), "a.txt", "ours\n");
    commit(&tree);
    let rebase = std::process::Command::new("git").args(["rebase", other.as_str()]).current_dir(tree.root()).output().unwrap();
    assert!(!rebase.status.success());
    assert_eq!(checked_out("loop/a").as_deref(), Some(tree.root()));
    fs::remove_dir_all(tree.root()).unwrap();
    assert_eq!(checked_out("loop/a"), None, "nobody is in a folder that no longer exists");
}

#[test]
fn trailers_come_back_and_nothing_else_passes_for_one() {
    let place = Place::new(&[("a", "1\n")]);
    let store = place.store();
    let base = store.integration().unwrap().unwrap();
    let tree = store.repository().tree_of(&base).unwrap();
    let read = |message: &str, given: &[Trailer]| {
        let commit = store.commit(&tree, &[&base], message, given).unwrap();
        let info = store.repository().commits_between(&base, &commit).unwrap().remove(0);
        assert_eq!(store.repository().trailers_of(&commit).unwrap(), info.trailers);
        info
    };
    let given = trailers(&[("Loop", "a"), ("Test", "t-1"), ("Proof", "17, 18")]);
    let messages = [
        "plain",
        "",
        "subject\n\nbody\n\nLoop: evil\nTest: evil",
        "Loop: evil",
        "subject\n\nLoop: evil\n\n---\n\nLoop: evil",
        "subject\n\n# ------------------------ >8 ------------------------\nLoop: evil\n",
        "s\n\nSigned-off-by: x <x@y>\nLoop : evil\nlOOp:evil\nProof=evil\n",
        "s\r\n\r\nLoop: evil\r\n",
        "s\u{b}\n\n\u{0}Loop: evil\n",
        "s\n\nConflicts:\n\ta\n",
    ];
    for message in messages {
        let info = read(message, &given);
        assert_eq!((info.trailer("loop"), &info.trailers), (Some("a"), &given), "{message:?}");
        let bare = read(message, &[]);
        assert_eq!((bare.trailer("Loop"), bare.trailer("Proof")), (None, None), "{message:?}");
    }
    for value in ["x\nTest: evil", "x\n\nTest: evil", "\r\nTest: evil", "\u{0}\u{85}\u{2028}Test: evil", " x "] {
        let info = read("x", &trailers(&[("Loop", value), ("Proof", "1")]));
        let keys: Vec<&str> = info.trailers.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["Loop", "Proof"], "{value:?}");
    }
}

#[test]
fn only_what_is_managed_is_removed() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(tree.root(), "target/x", "");
    write(tree.root(), "new.txt", "");
    let outside = lab.root.with_file_name("outside");
    git(&lab.root, ["worktree", "add", "--quiet", "-b", "out", outside.to_str().unwrap(), "main"]);
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
    assert_eq!(lab.repository.branch_checked_out("loop/a").unwrap(), None);
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
    assert!(lab.repository.branch_checked_out("main").unwrap_err().to_string().contains("worktree list"), "git cares no more");
    std::thread::scope(|scope| {
        let listed = scope.spawn(|| lab.repository.branch_checked_out("main"));
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        fs::write(half.join("commondir"), "../..\n").unwrap();
        assert_eq!(listed.join().unwrap().unwrap().as_deref(), Some(lab.root.as_path()));
    });
}
