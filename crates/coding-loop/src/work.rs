//! What an attempt lands, and whose turn it is.

use std::path::PathBuf;

use coord_db::LeasePath;
use git::{Change, CommitHash, Finding};

use crate::Result;

/// The right to move the integration branch, as a lease.
pub(crate) const INTEGRATION: &str = "git:integration";

/// What is being landed.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) change: Change,
    /// Why some of it may not land, or not without a human.
    pub(crate) findings: Vec<Finding>,
    /// The files that it changed when it was claimed done; what needs approval among them is approved.
    pub(crate) files: Vec<PathBuf>,
    /// The head of integration that it was put on.
    pub(crate) head: CommitHash,
    /// The one commit that it is there; none if nothing differs.
    pub(crate) commit: Option<CommitHash>,
    /// What the checks said of it there.
    pub(crate) checks: Vec<(String, bool)>,
}

impl Work {
    pub(crate) fn new(change: Change, findings: Vec<Finding>, head: CommitHash) -> Self {
        let files = change.paths.clone();
        Self { change, findings, files, head, commit: None, checks: Vec::new() }
    }

    /// What integration would be.
    pub(crate) fn judged(&self) -> &CommitHash {
        self.commit.as_ref().unwrap_or(&self.head)
    }
}

/// The lease of the head of integration.
pub(crate) fn integration_lease() -> Result<LeasePath> {
    Ok(INTEGRATION.parse()?)
}
