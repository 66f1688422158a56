//! Seeing and saving what lies in a linked worktree.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::common::{Lab, commit, paths};
use git::{CommitHash, Error, WorkTree};
use test_support::{git, write};

const NAME: &str = "refs/coding-loops/saved/a/1";

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

fn save(lab: &Lab, tree: &WorkTree) -> CommitHash {
    tree.save_under(NAME, "save", &lab.base).unwrap().unwrap()
}

fn at(lab: &Lab, commit: &CommitHash, path: &str) -> Option<String> {
    lab.repository.read_file_at(commit, Path::new(path)).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
}

#[test]
fn any_file_name_is_seen_and_saved() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    let names = hostile_names();
    for name in &names {
        write(tree.root(), name, "hostile");
    }
    assert_eq!(tree.changed_files().unwrap(), names);
    let saved = save(&lab, &tree);
    assert_eq!(lab.repository.changed_between(&lab.base, &saved).unwrap(), names);
    for name in &names {
        assert_eq!(lab.repository.read_file_at(&saved, name).unwrap().as_deref(), Some(b"hostile".as_slice()), "{name:?}");
    }
    commit(&tree);
    assert!(tree.is_clean().unwrap());
    for name in &names {
        fs::remove_file(tree.root().join(name)).unwrap();
    }
    assert_eq!(tree.changed_files().unwrap(), names);
}

#[test]
fn changes_are_seen_in_each_form() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    assert!(tree.is_clean().unwrap());
    write(tree.root(), "a.txt", "modified\n");
    git(tree.root(), ["mv", "b.txt", "c.txt"]);
    write(tree.root(), "sub/new.txt", "x");
    write(tree.root(), "target/built", "ignored");
    assert_eq!(tree.changed_files().unwrap(), paths(&["a.txt", "b.txt", "c.txt", "sub/new.txt"]));
    commit(&tree);
    write(tree.root(), "late.txt", "x");
    // A file that is only touched has not changed.
    fs::File::options().write(true).open(tree.root().join("c.txt")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(tree.changed_files().unwrap(), paths(&["late.txt"]));
}

#[test]
fn saving_touches_nothing_and_takes_everything() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(tree.root(), "a.txt", "staged only\n");
    write(tree.root(), "staged.txt", "staged");
    git(tree.root(), ["add", "a.txt", "staged.txt"]);
    write(tree.root(), "a.txt", "in the file\n");
    write(tree.root(), "untracked.txt", "untracked");
    write(tree.root(), "target/built", "ignored");
    fs::remove_file(tree.root().join("b.txt")).unwrap();
    let git_dir = lab.root.join(".git/worktrees/a");
    let state = || {
        let head = fs::read(git_dir.join("HEAD")).unwrap();
        let mut names: Vec<_> = fs::read_dir(&git_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        (fs::read(git_dir.join("index")).unwrap(), head, names, tree.changed_files().unwrap())
    };
    let before = state();
    let saved = save(&lab, &tree);
    assert_eq!(state(), before);
    assert_eq!(at(&lab, &saved, "a.txt").as_deref(), Some("in the file\n"));
    assert_eq!(at(&lab, &saved, "staged.txt").as_deref(), Some("staged"));
    assert_eq!(at(&lab, &saved, "untracked.txt").as_deref(), Some("untracked"));
    assert_eq!((at(&lab, &saved, "b.txt"), at(&lab, &saved, "target/built")), (None, None));
    assert_eq!(lab.repository.resolve(&format!("{saved}^1")).unwrap(), Some(lab.base.clone()));
    let index = lab.repository.resolve(&format!("{saved}^2")).unwrap().expect("the staged content is kept");
    assert_eq!(at(&lab, &index, "a.txt").as_deref(), Some("staged only\n"));
}

#[test]
fn a_change_in_the_moment_of_the_add_is_saved() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    git(tree.root(), ["config", "core.trustctime", "false"]);
    let moment = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let stamp = |file: &Path| fs::File::options().write(true).open(file).unwrap().set_modified(moment).unwrap();
    let file = tree.root().join("a.txt");
    write(tree.root(), "a.txt", "one way\n");
    stamp(&file);
    git(tree.root(), ["add", "a.txt"]);
    stamp(&lab.root.join(".git/worktrees/a/index"));
    write(tree.root(), "a.txt", "another\n");
    stamp(&file);
    let saved = save(&lab, &tree);
    assert_eq!(at(&lab, &saved, "a.txt").as_deref(), Some("another\n"));
}

#[test]
fn no_second_parent_is_needed_when_the_files_hold_it_all() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    write(tree.root(), "staged.txt", "x");
    git(tree.root(), ["add", "staged.txt"]);
    write(tree.root(), "a.txt", "unstaged");
    let saved = save(&lab, &tree);
    assert_eq!(lab.repository.resolve(&format!("{saved}^2")).unwrap(), None);
}

#[test]
fn saving_keeps_what_is_saved() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    assert_eq!(tree.save_under(NAME, "x", &lab.base).unwrap(), None);
    write(tree.root(), "new.txt", "work");
    let saved = save(&lab, &tree);
    assert_eq!(lab.repository.resolve(NAME).unwrap(), Some(saved.clone()));
    assert_eq!(tree.save_under(NAME, "again", &lab.base).unwrap(), Some(saved.clone()), "the same work again");
    write(tree.root(), "new.txt", "other work");
    assert!(matches!(tree.save_under(NAME, "x", &lab.base), Err(Error::RefMoved { .. })));
    assert_eq!(lab.repository.resolve(NAME).unwrap(), Some(saved));
    let commit = commit(&tree);
    assert_eq!(tree.save_under("refs/coding-loops/saved/a/2", "x", &lab.base).unwrap(), Some(commit.clone()));
    assert_eq!(tree.save_under("refs/coding-loops/saved/a/3", "x", &commit).unwrap(), None, "nothing beyond it");
}

#[test]
fn work_in_conflict_under_a_left_lock_and_hidden_from_git_is_saved() {
    let lab = Lab::new();
    let other = lab.commit_on(&lab.base, "a.txt", "theirs\n");
    let tree = lab.worktree("a");
    git(tree.root(), ["update-index", "--assume-unchanged", "b.txt"]);
    write(tree.root(), "b.txt", "hidden\n");
    write(tree.root(), "a.txt", "ours\n");
    commit(&tree);
    let merge = std::process::Command::new("git").args(["merge", other.as_str()]).current_dir(tree.root()).output().unwrap();
    assert!(!merge.status.success());
    fs::write(lab.root.join(".git/worktrees/a/index.lock"), "").unwrap();
    let saved = save(&lab, &tree);
    assert!(at(&lab, &saved, "a.txt").unwrap().contains("<<<<<<<"));
    assert_eq!(at(&lab, &saved, "b.txt").as_deref(), Some("hidden\n"));
}

#[test]
fn a_repository_inside_is_not_saved() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    fs::create_dir(tree.root().join("clone")).unwrap();
    git(&tree.root().join("clone"), ["init", "--quiet"]);
    write(tree.root(), "clone/x", "x");
    git(&tree.root().join("clone"), ["add", "-A"]);
    git(&tree.root().join("clone"), ["commit", "--quiet", "-m", "inner"]);
    assert_eq!(tree.changed_files().unwrap(), paths(&["clone"]));
    assert_eq!(tree.save_under(NAME, "nothing", &lab.base).unwrap(), None);
    write(tree.root(), "a.txt", "x");
    let saved = save(&lab, &tree);
    assert_eq!(lab.repository.changed_between(&lab.base, &saved).unwrap(), paths(&["a.txt"]));
}

#[test]
fn a_missing_index_and_attributes_that_do_not_fit_are_overcome() {
    let lab = Lab::new();
    let tree = lab.worktree("a");
    fs::remove_file(lab.root.join(".git/worktrees/a/index")).unwrap();
    write(tree.root(), ".gitattributes", "odd.txt working-tree-encoding=UTF-16\n");
    write(tree.root(), "odd.txt", "odd");
    let saved = save(&lab, &tree);
    assert_eq!(lab.repository.changed_between(&lab.base, &saved).unwrap(), paths(&[".gitattributes", "odd.txt"]));
}

#[test]
fn hooks_do_not_run() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let tree = lab.worktree("a");
    for hook in ["pre-commit", "commit-msg", "reference-transaction", "post-commit", "post-index-change"] {
        let path = lab.root.join(".git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    write(tree.root(), "a.txt", "x");
    save(&lab, &tree);
    lab.repository.remove_worktree(tree.root(), &lab.managed).unwrap();
}
