//! The work that an attempt lands.

use std::path::PathBuf;

use std::collections::BTreeMap;

use coord_db::ModelUse;
use git::{Change, CommitHash, Finding};

/// The work that is landing.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) change: Change,
    /// Findings that prevent landing or require approval.
    pub(crate) findings: Vec<Finding>,
    /// The files that it changed when it was claimed done; those that need approval are approved.
    pub(crate) files: Vec<PathBuf>,
    /// The head of integration to which it was applied.
    pub(crate) head: CommitHash,
    /// The resulting commit; none if nothing differs.
    pub(crate) commit: Option<CommitHash>,
    /// The results of the checks.
    pub(crate) checks: Vec<(String, bool)>,
}

impl Work {
    pub(crate) fn new(change: Change, findings: Vec<Finding>, head: CommitHash) -> Self {
        let files = change.paths.clone();
        Self { change, findings, files, head, commit: None, checks: Vec::new() }
    }

    /// The commit that integration would move to.
    pub(crate) fn judged(&self) -> &CommitHash {
        self.commit.as_ref().unwrap_or(&self.head)
    }
}

/// A session in which the agent can be continued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    /// Its id.
    pub(crate) id: String,
    /// What it had used before, by model, where it states sums of the whole session.
    pub(crate) used: BTreeMap<String, ModelUse>,
    /// The files that others have changed since its last run.
    pub(crate) landed: Vec<String>,
}
