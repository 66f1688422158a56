//! The branch of the user's that integration follows, and what came of bringing it in.

use std::path::PathBuf;

use coord_db::{Config, DecisionId, TestId};
use git::{CommitHash, Repository};

use crate::{Error, Result};

/// What came of `loopctl sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Nothing is new.
    UpToDate {
        /// The branch that is followed.
        branch: String,
        /// Where it is.
        theirs: CommitHash,
    },
    /// No loop has worked yet: the first one starts from what is checked out then.
    NotStarted {
        /// The branch that is followed.
        branch: String,
    },
    /// The commits are on integration.
    Landed {
        /// The branch that is followed.
        branch: String,
        /// Where it is.
        theirs: CommitHash,
        /// Where integration is.
        commit: CommitHash,
        /// How many commits were brought in.
        commits: usize,
    },
    /// The human is asked; nothing has changed.
    Asked {
        /// The question.
        decision: DecisionId,
        /// What it asks.
        summary: String,
    },
    /// A test that merges the commits is on a loop's queue.
    Queued {
        /// The test.
        test: TestId,
    },
    /// The human has answered that nothing is to be done about these commits for now.
    Left,
}

/// The user's branch that integration follows: as configured, else the one that is checked out.
///
/// # Errors
/// [`Error::SetUp`] if it is not there, or is a branch of the loops' own.
pub fn followed_branch(config: &Config, user: &Repository) -> Result<String> {
    let remedy = "set follow in [repository] of config.toml to the branch that your own commits are on";
    let named = Some(config.repository.follow.clone()).filter(|name| !name.is_empty());
    let branch = match named {
        Some(named) => named,
        None => {
            let head = user.symbolic_target("HEAD")?;
            let name = head.and_then(|head| head.strip_prefix("refs/heads/").map(str::to_owned));
            name.ok_or_else(|| Error::SetUp(format!("no branch is checked out, so none is followed; {remedy}")))?
        }
    };
    if branch == config.repository.integration_branch || branch.starts_with("coding-loops/") {
        return Err(Error::SetUp(format!("{branch} is a branch of the loops and cannot be followed; {remedy}")));
    }
    if !user.is_branch_name(&branch) || user.resolve(&format!("refs/heads/{branch}"))?.is_none() {
        return Err(Error::SetUp(format!("the branch {branch} to follow does not exist; {remedy}")));
    }
    Ok(branch)
}

/// Files by name, for people.
pub(crate) fn named(files: &[PathBuf], most: usize) -> String {
    let shown = files.iter().take(most).map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
