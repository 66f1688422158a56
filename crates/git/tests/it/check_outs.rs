//! Check-outs of the store for checks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::read;
use crate::place::{BRANCH, Place, land};
use git::{CommitHash, Error, Store, WorkTree, remove_check_out};
use test_support::{git, write};

fn place(options: &[&str]) -> (Place, Store, PathBuf, CommitHash) {
    let place = Place::with_options(options, &[("a.txt", "one\n"), ("b.txt", "one\n"), (".gitignore", "target/\n")]);
    git(&place.root, ["tag", "-a", "v1", "-m", "first"]);
    let store = place.store();
    let path = place.loops.join("gates/one");
    let base = store.integration().unwrap().unwrap();
    (place, store, path, base)
}

/// What the checks' git says.
fn seen(path: &Path, args: &[&str]) -> String {
    git(path, args).to_owned()
}

fn is_at(tree: &WorkTree, commit: &CommitHash) {
    assert_eq!(tree.head().unwrap(), *commit);
    assert!(tree.is_clean().unwrap());
    assert_eq!(seen(tree.root(), &["rev-parse", "HEAD"]), commit.as_str());
    assert_eq!(seen(tree.root(), &["status", "--porcelain"]), "");
}

#[test]
fn formats_branches_and_tags_are_those_of_the_store() {
    for options in [&[][..], &["--object-format=sha256"], &["--ref-format=reftable"]] {
        let (place, store, path, base) = place(options);
        let before = place.fingerprint();
        let tree = store.check_out(&path, &base).unwrap();
        is_at(&tree, &base);
        assert_eq!(seen(&path, &["describe", "--tags"]), "v1");
        assert_eq!(seen(&path, &["config", "--local", "user.name"]), "Zoë");
        for what in ["--show-object-format", "--show-ref-format"] {
            assert_eq!(seen(&path, &["rev-parse", what]), seen(&place.root, &["rev-parse", what]));
        }
        assert_eq!(seen(&path, &["rev-parse", &format!("origin/{BRANCH}")]), base.as_str());
        assert_eq!(seen(&path, &["for-each-ref", "refs/heads"]), "", "no branch is the checks' own");
        git(store.path(), ["tag", "-d", "v1"]);
        let next = land(&store, &[("a.txt", "two\n")]);
        let tree = store.check_out(&path, &next).unwrap();
        is_at(&tree, &next);
        assert_eq!((read(&tree, "a.txt").as_deref(), seen(&path, &["tag"])), (Some("two\n"), String::new()));
        assert_eq!(seen(&path, &["rev-parse", &format!("origin/{BRANCH}")]), next.as_str());
        assert_eq!(place.fingerprint(), before);
        // Both can be moved together.
        fs::rename(&place.loops, place.loops.with_file_name("moved")).unwrap();
        assert_eq!(seen(&place.loops.with_file_name("moved/gates/one"), &["log", "--format=%s", "-1"]), "landed");
    }
}

#[test]
fn what_a_check_leaves_is_undone_but_for_caches() {
    let (_place, store, path, base) = place(&[]);
    let next = land(&store, &[("a.txt", "two\n")]);
    let check_out = |commit| store.check_out_with_caches(&path, commit, &["/target/".to_owned()]).unwrap();
    let tree = check_out(&base);
    write(tree.root(), "a.txt", "changed\n");
    write(tree.root(), "junk/deep", "x");
    write(tree.root(), "target/cache", "kept");
    write(tree.root(), "deep/target/built", "x");
    git(&path, ["init", "--quiet", "nested"]);
    git(&path, ["add", "a.txt"]);
    git(&path, ["update-index", "--assume-unchanged", "a.txt"]);
    let tree = check_out(&base);
    is_at(&tree, &base);
    assert_eq!((read(&tree, "a.txt").as_deref(), read(&tree, "target/cache").as_deref()), (Some("one\n"), Some("kept")));
    assert!(!path.join("junk").exists() && !path.join("nested").exists());
    assert!(!path.join("deep").exists(), "ignored, and no cache");
    // A commit, a branch and another commit checked out.
    write(tree.root(), "b.txt", "mine\n");
    git(&path, ["commit", "--quiet", "-am", "mine"]);
    git(&path, ["checkout", "--quiet", "-b", "astray"]);
    let tree = check_out(&next);
    is_at(&tree, &next);
    assert_eq!((read(&tree, "b.txt").as_deref(), read(&tree, "target/cache").as_deref()), (Some("one\n"), Some("kept")));
    assert_eq!(seen(&path, &["for-each-ref", "refs/heads"]), "");
    assert_eq!(read(&store.check_out(&path, &next).unwrap(), "target/cache"), None, "without caches all of it goes");
}

#[test]
fn attributes_hold_from_the_first_check_out_on() {
    let (place, store, path, base) = place(&[]);
    let crlf = land(&store, &[(".gitattributes", "a.txt eol=crlf\n")]);
    let tree = store.check_out(&path, &crlf).unwrap();
    assert_eq!(read(&tree, "a.txt").as_deref(), Some("one\r\n"));
    let tree = store.check_out(&path, &base).unwrap();
    assert_eq!(read(&tree, "a.txt").as_deref(), Some("one\n"), "though neither the file nor its blob differs");
    is_at(&store.check_out(&path, &crlf).unwrap(), &crlf);
    // Settings count as well.
    for (value, content) in [("true", "one\r\n"), ("false", "one\n")] {
        git(&place.root, ["config", "core.autocrlf", value]);
        place.store();
        let tree = store.check_out(&path, &crlf).unwrap();
        is_at(&tree, &crlf);
        assert_eq!(read(&tree, "b.txt").as_deref(), Some(content));
    }
}

#[test]
fn large_files_come_from_the_store() {
    let (place, store, path, _) = place(&[]);
    write(store.path(), "lfs/objects/large", "the content\n");
    let smudge = "cat > /dev/null; cat \"$(git config lfs.storage)/objects/large\"";
    for (key, value) in [("filter.lfs.smudge", smudge), ("filter.lfs.clean", "echo pointer"), ("filter.lfs.required", "true")] {
        git(&place.root, ["config", key, value]);
    }
    place.store();
    let commit = land(&store, &[(".gitattributes", "large filter=lfs\n"), ("large", "pointer\n")]);
    assert_eq!(read(&store.check_out(&path, &commit).unwrap(), "large").as_deref(), Some("the content\n"));
}

#[test]
fn each_check_out_gives_what_it_changes_a_second_of_its_own() {
    let (_place, store, path, base) = place(&[]);
    let next = land(&store, &[("a.txt", "two\n")]);
    let second = |file: &str| fs::symlink_metadata(path.join(file)).unwrap().mtime();
    let mut seconds = Vec::new();
    for commit in [&base, &next, &base, &next, &base] {
        let tree = store.check_out(&path, commit).unwrap();
        is_at(&tree, commit);
        seconds.push(second("a.txt"));
        // What a check has changed is brought back in another second than the one that it was changed in.
        write(tree.root(), "a.txt", "six\n");
        store.check_out(&path, commit).unwrap();
        seconds.push(second("a.txt"));
    }
    let given: std::collections::BTreeSet<_> = seconds.iter().collect();
    assert_eq!(given.len(), 10, "{seconds:?}");
    assert!(second("b.txt") <= seconds[0], "what is the same in both keeps its time");
}

/// Inode and time of each file.
fn stamps(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            all.append(&mut stamps(&path));
        } else {
            all.insert(path, (meta.ino(), meta.ctime(), meta.ctime_nsec()));
        }
    }
    all
}

#[test]
fn a_check_out_that_is_as_it_should_be_is_not_written_again() {
    let (_place, store, path, base) = place(&[]);
    store.check_out(&path, &base).unwrap();
    let before = [stamps(&path), stamps(&path.with_file_name("one.git"))];
    store.check_out(&path, &base).unwrap();
    assert_eq!([stamps(&path), stamps(&path.with_file_name("one.git"))], before);
}

#[test]
fn what_is_damaged_or_something_else_is_replaced() {
    let (place, store, path, base) = place(&[]);
    let own = path.with_file_name("one.git");
    store.check_out(&path, &base).unwrap();
    let user = place.fingerprint();
    let damages: [&dyn Fn(); 8] = [
        &|| fs::remove_dir_all(path.join(".git")).unwrap(),
        &|| fs::write(path.join(".git/index"), "no index").unwrap(),
        &|| fs::write(own.join("HEAD"), "no head").unwrap(),
        &|| fs::write(own.join("index.lock"), "").unwrap(),
        &|| fs::remove_file(own.join("config")).unwrap(),
        &|| fs::write(own.join("objects/info/alternates"), "/nowhere\n").unwrap(),
        &|| {
            fs::remove_dir_all(&path).unwrap();
            symlink(&place.root, &path).unwrap();
        },
        &|| {
            fs::remove_dir_all(&path).unwrap();
            fs::write(&path, "a file").unwrap();
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage();
        if number == 3 {
            write(&path, "a.txt", "changed\n");
        }
        is_at(&store.check_out(&path, &base).unwrap(), &base);
        assert_eq!(place.fingerprint(), user, "{number}");
    }
    // What cannot be checked out leaves what is there.
    let caches = ["target/".to_owned()];
    write(store.check_out(&path, &base).unwrap().root(), "target/cache", "kept");
    let unknown = CommitHash::new("0123456789012345678901234567890123456789").unwrap();
    assert!(matches!(store.check_out(&path, &unknown), Err(Error::UnknownRevision { .. })));
    let tree = store.check_out_with_caches(&path, &base, &caches).unwrap();
    assert_eq!(read(&tree, "target/cache").as_deref(), Some("kept"));
    remove_check_out(&path).unwrap();
    assert_eq!(fs::read_dir(place.loops.join("gates")).unwrap().count(), 0);
    remove_check_out(&path).unwrap();
}
