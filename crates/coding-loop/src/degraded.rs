//! How a loop works while a supervisor is not running: it degrades and never stops.
//!
//! Without monitor it pauses briefly between two tests, because nobody would notice a loop out of control. Without pm
//! it resolves conflicts itself: of two loops that have changed one file, the one that pm would not prefer pauses
//! itself until the other's test has ended, or pm is running and has settled the conflict. Both end without
//! intervention.

use std::time::Duration;

use coord_db::payload::{FileConflict, LoopResumed};
use coord_db::{ActorId, Event, Loop, LoopStatus, NewEvent, Payload, ReadTx, TestStatus, Timestamp, WriteTx};

use crate::Result;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Order, Waiter};

/// Pause between two tests while monitor is not running.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(2);

/// An unsettled conflict between this loop and another that still works on the same test as then.
struct Contest {
    conflict: FileConflict,
    other: Loop,
}

impl Contest {
    /// True if this loop has to yield, by the rules of pm except for progress, which changes constantly. A loop that
    /// could not receive a pause request never yields.
    fn yields(&self, own: &Loop) -> bool {
        let time = |row: &Loop| if row.id == self.conflict.loop_a { self.conflict.time_a } else { self.conflict.time_b };
        let rank = |row: &Loop| (row.priority, time(row), row.id.clone());
        self.other.pid.is_none() || rank(own) > rank(&self.other)
    }
}

impl Context<'_> {
    pub(crate) fn has(&self, tx: &ReadTx<'_>, supervisor: &str) -> coord_db::Result<bool> {
        let heartbeat = &self.config.heartbeat;
        tx.is_responsive(supervisor, heartbeat.degraded_seconds, heartbeat.dead_seconds)
    }

    /// Pauses between two tests while monitor is not running.
    pub(crate) async fn rest_if_unwatched(&self, waiter: &mut Waiter) {
        if self.db.read(|tx| self.has(tx, "monitor")).unwrap_or(false) {
            return;
        }
        tracing::info!(seconds = UNWATCHED_PAUSE.as_secs(), "pausing before the next test, because monitor is not running");
        waiter.rest(self, None, UNWATCHED_PAUSE).await;
    }

    /// The conflict reported by an event, if it still exists and only this loop can settle it.
    fn contest(&self, tx: &ReadTx<'_>, event: &Event) -> coord_db::Result<Option<Contest>> {
        let Ok(Payload::FileConflict(conflict)) = event.parse() else { return Ok(None) };
        let other = if conflict.loop_a == self.loop_id { &conflict.loop_b } else { &conflict.loop_a };
        if *other == self.loop_id || !tx.has_delivery("pm", &event.id)? {
            return Ok(None);
        }
        let resumed = tx.newest_event_for_loop("resume_requested", "human", self.loop_id.as_str(), event.timestamp)?;
        let Some(other) = tx.find_loop(other.as_str())?.filter(|row| row.status == LoopStatus::Running) else {
            return Ok(None);
        };
        // A later attempt is not part of this conflict.
        let at_it = tx
            .tests(None, Some(TestStatus::InProgress))?
            .into_iter()
            .any(|test| test.loop_id == other.id && test.last_attempt_at.is_none_or(|begun| begun <= event.timestamp));
        Ok((at_it && resumed.is_none()).then_some(Contest { conflict, other }))
    }

    fn conflict_to_yield_at(&self, tx: &ReadTx<'_>, begun: Timestamp) -> coord_db::Result<Option<(Event, Contest)>> {
        if self.has(tx, "pm")? {
            return Ok(None);
        }
        let own = tx.loop_row(&self.loop_id)?;
        for event in tx.conflicts_pending_for_pm(&self.loop_id, begun)? {
            if let Some(contest) = self.contest(tx, &event)?.filter(|contest| contest.yields(&own)) {
                return Ok(Some((event, contest)));
            }
        }
        Ok(None)
    }

    /// Lets the loop pause itself at a conflict while pm is not running.
    pub(crate) fn yield_without_pm(&self, attempt: &Attempt) -> Result<Option<Interrupt>> {
        let Some(begun) = attempt.test.last_attempt_at.filter(|_| self.managed) else { return Ok(None) };
        if self.db.read(|tx| self.conflict_to_yield_at(tx, begun))?.is_none() {
            return Ok(None);
        }
        // Checked again under the write lock, so that two loops do not yield to each other.
        let reason = self.db.write(|tx| {
            let Some((event, contest)) = self.conflict_to_yield_at(tx, begun)? else { return Ok(None) };
            let reason = format!(
                "{} and {} have both changed {}, and pm is not running; {} waits until the test of {} has ended or pm runs again",
                self.loop_id, contest.other.id, contest.conflict.file_path, self.loop_id, contest.other.id
            );
            tx.add_pause(&self.loop_id, &ActorId::from(&self.loop_id), &reason, Some(&event.id))?;
            Ok::<_, coord_db::Error>(Some(reason))
        })?;
        Ok(reason.map(|reason| {
            tracing::warn!(reason, "the loop pauses itself");
            Interrupt::plain(Order::Pause, &reason)
        }))
    }

    /// Ends the loop's own pause once its conflict has ended or pm has settled it.
    pub(crate) fn lift_own_pause(&self, tx: &WriteTx<'_>) -> coord_db::Result<()> {
        let own = self.loop_id.as_str();
        let Some(pause) = tx.pauses(Some(&self.loop_id))?.into_iter().find(|pause| pause.requested_by == own) else {
            return Ok(());
        };
        let event = match &pause.event_id {
            Some(event) => tx.event(event.as_str())?,
            None => None,
        };
        if let Some(event) = &event
            && self.contest(tx, event)?.is_some()
        {
            return Ok(());
        }
        let by = ActorId::from(&self.loop_id);
        tx.lift_pauses(&self.loop_id, &by)?;
        let settled = match &event {
            Some(event) => !tx.has_delivery("pm", &event.id)?,
            None => false,
        };
        let why = if settled { "pm is running again" } else { "the other loop no longer works on it" };
        let reason = format!("{why}; {} continues ({})", self.loop_id, pause.reason);
        tracing::info!(reason, "the loop ends its own pause");
        if tx.loop_row(&self.loop_id)?.status == LoopStatus::Paused && tx.pauses(Some(&self.loop_id))?.is_empty() {
            tx.set_loop_status(&self.loop_id, LoopStatus::Running)?;
            let caused_by = event.as_ref().map(|event| event.id.to_string());
            let resumed = LoopResumed { loop_id: self.loop_id.clone(), reason, caused_by };
            tx.publish(&NewEvent::new(by, resumed).caused_by_opt(event.as_ref()))?;
        }
        Ok(())
    }
}
