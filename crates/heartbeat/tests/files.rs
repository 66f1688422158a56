//! What a supervisor does with files that are no database of ours.

#[path = "../../supervisor/tests/common/bad_files.rs"]
mod bad_files;

use std::process::Command;

#[test]
fn a_file_that_cannot_be_used_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for case in bad_files::cases(folder.path()) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heartbeat"));
        let output = command.arg("--db").arg(&case.database).arg("--once").env("RUST_LOG", "warn").output().unwrap();
        case.check(&output);
    }
}
