//! The files of each loop's workspace that differ from its start, as last seen by monitor, or as its loop reports them to the monitor
//! of another machine.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{LoopId, ReadTx, Result, Timestamp, WriteTx};

/// Maximum number of files kept for one workspace.
pub const MAX_CHANGED_FILES: usize = 2_000;
/// Number of characters of the start that are stored with the fingerprint of a file.
const START_CHARS: usize = 16;

row! {
    /// One changed file. `fingerprint` stands for its content, so that a further change is seen.
    WorktreeChange {
        loop_id: LoopId, file_path: String, first_seen_at: Timestamp, last_changed_at: Timestamp, fingerprint: String,
    }
}

/// A changed file as it was seen in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedFile {
    /// Relative to the repository.
    pub path: String,
    /// Identifies its content.
    pub fingerprint: String,
    /// Time of the last change according to the file system, if its clock is this database's.
    pub changed_at: Option<Timestamp>,
}

impl WorktreeChange {
    /// Merges the stored rows of a loop with the files that were seen in its workspace, compared with the tree `start`. A file that is
    /// new or has new content counts as changed. Another start changes files without an edit, so then only new files count.
    #[must_use]
    pub fn merge(loop_id: &LoopId, known: &[Self], start: &str, seen: &[ChangedFile], now: Timestamp) -> Vec<Self> {
        let known: BTreeMap<&str, &Self> = known.iter().map(|row| (row.file_path.as_str(), row)).collect();
        let start = start.get(..START_CHARS).unwrap_or(start);
        let start_of = |row: &Self| row.fingerprint.split(':').next().unwrap_or_default().to_owned();
        let mut rows: Vec<Self> = seen
            .iter()
            .take(MAX_CHANGED_FILES)
            .map(|file| {
                let changed_at = file.changed_at.map_or(now, |at| at.min(now));
                let fingerprint = format!("{start}:{}", file.fingerprint);
                match known.get(file.path.as_str()) {
                    Some(row) if row.fingerprint == fingerprint || start_of(row) != start => {
                        Self { fingerprint, ..(*row).clone() }
                    }
                    Some(row) => Self { fingerprint, last_changed_at: changed_at.max(row.last_changed_at), ..(*row).clone() },
                    None => Self {
                        loop_id: loop_id.clone(),
                        file_path: file.path.clone(),
                        first_seen_at: now,
                        last_changed_at: changed_at,
                        fingerprint,
                    },
                }
            })
            .collect();
        rows.sort_by(|one, other| one.file_path.cmp(&other.file_path));
        rows.dedup_by(|one, other| one.file_path == other.file_path);
        rows
    }
}

impl ReadTx<'_> {
    /// All changed files, by loop and path.
    pub fn worktree_changes(&self) -> Result<Vec<WorktreeChange>> {
        self.query(select!(WorktreeChange, "FROM worktree_changes ORDER BY loop_id, file_path"), [], WorktreeChange::from_row)
    }

    fn worktree_changes_of(&self, loop_id: &LoopId) -> Result<Vec<WorktreeChange>> {
        self.query(select!(WorktreeChange, "FROM worktree_changes WHERE loop_id = ?1"), [loop_id], WorktreeChange::from_row)
    }

    /// The loops whose workspaces differed when they were seen last.
    pub fn loops_with_worktree_changes(&self) -> Result<Vec<LoopId>> {
        self.query("SELECT DISTINCT loop_id FROM worktree_changes ORDER BY loop_id", [], |row| row.get(0))
    }
}

impl WriteTx<'_> {
    /// Makes these the rows of a loop's workspace. Only what differs is written. True if anything did.
    pub fn replace_worktree_changes(&self, loop_id: &LoopId, rows: &[WorktreeChange]) -> Result<bool> {
        let known = self.worktree_changes_of(loop_id)?;
        let known: HashMap<&str, &WorktreeChange> = known.iter().map(|row| (row.file_path.as_str(), row)).collect();
        let kept: HashSet<&str> = rows.iter().map(|row| row.file_path.as_str()).collect();
        let differs = |row: &&WorktreeChange| known.get(row.file_path.as_str()).is_none_or(|known| known != row);
        let text = |at: Timestamp| at.to_sql_text();
        let new: Vec<[String; 4]> = rows
            .iter()
            .filter(differs)
            .map(|row| [row.file_path.clone(), text(row.first_seen_at), text(row.last_changed_at), row.fingerprint.clone()])
            .collect();
        let gone: Vec<&str> = known.keys().filter(|path| !kept.contains(*path)).copied().collect();
        // One statement for all: on a server, each is a round trip under the lock that all writers share.
        if !new.is_empty() {
            self.execute(
                "INSERT INTO worktree_changes (loop_id, file_path, first_seen_at, last_changed_at, fingerprint)
                 SELECT ?1, json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
                   json_extract(value, '$[3]')
                 FROM json_each(?2) WHERE true
                 ON CONFLICT (loop_id, file_path) DO UPDATE SET first_seen_at = excluded.first_seen_at,
                   last_changed_at = excluded.last_changed_at, fingerprint = excluded.fingerprint",
                params![loop_id, super::json(&new)],
            )?;
        }
        if !gone.is_empty() {
            self.execute(
                "DELETE FROM worktree_changes WHERE loop_id = ?1 AND file_path IN (SELECT value FROM json_each(?2))",
                params![loop_id, super::json(&gone)],
            )?;
        }
        Ok(!new.is_empty() || !gone.is_empty())
    }

    /// Records the files that a loop sees in its own workspace, compared with the tree `start`. True if rows have changed.
    pub fn report_worktree_changes(&self, loop_id: &LoopId, start: &str, seen: &[ChangedFile]) -> Result<bool> {
        let known = self.worktree_changes_of(loop_id)?;
        self.replace_worktree_changes(loop_id, &WorktreeChange::merge(loop_id, &known, start, seen, self.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_start_is_no_change_and_a_new_content_is() {
        let (id, now) = ("a".parse().unwrap(), Timestamp::from_millis(1_800_000_000_000));
        let ago = |minutes: i64| now.plus_seconds(-60 * minutes);
        let seen =
            |content: &str, changed_at| [ChangedFile { path: "x".to_owned(), fingerprint: content.to_owned(), changed_at }];
        let mut known = WorktreeChange::merge(&id, &[], "one", &seen("1", Some(ago(1))), ago(1));
        known[0].last_changed_at = ago(60);
        let time = |start: &str, content: &str, at| {
            WorktreeChange::merge(&id, &known, start, &seen(content, at), now)[0].last_changed_at
        };
        assert_eq!(time("one", "1", Some(ago(1))), ago(60));
        assert_eq!(time("two", "7", Some(ago(1))), ago(60));
        assert_eq!(time("one", "2", Some(ago(1))), ago(1));
        assert_eq!(time("one", "2", None), now);
        assert_eq!(WorktreeChange::merge(&id, &known, "one", &[], now), []);
    }
}
