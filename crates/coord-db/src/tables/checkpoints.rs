//! Checkpoints: git refs to go back to, and refs under which work was saved.

use crate::{CheckpointType, Error, LoopId, ReadTx, Result, TestId, Timestamp, WriteTx, new_id};

row! {
    /// A checkpoint.
    Checkpoint {
        id: String, loop_id: LoopId, test_id: Option<TestId>, git_ref: String, checkpoint_type: CheckpointType,
        created_at: Timestamp, deleted_at: Option<Timestamp>, commit_hash: Option<String>, reason: Option<String>,
    }
}

/// A checkpoint to be written down.
#[derive(Debug, Clone)]
pub struct NewCheckpoint {
    /// Whose.
    pub loop_id: LoopId,
    /// For which test.
    pub test_id: Option<TestId>,
    /// The ref in the repository.
    pub git_ref: String,
    /// `branch` for a state to go back to, `stash` for saved work.
    pub checkpoint_type: CheckpointType,
    /// What the ref names.
    pub commit_hash: String,
    /// Why it was made.
    pub reason: String,
}

impl ReadTx<'_> {
    /// Checkpoints of one loop or all, newest first; with `include_deleted` also those whose ref is deleted.
    pub fn checkpoints(&self, loop_id: Option<&LoopId>, include_deleted: bool) -> Result<Vec<Checkpoint>> {
        self.query(
            select!(
                Checkpoint,
                "FROM checkpoints WHERE (deleted_at IS NULL OR ?2) AND (loop_id = ?1 OR ?1 IS NULL)
                 ORDER BY created_at DESC, id DESC"
            ),
            params![loop_id, include_deleted],
            Checkpoint::from_row,
        )
    }

    /// Refs of a loop, and of loops of this host that nobody drives, that are of no use any more: made before a moment, for a test
    /// that has passed since. Oldest first.
    pub fn expired_checkpoints(&self, loop_id: &LoopId, before: Timestamp, limit: usize) -> Result<Vec<Checkpoint>> {
        self.query(
            select!(
                Checkpoint,
                "FROM checkpoints WHERE deleted_at IS NULL AND created_at < ?2 AND git_ref LIKE 'refs/coding-loops/%'
                   AND (loop_id = ?1 OR NOT EXISTS (SELECT 1 FROM loops AS l WHERE l.id = checkpoints.loop_id AND l.pid IS NOT NULL)
                     AND NOT EXISTS (SELECT 1 FROM component_health AS c WHERE c.component = checkpoints.loop_id AND c.host <> ?4))
                   AND EXISTS (SELECT 1 FROM tests AS t WHERE t.id = checkpoints.test_id AND t.status = 'passed')
                 ORDER BY created_at, id LIMIT ?3"
            ),
            params![loop_id, before, limit as i64, crate::process::host()],
            Checkpoint::from_row,
        )
    }

    /// One checkpoint.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn checkpoint(&self, id: &str) -> Result<Checkpoint> {
        self.query_opt(select!(Checkpoint, "FROM checkpoints WHERE id = ?1"), [id], Checkpoint::from_row)?
            .ok_or_else(|| Error::not_found("checkpoint", id))
    }

    /// The checkpoint of a loop that names a ref, deleted or not.
    pub fn checkpoint_of_ref(&self, loop_id: &LoopId, git_ref: &str) -> Result<Option<Checkpoint>> {
        self.query_opt(
            select!(Checkpoint, "FROM checkpoints WHERE loop_id = ?1 AND git_ref = ?2"),
            params![loop_id, git_ref],
            Checkpoint::from_row,
        )
    }

    /// A checkpoint that a loop can go back to.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] for another loop's; [`Error::IllegalMove`] for a deleted one.
    pub fn rollback_checkpoint(&self, id: &str, loop_id: &LoopId) -> Result<Checkpoint> {
        let row = self.checkpoint(id)?;
        if row.loop_id != *loop_id {
            return Err(Error::Refused(format!("checkpoint {id} belongs to loop {}; name one of {loop_id}", row.loop_id)));
        }
        if row.deleted_at.is_some() {
            let hint = "be restored; omit --checkpoint to use the newest one";
            return Err(Error::illegal("checkpoint", id, "deleted", hint));
        }
        Ok(row)
    }
}

impl WriteTx<'_> {
    /// Writes down a checkpoint. Gives its id.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop or test; [`Error::Invalid`] without a ref.
    pub fn add_checkpoint(&self, new: &NewCheckpoint) -> Result<String> {
        self.loop_row(&new.loop_id)?;
        if let Some(test) = &new.test_id {
            self.test(test)?;
        }
        if new.git_ref.is_empty() {
            return Err(Error::Invalid("a checkpoint needs a git ref".to_owned()));
        }
        let id = new_id();
        self.execute(
            "INSERT INTO checkpoints (id, loop_id, test_id, git_ref, checkpoint_type, created_at, commit_hash, reason)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![id, new.loop_id, new.test_id, new.git_ref, new.checkpoint_type, self.now(), new.commit_hash, new.reason],
        )?;
        Ok(id)
    }

    /// Its ref is deleted.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that is deleted already.
    pub fn delete_checkpoint(&self, id: &str) -> Result<()> {
        if self.checkpoint(id)?.deleted_at.is_some() {
            return Err(Error::illegal("checkpoint", id, "deleted", "be deleted again"));
        }
        self.execute("UPDATE checkpoints SET deleted_at = ?2 WHERE id = ?1", params![id, self.now()])?;
        Ok(())
    }
}
