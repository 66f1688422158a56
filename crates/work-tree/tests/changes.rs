//! What happens inside one worktree: seeing, saving, committing, rebasing, going back.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use common::{Lab, git, paths, read, trailers, write};
use work_tree::Error;

fn hostile_names() -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = [
        b"-rf".as_slice(),
        b"--",
        b"new\nline",
        b"quo\"te'",
        b"\xff\xfe not utf-8",
        b"sp ace\t",
        b":(exclude)x",
        b":!y",
        b"*",
        b"dir/[a]?",
        b"dir/ -> b",
        b"back\\slash",
        b"$(touch pwned)",
        b"#x",
        b"\x01",
    ]
    .into_iter()
    .map(|name| PathBuf::from(OsStr::from_bytes(name)))
    .collect();
    names.sort();
    names
}

#[test]
fn any_file_name_is_seen_committed_saved_and_restored() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    let names = hostile_names();
    for name in &names {
        write(&tree, name, "hostile");
    }
    assert_eq!(tree.changed_files().unwrap(), names);
    assert_eq!(tree.changed_since(&lab.base).unwrap(), names);
    let saved = tree.snapshot_commit("save").unwrap();
    assert_eq!(lab.repository.changed_between(&lab.base, &saved).unwrap(), names);
    let commit = tree.commit_all("hostile", &[], None).unwrap().unwrap();
    assert!(tree.is_clean().unwrap());
    assert_eq!(lab.repository.changed_between(&lab.base, &commit).unwrap(), names);
    for name in &names {
        assert_eq!(lab.repository.read_file_at(&commit, name).unwrap().as_deref(), Some(b"hostile".as_slice()), "{name:?}");
    }
    for name in &names {
        fs::remove_file(tree.root().join(name)).unwrap();
    }
    assert_eq!(tree.changed_files().unwrap(), names);
    // Each name excluded by itself excludes nothing else.
    for name in &names {
        let filter = |path: &Path| path != name;
        tree.restore_to(&lab.base).unwrap();
        for name in &names {
            write(&tree, name, "again");
        }
        tree.commit_all("all but one", &[], Some(&filter)).unwrap().unwrap();
        assert_eq!(tree.changed_files().unwrap(), std::slice::from_ref(name));
        fs::remove_file(tree.root().join(name)).unwrap();
    }
    tree.restore_to(&commit).unwrap();
    assert!(names.iter().all(|name| tree.root().join(name).exists()));
    tree.restore_to(&lab.base).unwrap();
    assert!(tree.is_clean().unwrap());
    assert!(!names.iter().any(|name| tree.root().join(name).exists()));
}

#[test]
fn changes_are_seen_in_each_form() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    assert!(tree.is_clean().unwrap());
    write(&tree, "a.txt", "modified\n");
    git(tree.root(), ["mv", "b.txt", "c.txt"]);
    write(&tree, "sub/new.txt", "x");
    write(&tree, "target/built", "ignored");
    assert_eq!(tree.changed_files().unwrap(), paths(&["a.txt", "b.txt", "c.txt", "sub/new.txt"]));
    // The loop's own base counts, not what others did meanwhile.
    let ahead = lab.commit_elsewhere("other", "elsewhere.txt", "x");
    tree.commit_all("work", &[], None).unwrap().unwrap();
    write(&tree, "late.txt", "x");
    assert_eq!(tree.changed_since(&ahead).unwrap(), paths(&["a.txt", "b.txt", "c.txt", "late.txt", "sub/new.txt"]));
    // A file that is only touched has not changed.
    fs::File::options().write(true).open(tree.root().join("c.txt")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(tree.changed_files().unwrap(), paths(&["late.txt"]));
    let list = tree.changed_since(&tree.head().unwrap()).unwrap();
    assert_eq!(list, paths(&["late.txt"]));
}

#[test]
fn a_snapshot_touches_nothing_and_holds_everything() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "staged only\n");
    write(&tree, "staged.txt", "staged");
    git(tree.root(), ["add", "a.txt", "staged.txt"]);
    write(&tree, "a.txt", "in the file\n");
    write(&tree, "untracked.txt", "untracked");
    write(&tree, "target/built", "ignored");
    fs::remove_file(tree.root().join("b.txt")).unwrap();
    let state = || {
        let head = fs::read(tree.git_dir().join("HEAD")).unwrap();
        let mut names: Vec<_> = fs::read_dir(tree.git_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        (fs::read(tree.git_dir().join("index")).unwrap(), head, names, tree.changed_files().unwrap())
    };
    let before = state();
    let saved = tree.snapshot_commit("attempt 3").unwrap();
    assert_eq!(state(), before);
    let at = |commit, path: &str| {
        lab.repository.read_file_at(commit, Path::new(path)).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
    };
    assert_eq!(at(&saved, "a.txt").as_deref(), Some("in the file\n"));
    assert_eq!(at(&saved, "staged.txt").as_deref(), Some("staged"));
    assert_eq!(at(&saved, "untracked.txt").as_deref(), Some("untracked"));
    assert_eq!((at(&saved, "b.txt"), at(&saved, "target/built")), (None, None));
    assert_eq!(lab.repository.resolve(&format!("{saved}^1")).unwrap(), Some(lab.base.clone()));
    let index = lab.repository.resolve(&format!("{saved}^2")).unwrap().expect("the staged content is kept");
    assert_eq!(at(&index, "a.txt").as_deref(), Some("staged only\n"));

    tree.restore_to(&lab.base).unwrap();
    assert!(tree.is_clean().unwrap());
    assert_eq!(read(&tree, "target/built").as_deref(), Some("ignored"));
    tree.restore_to(&saved).unwrap();
    assert_eq!(read(&tree, "a.txt").as_deref(), Some("in the file\n"));
    assert_eq!(read(&tree, "untracked.txt").as_deref(), Some("untracked"));
    assert_eq!(read(&tree, "b.txt"), None);
}

#[test]
fn a_snapshot_needs_no_second_parent_when_the_files_hold_it_all() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(&tree, "staged.txt", "x");
    git(tree.root(), ["add", "staged.txt"]);
    write(&tree, "a.txt", "unstaged");
    let saved = tree.snapshot_commit("x").unwrap();
    assert_eq!(lab.repository.resolve(&format!("{saved}^2")).unwrap(), None);
}

#[test]
fn saving_keeps_what_is_saved() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    let name = "refs/coding-loops/saved/a/1";
    assert_eq!(tree.save_under(name, "x", &lab.base).unwrap(), None);
    write(&tree, "new.txt", "work");
    let saved = tree.save_under(name, "x", &lab.base).unwrap().unwrap();
    assert_eq!(lab.repository.resolve(name).unwrap(), Some(saved.clone()));
    assert_eq!(tree.save_under(name, "again", &lab.base).unwrap(), Some(saved.clone()), "the same work again");
    write(&tree, "new.txt", "other work");
    assert!(matches!(tree.save_under(name, "x", &lab.base), Err(Error::RefMoved { .. })));
    assert_eq!(lab.repository.resolve(name).unwrap(), Some(saved));
    let commit = tree.commit_all("own commit", &[], None).unwrap().unwrap();
    assert_eq!(tree.save_under("refs/coding-loops/saved/a/2", "x", &lab.base).unwrap(), Some(commit.clone()));
    assert_eq!(tree.save_under("refs/coding-loops/saved/a/3", "x", &commit).unwrap(), None, "nothing beyond it");
}

#[test]
fn a_snapshot_survives_conflicts_locks_and_unreadable_files() {
    let lab = Lab::new();
    let other = lab.commit_elsewhere("other", "a.txt", "theirs\n");
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "ours\n");
    let ours = tree.commit_all("ours", &[], None).unwrap().unwrap();
    let merge = std::process::Command::new("git").args(["merge", other.as_str()]).current_dir(tree.root()).output().unwrap();
    assert!(!merge.status.success());
    fs::write(tree.git_dir().join("index.lock"), "").unwrap();
    let saved = tree.snapshot_commit("in the middle of a merge").unwrap();
    let content = lab.repository.read_file_at(&saved, Path::new("a.txt")).unwrap().unwrap();
    assert!(String::from_utf8(content).unwrap().contains("<<<<<<<"));
    tree.restore_to(&ours).unwrap();
    assert!(tree.is_clean().unwrap());
    assert!(!tree.git_dir().join("MERGE_HEAD").exists());
    assert!(!tree.git_dir().join("index.lock").exists());
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
}

#[test]
fn a_repository_inside_is_neither_committed_nor_deleted() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    fs::create_dir(tree.root().join("clone")).unwrap();
    git(&tree.root().join("clone"), ["init", "--quiet"]);
    write(&tree, "clone/x", "x");
    git(&tree.root().join("clone"), ["add", "-A"]);
    git(&tree.root().join("clone"), ["commit", "--quiet", "-m", "inner"]);
    assert_eq!(tree.changed_files().unwrap(), paths(&["clone"]));
    assert_eq!(tree.commit_all("nothing", &[], None).unwrap(), None);
    write(&tree, "a.txt", "x");
    let commit = tree.commit_all("a", &[], None).unwrap().unwrap();
    assert_eq!(lab.repository.changed_between(&lab.base, &commit).unwrap(), paths(&["a.txt"]));
    tree.restore_to(&lab.base).unwrap();
    assert!(tree.root().join("clone/x").exists());
}

#[test]
fn a_damaged_or_missing_index_is_overcome() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    fs::write(tree.git_dir().join("index"), "garbage").unwrap();
    tree.restore_to(&lab.base).unwrap();
    assert!(tree.is_clean().unwrap());
    fs::remove_file(tree.git_dir().join("index")).unwrap();
    write(&tree, "a.txt", "x");
    let saved = tree.snapshot_commit("x").unwrap();
    assert_eq!(lab.repository.changed_between(&lab.base, &saved).unwrap(), paths(&["a.txt"]));
}

#[test]
fn committing_takes_all_or_what_the_filter_wants() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    assert_eq!(tree.commit_all("nothing", &[], None).unwrap(), None);
    write(&tree, "a.txt", "x");
    write(&tree, "secret.txt", "x");
    git(tree.root(), ["add", "secret.txt"]);
    let filter = |path: &Path| path != Path::new("secret.txt");
    let commit = tree.commit_all("some", &[], Some(&filter)).unwrap().unwrap();
    assert_eq!(lab.repository.changed_between(&lab.base, &commit).unwrap(), paths(&["a.txt"]));
    assert_eq!(tree.changed_files().unwrap(), paths(&["secret.txt"]));
    assert_eq!(tree.commit_all("none", &[], Some(&filter)).unwrap(), None);
    for name in ["a.txt", "b.txt", ".gitignore", "secret.txt"] {
        fs::remove_file(tree.root().join(name)).unwrap();
    }
    let commit = tree.commit_all("all files are gone", &[], None).unwrap().unwrap();
    assert_eq!(tree.head().unwrap(), commit);
    assert_eq!(tree.commit_all("still", &[], None).unwrap(), None);
}

#[test]
fn trailers_come_back_and_nothing_else_passes_for_one() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
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
    for (number, message) in messages.into_iter().enumerate() {
        write(&tree, "a.txt", &number.to_string());
        let parent = tree.head().unwrap();
        let commit = tree.commit_all(message, &given, None).unwrap().unwrap();
        let list = lab.repository.commits_between(&parent, &commit).unwrap();
        assert_eq!(list[0].trailers, given, "{message:?}");
        assert_eq!(list[0].trailer("loop"), Some("a"));
        write(&tree, "b.txt", &number.to_string());
        let bare = tree.commit_all(message, &[], None).unwrap().unwrap();
        let list = lab.repository.commits_between(&commit, &bare).unwrap();
        assert_eq!(list[0].trailer("Loop"), None, "{message:?}");
        assert_eq!(list[0].trailer("Proof"), None, "{message:?}");
    }
    for value in ["x\nTest: evil", "x\n\nTest: evil", "\r\nTest: evil", "\u{0}\u{85}\u{2028}Test: evil", " x "] {
        write(&tree, "a.txt", value);
        let parent = tree.head().unwrap();
        let commit = tree.commit_all("x", &trailers(&[("Loop", value), ("Proof", "1")]), None).unwrap().unwrap();
        let info = lab.repository.commits_between(&parent, &commit).unwrap().remove(0);
        let keys: Vec<&str> = info.trailers.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["Loop", "Proof"], "{value:?}");
    }
}

#[test]
fn trailers_are_set_on_the_last_commit() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "x");
    git(tree.root(), ["commit", "--quiet", "-am", "subject\n\nbody\n\nLoop: forged\nAcked-by: someone"]);
    write(&tree, "staged.txt", "x");
    git(tree.root(), ["add", "staged.txt"]);
    let old = tree.head().unwrap();
    let new = tree.amend_trailers(&trailers(&[("Loop", "a"), ("Proof", "3")])).unwrap();
    let info = lab.repository.commits_between(&lab.base, &new).unwrap().remove(0);
    assert_eq!(info.trailers, trailers(&[("Acked-by", "someone"), ("Loop", "a"), ("Proof", "3")]));
    assert_eq!(info.tree, lab.repository.tree_of(&old).unwrap());
    assert_eq!(git(tree.root(), ["log", "-1", "--format=%an|%s|%b"]).lines().next(), Some("tester|subject|body"));
    assert_eq!(tree.changed_files().unwrap(), paths(&["staged.txt"]));
    let again = tree.amend_trailers(&trailers(&[("Proof", "4")])).unwrap();
    let info = lab.repository.commits_between(&lab.base, &again).unwrap().remove(0);
    assert_eq!(info.trailers, trailers(&[("Acked-by", "someone"), ("Loop", "a"), ("Proof", "4")]));
}

#[test]
fn everything_since_the_base_becomes_one_commit() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    assert_eq!(tree.squash_since(&lab.base, "nothing", &[]).unwrap(), None);
    write(&tree, "a.txt", "1");
    git(tree.root(), ["commit", "--quiet", "-am", "own\n\nLoop: forged"]);
    write(&tree, "b.txt", "2");
    git(tree.root(), ["commit", "--quiet", "-am", "own 2"]);
    write(&tree, "c.txt", "3");
    let given = trailers(&[("Loop", "a")]);
    let commit = tree.squash_since(&lab.base, "one", &given).unwrap().unwrap();
    let list = lab.repository.commits_between(&lab.base, &commit).unwrap();
    assert_eq!((list.len(), &list[0].trailers), (1, &given));
    assert_eq!(lab.repository.changed_between(&lab.base, &commit).unwrap(), paths(&["a.txt", "b.txt", "c.txt"]));
    assert!(tree.is_clean().unwrap());
    assert_eq!(lab.repository.resolve("loop/a").unwrap(), Some(commit.clone()));

    git(tree.root(), ["revert", "--no-edit", "HEAD"]);
    assert_eq!(tree.squash_since(&lab.base, "adds up to nothing", &given).unwrap(), None);
    assert_eq!(tree.head().unwrap(), lab.base);
    assert!(tree.is_clean().unwrap());
    let other = lab.commit_elsewhere("other", "x.txt", "x");
    assert!(matches!(tree.squash_since(&other, "x", &given), Err(Error::NotAncestor { .. })));
}

#[test]
fn a_rebase_lands_on_top_or_names_the_conflicts_and_changes_nothing() {
    let lab = Lab::new();
    let other = lab.commit_elsewhere("other", "b.txt", "theirs\n");
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "ours\n");
    let ours = tree.commit_all("ours", &trailers(&[("Loop", "a")]), None).unwrap().unwrap();
    let landed = tree.rebase_onto(&other, &lab.base).unwrap();
    let list = lab.repository.commits_between(&other, &landed).unwrap();
    assert_eq!((list.len(), list[0].trailer("Loop")), (1, Some("a")));
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
    tree.restore_to(&ours).unwrap();
    assert_eq!(tree.rebase_onto(&landed, &lab.base).unwrap(), landed, "what has landed is dropped");

    let name = PathBuf::from(OsStr::from_bytes(b"-hos\n\xfftile"));
    tree.restore_to(&lab.base).unwrap();
    write(&tree, &name, "ours");
    write(&tree, "b.txt", "ours\n");
    write(&tree, "fine.txt", "ours\n");
    let ours = tree.commit_all("ours", &[], None).unwrap().unwrap();
    let theirs = lab.worktree("other");
    write(&theirs, &name, "theirs");
    let theirs = theirs.commit_all("theirs", &[], None).unwrap().unwrap();
    write(&tree, "target/cache", "kept");
    match tree.rebase_onto(&theirs, &lab.base) {
        Err(Error::RebaseConflict { files }) => assert_eq!(files, [name, PathBuf::from("b.txt")]),
        result => panic!("{result:?}"),
    }
    assert_eq!((tree.head().unwrap(), tree.branch().unwrap().as_deref()), (ours.clone(), Some("loop/a")));
    assert!(tree.is_clean().unwrap());
    assert_eq!(read(&tree, "b.txt").as_deref(), Some("ours\n"));
    assert_eq!(read(&tree, "target/cache").as_deref(), Some("kept"));

    write(&tree, "b.txt", "dirty\n");
    assert!(matches!(tree.rebase_onto(&theirs, &lab.base), Err(Error::GitFailed { .. })));
    assert_eq!(read(&tree, "b.txt").as_deref(), Some("dirty\n"));
}

#[test]
fn a_rebase_left_half_done_blocks_committing_and_is_undone_by_restoring() {
    let lab = Lab::new();
    let other = lab.commit_elsewhere("other", "a.txt", "theirs\n");
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "ours\n");
    let ours = tree.commit_all("ours", &[], None).unwrap().unwrap();
    let rebase = std::process::Command::new("git").args(["rebase", other.as_str()]).current_dir(tree.root()).output().unwrap();
    assert!(!rebase.status.success());
    assert_eq!(tree.branch().unwrap(), None);
    assert_eq!(lab.repository.branch_checked_out("loop/a").unwrap().as_deref(), Some(tree.root()));
    assert!(matches!(tree.commit_all("x", &[], None), Err(Error::OperationInProgress { operation: "rebase", .. })));
    assert!(matches!(tree.squash_since(&lab.base, "x", &[]), Err(Error::OperationInProgress { .. })));
    tree.restore_to(&ours).unwrap();
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
    assert_eq!(lab.repository.resolve("loop/a").unwrap(), Some(ours));
    assert!(tree.is_clean().unwrap());
}

#[test]
fn restoring_a_branch_moves_no_other_one() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    git(tree.root(), ["checkout", "--quiet", "-b", "strayed"]);
    write(&tree, "a.txt", "x");
    let strayed = tree.commit_all("x", &[], None).unwrap().unwrap();
    git(tree.root(), ["bisect", "start"]);
    tree.restore_branch_to("loop/a", &lab.base).unwrap();
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
    assert_eq!(tree.head().unwrap(), lab.base);
    assert!(tree.is_clean().unwrap());
    assert!(!tree.git_dir().join("BISECT_START").exists());
    assert_eq!(lab.repository.resolve("strayed").unwrap(), Some(strayed));
    let refused = tree.restore_branch_to("main", &lab.base);
    assert!(matches!(refused, Err(Error::BranchCheckedOut { .. })), "{refused:?}");
}

#[test]
fn a_bisection_of_the_agent_is_ended_on_its_branch() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    for number in 0..4 {
        write(&tree, "a.txt", &number.to_string());
        tree.commit_all("x", &[], None).unwrap().unwrap();
    }
    let head = tree.head().unwrap();
    git(tree.root(), ["bisect", "start", "HEAD", lab.base.as_str()]);
    assert_eq!(tree.branch().unwrap(), None);
    write(&tree, "a.txt", "dirty");
    tree.restore_to(&head).unwrap();
    assert_eq!(tree.branch().unwrap().as_deref(), Some("loop/a"));
    assert!(tree.is_clean().unwrap());
}

#[test]
fn a_commit_is_reverted_or_the_conflict_told() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(&tree, "a.txt", "two\n");
    let bad = tree.commit_all("bad", &[], None).unwrap().unwrap();
    write(&tree, "b.txt", "two\n");
    let head = tree.commit_all("later", &[], None).unwrap().unwrap();
    let revert = tree.revert_commit(&bad, "Revert bad", &trailers(&[("Loop", "a")])).unwrap().unwrap();
    assert_eq!(read(&tree, "a.txt").as_deref(), Some("one\n"));
    assert_eq!(lab.repository.commits_between(&head, &revert).unwrap()[0].trailer("loop"), Some("a"));
    assert!(!tree.git_dir().join("REVERT_HEAD").exists());
    write(&tree, "a.txt", "three\n");
    let head = tree.commit_all("conflicting", &[], None).unwrap().unwrap();
    match tree.revert_commit(&bad, "x", &[]) {
        Err(Error::RebaseConflict { files }) => assert_eq!(files, paths(&["a.txt"])),
        result => panic!("{result:?}"),
    }
    assert_eq!(tree.head().unwrap(), head);
    assert!(tree.is_clean().unwrap());
    assert_eq!(read(&tree, "a.txt").as_deref(), Some("three\n"));
}

#[test]
fn hooks_do_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    for hook in ["pre-commit", "commit-msg", "post-checkout", "pre-rebase", "reference-transaction", "post-commit"] {
        let path = lab.root.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let tree = lab.worktree("a");
    let other = lab.commit_elsewhere("other", "b.txt", "x");
    write(&tree, "a.txt", "x");
    tree.commit_all("x", &[], None).unwrap().unwrap();
    tree.amend_trailers(&trailers(&[("Loop", "a")])).unwrap();
    tree.rebase_onto(&other, &lab.base).unwrap();
}
