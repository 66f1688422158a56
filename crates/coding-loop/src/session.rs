//! Continues the session of an agent whose run was interrupted: the work is put back into the workspace, so that the agent
//! finds what it remembers.

use coord_db::{CheckpointType, Run, Test, Timestamp};
use git::{CommitHash, PutOn, Workspace, shown};

use crate::Result;
use crate::agents::{Call, adapter};
use crate::context::Context;
use crate::work::Session;

impl Context<'_> {
    /// True if the loop's agent can be continued.
    pub(crate) fn can_continue(&self) -> bool {
        let agent = self.config.agent_of(&self.loop_id);
        adapter(agent.kind()).resume(&mut Call::of(&agent.command), "")
    }

    /// The session with this id.
    pub(crate) fn session(&self, id: &str) -> Result<Session> {
        let used = self.db.read(|tx| tx.session_used(&self.loop_id, id))?;
        Ok(Session { id: id.to_owned(), used, landed: Vec::new() })
    }

    /// The session of an earlier run of the same attempt, which was given back, with its work put into the workspace unless it
    /// `is_back`. None if there is none, or the work no longer fits what has landed meanwhile.
    pub(crate) fn interrupted_session(
        &self,
        test: &Test,
        workspace: &Workspace,
        base: &CommitHash,
        is_back: bool,
    ) -> Result<Option<Session>> {
        if !self.managed || !self.can_continue() {
            return Ok(None);
        }
        let run = self.db.read(|tx| tx.last_agent_run(&self.loop_id, &test.id, test.attempts))?;
        let Some(Run { session: Some(id), started_at, .. }) = run else { return Ok(None) };
        let mut session = self.session(&id)?;
        if let (false, Some(saved)) = (is_back, self.saved_work(test, started_at)?) {
            // The first parent of saved work is its base.
            let Some(from) = self.history().resolve(&format!("{saved}^"))? else { return Ok(None) };
            let change = self.store.change_between(&self.history().tree_of(&from)?, &self.history().tree_of(&saved)?)?;
            match self.store.put_on(&change, base)? {
                PutOn::Tree(tree) => workspace.put_back(&tree)?,
                PutOn::Conflict(_) => return Ok(None),
            }
            session.landed = self.history().changed_between(&from, base)?.iter().map(|file| shown(file)).collect();
        }
        Ok(Some(session))
    }

    /// The commit in which the newest work on a test was saved since a moment. It may have been lost together with a store.
    pub(crate) fn saved_work(&self, test: &Test, since: Timestamp) -> Result<Option<CommitHash>> {
        let rows = self.db.read(|tx| tx.checkpoints(Some(&self.loop_id), false))?;
        let is_its = rows.into_iter().filter(|row| {
            row.checkpoint_type == CheckpointType::Stash && row.test_id.as_ref() == Some(&test.id) && row.created_at >= since
        });
        match is_its.max_by_key(|row| row.created_at).and_then(|row| row.commit_hash) {
            Some(commit) => Ok(self.history().resolve(&commit)?),
            None => Ok(None),
        }
    }
}
