//! The store's own references as a bundle: what it holds, and what a store gets back from it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::place::{BRANCH, Place};
use git::{CommitHash, Error, RefExpectation, Store, publish};
use test_support::git;

/// A commit on another, which is nobody's yet.
fn commit(store: &Store, parent: &CommitHash, message: &str) -> CommitHash {
    let tree = store.repository().tree_of(parent).unwrap();
    store.commit(&tree, &[parent], message, &[]).unwrap()
}

fn refs(store: &Store) -> Vec<(String, CommitHash)> {
    let mut all = store.repository().list_refs("refs/coding-loops").unwrap();
    all.push((store.integration_ref().to_owned(), store.integration().unwrap().unwrap()));
    all
}

/// A store with landed and saved work, some of it where the user is.
fn filled(place: &Place) -> Store {
    let store = place.store();
    let base = store.integration().unwrap().unwrap();
    let landed = commit(&store, &base, "landed");
    store.move_integration(&landed, &base).unwrap();
    let saved = commit(&store, &landed, "saved");
    for (name, commit) in [("saved/a/1", &saved), ("checkpoints/a/1", &base), ("checkpoints/a/2", &landed)] {
        store.repository().set_ref(&format!("refs/coding-loops/{name}"), commit, &RefExpectation::Absent).unwrap();
    }
    store
}

#[test]
fn a_lost_store_gets_everything_back() {
    for options in [&[][..], &["--object-format=sha256"]] {
        let place = Place::with_options(options, &[("a", "1\n")]);
        let large: String = (0..50_000_u64).map(|number| format!("{}\n", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        place.commit(&[("large", &large)]);
        let store = filled(&place);
        let file = place.dir.path().join("b.bundle");
        let before = refs(&store);
        assert!(store.write_bundle(&place.user, &file).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::metadata(&file).unwrap().len() < 10_000, "what the user's branches have is left out");
        assert!(matches!(store.write_bundle(&place.user, &file), Err(Error::InTheWay { .. })));
        assert_eq!(
            fs::read_dir(place.dir.path())
                .unwrap()
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
                .count(),
            0
        );
        let heads = git(store.path(), ["bundle", "list-heads", file.to_str().unwrap()]);
        assert_eq!(heads.lines().count(), before.len(), "{heads}");
        // A second reading has nothing to add.
        assert!(store.read_bundle(&file, false).unwrap().added.is_empty());

        fs::remove_dir_all(store.path()).unwrap();
        place.commit(&[("a", "later\n")]);
        let (store, made) = Store::create(&place.user, store.path(), BRANCH).unwrap();
        assert!(made.is_new && store.integration().unwrap().is_none());
        let read = store.read_bundle(&file, true).unwrap();
        assert_eq!(read.added.len(), before.len());
        assert_eq!(refs(&store), before);
        git(store.path(), ["fsck", "--connectivity-only"]);
    }
}

#[test]
fn no_reference_is_moved_but_that_of_a_store_that_is_behind() {
    let place = Place::new(&[("a", "1\n")]);
    let store = filled(&place);
    publish(&store, &place.user, BRANCH).unwrap();
    let published = store.integration().unwrap().unwrap();
    let last = commit(&store, &published, "landed while the branch was checked out");
    store.move_integration(&last, &published).unwrap();
    let file = place.dir.path().join("b.bundle");
    assert!(store.write_bundle(&place.user, &file).unwrap());
    let beyond = commit(&store, &last, "landed after the backup");
    store.move_integration(&beyond, &last).unwrap();
    assert_eq!(store.read_bundle(&file, true).unwrap(), git::BundleRead::default());
    assert_eq!(store.integration().unwrap(), Some(beyond));

    fs::remove_dir_all(store.path()).unwrap();
    let store = Store::create(&place.user, store.path(), BRANCH).unwrap().0;
    assert_eq!(store.integration().unwrap(), Some(published.clone()));
    assert!(!store.read_bundle(&file, false).unwrap().is_forwarded);
    assert_eq!(store.integration().unwrap(), Some(published));
    assert!(store.read_bundle(&file, true).unwrap().is_forwarded);
    assert_eq!(store.integration().unwrap(), Some(last));
}

#[test]
fn what_the_user_has_rewritten_or_what_is_cut_short_is_an_error_and_changes_nothing() {
    let place = Place::new(&[("a", "1\n")]);
    let store = filled(&place);
    let file = place.dir.path().join("b.bundle");
    assert!(store.write_bundle(&place.user, &file).unwrap());
    let bytes = fs::read(&file).unwrap();
    fs::remove_dir_all(store.path()).unwrap();
    let store = Store::create(&place.user, store.path(), BRANCH).unwrap().0;
    let cut = place.dir.path().join("cut.bundle");
    for length in [bytes.len() - 1, bytes.len() / 2, 20, 0] {
        fs::write(&cut, &bytes[..length]).unwrap();
        assert!(store.read_bundle(&cut, true).is_err(), "{length}");
    }
    assert!(store.repository().list_refs("refs/coding-loops").unwrap().is_empty());
    // Based on what nobody has any more.
    git(&place.root, ["commit", "--quiet", "--amend", "-m", "rewritten"]);
    git(&place.root, ["reflog", "expire", "--expire=now", "--all"]);
    git(&place.root, ["gc", "--quiet", "--prune=now"]);
    fs::remove_dir_all(store.path()).unwrap();
    let store = Store::create(&place.user, store.path(), BRANCH).unwrap().0;
    assert!(store.read_bundle(&file, true).is_err());
    // Where the user's repository has nothing of it, all of it is in the bundle.
    let store = filled(&place);
    git(&place.root, ["commit", "--quiet", "--amend", "-m", "again"]);
    let whole = place.dir.path().join("whole.bundle");
    assert!(store.write_bundle(&place.user, &whole).unwrap());
    fs::remove_dir_all(store.path()).unwrap();
    let store = Store::create(&place.user, store.path(), BRANCH).unwrap().0;
    assert_eq!(store.read_bundle(&whole, true).unwrap().added.len(), 4);
}

#[test]
fn a_store_without_work_has_no_bundle() {
    let place = Place::new(&[("a", "1\n")]);
    let store = Store::create(&place.user, &place.loops.join("store.git"), BRANCH).unwrap().0;
    let file = place.dir.path().join("b.bundle");
    assert!(!store.write_bundle(&place.user, &file).unwrap());
    assert!(!file.exists());
}
