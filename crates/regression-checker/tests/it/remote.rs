//! Work that lands on another machine reaches this one through the remote.

use crate::common::{BRANCH, World};
use git::{Layout, Repository, Store};
use test_support::{commit, git, git_command, run, wait_until};

/// A world whose store meets others at a remote.
fn shared() -> (World, std::path::PathBuf) {
    let world = World::with_baseline();
    let remote = world.repository.with_file_name("remote.git");
    run(git_command(&world.repository).args(["init", "--quiet", "--bare"]).arg(&remote));
    let mut store: Store = Layout::new(world.layout.root()).open_store().unwrap();
    store.set_remote(&Repository::open(&world.repository).unwrap(), remote.to_str().unwrap()).unwrap();
    store.refresh().unwrap();
    (world, remote)
}

/// A test that has landed at a commit.
fn landed(world: &World, test: &str, commit: &str) {
    world.passed(test, "b", commit);
    world.sql(&format!("UPDATE tests SET commit_hash = '{commit}' WHERE id = '{test}'"));
}

#[test]
fn what_another_machine_has_landed_is_fetched_and_checked() {
    let (world, remote) = shared();
    let clone = world.repository.with_file_name("clone");
    run(git_command(&world.repository).args(["clone", "--quiet", "--branch", BRANCH]).args([&remote, &clone]));
    let bad = commit(&clone, "Break it\n\nLoop: b\nTest: t2\nProof: p", &[("state/t1", "broken\n")]);
    git(&clone, ["push", "--quiet"]);
    let checker = world.daemon();
    landed(&world, "t2", &bad);
    let found = "SELECT test_id, status, first_bad_commit, blamed_loop FROM regressions";
    wait_until("the regression is found", || world.sql(found) == format!("t1|regressed|{bad}|b"));
    assert_eq!(world.head(), bad);
    assert_eq!(world.alerts(), "regression:t1|error", "the commit was missed here only until it was fetched");
    assert_eq!(checker.terminate().code(), Some(0));
    // What the remote does not have either is lost.
    landed(&world, "t3", &"1".repeat(40));
    world.let_interval_pass();
    world.once();
    assert!(world.alerts().contains("lost"), "{}", world.alerts());
}

#[test]
fn nothing_counts_as_lost_while_the_remote_is_away() {
    let (world, remote) = shared();
    std::fs::rename(&remote, remote.with_extension("away")).unwrap();
    landed(&world, "t2", &"1".repeat(40));
    let log = world.once();
    assert!(log.contains("cannot bring integration from the remote"), "{log}");
    assert_eq!(world.alerts(), "");
    std::fs::rename(remote.with_extension("away"), &remote).unwrap();
    world.once();
    assert!(world.alerts().contains("lost"), "{}", world.alerts());
}
