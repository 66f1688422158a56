//! The store when something of it is lost: its integration reference.

use std::fs;

use crate::place::{BRANCH, OPTIONS, Place, land, look};
use git::{Damage, Error, Layout, Obstacle, Opened, Published, Store, Workspace, publish};
use test_support::{git, write};

#[test]
fn lost_integration_is_restored_from_what_has_landed() {
    let gone = "1234567890123456789012345678901234567890\n";
    for (options, damage) in
        [(&[][..], None), (&["--ref-format=reftable"], None), (&[], Some("garbage\n")), (&[], Some("")), (&[], Some(gone))]
    {
        let place = Place::with_options(options, &[("a.txt", "one\n")]);
        let (fresh, _) = Store::create(&place.user, &place.loops.join("fresh.git"), BRANCH).unwrap();
        assert_eq!(fresh.recover_integration(&[]).unwrap(), None, "it has never started");
        let store = place.store();
        let first = land(&store, &[("a.txt", "two\n")]);
        publish(&store, &place.user, BRANCH).unwrap();
        let second = land(&store, &[("a.txt", "three\n")]);
        match damage {
            None => drop(git(store.path(), ["update-ref", "-d", store.integration_ref()])),
            Some(content) => write(store.path(), store.integration_ref(), content),
        }
        assert_eq!(store.integration().unwrap(), None);
        let elsewhere = place.commit(&[("b.txt", "one\n")]);
        assert_eq!(store.recover_integration(&[first.clone(), second.clone(), elsewhere]).unwrap().as_ref(), Some(&second));
        assert_eq!(store.integration().unwrap(), Some(second.clone()), "{damage:?}");
        // One that is there stays.
        assert_eq!(store.recover_integration(std::slice::from_ref(&first)).unwrap(), Some(second));
        git(store.path(), ["update-ref", "-d", store.integration_ref()]);
        assert_eq!(store.recover_integration(&[]).unwrap(), Some(first), "what was published");
    }
}

#[test]
fn a_store_without_its_parts_is_reported_as_damaged() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    for part in ["HEAD", "refs", "objects", "config"] {
        let (here, away) = (store.path().join(part), store.path().join("away"));
        fs::rename(&here, &away).unwrap();
        assert!(matches!(Store::open(store.path()), Err(Error::NotARepository { .. })), "{part}");
        let again = Store::create(&place.user, store.path(), BRANCH);
        assert!(matches!(again, Err(Error::InTheWay { .. })), "{part}: {again:?}");
        fs::rename(&away, &here).unwrap();
    }
    Store::open(store.path()).unwrap();
}

#[test]
fn nothing_is_made_where_the_store_was_removed() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let database = place.root.join("coding-loops/coordination.db");
    write(&place.root, "coding-loops/coordination.db", "");
    let layout = Layout::new(&place.loops);
    let (store, _) = layout.create(&place.user, &database, BRANCH).unwrap();
    let base = place.user.commit("main").unwrap();
    store.start_integration(&base).unwrap();
    let workspace = place.workspace(&store, "a");
    fs::remove_dir_all(&place.loops).unwrap();
    assert!(matches!(workspace.snapshot(&OPTIONS), Err(Error::NotARepository { .. })));
    assert!(Workspace::open_or_create(&store, &place.spec("a"), &base).is_err());
    assert!(matches!(store.check_out(&layout.gate("a"), &base), Err(Error::NotARepository { .. })));
    assert!(!place.loops.exists());
    // A program that runs may have written while the folder was removed.
    write(&place.loops, "state/a/lock", "");
    write(&place.loops, "store.git/objects/aa/bb", "");
    assert!(layout.create(&place.user, &database, BRANCH).unwrap().1.is_new);
}

#[test]
fn a_folder_that_has_lost_the_name_of_its_database_is_still_ours() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let database = place.root.join("coding-loops/coordination.db");
    let layout = Layout::new(&place.loops);
    layout.create(&place.user, &database, BRANCH).unwrap();
    fs::remove_file(place.loops.join("database")).unwrap();
    assert!(!layout.create(&place.user, &database, BRANCH).unwrap().1.is_new);
    assert!(layout.database().is_some());
    // Without its store, nothing says so but what we make there.
    fs::remove_file(place.loops.join("database")).unwrap();
    fs::remove_dir_all(place.loops.join("store.git")).unwrap();
    assert!(matches!(layout.create(&place.user, &database, BRANCH), Err(Error::InTheWay { .. })), "README is anybody's");
}

#[test]
fn a_branch_of_the_users_beside_ours_stays_out_of_the_store() {
    let place = Place::new(&[("a.txt", "one\n")]);
    git(&place.root, ["branch", "coding-loops"]);
    git(&place.root, ["branch", "agents"]);
    let path = place.loops.join("store.git");
    // Another name of integration counts while nothing has landed, also one that a copied branch has taken.
    Store::create(&place.user, &path, "other").unwrap();
    for name in ["agents/integration", BRANCH] {
        assert_eq!(Store::create(&place.user, &path, name).unwrap().0.integration_ref(), format!("refs/heads/{name}"));
    }
    let store = place.store();
    store.fetch_from_user(&place.user, "coding-loops").unwrap();
    place.workspace(&store, "a");
    land(&store, &[("a.txt", "two\n")]);
    let taken = Obstacle::NameTaken("refs/heads/coding-loops".to_owned());
    assert_eq!(publish(&store, &place.user, BRANCH).unwrap(), Published::Waiting(taken));
    git(&place.root, ["branch", "-D", "coding-loops"]);
    assert!(matches!(publish(&store, &place.user, BRANCH).unwrap(), Published::Moved { .. }));
}

#[test]
fn a_prune_of_the_store_deletes_nothing_and_trees_that_are_lost_cost_no_files() {
    let place = Place::new(&[("a.txt", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    write(workspace.root(), "a.txt", "two\n");
    look(&workspace);
    git(store.path(), ["gc", "--quiet", "--prune=now"]);
    let base = store.integration().unwrap().unwrap();
    let (same, opened) = Workspace::open_or_create(&store, &place.spec("a"), &base).unwrap();
    assert_eq!((opened, look(&same).0), (Opened::Kept, vec!["a.txt".to_owned()]));
    git(store.path(), ["config", "--unset", "extensions.preciousObjects"]);
    git(store.path(), ["gc", "--quiet", "--prune=now"]);
    let (again, opened) = Workspace::open_or_create(&store, &place.spec("a"), &base).unwrap();
    let Opened::Replaced { damage: Damage::StateLost, kept_as: Some(kept) } = opened else { panic!("{opened:?}") };
    assert_eq!(fs::read_to_string(kept.join("a.txt")).unwrap(), "two\n");
    again.snapshot_start(&OPTIONS).unwrap();
    assert_eq!(look(&again), (vec![], vec![]));
}
