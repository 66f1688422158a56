//! The store of an installation: made once by whoever comes first, looked for where it was, rebuilt where it is lost, with what
//! was lost named.

use crate::common::{CHECK, World};
use coord_db::TestStatus;

const BRANCH: &str = "coding-loops/integration";

fn world() -> World {
    let world = World::new("cat > /dev/null; echo > $TEST_ID\n", CHECK);
    let own = coord_db::process::ProcessIdentity::own();
    world.db.write(|tx| tx.start_component(&"monitor".parse()?, &own, "0")).unwrap();
    world
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
fn a_store_that_lies_elsewhere_is_not_made_again() {
    let world = world();
    world.add_loop("one");
    world.add_test("t1", "one");
    assert_eq!(world.once("one").status.code(), Some(0));
    world.configure(|config| format!("{config}\n[workspace]\nroot = \"../../elsewhere\"\n"));
    world.add_test("t2", "one");
    let output = world.once("one");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the store of this installation is") && said.contains("move that folder here"), "{said}");
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
