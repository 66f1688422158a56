//! Files that two loops have both changed, and which loop goes first.

use crate::{Event, EventId, LoopId, ReadTx, Result, TestId, Timestamp, WriteTx, new_id};

row! {
    /// One conflict. `loop_a` is the smaller id.
    Conflict {
        id: String, file_path: String, loop_a: LoopId, loop_b: LoopId, detected_at: Timestamp, event_id: Option<EventId>,
        winner: Option<LoopId>, loser: Option<LoopId>, winner_test: Option<TestId>, resolved_at: Option<Timestamp>,
        resolution: Option<String>,
    }
}

impl ReadTx<'_> {
    /// Conflicts, open ones only or all, oldest first.
    pub fn conflicts(&self, open_only: bool) -> Result<Vec<Conflict>> {
        self.query(
            select!(Conflict, "FROM conflicts WHERE ?1 = 0 OR resolved_at IS NULL ORDER BY detected_at, id"),
            [open_only],
            Conflict::from_row,
        )
    }

    /// Events about conflicts of this loop since `since` that pm has not handled yet, oldest first.
    pub fn conflicts_pending_for_pm(&self, loop_id: &LoopId, since: Timestamp) -> Result<Vec<Event>> {
        let mut said = self.query(
            select!(
                Event,
                "FROM events WHERE event_type = 'file_conflict' AND timestamp >= ?2
                   AND ?1 IN (json_extract(payload, '$.loop_a'), json_extract(payload, '$.loop_b')) ORDER BY rowid"
            ),
            params![loop_id, since],
            Event::from_row,
        )?;
        let mut failed = Ok(());
        said.retain(|event| {
            self.has_delivery("pm", &event.id).unwrap_or_else(|error| {
                failed = Err(error);
                false
            })
        });
        failed.map(|()| said)
    }
}

impl WriteTx<'_> {
    /// Records a conflict. None if one is open for the same file and loops.
    pub fn add_conflict(&self, file: &str, one: &LoopId, other: &LoopId, event: &EventId) -> Result<Option<String>> {
        let (a, b) = if one <= other { (one, other) } else { (other, one) };
        let id = new_id();
        let added = self.execute(
            "INSERT INTO conflicts (id, file_path, loop_a, loop_b, detected_at, event_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
            params![id, file, a, b, self.now(), event],
        )?;
        Ok((added > 0).then_some(id))
    }

    /// Records which loop goes first.
    pub fn settle_conflict(&self, id: &str, winner: &LoopId, loser: &LoopId, winner_test: Option<&TestId>) -> Result<()> {
        self.execute(
            "UPDATE conflicts SET winner = ?2, loser = ?3, winner_test = ?4 WHERE id = ?1",
            params![id, winner, loser, winner_test],
        )?;
        Ok(())
    }

    /// Closes a conflict.
    pub fn resolve_conflict(&self, id: &str, resolution: &str) -> Result<()> {
        self.execute(
            "UPDATE conflicts SET resolved_at = ?2, resolution = ?3 WHERE id = ?1 AND resolved_at IS NULL",
            params![id, self.now(), resolution],
        )?;
        Ok(())
    }
}
