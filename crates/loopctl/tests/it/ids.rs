//! Ids that git takes in no ref's name are refused when something new gets them, and read where they stand.

use crate::common::Place;

#[test]
fn what_no_branch_can_be_named_after_is_refused() {
    let place = Place::with_loops();
    for (id, why) in [("a..b", "\"..\""), ("a.", "ends with \".\""), ("x.lock", "\".lock\"")] {
        place.run(&["loop", "add", id]).fails(2).says(why).says("choose another id");
        place.run(&["test", "add", id, "--loop", "a"]).fails(2).says(why).says("choose another id");
    }
    place.run(&["loop", "add", "integration"]).fails(2).says("coding-loops/integration is the branch");
    std::fs::write(place.home().join("config.toml"), "[repository]\nintegration_branch = \"coding-loops/main\"\n").unwrap();
    place.run(&["loop", "add", "main"]).fails(2).says("coding-loops/main is where verified work goes");
    place.run(&["loop", "add", "main", "--branch", "work/main"]).ok();
    let tests = "[[test]]\nid = \"good\"\nloop = \"a\"\n\n[[test]]\nloop = \"a\"\nid = \"x.lock\"\n";
    place.run_with(tests, &["test", "import", "-"]).fails(2).says("-:7: \"x.lock\" cannot be a test id");
    assert_eq!(place.json(&["tests"]), serde_json::json!([]), "all or none");
    place.run(&["test", "add", "integration", "--loop", "a"]).ok();
}

#[test]
fn rows_of_before_with_such_ids_are_read_and_steered() {
    let place = Place::with_loops();
    place.sql(
        "INSERT INTO loops (id, name, priority, status) VALUES ('integration', 'I', 1, 'running'), ('a..b', 'B', 1, 'running');
         INSERT INTO tests (id, loop_id) VALUES ('x.lock', 'a..b')",
    );
    assert_eq!(place.json(&["loop", "list"]).as_array().unwrap().len(), 4);
    assert_eq!(place.json(&["status", "x.lock"])["test"]["loop_id"], "a..b");
    place.run(&["skip", "x.lock"]).ok();
    place.run(&["pause", "integration"]).ok();
    place.run(&["test", "add", "after", "--loop", "a..b", "--depends-on", "x.lock"]).ok();
}
