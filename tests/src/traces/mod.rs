//! Traces: what loops did over time, and what a careful human calls it. Each is fed through a real database file and the
//! supervisors' real judgement, on a virtual clock; what they tell is held against what they should have told.
//!
//! A trace is a file in `tests/traces/`; [`script`] says how it is written. A supervisor joins by [`run::Watched`].

pub mod report;
pub mod run;
pub mod script;
pub mod world;

use std::path::PathBuf;

use serde::Deserialize;

pub use report::Report;
pub use run::{Outcome, Told};

/// One trace.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// Its file's name.
    #[serde(skip)]
    pub name: String,
    /// What a careful human says of it.
    pub human: String,
    /// Settings, as in `config.toml`; the defaults for the rest.
    #[serde(default)]
    pub settings: String,
    /// Who looks, by id.
    #[serde(default = "all")]
    pub supervisors: Vec<String>,
    /// What happens: see [`script`].
    pub script: String,
    /// Detectors that are known to be wrong here, each once. They count against precision all the same.
    #[serde(default)]
    pub known_false_alarms: Vec<String>,
    /// What must be told. None: all is well.
    #[serde(default)]
    pub expect: Vec<Expected>,
}

fn all() -> Vec<String> {
    vec!["monitor".to_owned()]
}

/// Something that must be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// What tells it: a name as `run::detector` gives.
    pub detector: String,
    /// Of what: the alert's fingerprint after its kind, or its beginning; the victim of a deadlock.
    pub of: String,
    /// When the cause was there.
    pub cause: String,
    /// When it must have been told at the latest.
    pub by: String,
    /// When it must be over at the latest, if it ends.
    pub over: Option<String>,
}

/// The folder of the traces.
#[must_use]
pub fn folder() -> PathBuf {
    crate::project().join("tests/traces")
}

/// All traces, by name.
///
/// # Errors
/// Which file cannot be read, and why.
pub fn catalogue() -> Result<Vec<Trace>, String> {
    let folder = folder();
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let traces = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")).map(|path| {
        let error = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|failed| error(&failed))?;
        let mut trace: Trace = toml::from_str(&text).map_err(|failed| error(&failed))?;
        trace.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(trace)
    });
    traces.collect()
}
