//! Loops that bring the user's new commits in by themselves, beside their own work.

use crate::common::World;
use coord_db::TestStatus;
use std::process::Command;
use test_support::{run, wait_for, wait_until};

const INTEGRATION: &str = "coding-loops/integration";
const FOLLOW: &str = "[repository]\nfollow = \"main\"\nfollow_automatically = true\n";
const SUITE: &str =
    "[[gate.check]]\nname = \"suite\"\ncommand = [\"sh\", \"-c\", \"echo ran >> ../../../runs; ! test -f broken\"]\n";
/// Changes the shared file and waits, if `wait-TEST` exists.
const EDIT: &str = "cat > /dev/null; top=../../..; echo > $TEST_ID; echo > $top/edited-$TEST_ID
    if [ -e $top/wait-$TEST_ID ]; then sed -i 's/^5$/five/' shared; while ! [ -e $top/go ]; do sleep 0.05; done; fi\n";

fn world(loops: &[&str]) -> World {
    let world = World::new(EDIT, &format!("{FOLLOW}{SUITE}"));
    loops.iter().for_each(|id| world.add_loop(id));
    world
}

fn commit(world: &World, name: &str, content: &str) -> String {
    std::fs::write(world.repository.join(name), content).unwrap();
    world.git(&["add", "--all"]);
    world.git(&["commit", "--quiet", "--message", "by the user"]);
    world.git(&["rev-parse", "HEAD"])
}

fn is_on_integration(world: &World, commit: &str) -> Option<()> {
    let mut command = Command::new("git");
    command.args(["merge-base", "--is-ancestor", commit, INTEGRATION]).current_dir(&world.repository);
    command.status().unwrap().success().then_some(())
}

fn passed(world: &World, test: &str) {
    wait_until(&format!("{test} to pass"), || world.test(test).status == TestStatus::Passed);
}

fn assert_tidy(world: &World) {
    assert_eq!(world.db.check().unwrap(), []);
    assert_eq!(world.db.read(|tx| tx.leases(false)).unwrap().len(), 0);
    assert_eq!(world.sql("SELECT count(*) FROM transaction_log WHERE status = 'in_progress'"), "0");
    assert_eq!(world.git(&["status", "--porcelain"]), "");
}

#[test]
fn idle_loops_bring_new_commits_in_once_and_go_on_from_them() {
    let world = world(&["a", "b"]);
    world.add_test("t1", "a");
    let running = ["a", "b"].map(|id| world.start(id));
    passed(&world, "t1");
    let hotfix = commit(&world, "hotfix", "fix\n");
    wait_for("the hotfix", || is_on_integration(&world, &hotfix));
    wait_until("its event", || world.events("synced").len() == 1);
    world.add_test("t2", "b");
    passed(&world, "t2");
    assert!(world.workspace("b").join("hotfix").exists());
    let files = world.git(&["ls-tree", "--name-only", INTEGRATION]);
    assert!(["hotfix", "t1", "t2"].iter().all(|name| files.lines().any(|file| file == *name)), "{files}");
    for each in running {
        assert_eq!(each.terminate().code(), Some(0));
    }
    let events = world.events("synced");
    assert_eq!((events.len(), events[0].payload["theirs"].as_str()), (1, Some(hotfix.as_str())));
    assert_tidy(&world);
}

#[test]
fn what_is_red_is_asked_about_once_and_tried_again_with_newer_commits() {
    let world = world(&["a"]);
    world.add_test("t1", "a");
    let running = world.start("a");
    passed(&world, "t1");
    commit(&world, "broken", "1\n");
    let asked = wait_for("the question", || world.db.read(|tx| tx.decisions(true)).unwrap().into_iter().next());
    assert_eq!(asked.decision_type, "sync");
    let runs = || std::fs::read_to_string(world.folder().join("runs")).unwrap().lines().count();
    let before = runs();
    // The loop goes on with its work.
    world.add_test("t2", "a");
    passed(&world, "t2");
    assert_eq!(runs(), before + 1, "the checks of t2, and none of the same commits again");
    world.git(&["rm", "--quiet", "broken"]);
    let mended = commit(&world, "hotfix", "fix\n");
    wait_for("the mended commits", || is_on_integration(&world, &mended));
    wait_until("the question to go", || world.db.read(|tx| tx.decisions(true)).unwrap().is_empty());
    assert_eq!(running.terminate().code(), Some(0));
    assert_tidy(&world);
}

#[test]
fn an_agent_at_work_meets_the_users_commits_and_a_conflict_with_them_is_named() {
    let world = world(&["a", "b"]);
    world.add_test("t1", "a");
    std::fs::write(world.folder().join("wait-t1"), "").unwrap();
    // Integration starts.
    world.make_store();
    let running = world.start("a");
    wait_for("the agent's change", || world.exists("edited-t1"));
    let text = std::fs::read_to_string(world.repository.join("shared")).unwrap();
    let theirs = commit(&world, "shared", &text.replace("5\n", "V\n"));
    let other = world.start("b");
    wait_for("the user's commit", || is_on_integration(&world, &theirs));
    std::fs::write(world.folder().join("go"), "").unwrap();
    let failed = wait_for("the conflict", || world.events("test_failed").pop());
    assert_eq!(failed.payload["error_category"], "conflict");
    let said = failed.payload["error_message"].as_str().unwrap();
    assert!(said.contains(&format!("in shared with the user's commit {}", &theirs[..12])), "{said}");
    for each in [running, other] {
        assert_eq!(each.terminate().code(), Some(0));
    }
    assert_tidy(&world);
}

#[test]
fn a_test_that_was_decided_on_is_created_by_a_loop_and_its_landing_merges() {
    let agent = "cat > /dev/null; case $TEST_ID in
        sync-*) git merge --quiet $(sed -n 's/.*`git merge \\([0-9a-f]*\\)`.*/\\1/p' $TEST_SPEC_FILE) > /dev/null 2>&1
                sed -i -e '/^<<<<<<</d' -e '/^=======/,/^>>>>>>>/d' shared;;
        *) sed -i 's/^5$/five/' shared;;
    esac\n";
    let world = World::new(agent, &format!("{FOLLOW}{SUITE}"));
    world.add_loop("a");
    world.add_test("t1", "a");
    assert!(world.once("a").status.success());
    let text = std::fs::read_to_string(world.repository.join("shared")).unwrap();
    let theirs = commit(&world, "shared", &text.replace("5\n", "V\n").replace("1\n", "one\n"));
    assert!(world.once("a").status.success());
    let asked = world.db.read(|tx| tx.decisions(true)).unwrap().pop().unwrap();
    assert_eq!(asked.context["files"], serde_json::json!(["shared"]));
    world.db.write(|tx| tx.resolve_decision(&asked.id, Some("test"), true, None, None)).unwrap();
    assert!(world.once("a").status.success());
    assert_eq!(world.test(&format!("sync-{}", &theirs[..12])).status, TestStatus::Passed);
    assert_eq!(world.git(&["rev-parse", &format!("{INTEGRATION}^2")]), theirs);
    assert!(world.git(&["show", &format!("{INTEGRATION}:shared")]).starts_with("one\n2\n3\n4\nfive\n"));
    assert!(world.once("a").status.success());
    assert_eq!(
        run(Command::new("git").args(["rev-list", "--count", &format!("{INTEGRATION}..main")]).current_dir(&world.repository)),
        "0"
    );
    assert_tidy(&world);
}

#[test]
fn commits_that_the_user_has_dropped_are_merged_by_nobody() {
    let (world, theirs) = conflict_to_merge("true");
    world.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let instead = commit(&world, "fine", "1\n");
    assert!(world.once("a").status.success());
    assert_eq!(world.sql("SELECT group_concat(id) FROM tests"), "t1");
    is_on_integration(&world, &instead).expect("what the user has instead");
    assert_eq!(is_on_integration(&world, &theirs), None);
    assert_tidy(&world);
}

/// A conflict with what has landed that a test is to merge; its commit.
fn conflict_to_merge(agent: &str) -> (World, String) {
    let agent = format!("cat > /dev/null; case $TEST_ID in sync-*) {agent};; *) sed -i 's/^5$/five/' shared;; esac\n");
    let world = World::new(&agent, &format!("{FOLLOW}{SUITE}"));
    world.add_loop("a");
    world.add_test("t1", "a");
    assert!(world.once("a").status.success());
    let text = std::fs::read_to_string(world.repository.join("shared")).unwrap();
    let theirs = commit(&world, "shared", &text.replace("5\n", "V\n"));
    assert!(world.once("a").status.success());
    let asked = world.db.read(|tx| tx.decisions(true)).unwrap().pop().unwrap();
    world.db.write(|tx| tx.resolve_decision(&asked.id, Some("test"), true, None, None)).unwrap();
    (world, theirs)
}

#[test]
fn commits_that_are_dropped_while_a_test_merges_them_do_not_land() {
    let merge = "git merge --quiet $(sed -n 's/.*`git merge \\([0-9a-f]*\\)`.*/\\1/p' $TEST_SPEC_FILE) > /dev/null 2>&1
        sed -i -e '/^<<<<<<</d' -e '/^=======/,/^>>>>>>>/d' shared";
    let wait = "echo > ../../../started; while ! [ -e ../../../dropped ]; do sleep 0.05; done";
    let (world, theirs) = conflict_to_merge(&format!("{wait}; {merge}"));
    let id = format!("sync-{}", &theirs[..12]);
    let running = world.start("a");
    wait_for("the agent", || world.exists("started"));
    world.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let instead = commit(&world, "fine", "1\n");
    std::fs::write(world.folder().join("dropped"), "").unwrap();
    let test = wait_for("the end of the test", || Some(world.test(&id)).filter(|test| test.status == TestStatus::Skipped));
    let reason = format!("the commits up to {} are no longer on main", &theirs[..12]);
    assert!(test.last_error.as_deref().unwrap_or_default().starts_with(&reason), "{:?}", test.last_error);
    wait_for("what the user has instead", || is_on_integration(&world, &instead));
    assert_eq!(running.terminate().code(), Some(0));
    assert_eq!(is_on_integration(&world, &theirs), None);
    assert_tidy(&world);
}

#[test]
fn an_agent_is_not_paid_to_merge_commits_that_were_dropped() {
    let (world, theirs) = conflict_to_merge("echo > ../../../started");
    let id = format!("sync-{}", &theirs[..12]);
    // The test is there, and nobody has begun it.
    world.sql("INSERT INTO holds (subject, kind, reason, loop_id) VALUES ('loop:a', 'human', 'not yet', 'a')");
    world.once("a");
    world.sql("DELETE FROM holds");
    assert_eq!(world.test(&id).status, TestStatus::Pending);
    world.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    assert!(world.once("a").status.success());
    assert_eq!(world.test(&id).status, TestStatus::Skipped);
    assert_eq!(world.exists("started"), None);
    assert_tidy(&world);
}

#[test]
fn newer_commits_come_in_where_a_loop_could_not_merge_the_older() {
    let world = world(&["a"]);
    world.add_test("t1", "a");
    assert!(world.once("a").status.success());
    let broken = commit(&world, "broken", "1\n");
    assert!(world.once("a").status.success());
    let asked = world.db.read(|tx| tx.decisions(true)).unwrap().pop().unwrap();
    world.db.write(|tx| tx.resolve_decision(&asked.id, Some("test"), true, None, None)).unwrap();
    world.once("a");
    world.sql(&format!("UPDATE tests SET status = 'blocked', not_before = NULL WHERE id = 'sync-{}'", &broken[..12]));
    world.git(&["rm", "--quiet", "broken"]);
    let mended = commit(&world, "hotfix", "fix\n");
    assert!(world.once("a").status.success());
    is_on_integration(&world, &mended).expect("the mended commits");
    assert_tidy(&world);
}
