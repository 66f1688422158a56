//! The folder of store and workspaces: what is in it, what of it is used.

use std::fs;
use std::path::PathBuf;

use crate::common::Place;
use git::{CommitHash, Layout, RefExpectation, Repository, Store, Workspace};
use serde_json::{Value, json};

const BRANCH: &str = "coding-loops/integration";

/// What a loop makes.
struct Made {
    place: Place,
    layout: Layout,
    store: Store,
    head: CommitHash,
}

fn made() -> Made {
    let place = Place::with_loops();
    let layout = Layout::new(place.workspaces());
    let user = Repository::open(&place.repository()).unwrap();
    let store = layout.open_store().unwrap();
    let head = store.fetch_from_user(&user, "HEAD").unwrap();
    store.start_integration(&head).unwrap();
    Made { place, layout, store, head }
}

impl Made {
    fn workspace(&self, id: &str) -> PathBuf {
        let spec = self.layout.workspace(id, &format!("coding-loops/{id}"));
        drop(Workspace::open_or_create(&self.store, &spec, &self.head).unwrap());
        spec.path
    }
}

fn row<'a>(rows: &'a Value, path: &std::path::Path) -> &'a Value {
    let wanted = path.to_str().unwrap();
    rows.as_array().unwrap().iter().find(|row| row["path"] == wanted).unwrap_or_else(|| panic!("{wanted} is not in {rows}"))
}

#[test]
fn each_folder_has_its_use_and_its_size() {
    let made = made();
    let (place, layout) = (&made.place, &made.layout);
    let (a, gone) = (made.workspace("a"), made.workspace("gone"));
    made.workspace("b");
    drop(made.store.check_out(&layout.gate("a"), &made.head).unwrap());
    drop(made.store.check_out(&layout.checker().join("0"), &made.head).unwrap());
    fs::write(a.join("big"), vec![b'x'; 3 << 20]).unwrap();
    fs::write(layout.gates().join("a.git/big"), vec![b'x'; 2 << 20]).unwrap();
    fs::remove_file(layout.workspace("b", "x").path.join(".git/HEAD")).unwrap();
    fs::remove_dir_all(layout.workspace("b", "x").path.join(".git")).unwrap();
    fs::create_dir(layout.workspace("b", "x").path.join(".git")).unwrap();
    // Replaced, and kept under a dated name.
    made.workspace("b");
    place.run(&["test", "add", "t1", "--loop", "a"]).ok();
    place.sql("UPDATE loops SET current_test_id = 't1' WHERE id = 'a'");
    let rows = place.json(&["workspaces"]);
    let of = |path: &std::path::Path| {
        let row = row(&rows, path);
        json!([row["role"], row["loop_id"], row["state"], row["test_id"]])
    };
    assert_eq!(of(&layout.store_path()), json!(["store", null, null, null]));
    assert_eq!(of(&a), json!(["loop", "a", "in_use", "t1"]));
    assert_eq!(of(&gone), json!(["loop", "gone", "no_such_loop", null]));
    assert_eq!(of(&layout.workspaces().join("b")), json!(["loop", "b", "idle", null]));
    assert_eq!(of(&layout.gate("a")), json!(["gate", "a", "in_use", "t1"]));
    let gates = rows.as_array().unwrap().iter().filter(|row| row["role"] == "gate").count();
    assert_eq!(gates, 1, "its git folder is no gate of its own: {rows}");
    assert!(row(&rows, &layout.gate("a"))["bytes"].as_u64().unwrap() >= 2 << 20, "{rows}");
    assert_eq!(of(&layout.checker().join("0")), json!(["checker", null, null, null]));
    let damaged: Vec<&Value> = rows.as_array().unwrap().iter().filter(|row| row["state"] == "damaged").collect();
    assert!(matches!(damaged[..], [row] if row["loop_id"] == "b" && row["role"] == "loop"), "{rows}");
    let bytes = row(&rows, &a)["bytes"].as_u64().unwrap();
    assert!((3 << 20..4 << 20).contains(&bytes), "{bytes}");
    let said = place.run(&["workspaces"]).ok().stdout;
    for part in ["in use by test t1", "no such loop", "damaged, replaced", "gate of a", " in all"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    // From there too.
    assert_eq!(
        place.run_in(&a, &["--json", "workspaces"]).ok().json().as_array().unwrap().len(),
        rows.as_array().unwrap().len()
    );
}

#[test]
fn without_a_store_there_is_nothing_to_list() {
    let place = Place::new();
    fs::remove_dir_all(place.workspaces()).unwrap();
    assert_eq!(place.json(&["workspaces"]), json!([]));
    assert!(place.run(&["workspaces"]).ok().stdout.contains("loopctl init creates the store"));
}

#[test]
fn checkpoints_are_looked_up_in_the_store() {
    let made = made();
    let place = &made.place;
    let name = "refs/coding-loops/saved/a/1";
    made.store.repository().set_ref(name, &made.head, &RefExpectation::Absent).unwrap();
    for (id, name, deleted) in
        [("kept", name, "NULL"), ("lost", "refs/coding-loops/saved/a/2", "NULL"), ("old", "refs/x", "datetime('now')")]
    {
        place.sql(&format!(
            "INSERT INTO checkpoints (id, loop_id, git_ref, deleted_at) VALUES ('{id}', 'a', '{name}', {deleted})"
        ));
    }
    let known = |rows: &Value| -> Vec<Value> {
        rows.as_array().unwrap().iter().map(|row| json!([row["id"], row["in_store"]])).collect()
    };
    let mut rows = known(&place.json(&["checkpoints", "--all"]));
    rows.sort_by_key(ToString::to_string);
    assert_eq!(rows, [json!(["kept", true]), json!(["lost", false]), json!(["old", null])]);
    let said = place.run(&["checkpoints"]).ok().stdout;
    assert!(
        said.contains("lost: missing in the store") && said.contains("the refs are in the store; show one with git -C "),
        "{said}"
    );
    fs::remove_dir_all(place.workspaces()).unwrap();
    assert_eq!(place.json(&["checkpoints"])[0]["in_store"], Value::Null);
    assert!(place.run(&["checkpoints"]).ok().stdout.contains("until the store is created"));
    assert_eq!(BRANCH, made.store.integration_ref().strip_prefix("refs/heads/").unwrap());
}
