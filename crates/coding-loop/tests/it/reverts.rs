//! A commit that is to be reverted: through the gate like any other change, once, and never again of itself.

use crate::common::World;
use coord_db::{TestId, TestStatus};

const INTEGRATION: &str = "coding-loops/integration";

/// Makes what its test is called, and says each time that it was asked.
const AGENT: &str = "cat > /dev/null; echo $TEST_ID >> ../../../asked; echo > $TEST_ID
    case $TEST_ID in bad) sed -i s/5/five/ shared;; esac\n";
/// `good` wants the shared file as it was.
const CHECK: &str = r#"
[[gate.check]]
name = "file"
command = ["sh", "-c", "test -f $TEST_ID && case $TEST_ID in good) ! grep -q five shared;; esac"]
"#;

/// `good` has passed, and `bad` has broken it.
fn broken() -> (World, String) {
    let world = World::new(AGENT, CHECK);
    world.add_loop("one");
    world.add_test("good", "one");
    assert!(world.once("one").status.success());
    world.add_test("bad", "one");
    assert!(world.once("one").status.success());
    let commit = world.test("bad").commit_hash.unwrap();
    assert_eq!(world.git(&["rev-parse", INTEGRATION]), commit);
    (world, commit)
}

fn id(id: &str) -> TestId {
    id.parse().unwrap()
}

fn take_back(world: &World, commit: &str) {
    world
        .db
        .write(|tx| {
            tx.reset_test_because(&id("good"), "it broke")?;
            tx.ask_revert(&id("good"), commit, None)
        })
        .unwrap();
}

fn asked(world: &World) -> String {
    std::fs::read_to_string(world.folder().join("asked")).unwrap().replace('\n', " ")
}

#[test]
fn a_commit_is_reverted_by_the_loop_itself_and_only_once() {
    let (world, commit) = broken();
    take_back(&world, &commit);
    assert!(world.once("one").status.success());
    assert_eq!(world.test("good").status, TestStatus::Passed);
    assert!(!world.git(&["show", &format!("{INTEGRATION}:shared")]).contains("five"));
    assert_eq!(asked(&world), "good bad ", "no agent is needed for it");
    let proofs = world.db.read(|tx| tx.proofs(&id("good"), None)).unwrap();
    assert!(proofs.iter().any(|proof| Some(&proof.commit_hash) == world.test("good").commit_hash.as_ref()));

    // A reset for another reason is work for the agent, and what was reverted stays reverted.
    world.db.write(|tx| tx.reset_test_because(&id("good"), "for another reason")).unwrap();
    world.sql("UPDATE tests SET no_change = 'allowed' WHERE id = 'good'");
    assert!(world.once("one").status.success());
    assert_eq!(asked(&world), "good bad good ");
    assert_eq!(world.test("good").status, TestStatus::Passed);
    world.assert_tidy();
}

#[test]
fn what_somebody_else_has_reverted_is_done() {
    let (world, commit) = broken();
    take_back(&world, &commit);
    let undone = world.commit_elsewhere(&commit, "undone", |folder| {
        let text = std::fs::read_to_string(folder.join("shared")).unwrap();
        std::fs::write(folder.join("shared"), text.replace("five", "5")).unwrap();
        std::fs::remove_file(folder.join("bad")).unwrap();
    });
    world.store(&["update-ref", &format!("refs/heads/{INTEGRATION}"), &undone]);
    assert!(world.once("one").status.success());
    let test = world.test("good");
    assert_eq!((test.status, test.commit_hash), (TestStatus::Passed, Some(undone)), "{:?}", test.last_error);
    assert_eq!(asked(&world), "good bad ");
    world.assert_tidy();
}
