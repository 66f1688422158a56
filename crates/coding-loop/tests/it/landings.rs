//! Several loops on one branch, what lands meanwhile, approvals, and a crash between git and the database.

use crate::common::{CHECK, World};
use coord_db::{ActorId, ErrorCategory, TestStatus};
use git::CommitHash;
use serde_json::json;
use test_support::{wait_for, wait_until};

const INTEGRATION: &str = "coding-loops/integration";

/// Changes the line of the shared file that its test is named after (`t1`: line 1), and waits if `wait-t1` exists.
const EDIT: &str = "cat > /dev/null; top=../../..; line=${TEST_ID#t}
    sed -i \"s/^$line\\$/$line by $LOOP_ID/\" shared; echo > $TEST_ID; echo > $top/edited-$TEST_ID
    if [ -e $top/wait-$TEST_ID ]; then while ! [ -e $top/go ]; do sleep 0.05; done; fi\n";

fn world(tests: &[(&str, &str)]) -> World {
    let world = World::new(EDIT, CHECK);
    for (test, loop_id) in tests {
        world.add_loop(loop_id);
        world.add_test(test, loop_id);
    }
    world
}

fn touch(world: &World, name: &str) {
    std::fs::write(world.folder().join(name), "").unwrap();
}

fn passed(world: &World, test: &str) {
    wait_until(&format!("{test} to pass"), || world.test(test).status == TestStatus::Passed);
}

fn shared(world: &World) -> String {
    world.git(&["show", &format!("{INTEGRATION}:shared")])
}

fn landings(world: &World) -> String {
    world.git(&["rev-list", "--count", &format!("main..{INTEGRATION}")])
}

fn holds_shared(world: &World) -> Option<()> {
    world.db.read(|tx| tx.leases(true)).unwrap().iter().any(|lease| lease.file_path.as_str() == "shared").then_some(())
}

/// A commit on the integration branch that no loop has made.
fn foreign_landing(world: &World, from: &str, to: &str) -> CommitHash {
    let store = world.make_store();
    let head = store.integration().unwrap().unwrap();
    let commit = world.commit_elsewhere(head.as_str(), "from elsewhere", |folder| {
        let text = std::fs::read_to_string(folder.join("shared")).unwrap();
        std::fs::write(folder.join("shared"), text.replace(from, to)).unwrap();
    });
    let commit = CommitHash::new(commit).unwrap();
    store.move_integration(&commit, &head).unwrap();
    commit
}

#[test]
fn many_at_once_on_one_file_all_land() {
    let world = world(&[("t1", "a"), ("t4", "b"), ("t7", "c"), ("t9", "d")]);
    let running: Vec<_> = ["a", "b", "c", "d"].map(|id| world.start(id)).into();
    for (test, words) in [("t1", "1 by a"), ("t4", "4 by b"), ("t7", "7 by c"), ("t9", "9 by d")] {
        // Neighbouring lines conflict, lines apart do not; a failed attempt may be needed, a lost change never is.
        passed(&world, test);
        assert!(shared(&world).contains(words));
    }
    for each in running {
        assert_eq!(each.terminate().code(), Some(0));
    }
    assert_eq!(landings(&world), "4");
    world.assert_tidy();
}

#[test]
fn waiting_for_a_lease_costs_next_to_nothing() {
    let world = world(&[("t1", "a"), ("t5", "b"), ("t9", "c")]);
    touch(&world, "wait-t1");
    let first = world.start("a");
    wait_for("the first lease", || holds_shared(&world));
    let others = [world.start("b"), world.start("c")];
    wait_until("two to wait", || world.db.read(|tx| tx.lease_requests()).unwrap().len() == 2);
    // Heartbeats are a second apart.
    let beat = |id| world.db.read(|tx| tx.component(id)).unwrap().unwrap().last_heartbeat;
    let beats = || ["a", "b", "c"].map(beat);
    let (begun, mut seen) = (beats(), world.db.data_version().unwrap());
    let mut commits = 0;
    wait_until("another heartbeat of each", || {
        let now = world.db.data_version().unwrap();
        commits += i32::from(now != seen);
        seen = now;
        beats().iter().zip(&begun).all(|(now, then)| now != then)
    });
    assert!(commits <= 20, "{commits} commits between two heartbeats while three loops do nothing but wait");
    touch(&world, "go");
    ["t1", "t5", "t9"].into_iter().for_each(|test| passed(&world, test));
    for each in others.into_iter().chain([first]) {
        assert_eq!(each.terminate().code(), Some(0));
    }
    world.assert_tidy();
}

#[test]
fn what_has_landed_meanwhile_is_rebased_upon_and_judged_together() {
    let world = World::with_test(
        EDIT,
        "[[gate.check]]\nname = \"both\"\ncommand = [\"grep\", \"-q\", \"elsewhere\", \"shared\"]\nper_test = true\n",
    );
    touch(&world, "wait-t1");
    let running = world.start("one");
    wait_for("the agent's change", || world.exists("edited-t1"));
    let foreign = foreign_landing(&world, "9\n", "9 elsewhere\n");
    touch(&world, "go");
    passed(&world, "t1");
    assert_eq!(running.terminate().code(), Some(0));
    assert_eq!(world.git(&["rev-parse", &format!("{INTEGRATION}^")]), foreign.as_str());
    assert_eq!(world.test("t1").commit_hash, Some(world.git(&["rev-parse", INTEGRATION])));
    // The judge may be on another machine, which has nothing but what the commit refers to.
    let queued = world.sql("SELECT head, commit_hash, base_tree, tree FROM landings WHERE test_id = 't1'");
    let [head, commit, base_tree, tree] = queued.split('|').collect::<Vec<_>>()[..] else { panic!("{queued}") };
    assert_eq!(head, foreign.as_str());
    for (of, named) in [(head, base_tree), (commit, tree)] {
        assert_eq!(world.store(&["rev-parse", &format!("{of}^{{tree}}")]), named, "{queued}");
    }
    world.assert_tidy();
}

#[test]
fn changes_to_protected_files_need_an_approval_and_hold_nobody_up() {
    for choice in ["approve", "reject"] {
        let settings = format!("[gate]\nprotected = [\"shared\"]\n{CHECK}");
        let world = World::with_test(EDIT, &settings);
        let running = world.start("one");
        let asked = wait_for("the question", || world.db.read(|tx| tx.decisions(true)).unwrap().into_iter().next());
        assert_eq!((asked.decision_type.as_str(), asked.default_option.as_deref()), ("protected_change", Some("reject")));
        let leases = world.db.read(|tx| tx.leases(true)).unwrap();
        assert!(leases.iter().all(|lease| lease.file_path.as_str() != "git:integration"));
        world.db.write(|tx| tx.resolve_decision(&asked.id, Some(choice), true, None, None)).unwrap();
        if choice == "approve" {
            passed(&world, "t1");
            assert_eq!(landings(&world), "1");
        } else {
            wait_until("the attempt to fail", || world.test("t1").error_category == Some(ErrorCategory::Human));
            assert_eq!(landings(&world), "0");
        }
        assert_eq!(running.terminate().code(), Some(0));
        world.assert_tidy();
    }
}

/// A landing that a crash has cut off after the branch moved and before it was recorded.
fn cut_off() -> (World, CommitHash) {
    let world = world(&[("t1", "one")]);
    let test = world.db.write(|tx| tx.claim_next_test(&"one".parse()?, true)).unwrap().unwrap();
    let store = world.make_store();
    let head = store.integration().unwrap().unwrap();
    let commit = world.commit_elsewhere(head.as_str(), "t1: work\n\nLoop: one\nTest: t1\nProof: p-1", |folder| {
        std::fs::write(folder.join("t1"), "first life\n").unwrap();
    });
    let commit = CommitHash::new(commit).unwrap();
    let steps = json!({
        "test": "t1", "attempt": test.attempts, "commit": commit.as_str(), "old": head.as_str(), "branch": INTEGRATION,
        "proof": "p-1", "checks": [["file", true]], "seconds": 3, "files": ["t1"],
    });
    let id = "one".parse().unwrap();
    world.db.write_durably(|tx| tx.begin_operation("integrate", "one", Some(&id), &steps, None)).unwrap();
    store.move_integration(&commit, &head).unwrap();
    (world, commit)
}

#[test]
fn a_landing_whose_test_was_given_back_meanwhile_is_recorded_all_the_same() {
    let (world, commit) = cut_off();
    world.db.write(|tx| tx.give_back_abandoned(&tx.test(&"t1".parse()?)?, &ActorId::human(), "dead", None)).unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    let test = world.test("t1");
    assert_eq!((test.status, test.attempts), (TestStatus::Passed, 1));
    assert_eq!(test.commit_hash.as_deref(), Some(commit.as_str()));
    assert!(world.exists("edited-t1").is_none(), "no agent ran");
    assert_eq!(landings(&world), "1");
    assert!(world.db.read(|tx| tx.open_journal(None)).unwrap().is_empty());
    world.assert_tidy();
}

#[test]
fn a_landing_that_somebody_else_has_settled_prevents_no_start() {
    let (world, _) = cut_off();
    world.add_loop("two");
    world
        .db
        .write(|tx| {
            tx.give_back(&"t1".parse()?, &"one".parse()?, "by hand")?;
            tx.move_test(&"t1".parse()?, &"two".parse()?)?;
            tx.claim_next_test(&"two".parse()?, true)
        })
        .unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert!(world.db.read(|tx| tx.open_journal(None)).unwrap().is_empty());
    assert_eq!(world.test("t1").status, TestStatus::InProgress);
}

#[test]
fn killed_in_the_gate_it_lands_once() {
    let check = "echo $$ > $TEST_SPEC_FILE.pid; [ -e $TEST_SPEC_FILE.go ] || exec sleep 300";
    let world = World::with_test(
        EDIT,
        &format!("[[gate.check]]\nname = \"slow\"\ncommand = [\"sh\", \"-c\", {check:?}]\nper_test = true\n"),
    );
    let running = world.start("one");
    let logs = world.home.join("logs/one");
    let pid = wait_for("the check", || {
        let file =
            std::fs::read_dir(&logs).ok()?.flatten().find(|entry| entry.path().extension().is_some_and(|e| e == "pid"))?;
        std::fs::read_to_string(file.path()).ok()?.trim().parse::<i64>().ok().map(|pid| (pid, file.path()))
    });
    assert!(world.db.read(|tx| tx.leases_of("one")).unwrap().len() > 1);
    running.kill();
    wait_until("the check to be gone", || coord_db::process::start_time(pid.0).is_none());
    std::fs::write(pid.1.with_extension("go"), "").unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!((world.test("t1").status, world.test("t1").attempts), (TestStatus::Passed, 1));
    assert_eq!((landings(&world).as_str(), world.events("test_passed").len()), ("1", 1));
    world.assert_tidy();
}
