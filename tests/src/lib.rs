//! Shared harness of the whole-system tests: where things are, and waiting for a fact with a bound.

pub mod docs;
pub mod installation;
pub mod namespace;
pub mod processes;
pub mod repositories;
pub mod simulation;
pub mod systemd;
pub mod traces;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Asks again and again until there is an answer.
///
/// # Panics
/// If there is none within the bound.
pub fn wait_for<T>(what: &str, bound: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {bound:?} in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
