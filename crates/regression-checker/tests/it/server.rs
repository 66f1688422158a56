//! The real program on a database on a server that is away for a while.

use std::process::Command;

use test_support::{Process, Shared, printed, wait_until};

use crate::common::World;

const PROGRAM: &str = env!("CARGO_BIN_EXE_regression-checker");

#[test]
fn an_outage_while_a_check_runs_delays_its_result_and_is_none() {
    let world = World::new();
    let path = world.repository.join("coding-loops/coordination.db");
    let _ = std::fs::remove_file(&path);
    let Some(shared) = Shared::at(&path) else { return };
    let sql = format!(
        "INSERT INTO loops(id, name, priority, status) VALUES ('a', '', 1, 'stopped');
         INSERT INTO tests(id, loop_id, category, status, verified_at) VALUES ('t1', 'a', 'build', 'passed', datetime('now'));
         INSERT INTO passing_tests(test_id, commit_hash, passed_at) VALUES ('t1', '{}', datetime('now', '-1 hour'));",
        world.head()
    );
    shared.db.execute_foreign(&sql).unwrap();
    world.commit("t1", "broken", "Loop: a");
    let (begun, go) = (world.folder().join("begun"), world.folder().join("go"));
    let wait = format!("touch '{}'; until [ -e '{}' ]; do sleep 0.1; done; exit 1", begun.display(), go.display());
    let settings =
        format!("[regression]\nretries = 0\n[[gate.check]]\nname = \"tests\"\ncommand = [\"sh\", \"-c\", '''{wait}''']\n");
    std::fs::write(path.with_file_name("config.toml"), settings).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("--db").arg(&path).env("RUST_LOG", "warn");
    let daemon = Process::start_logged(&mut command, &world.folder().join("log"));
    wait_until("the check to run", || begun.exists());
    shared.go_away();
    daemon.until_logged("cannot continue; trying again");
    std::fs::write(&go, "").unwrap();
    // The check has failed, and what it needs to know about the tests cannot be read.
    wait_until("the check to wait for the database", || daemon.log().matches("cannot continue; trying again").count() > 1);
    shared.come_back();
    shared.until("SELECT outcome FROM check_runs WHERE check_name = 'tests'", "fail");
    assert_eq!(printed(&shared.db, "SELECT message FROM alerts WHERE message LIKE '%could not be run%'"), "");
    assert_eq!(daemon.terminate().code(), Some(0));
}
