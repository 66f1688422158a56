//! The real program on a database on a server, which several machines share.

use std::path::Path;
use std::process::Command;

use test_support::{Shared, printed, run};

const MONITOR: &str = env!("CARGO_BIN_EXE_monitor");

/// A database on a server, with a loop `one` that is at work on `t1` on another machine.
fn with_a_loop_elsewhere(path: &Path) -> Option<Shared> {
    let shared = Shared::at(path)?;
    let sql = "
        INSERT INTO loops(id, name, priority, status, pid, current_test_id) VALUES ('one', '', 1, 'running', 77, 't1');
        INSERT INTO component_health(component, last_heartbeat, status, pid, host)
          VALUES ('one', datetime('now'), 'healthy', 77, 'build-3/1a2b3c4d');";
    shared.db.execute_foreign(sql).unwrap();
    Some(shared)
}

#[test]
fn a_loop_of_another_machine_is_judged_by_its_rows_and_its_files_stay_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    let Some(shared) = with_a_loop_elsewhere(&path) else { return };
    let sql = "
        INSERT INTO tests(id, loop_id, status, attempts, last_attempt_at)
          VALUES ('t1', 'one', 'in_progress', 1, datetime('now', '-90 minutes'));
        INSERT INTO worktree_changes(loop_id, file_path, first_seen_at, last_changed_at, fingerprint)
          VALUES ('one', 'a.rs', datetime('now', '-80 minutes'), datetime('now', '-80 minutes'), 'base:x');
        INSERT INTO runs(id, loop_id, test_id, attempt, kind, name, log, started_at, progress)
          VALUES ('r1', 'one', 't1', 1, 'agent', 'claude', 'r1.log', datetime('now', '-90 minutes'), 'editing a.rs');";
    shared.db.execute_foreign(sql).unwrap();
    let pass = |expected: &str| {
        let _ = run(Command::new(MONITOR).arg("--db").arg(&path).arg("--once"));
        assert_eq!(printed(&shared.db, "SELECT file_path FROM worktree_changes"), "a.rs");
        assert_eq!(printed(&shared.db, "SELECT fingerprint FROM alerts WHERE closed_at IS NULL"), expected);
    };
    pass("");
    // What is reported stays the same for long.
    shared.db.execute_foreign("UPDATE agent_outputs SET news_at = datetime('now', '-40 minutes')").unwrap();
    pass("stuck:one:t1");
    shared.db.execute_foreign("UPDATE runs SET progress = 'running cargo test'").unwrap();
    pass("");
}

#[test]
fn what_a_loop_of_another_machine_reports_of_its_workspace_is_judged_while_it_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coordination.db");
    let Some(shared) = with_a_loop_elsewhere(&path) else { return };
    let sql = "
        INSERT INTO tests(id, loop_id, status, attempts, scope, last_attempt_at)
          VALUES ('t1', 'one', 'in_progress', 1, '[\"src\"]', datetime('now', '-10 minutes'));
        INSERT INTO file_locks(file_path, locked_by, locked_at, fencing_token)
          VALUES ('b.rs', 'one', datetime('now', '-5 minutes'), 7);";
    shared.db.execute_foreign(sql).unwrap();
    for file in ["a.rs", "b.rs", "c.rs"] {
        let row = format!(
            "INSERT INTO worktree_changes(loop_id, file_path, first_seen_at, last_changed_at, fingerprint)
             VALUES ('one', '{file}', datetime('now', '-5 minutes'), datetime('now', '-5 minutes'), 'base:x')"
        );
        shared.db.execute_foreign(&row).unwrap();
    }
    let pass = || {
        let _ = run(Command::new(MONITOR).arg("--db").arg(&path).arg("--once"));
        printed(&shared.db, "SELECT context FROM alerts WHERE closed_at IS NULL AND fingerprint = 'digression:one:t1'")
    };
    // A file that is leased and reported counts once.
    assert!(pass().contains("\"files_outside\":3"), "{}", pass());
    // Between two attempts, reports are of the last one.
    shared.db.execute_foreign("UPDATE loops SET current_test_id = NULL").unwrap();
    shared.db.execute_foreign("UPDATE tests SET status = 'skipped'").unwrap();
    assert_eq!(pass(), "");
}
