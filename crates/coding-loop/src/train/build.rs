//! Puts queued works on one another as commits.

use std::collections::HashMap;
use std::path::PathBuf;

use coord_db::{Landing, NoChange, Test};
use git::{Change, CommitHash, PutOn};

use crate::Result;
use crate::context::Context;
use crate::end::Step;
use crate::sync_question::Merged;

/// A queued work.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) landing: Landing,
    pub(super) test: Test,
}

/// A work on a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Put {
    /// The resulting commit; the commit itself if nothing differs.
    Commit(CommitHash),
    /// These files do not merge.
    Conflict(Vec<PathBuf>),
    /// Nothing differs although the work has changes, and no check decides about its test alone.
    Nothing,
}

/// The works on commits that were made already.
#[derive(Debug, Default)]
pub(super) struct Built(HashMap<(CommitHash, String), Put>);

impl Built {
    /// A work on a commit.
    pub(super) fn put(&mut self, context: &Context<'_>, work: &Work, parent: &CommitHash) -> Step<Put> {
        let key = (parent.clone(), work.landing.id.clone());
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let put = context.put_work(work, parent)?;
        self.0.insert(key, put.clone());
        Ok(put)
    }
}

impl Context<'_> {
    fn put_work(&self, work: &Work, parent: &CommitHash) -> Step<Put> {
        let Work { landing, test } = work;
        let commit = CommitHash::new(&landing.commit_hash)?;
        if landing.head == parent.as_str() {
            return Ok(Put::Commit(commit));
        }
        let change = self.change_of(landing)?;
        let tree = match self.store.put_on(&change, parent)? {
            PutOn::Conflict(files) => return Ok(Put::Conflict(files)),
            PutOn::Tree(tree) => tree,
        };
        let theirs = landing.theirs.as_deref().map(CommitHash::new).transpose()?;
        let theirs = match theirs {
            Some(theirs) if !self.history().is_ancestor(&theirs, parent)? => Some(theirs),
            _ => None,
        };
        if let Some(theirs) = &theirs {
            let merged = Merged { branch: self.config.repository.follow.clone(), theirs: theirs.clone() };
            self.refuse_what_is_left_out(&merged, parent, &tree)?;
        } else if tree == self.history().tree_of(parent)? {
            let is_left = landing.files.0.is_empty() || test.no_change != NoChange::Ask || self.has_own_check(test, parent)?;
            return Ok(if is_left { Put::Commit(parent.clone()) } else { Put::Nothing });
        }
        Ok(Put::Commit(self.commit_for(test, &landing.proof, &tree, parent, theirs)?))
    }

    /// The change of a queued work.
    pub(crate) fn change_of(&self, landing: &Landing) -> Result<Change> {
        let (base, tree) = (CommitHash::new(&landing.base_tree)?, CommitHash::new(&landing.tree)?);
        Ok(self.store.change_between(&base, &tree)?)
    }
}
