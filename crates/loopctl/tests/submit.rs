//! A loop that is driven by hand: next, work, submit, through the same gate as every other.

mod common;

use common::Place;

fn place() -> Place {
    let place = Place::with_loops();
    std::fs::write(
        place.home().join("config.toml"),
        "[[gate.check]]\nname = \"made\"\ncommand = [\"sh\", \"-c\", \"grep right made\"]\n",
    )
    .unwrap();
    place.run(&["test", "add", "t1", "--loop", "a", "--notes", "make it"]).ok();
    place
}

#[test]
fn a_refused_submission_leaves_the_work_where_it_is_and_a_mended_one_passes() {
    let place = place();
    let worktree = place.json(&["next", "--loop", "a"])["worktree"].as_str().unwrap().to_owned();
    let made = std::path::Path::new(&worktree).join("made");
    std::fs::write(&made, "wrong\n").unwrap();
    place.run(&["submit", "t1"]).fails(1).says("check made failed with exit code 1");
    assert_eq!(place.json(&["status", "t1"])["test"]["status"], "pending");
    assert_eq!(place.json(&["next", "--loop", "a"])["worktree"], worktree.as_str());
    assert_eq!(std::fs::read_to_string(&made).unwrap(), "wrong\n");
    std::fs::write(&made, "right\n").unwrap();
    let passed = place.json(&["submit", "t1"]);
    assert_eq!(passed["status"], "passed");
    assert_eq!(passed["proofs"].as_array().unwrap().len(), 2);
    let test = place.json(&["status", "t1"]);
    assert_eq!((&test["test"]["status"], &test["test"]["attempts"]), (&"passed".into(), &2.into()));
    assert_eq!(place.json(&["locks"]), serde_json::json!([]));
    // It never had a process, so nobody calls it dead.
    assert!(place.json(&["health"]).as_array().unwrap().iter().all(|row| row["component"] != "a"));
    place.run(&["submit", "t1"]).fails(1).says("not in progress");
    place.run(&["submit", "nothing"]).fails(4);
    place.run(&["check"]).ok();
}
