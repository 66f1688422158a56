//! The store of an installation: created once, by the first loop, searched for where it was, and rebuilt if it is lost. What
//! was lost is named.

use crate::common::{CHECK, World};
use coord_db::TestStatus;
use test_support::{wait_for, wait_until};

const BRANCH: &str = "coding-loops/integration";

fn world() -> World {
    World::new("cat > /dev/null; echo > $TEST_ID\n", CHECK)
}

fn causes(world: &World) -> Vec<String> {
    world.db.read(|tx| tx.store_makings()).unwrap().into_iter().map(|making| making.cause).collect()
}

#[test]
fn loops_that_start_at_once_share_one_store() {
    let world = world();
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        world.add_loop(id);
        world.add_test(&format!("t-{id}"), id);
    }
    let running: Vec<_> = ids.iter().map(|id| world.command(id).arg("--once").spawn().unwrap()).collect();
    for mut each in running {
        assert!(each.wait().unwrap().success());
    }
    for id in ids {
        assert_eq!(world.test(&format!("t-{id}")).status, TestStatus::Passed);
    }
    assert_eq!(causes(&world), ["new"]);
    assert_eq!(world.git(&["rev-list", "--count", &format!("main..{BRANCH}")]), "4");
    world.assert_tidy();
}

#[test]
fn a_store_that_lies_elsewhere_is_not_created_again() {
    let world = world();
    world.add_loop("one");
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    world.configure(|config| format!("{config}\n[workspace]\nroot = \"../../elsewhere\"\n"));
    world.add_test("t2", "one");
    let output = world.once("one");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the store of this installation is") && said.contains("move the folder, or correct root"), "{said}");
    assert_eq!(world.test("t2").attempts, 0);
    std::fs::rename(world.root(), world.folder().join("elsewhere")).unwrap();
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t2").status, TestStatus::Passed);
    assert_eq!(causes(&world), ["new"]);
}

#[test]
fn a_lost_store_is_rebuilt_from_the_published_branch_and_what_was_lost_is_named() {
    let world = world();
    world.add_loop("one");
    for test in ["t1", "t2"] {
        world.add_test(test, "one");
    }
    assert_eq!(world.once("one").status.code(), Some(0));
    // What was published last is lost with it.
    let before = world.git(&["rev-parse", &format!("{BRANCH}~1")]);
    world.git(&["update-ref", &format!("refs/heads/{BRANCH}"), &before]);
    std::fs::remove_dir_all(world.root()).unwrap();
    world.add_test("t3", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.test("t3").status, TestStatus::Passed);
    assert_eq!(causes(&world), ["new", "rebuilt"]);
    let alerts = world.db.read(|tx| tx.alerts(true)).unwrap();
    assert!(alerts.iter().any(|alert| alert.message.contains("the commits of 1 passed tests (t2)")), "{alerts:?}");
    assert_eq!(world.git(&["rev-parse", &format!("{BRANCH}~1")]), before);
}

#[test]
fn an_agent_that_deletes_or_damages_integration_loses_nothing() {
    for damage in ["git --git-dir=../../store.git update-ref -d refs/heads/coding-loops/integration", "echo garbage > $ref"] {
        let agent = format!(
            "cat > /dev/null; echo > $TEST_ID; ref=../../store.git/refs/heads/coding-loops/integration
            [ $TEST_ID = t1 ] || {{ {damage}; }}\n"
        );
        let world = World::with_test(&agent, CHECK);
        assert!(world.once("one").status.success());
        world.add_test("t2", "one");
        assert!(world.once("one").status.success());
        for id in ["t1", "t2"] {
            assert_eq!(world.test(id).status, TestStatus::Passed, "{damage}: {:?}", world.test(id).last_error);
            world.git(&["cat-file", "-e", &format!("{BRANCH}:{id}")]);
        }
        assert_eq!(world.git(&["rev-parse", BRANCH]), world.store(&["rev-parse", BRANCH]));
        let alerts = world.sql("SELECT message FROM alerts");
        assert!(alerts.contains("was deleted or damaged; it was restored at"), "{alerts}");
        world.assert_tidy();
    }
}

#[test]
fn integration_that_is_lost_while_a_loop_is_idle_is_restored() {
    let world = world();
    world.add_loop("one");
    world.add_test("t1", "one");
    let running = world.start("one");
    wait_until("the pass", || world.test("t1").status == TestStatus::Passed);
    let head = world.git(&["rev-parse", BRANCH]);
    world.store(&["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    // Any commit wakes it.
    world.add_loop("two");
    wait_for("integration", || world.root().join(format!("store.git/refs/heads/{BRANCH}")).exists().then_some(()));
    assert_eq!(world.store(&["rev-parse", BRANCH]), head);
    drop(running);
}

#[test]
fn an_agent_that_deletes_the_store_and_every_workspace_does_its_work_again() {
    let agent = "cat > /dev/null; echo > $TEST_ID; root=$(cd ../.. && pwd)
        [ $TEST_ID = t1 ] || [ -e $root/../deleted ] || { touch $root/../deleted; rm -rf $root; }\n";
    let world = World::with_test(agent, CHECK);
    world.add_test("t2", "one");
    let output = world.once("one");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    for id in ["t1", "t2"] {
        assert_eq!(world.test(id).status, TestStatus::Passed, "{:?}", world.test(id).last_error);
        world.git(&["cat-file", "-e", &format!("{BRANCH}:{id}")]);
    }
    assert_eq!(world.test("t2").attempts, 1);
    assert_eq!(causes(&world), ["new", "rebuilt"]);
    world.assert_tidy();
}

#[test]
fn a_repository_without_a_commit_is_reported_clearly() {
    let world = world();
    world.add_loop("one");
    world.git(&["checkout", "--quiet", "--orphan", "empty"]);
    let output = world.once("one");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("has no commit; create the first commit"), "{said}");
    world.git(&["checkout", "--quiet", "--force", "main"]);
    assert_eq!(world.once("one").status.code(), Some(0));
}

/// Ways to damage the store in the current folder. Its files may be links to those of the user's repository.
const DAMAGES: [&str; 11] = [
    "rm -rf objects/??",
    "rm -rf objects/??; mkdir objects/00",
    "rm -rf objects",
    "rm -rf HEAD",
    "echo garbage > HEAD",
    "rm config",
    "echo garbage > config",
    "rm -rf refs packed-refs",
    "rm -rf refs/heads objects/??",
    "git repack -aq; for f in $(find objects -type f); do rm -f $f; echo > $f; done",
    "for f in $(find objects -type f); do rm -f $f; : > $f; done",
];

fn damage(world: &World, script: &str) {
    let store = world.root().join("store.git");
    assert!(std::process::Command::new("sh").args(["-c", script]).current_dir(store).status().unwrap().success());
}

/// Both tests have landed, and the store is whole.
fn is_repaired(world: &World, script: &str) {
    for id in ["t1", "t2"] {
        assert_eq!(world.test(id).status, TestStatus::Passed, "{script}: {:?}", world.test(id).last_error);
        world.git(&["cat-file", "-e", &format!("{BRANCH}:{id}")]);
    }
    assert_eq!(world.test("t2").attempts, 1, "{script}");
    world.store(&["fsck", "--connectivity-only"]);
    assert_eq!(world.git(&["rev-parse", BRANCH]), world.store(&["rev-parse", BRANCH]), "{script}");
    world.assert_tidy();
}

#[test]
fn a_damaged_store_is_created_again_when_a_loop_starts() {
    for script in DAMAGES {
        let world = world();
        world.add_loop("one");
        world.add_test("t1", "one");
        assert!(world.once("one").status.success());
        damage(&world, script);
        world.add_test("t2", "one");
        let output = world.once("one");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        is_repaired(&world, script);
        let alerts = world.sql("SELECT message FROM alerts");
        let is_named = alerts.contains("it was created again from your repository and its intact parts")
            || alerts.contains("was deleted or damaged; it was restored at");
        assert!(is_named, "{script}: {alerts}");
    }
}

#[test]
fn a_store_that_an_agent_damages_costs_no_attempt() {
    for script in DAMAGES {
        let agent = format!(
            "cat > /dev/null; echo > $TEST_ID; [ $TEST_ID = t1 ] || [ -e ../../../done ] || {{ touch ../../../done; cd ../../store.git; {script}; }}\n"
        );
        let world = World::with_test(&agent, CHECK);
        assert!(world.once("one").status.success());
        world.add_test("t2", "one");
        let output = world.once("one");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        is_repaired(&world, script);
    }
}

#[test]
fn what_is_whole_of_a_damaged_store_is_kept() {
    let world = World::new("cat > /dev/null; echo $TEST_ID > work; [ $TEST_ID = t2 ] || echo > $TEST_ID\n", CHECK);
    world.add_loop("one");
    for id in ["t1", "t2"] {
        world.add_test(id, "one");
    }
    assert!(world.once("one").status.success());
    assert_ne!(world.test("t2").status, TestStatus::Passed);
    let saved = || world.store(&["for-each-ref", "--format=%(refname)", "refs/coding-loops/saved/one/t2/"]);
    let before = saved();
    assert!(!before.is_empty());
    // Nothing of it was published yet.
    world.git(&["update-ref", &format!("refs/heads/{BRANCH}"), "main"]);
    let head = world.store(&["rev-parse", BRANCH]);
    damage(&world, "rm HEAD");
    world.sql("UPDATE tests SET status = 'skipped' WHERE id = 't2'");
    assert!(world.once("one").status.success());
    assert_eq!((saved(), world.store(&["rev-parse", BRANCH])), (before.clone(), head));
    for name in before.lines() {
        assert_eq!(world.store(&["show", &format!("{name}:work")]), "t2");
    }
}

#[test]
fn a_prune_of_the_store_while_an_attempt_runs_costs_nothing() {
    let prune =
        "git reflog expire --expire=now --all; git gc --quiet --prune=now; git prune --expire=now; git repack -adq; true";
    let world = World::with_test(
        &format!("cat > /dev/null; echo > $TEST_ID; (cd ../../store.git; {prune})\n"),
        &format!(
            "[[gate.check]]\nname = \"file\"\ncommand = [\"sh\", \"-c\", \"test -f $TEST_ID && echo there; cd $ROOT/store.git; {prune}\"]\n"
        ),
    );
    world.configure(|config| config.replacen("[agent]\n", "[agent]\nenvironment = [\"PATH\", \"ROOT\"]\n", 1));
    let output = world.command("one").arg("--once").env("ROOT", world.root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        (world.test("t1").status, world.test("t1").attempts),
        (TestStatus::Passed, 1),
        "{:?}",
        world.test("t1").last_error
    );
    assert_eq!(causes(&world), ["new"]);
    world.assert_tidy();
}

#[test]
fn a_branch_of_the_users_beside_ours_keeps_nobody_from_working() {
    let world = world();
    world.git(&["branch", "coding-loops"]);
    world.add_loop("one");
    world.add_test("t1", "one");
    let output = world.once("one");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(world.test("t1").status, TestStatus::Passed);
    assert!(said.contains("its name collides with your branch coding-loops; rename that"), "{said}");
    world.git(&["branch", "--move", "coding-loops", "mine"]);
    assert_eq!(world.once("one").status.code(), Some(0));
    assert_eq!(world.git(&["rev-parse", BRANCH]), world.store(&["rev-parse", BRANCH]));
}
