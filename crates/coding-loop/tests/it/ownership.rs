//! An agent that knows nothing of ownership changes what another loop owns: nothing of it lands without leave.

use crate::common::{CHECK, World};
use coord_db::{ActorId, ChangeRequest, ErrorCategory, RequestStatus, ResourceType, TestStatus};
use test_support::{wait_for, wait_until};

/// Creates the test's file, changes the shared one, and records its runs and its prompt.
const TRESPASS: &str = "top=../../..; cat > $top/prompt-$ATTEMPT; echo run >> $top/runs-$TEST_ID
    echo > $TEST_ID; if ! [ -e $top/good ]; then echo \"10 by $LOOP_ID\" >> shared; fi\n";

fn world() -> World {
    let world = World::new(TRESPASS, CHECK);
    for id in ["owner", "other"] {
        world.add_loop(id);
    }
    own(&world, "shared");
    world.add_test("t1", "other");
    world
}

fn own(world: &World, path: &str) {
    world.db.write(|tx| tx.own(path, &"owner".parse().unwrap(), ResourceType::File, None)).unwrap();
}

fn requests(world: &World) -> Vec<ChangeRequest> {
    world.db.read(|tx| tx.change_requests(None)).unwrap()
}

fn answer(world: &World, to: RequestStatus) {
    let id = requests(world)[0].id.clone();
    world.db.write(|tx| tx.resolve_change(&id, to, &ActorId::human(), None)).unwrap();
}

/// One attempt at most, and no waiting for the next one.
fn attempt(world: &World, loop_id: &str) {
    assert!(world.command(loop_id).args(["--once", "--max-tests", "1"]).output().unwrap().status.success());
}

fn runs(world: &World) -> usize {
    std::fs::read_to_string(world.folder().join("runs-t1")).map_or(0, |text| text.lines().count())
}

fn landed(world: &World) -> String {
    world.git(&["log", "--format=%s", "main..coding-loops/integration"])
}

#[test]
fn what_another_owns_does_not_land_until_there_is_leave() {
    let world = world();
    attempt(&world, "other");
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Pending, 0, Some(ErrorCategory::Dependency)));
    let [request] = &requests(&world)[..] else { panic!("one request") };
    assert_eq!((request.requestor_loop.as_str(), request.owner_loop.as_str()), ("other", "owner"));
    assert_eq!((request.resource_path.as_str(), request.status), ("shared", RequestStatus::Pending));
    let error = test.last_error.unwrap();
    for part in ["shared is owned by loop owner", "request approve", &request.id] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert_eq!(world.events("change_requested").len(), 1);
    assert_eq!(world.events("test_failed")[0].caused_by.as_ref(), Some(&world.events("change_requested")[0].id));
    // Its work is kept, and nothing of it has landed.
    let saved = world.db.read(|tx| tx.checkpoints(None, false)).unwrap();
    let work = saved.iter().find(|row| row.reason.as_deref() == Some("the attempt failed")).expect("saved work");
    assert!(world.store(&["show", &format!("{}:shared", work.git_ref)]).contains("10 by other"));
    assert_eq!(landed(&world), "");

    // However long it waits: without an answer the agent is not sent off again.
    world.db.execute_foreign("UPDATE tests SET not_before = NULL").unwrap();
    attempt(&world, "other");
    assert_eq!(runs(&world), 1);

    let running = world.start("other");
    wait_for("the loop to be there", || {
        let row = world.db.read(|tx| tx.loop_row(&"other".parse().unwrap())).unwrap();
        row.pid.is_some().then_some(())
    });
    answer(&world, RequestStatus::Approved);
    wait_until("the test to pass", || world.test("t1").status == TestStatus::Passed);
    assert_eq!(running.terminate().code(), Some(0));
    assert_eq!(runs(&world), 2);
    assert!(world.git(&["show", "coding-loops/integration:shared"]).contains("10 by other"));
    // The leave was for this test; it is used up, once.
    assert_eq!(requests(&world)[0].status, RequestStatus::Applied);
    let steps: Vec<String> = world.events("change_resolved").iter().map(|event| event.payload["status"].to_string()).collect();
    assert_eq!(steps, ["\"approved\"", "\"applied\""]);
    assert_eq!(world.events("change_resolved")[1].caused_by.as_ref(), Some(&world.events("test_passed")[0].id));
    world.assert_tidy();
}

#[test]
fn after_a_no_the_agent_does_without_or_its_attempts_count() {
    let world = world();
    attempt(&world, "other");
    answer(&world, RequestStatus::Rejected);
    for _ in 0..2 {
        world.db.execute_foreign("UPDATE tests SET not_before = NULL").unwrap();
        attempt(&world, "other");
    }
    // Two attempts were made, and both count, as nobody is asked twice.
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts, test.error_category), (TestStatus::Blocked, 2, Some(ErrorCategory::Conflict)));
    assert_eq!((requests(&world).len(), runs(&world)), (1, 3));
    let told = std::fs::read_to_string(world.folder().join("prompt-2")).unwrap();
    assert!(told.contains("was rejected by human") && told.contains("- shared (owner)"), "{told}");

    // Put back to its beginning, it may ask again; an agent that has learned it lands without leave.
    world.db.write(|tx| tx.reset_test(&"t1".parse().unwrap())).unwrap();
    std::fs::write(world.folder().join("good"), "").unwrap();
    attempt(&world, "other");
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    assert_eq!(landed(&world), "t1: make t1");
    world.assert_tidy();
}

#[test]
fn owning_a_subtree_guards_what_is_below_and_hinders_nobody_else() {
    let world = World::new("cat > /dev/null; mkdir -p dir; echo > $TEST_ID; echo > dir/$TEST_ID-$LOOP_ID\n", CHECK);
    for (test, loop_id) in [("t1", "other"), ("t2", "owner")] {
        world.add_loop(loop_id);
        world.add_test(test, loop_id);
    }
    own(&world, "dir/");
    attempt(&world, "owner");
    assert_eq!(world.test("t2").status, TestStatus::Passed);
    attempt(&world, "other");
    assert_eq!(world.test("t1").status, TestStatus::Pending);
    assert_eq!(requests(&world)[0].resource_path, "dir/");
    assert_eq!(requests(&world)[0].description, "test t1 changes dir/t1-other");
    // Given up, nobody is asked any more.
    answer(&world, RequestStatus::Rejected);
    world.db.write(|tx| tx.disown("dir/", &ActorId::human())).unwrap();
    world.db.execute_foreign("UPDATE tests SET not_before = NULL").unwrap();
    attempt(&world, "other");
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    world.assert_tidy();
}
