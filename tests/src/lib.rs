//! Shared harness of the whole-system tests: where things are, a repository with all programs, services, the simulation.

pub mod docs;
pub mod installation;
pub mod machines;
pub mod namespace;
pub mod night;
pub mod processes;
pub mod repositories;
pub mod simulation;
pub mod systemd;
pub mod traces;
pub mod web;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs of the supervisors, in the order in which they start.
#[must_use]
pub fn supervisors() -> [&'static str; 5] {
    coord_db::SUPERVISORS.map(|each| each.program)
}

/// The root of this project.
#[must_use]
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// The folder of the binaries of this build: beside the folder of the test's own executable.
#[must_use]
pub fn binaries() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map(Path::to_owned).unwrap_or_default()
}

/// What the `sqlite3` shell prints for a query; nothing if it fails (no database yet, locked).
#[must_use]
pub fn query(database: &Path, sql: &str) -> Option<String> {
    let output = Command::new("sqlite3").arg("-readonly").arg(database).arg(sql).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
