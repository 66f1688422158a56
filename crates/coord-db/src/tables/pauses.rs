//! The pauses that stand on a loop. Only who asked for one, or the human, lifts it.

use crate::payload::{LoopPaused, LoopResumed};
use crate::{ActorId, EventId, LoopId, LoopStatus, NewEvent, Payload, ReadTx, Result, Timestamp, WriteTx};

row! {
    /// One standing pause.
    Pause { loop_id: LoopId, requested_by: String, reason: String, event_id: Option<EventId>, since: Timestamp }
}

impl ReadTx<'_> {
    /// The pauses of one loop or all, by loop, oldest first.
    pub fn pauses(&self, loop_id: Option<&LoopId>) -> Result<Vec<Pause>> {
        self.query(
            select!(Pause, "FROM pauses WHERE loop_id = ?1 OR ?1 IS NULL ORDER BY loop_id, since, requested_by"),
            [loop_id],
            Pause::from_row,
        )
    }

    /// True if no pause of a loop stands or waits for it, and its row says so: there is nothing to settle.
    pub fn is_unpaused(&self, loop_id: &LoopId) -> Result<bool> {
        Ok(self.pauses(Some(loop_id))?.is_empty()
            && self.loop_row(loop_id)?.status != LoopStatus::Paused
            && self.pending_deliveries(loop_id.as_str(), 1)?.is_empty())
    }

    /// True if the asker has lifted a standing pause already and the loop has yet to take notice.
    pub fn pause_is_lifted(&self, pause: &Pause) -> Result<bool> {
        let asked: Option<i64> = match &pause.event_id {
            Some(event) => self.query_opt("SELECT rowid FROM events WHERE id = ?1", [event], |row| row.get(0))?,
            None => None,
        };
        // Commit order decides if the request is known; a row of another client has only its time.
        self.value(
            "SELECT EXISTS (SELECT 1 FROM events WHERE event_type = 'resume_requested'
                            AND json_extract(payload, '$.requested_by') = ?1 AND json_extract(payload, '$.loop_id') = ?2
                            AND (rowid > ?3 OR (?3 IS NULL AND timestamp >= ?4)))",
            params![pause.requested_by, pause.loop_id, asked, pause.since],
        )
    }
}

impl WriteTx<'_> {
    /// Takes the pause and resume requests that wait for a loop, and gives the pauses that stand afterwards.
    /// The loop itself calls this, or, for a loop that has no process, the tool that drives it.
    pub fn settle_pauses(&self, loop_id: &LoopId) -> Result<Vec<Pause>> {
        for delivery in self.pending_deliveries(loop_id.as_str(), usize::MAX)? {
            match delivery.event.parse() {
                Ok(Payload::PauseRequested(request)) => {
                    if request.loop_id == *loop_id {
                        self.add_pause(loop_id, &request.requested_by, &request.reason, Some(&delivery.event.id))?;
                    }
                }
                Ok(Payload::ResumeRequested(request)) => {
                    if request.loop_id == *loop_id {
                        self.lift_pauses(loop_id, &request.requested_by)?;
                    }
                }
                _ => continue,
            }
            self.acknowledge(loop_id.as_str(), [&delivery.event.id])?;
        }
        self.pauses(Some(loop_id))
    }

    /// A pause begins to stand; a second one by the same asker only renews its reason.
    pub fn add_pause(&self, loop_id: &LoopId, by: &ActorId, reason: &str, event: Option<&EventId>) -> Result<()> {
        self.execute(
            "INSERT INTO pauses (loop_id, requested_by, reason, event_id, since) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (loop_id, requested_by) DO UPDATE SET reason = excluded.reason, event_id = excluded.event_id",
            params![loop_id, by, reason, event, self.now()],
        )?;
        Ok(())
    }

    /// Lifts the asker's own pause; the human lifts all of them.
    pub fn lift_pauses(&self, loop_id: &LoopId, by: &ActorId) -> Result<()> {
        self.execute("DELETE FROM pauses WHERE loop_id = ?1 AND (requested_by = ?2 OR ?2 = 'human')", params![loop_id, by])?;
        Ok(())
    }

    /// Brings a loop's row in line with its pauses and says what changed. True if it is paused now.
    pub fn apply_pauses(&self, loop_id: &LoopId, pauses: &[Pause]) -> Result<bool> {
        let status = self.loop_row(loop_id)?.status;
        let cause = |pause: &Pause| pause.event_id.clone();
        if let Some(pause) = pauses.first() {
            if status != LoopStatus::Paused {
                self.set_loop_status(loop_id, LoopStatus::Paused)?;
                let payload = LoopPaused {
                    loop_id: loop_id.clone(),
                    reason: pause.reason.clone(),
                    caused_by: pause.event_id.as_ref().map(ToString::to_string),
                };
                self.publish(&NewEvent::new(ActorId::from(loop_id), payload).caused_by_id(cause(pause)))?;
            }
        } else if status == LoopStatus::Paused {
            self.set_loop_status(loop_id, LoopStatus::Running)?;
            let last: Option<EventId> = self.query_opt(
                "SELECT id FROM events WHERE event_type = 'resume_requested' AND json_extract(payload, '$.loop_id') = ?1
                 ORDER BY rowid DESC LIMIT 1",
                [loop_id],
                |row| row.get(0),
            )?;
            let payload = LoopResumed {
                loop_id: loop_id.clone(),
                reason: "no pause stands any more".to_owned(),
                caused_by: last.as_ref().map(ToString::to_string),
            };
            self.publish(&NewEvent::new(ActorId::from(loop_id), payload).caused_by_id(last))?;
        }
        Ok(!pauses.is_empty())
    }
}
