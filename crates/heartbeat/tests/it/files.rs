//! What a supervisor does with files that are no database of ours.

use std::process::Command;
use test_support::bad_files;

#[test]
fn a_file_that_cannot_be_used_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for case in bad_files::cases(folder.path()) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeat"));
        let output = command.arg("--db").arg(&case.database).arg("--once").env("RUST_LOG", "warn").output().unwrap();
        case.check(&output);
    }
}

/// Locked, it holds still and says why, and goes on by itself.
#[test]
fn a_locked_database_is_waited_for_and_told() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("coordination.db");
    drop(coord_db::Database::create(&database, &coord_db::OpenOptions::default()).unwrap());
    std::fs::write(folder.path().join("config.toml"), "[database]\nbusy_deadline_seconds = 1\n").unwrap();
    let mut shell = Command::new("sqlite3").arg(&database).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = shell.stdin.take().unwrap();
    writeln!(input, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; UPDATE counters SET value = value; SELECT 'held';")
        .unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map(Result::unwrap).any(|line| line == "held"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeat"));
    command.arg("--db").arg(&database).arg("--once").env("RUST_LOG", "warn").stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.by_ref().map(Result::unwrap).any(|line| line.contains("locked")));
    writeln!(input, "ROLLBACK;").unwrap();
    drop(input);
    shell.wait().unwrap();
    assert!(child.wait().unwrap().success());
}
