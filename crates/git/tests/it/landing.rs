//! What an attempt has changed, put on integration: a base for each path, merges, conflicts.

use std::fs;
use std::path::PathBuf;

use crate::common::paths;
use crate::place::{Place, change, land, look, names, show};
use git::PutOn;
use test_support::{git, write};

const LINES: &str = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";

#[test]
fn whole_files_merges_and_conflicts() {
    let place = Place::new(&[
        ("mine", "one\n"),
        ("theirs", "one\n"),
        ("both", LINES),
        ("clash", "one\n"),
        ("gone", "one\n"),
        ("list.union", "a\n"),
        ("own.drv", "a\n"),
        ("bin.png", "a\n"),
        (".gitattributes", "*.union merge=union\n*.drv merge=own\n*.png binary\n"),
    ]);
    git(&place.root, ["config", "merge.own.driver", "cat %B >> %A; echo %P >> %A"]);
    let store = place.store();
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    write(root, "mine", "two\n");
    write(root, "both", LINES.replace('1', "one"));
    write(root, "list.union", "a\nmine\n");
    write(root, "own.drv", "mine\n");
    let (_, first) = change(&workspace);
    let head = land(
        &store,
        &[
            ("theirs", "two\n"),
            ("both", &LINES.replace('9', "nine")),
            ("list.union", "a\ntheirs\n"),
            ("own.drv", "theirs\n"),
            ("clash", "theirs\n"),
            ("gone", "two\n"),
            ("bin.png", "b\n"),
            ("folder/x", "x\n"),
        ],
    );
    let PutOn::Tree(tree) = store.put_on(&first, &head).unwrap() else { panic!("a conflict") };
    let read = |name: &str| show(&store, &tree, name).unwrap();
    assert_eq!(read("mine"), "two\n");
    assert_eq!(read("theirs"), "two\n");
    assert_eq!(read("both"), "one\n2\n3\n4\n5\n6\n7\n8\nnine\n");
    assert_eq!(read("list.union"), "a\nmine\ntheirs\n");
    assert_eq!(read("own.drv"), "mine\ntheirs\nown.drv\n");
    write(root, "clash", "mine\n");
    write(root, "bin.png", "c\n");
    write(root, "folder", "a file\n");
    fs::remove_file(root.join("gone")).unwrap();
    let (_, second) = change(&workspace);
    let PutOn::Conflict(conflicts) = store.put_on(&second, &head).unwrap() else { panic!("no conflict") };
    assert_eq!(names(&conflicts), ["bin.png", "clash", "folder", "gone"]);
    // The same on both sides is none.
    write(root, "clash", "theirs\n");
    write(root, "bin.png", "b\n");
    fs::remove_file(root.join("folder")).unwrap();
    write(root, "gone", "two\n");
    let (_, third) = change(&workspace);
    assert!(matches!(store.put_on(&third, &head).unwrap(), PutOn::Tree(_)));
}

#[test]
fn the_base_is_kept_for_each_path() {
    let place = Place::new(&[("a", "one\n"), ("b", "one\n"), ("c", "one\n"), ("d/e", "one\n"), ("d/f", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "w");
    let root = workspace.root();
    write(root, "b", "mine\n");
    let head = land(&store, &[("a", "two\n"), ("b", "two\n"), ("c", "two\n"), ("d/e", "two\n"), ("d/new", "new\n")]);
    let updated = workspace.update_paths(&paths(&["a", "b", "d", "no"]), &head).unwrap();
    assert_eq!(names(&updated.updated), ["a", "d/e", "d/new"]);
    assert_eq!(names(&updated.kept), ["b"]);
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(
        (read("a"), read("b"), read("c"), read("d/new")),
        ("two\n".into(), "mine\n".into(), "one\n".into(), "new\n".into())
    );
    assert_eq!(look(&workspace).0, ["b"], "what we brought is nobody's change");
    write(root, "a", "three\n");
    write(root, "c", "mine\n");
    fs::remove_file(root.join("b")).unwrap();
    write(root, "b", "one\n");
    let (_, now) = change(&workspace);
    assert_eq!(names(&now.paths), ["a", "c"]);
    let PutOn::Conflict(conflicts) = store.put_on(&now, &head).unwrap() else { panic!("no conflict") };
    assert_eq!(names(&conflicts), ["c"], "a replaces what it was made from, c does not");
    write(root, "c", "one\n");
    // Set back to what was there before we updated it: that would undo the landing of another.
    write(root, "d/e", "one\n");
    let (_, now) = change(&workspace);
    assert_eq!(names(&now.paths), ["a", "d/e"]);
    assert_eq!(names(&now.stale), ["d/e"]);
    write(root, "d/e", "two\n");
    let (_, now) = change(&workspace);
    let PutOn::Tree(tree) = store.put_on(&now, &head).unwrap() else { panic!("a conflict") };
    assert_eq!(show(&store, &tree, "a").as_deref(), Some("three\n"));
    assert_eq!(show(&store, &tree, "c").as_deref(), Some("two\n"));
}

#[test]
fn an_agent_that_goes_on_to_a_newer_commit() {
    let place = Place::new(&[("a", "one\n"), ("b", "one\n"), ("c", "one\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "w");
    let root = workspace.root();
    let newer = land(&store, &[("a", "two\n"), ("b", "two\n")]);
    let head = land(&store, &[("c", "two\n")]);
    assert_eq!(workspace.follow_agent(&head).unwrap(), None);
    git(root, ["fetch", "--quiet"]);
    git(root, ["merge", "--quiet", newer.as_str()]);
    write(root, "b", "three\n");
    git(root, ["commit", "--quiet", "-am", "mine"]);
    assert_eq!(workspace.follow_agent(&head).unwrap(), Some(newer.clone()));
    assert_eq!(workspace.base().unwrap(), newer);
    let (_, now) = change(&workspace);
    assert_eq!((names(&now.paths), now.stale.len()), (vec!["b".to_owned()], 0));
    assert!(matches!(store.put_on(&now, &head).unwrap(), PutOn::Tree(_)));
    // Its HEAD is newer, its files are not.
    git(root, ["reset", "--quiet", "--soft", head.as_str()]);
    assert_eq!(workspace.follow_agent(&head).unwrap(), Some(head.clone()));
    let (_, now) = change(&workspace);
    assert_eq!(now.stale, [PathBuf::from("c")]);
    // A HEAD that says nothing.
    git(root, ["checkout", "--quiet", "--orphan", "nothing"]);
    assert_eq!(workspace.follow_agent(&head).unwrap(), None);
}

#[test]
fn modes_and_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let place = Place::with_options(&["--object-format=sha256"], &[("run", LINES), ("link", "one\n"), ("gone", "x\n")]);
    let store = place.store();
    let workspace = place.workspace(&store, "w");
    let root = workspace.root();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("run", root.join("link")).unwrap();
    let (_, now) = change(&workspace);
    let head = land(&store, &[("run", &LINES.replace('9', "nine"))]);
    let PutOn::Tree(tree) = store.put_on(&now, &head).unwrap() else { panic!("a conflict") };
    let listed = git(store.path(), ["ls-tree", tree.as_str()]);
    let modes: Vec<&str> = listed.lines().map(|line| &line[..6]).collect();
    assert_eq!(modes, ["120000", "100755"]);
    assert!(show(&store, &tree, "run").unwrap().ends_with("nine\n"));
}

#[test]
fn an_agent_that_goes_back_behind_its_base_undoes_nothing() {
    let files = [("a.txt", "one\n"), ("b.txt", "one\n"), ("both", LINES), ("clash", "one\n"), ("gone", "one\n")];
    let place = Place::new(&files);
    let store = place.store();
    let landed = land(
        &store,
        &[("a.txt", "two\n"), ("both", &LINES.replace('9', "nine")), ("clash", "two\n"), ("new", "one\n"), ("gone", "two\n")],
    );
    let workspace = place.workspace(&store, "a");
    let root = workspace.root();
    let stale = || {
        assert_eq!(workspace.follow_agent(&landed).unwrap(), None);
        names(&change(&workspace).1.stale)
    };
    for back in [&["checkout", "--quiet", "origin/main"][..], &["reset", "--quiet", "--hard", "origin/main"]] {
        git(root, back);
        write(root, "b.txt", "mine\n");
        write(root, "both", LINES.replace('1', "mine"));
        write(root, "clash", "mine\n");
        fs::remove_file(root.join("gone")).unwrap();
        git(root, ["commit", "--quiet", "-am", "mine"]);
        assert_eq!(stale(), ["a.txt", "both", "clash", "gone", "new"]);
        assert!(names(&change(&workspace).1.paths).contains(&"b.txt".to_owned()));
        // What others have changed is in the file again.
        write(root, "both", LINES.replace('1', "mine").replace('9', "nine"));
        assert_eq!(stale(), ["a.txt", "clash", "gone", "new"]);
        // On the base, an older version is a choice.
        git(root, ["reset", "--quiet", "--soft", "origin/coding-loops/integration"]);
        assert_eq!(stale(), <[String; 0]>::default());
        git(root, ["reset", "--quiet", "--hard"]);
    }
    // HEAD goes back alone: the files are those of the base, with the agent's own changes.
    write(root, "clash", "mine\n");
    git(root, ["reset", "--quiet", "--soft", "origin/main"]);
    assert_eq!(stale(), <[String; 0]>::default());
    assert_eq!(names(&change(&workspace).1.paths), ["clash"]);
}
