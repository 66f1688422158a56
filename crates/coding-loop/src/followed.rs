//! The user's branch that integration follows, and the result of bringing in its commits.

use std::path::PathBuf;

use coord_db::{Config, DecisionId, TestId};
use git::{CommitHash, Repository};

use crate::{Error, Result};

/// The result of `loopctl sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyncOutcome {
    /// There are no new commits.
    UpToDate {
        /// The followed branch.
        branch: String,
        /// Its head.
        theirs: CommitHash,
    },
    /// No loop has worked yet; the first one starts from what is checked out then.
    NotStarted {
        /// The followed branch.
        branch: String,
    },
    /// The commits are on integration.
    Landed {
        /// The followed branch.
        branch: String,
        /// Its head.
        theirs: CommitHash,
        /// The head of integration.
        commit: CommitHash,
        /// Number of commits brought in.
        commits: usize,
    },
    /// The human was asked; nothing has changed.
    Asked {
        /// Id of the question.
        decision: DecisionId,
        /// The text of the question.
        summary: String,
    },
    /// A test that merges the commits is on a loop's queue.
    Queued {
        /// The test.
        test: TestId,
    },
    /// The human has decided to leave these commits for now.
    Left,
}

/// The user's branch that integration follows: the configured one, else the one that is checked out.
///
/// # Errors
/// [`Error::SetUp`] if it does not exist, or is a branch of the loops.
pub fn followed_branch(config: &Config, user: &Repository) -> Result<String> {
    let remedy = "set follow in [repository] of config.toml to the branch with your own commits";
    let named = Some(config.repository.follow.clone()).filter(|name| !name.is_empty());
    let branch = match named {
        Some(named) => named,
        None => {
            let head = user.symbolic_target("HEAD")?;
            let name = head.and_then(|head| head.strip_prefix("refs/heads/").map(str::to_owned));
            name.ok_or_else(|| Error::SetUp(format!("no branch is checked out that could be followed; {remedy}")))?
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

/// Lists files in a sentence.
pub(crate) fn named(files: &[PathBuf], most: usize) -> String {
    let shown = files.iter().take(most).map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(most) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
