//! Runs of agents and checks.

use std::path::{Path, PathBuf};

use coord_db::{Run, RunOf};
use serde::Serialize;

/// A run as JSON has it in every command.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct RunView {
    #[serde(flatten)]
    pub run: Run,
    /// The file of its log.
    pub path: PathBuf,
}

impl RunView {
    /// A run of the database at a path.
    pub fn of(database: &Path, run: Run) -> Self {
        Self { path: path_of(database, &run), run }
    }
}

/// The file of the log of a run, below the folder of its database.
#[must_use]
pub fn path_of(database: &Path, run: &Run) -> PathBuf {
    // The name comes from the database: it must not lead elsewhere.
    let file = PathBuf::from(&run.log).file_name().map(PathBuf::from).unwrap_or_default();
    let home = database.parent().unwrap_or_else(|| Path::new("."));
    home.join("logs").join(run.loop_id.as_str()).join(file)
}

/// What runs, or ran, in words: `agent claude`, `check tests`.
pub fn what(run: &Run) -> String {
    match run.kind {
        RunOf::Agent => format!("agent {}", run.name),
        RunOf::Check => format!("check {}", run.name),
    }
}
