//! The files of each loop's workspace that differ from its start, as last seen by monitor.

use std::collections::{HashMap, HashSet};

use crate::{LoopId, ReadTx, Result, Timestamp, WriteTx};

row! {
    /// One changed file. `fingerprint` stands for its content, so that a further change is seen.
    WorktreeChange {
        loop_id: LoopId, file_path: String, first_seen_at: Timestamp, last_changed_at: Timestamp, fingerprint: String,
    }
}

impl ReadTx<'_> {
    /// All changed files, by loop and path.
    pub fn worktree_changes(&self) -> Result<Vec<WorktreeChange>> {
        self.query(select!(WorktreeChange, "FROM worktree_changes ORDER BY loop_id, file_path"), [], WorktreeChange::from_row)
    }

    /// The loops whose workspaces differed when they were seen last.
    pub fn loops_with_worktree_changes(&self) -> Result<Vec<LoopId>> {
        self.query("SELECT DISTINCT loop_id FROM worktree_changes ORDER BY loop_id", [], |row| row.get(0))
    }
}

impl WriteTx<'_> {
    /// Makes these the rows of a loop's workspace. Only what differs is written. True if anything did.
    pub fn replace_worktree_changes(&self, loop_id: &LoopId, rows: &[WorktreeChange]) -> Result<bool> {
        let known = self.query(
            select!(WorktreeChange, "FROM worktree_changes WHERE loop_id = ?1"),
            [loop_id],
            WorktreeChange::from_row,
        )?;
        let known: HashMap<&str, &WorktreeChange> = known.iter().map(|row| (row.file_path.as_str(), row)).collect();
        let kept: HashSet<&str> = rows.iter().map(|row| row.file_path.as_str()).collect();
        let mut changed = false;
        for row in rows.iter().filter(|row| known.get(row.file_path.as_str()).is_none_or(|known| *known != *row)) {
            changed = true;
            self.execute(
                "INSERT INTO worktree_changes (loop_id, file_path, first_seen_at, last_changed_at, fingerprint)
                 VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (loop_id, file_path) DO UPDATE SET first_seen_at = excluded.first_seen_at,
                   last_changed_at = excluded.last_changed_at, fingerprint = excluded.fingerprint",
                params![loop_id, row.file_path, row.first_seen_at, row.last_changed_at, row.fingerprint],
            )?;
        }
        for path in known.keys().filter(|path| !kept.contains(*path)) {
            changed = true;
            self.execute("DELETE FROM worktree_changes WHERE loop_id = ?1 AND file_path = ?2", params![loop_id, path])?;
        }
        Ok(changed)
    }
}
