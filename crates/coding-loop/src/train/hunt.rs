//! Finds the landed work with which a queued one fails, if it was judged alone before that had landed: a search over the
//! commits that landed in between.

use coord_db::{LoopId, TestId};
use git::CommitHash;

use super::Train;
use super::build::{Built, Put, Work};
use super::judge::Job;
use crate::Result;
use crate::end::error_of;

/// A search. The work passes on the first commit and fails on the last.
#[derive(Debug)]
pub(super) struct Hunt {
    pub(super) work: Work,
    /// The check that failed, with its reason and the end of its output.
    pub(super) failed: (String, String, String),
    pub(super) batch: Option<String>,
    commits: Vec<CommitHash>,
    /// It passes on the commit at `passes` and fails on the one at `fails`.
    passes: usize,
    fails: usize,
}

impl Hunt {
    /// Reports the result on the commit in the middle; none if it is not known there.
    pub(super) fn judged(&mut self, has_passed: Option<bool>) {
        match has_passed {
            Some(true) => self.passes = self.middle(),
            Some(false) => self.fails = self.middle(),
            // The search cannot go on; everything in between is named.
            None => self.commits.truncate(0),
        }
    }

    fn middle(&self) -> usize {
        self.passes.midpoint(self.fails)
    }

    /// True if the commit with which it fails is known, or cannot be.
    pub(super) fn is_over(&self) -> bool {
        self.commits.is_empty() || self.fails - self.passes <= 1
    }
}

impl Train<'_> {
    /// Begins a search for a work that fails on a head.
    pub(super) fn hunt(
        &self,
        work: Work,
        head: &CommitHash,
        failed: (String, String, String),
        batch: Option<String>,
    ) -> Result<Hunt> {
        let own = CommitHash::new(&work.landing.head)?;
        let between = self.context.history().commits_between(&own, head)?;
        let commits: Vec<CommitHash> = std::iter::once(own).chain(between.into_iter().map(|commit| commit.hash)).collect();
        let fails = commits.len() - 1;
        Ok(Hunt { work, failed, batch, commits, passes: 0, fails })
    }

    /// The next state of a search; none if the work cannot be put on the commit.
    pub(super) fn next_of_hunt(&self, built: &mut Built, hunt: &Hunt) -> Result<Option<Job>> {
        let Some(base) = hunt.commits.get(hunt.middle()).cloned() else { return Ok(None) };
        Ok(match built.put(&self.context, &hunt.work, &base).map_err(error_of)? {
            Put::Commit(commit) => Some(Job { base, commit, works: vec![hunt.work.clone()] }),
            Put::Conflict(_) | Put::Nothing => None,
        })
    }

    /// The landed works with which it fails: one if the search has found it, otherwise those that landed in between.
    pub(super) fn found(&self, hunt: &Hunt) -> Result<Vec<(TestId, LoopId)>> {
        let name = |commit: &git::CommitInfo| {
            let (test, of) = (commit.trailer("Test")?, commit.trailer("Loop")?);
            Some((test.parse().ok()?, of.parse().ok()?))
        };
        let (from, to) = match hunt.commits.as_slice() {
            [] => (CommitHash::new(&hunt.work.landing.head)?, self.context.integration_head()?),
            commits => (commits[hunt.passes].clone(), commits[hunt.fails].clone()),
        };
        let commits = self.context.history().commits_between(&from, &to)?;
        Ok(commits.iter().rev().filter_map(name).collect())
    }
}
