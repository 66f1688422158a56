//! A path is relative to the folder in which it is typed, wherever in the repository that is.

use crate::common::Place;
use git::{Layout, Repository, Workspace};
use serde_json::{Value, json};

/// A repository with folders `src/deep`, and what a command given in one of its folders prints.
fn place() -> Place {
    let place = Place::with_loops();
    std::fs::create_dir_all(place.repository().join("src/deep")).unwrap();
    place
}

#[track_caller]
fn below(place: &Place, folder: &str, arguments: &[&str]) -> Value {
    place.run_in(&place.repository().join(folder), &[&["--json"], arguments].concat()).ok().json()
}

#[test]
fn lock_and_unlock_below_a_folder() {
    let place = place();
    let paths = ["zz.txt", "./sub/", "../top", "port:5432"];
    let granted = below(&place, "src", &[&["lock"], &paths[..], &["--loop", "a"]].concat());
    let meant = json!(["port:5432", "src/sub/", "src/zz.txt", "top"]);
    assert_eq!(granted["paths"], meant);
    place.run(&["lock", "src/zz.txt", "--loop", "b"]).fails(1);
    let refused = place.run_in(&place.repository().join("src/deep"), &["--json", "lock", "../zz.txt", "--loop", "b"]).fails(1);
    assert_eq!(refused.json()[0]["file_path"], "src/zz.txt");
    let outside = place.run_in(&place.repository().join("src"), &["lock", "../../x", "--loop", "b"]).fails(2);
    outside.says("outside the repository");
    assert_eq!(below(&place, "src", &["unlock", "../top", "--loop", "a"])["released"], json!(["top"]));
    let rest = ["../src/sub/", "zz.txt", "port:5432"];
    let released = below(&place, "src", &[&["unlock"], &rest[..], &["--loop", "a"]].concat());
    assert_eq!(released["released"], json!(["port:5432", "src/sub/", "src/zz.txt"]));
}

#[test]
fn ownership_knowledge_and_records_below_a_folder() {
    let place = place();
    assert_eq!(below(&place, "src", &["own", "api.rs", "--loop", "a"])["path"], "src/api.rs");
    assert_eq!(below(&place, "src", &["own", "Wire", "--type", "interface", "--loop", "a"])["path"], "Wire");
    for (given, meant) in [("../api.rs", "src/api.rs"), ("Wire", "Wire")] {
        let id = below(&place, "src/deep", &["request", "create", given, "--loop", "b"])["id"].clone();
        let asked = place.json(&["request", "list"]);
        let row = asked.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
        assert_eq!(row["resource_path"], meant);
        place.run(&["request", "reject", id.as_str().unwrap()]).ok();
    }
    assert_eq!(below(&place, "src", &["own", "api.rs", "--release"])["path"], "src/api.rs");
    assert_eq!(below(&place, "src", &["own", "Wire", "--release"])["path"], "Wire");
    place.run_in(&place.repository().join("src"), &["knowledge", "add", "it is so", "--area", "*.rs"]).ok();
    let found =
        |folder: &str, path: &str| below(&place, folder, &["knowledge", "search", "--path", path]).as_array().unwrap().len();
    assert_eq!((found("src", "x.rs"), found("", "src/x.rs"), found("src/deep", "../x.rs"), found("", "x.rs")), (1, 1, 1, 0));
    place.run_in(&place.repository().join("src"), &["test", "add", "t1", "--loop", "a", "--scope", "deep/**"]).ok();
    assert_eq!(place.json(&["status", "t1"])["test"]["scope"], json!(["src/deep/**"]));
    below(&place, "src/deep", &["migration", "allocate", "n", "--loop", "a", "--file", "1.sql"]);
    assert_eq!(place.json(&["migration", "list"])[0]["file_path"], "src/deep/1.sql");
}

#[test]
fn each_checkout_has_a_root_of_its_own_and_outside_paths_are_relative_to_the_root() {
    let place = place();
    std::fs::write(place.repository().join("src/deep/kept"), "").unwrap();
    place.git(&["add", "src"]);
    place.git(&["commit", "--quiet", "-m", "second"]);
    let linked = place.outside().join("linked");
    place.git(&["worktree", "add", "--quiet", linked.to_str().unwrap(), "-b", "linked"]);
    // Where loops worked before they had workspaces.
    let old = place.home().join("worktrees/a");
    place.git(&["worktree", "add", "--quiet", old.to_str().unwrap(), "-b", "old"]);
    // Another repository, whose folders are not ours.
    let other = place.outside().join("other/src");
    std::fs::create_dir_all(&other).unwrap();
    place.git(&["init", "--quiet", place.outside().join("other").to_str().unwrap()]);
    let (user, layout) = (Repository::open(&place.repository()).unwrap(), Layout::new(place.workspaces()));
    let (store, _) = layout.create(&user, &place.database(), "coding-loops/integration").unwrap();
    let head = store.fetch_from_user(&user, "HEAD").unwrap();
    let spec = layout.workspace("a", "coding-loops/a");
    drop(Workspace::open_or_create(&store, &spec, &head).unwrap());
    drop(store.check_out(&layout.gate("a"), &head).unwrap());
    drop(store.check_out(&layout.checker().join("0"), &head).unwrap());
    let database = place.database();
    let named: &[&str] = &["--db", database.to_str().unwrap()];
    for (folder, given, meant, database) in [
        (spec.path.join("src/deep"), "v", "src/deep/v", &[][..]),
        (spec.path, "u", "u", &[]),
        (layout.gate("a").join("src"), "t", "src/t", &[]),
        (layout.checker().join("0/src"), "s", "src/s", &[]),
        (layout.root().to_owned(), "r", "r", &[]),
        (old.join("src/deep"), "x", "src/deep/x", &[]),
        (old, "y", "y", &[]),
        (linked.join("src"), "z", "src/z", &[]),
        (other, "w", "w", named),
    ] {
        let granted = place.run_in(&folder, &[database, &["--json", "lock", given, "--loop", "a"]].concat()).ok().json();
        assert_eq!(granted["paths"], json!([meant]), "{}", folder.display());
    }
}
