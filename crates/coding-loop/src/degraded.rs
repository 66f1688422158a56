//! What a loop does by itself while a supervisor is lost: it degrades, and never stops.
//!
//! Without monitor it rests a little between two tests, for nobody would see it run wild. Without pm it makes way at a
//! conflict: of two loops that have changed one file the one that pm would not prefer pauses itself, until the other's
//! test has ended, or pm is back and has settled it. Both end by themselves.

use std::time::Duration;

use coord_db::payload::{FileConflict, LoopResumed};
use coord_db::{ActorId, Event, Loop, LoopStatus, NewEvent, Payload, ReadTx, TestStatus, Timestamp, WriteTx};

use crate::Result;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Order, Waiter};

/// Between two tests while monitor is not there to watch.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(2);

/// A conflict that pm has not taken, between this loop and another that is at work on what it was at then.
struct Contest {
    said: FileConflict,
    other: Loop,
}

impl Contest {
    /// True if this loop is the one to make way: as pm has it, but for the progress, which changes from look to look. One
    /// that nobody could tell to pause never makes way.
    fn yields(&self, own: &Loop) -> bool {
        let time = |row: &Loop| if row.id == self.said.loop_a { self.said.time_a } else { self.said.time_b };
        let rank = |row: &Loop| (row.priority, time(row), row.id.clone());
        self.other.pid.is_none() || rank(own) > rank(&self.other)
    }
}

impl Context<'_> {
    pub(crate) fn has(&self, tx: &ReadTx<'_>, supervisor: &str) -> coord_db::Result<bool> {
        let heartbeat = &self.config.heartbeat;
        tx.is_responsive(supervisor, heartbeat.degraded_seconds, heartbeat.dead_seconds)
    }

    /// Rests between two tests while monitor is lost.
    pub(crate) async fn rest_if_unwatched(&self, waiter: &mut Waiter) {
        if self.db.read(|tx| self.has(tx, "monitor")).unwrap_or(false) {
            return;
        }
        tracing::info!(seconds = UNWATCHED_PAUSE.as_secs(), "resting before the next test, as monitor is not there");
        waiter.rest(self, None, UNWATCHED_PAUSE).await;
    }

    /// The conflict that an event speaks of, if it stands and nobody but this loop is there to settle it.
    fn contest(&self, tx: &ReadTx<'_>, event: &Event) -> coord_db::Result<Option<Contest>> {
        let Ok(Payload::FileConflict(said)) = event.parse() else { return Ok(None) };
        let other = if said.loop_a == self.loop_id { &said.loop_b } else { &said.loop_a };
        if *other == self.loop_id || !tx.has_delivery("pm", &event.id)? {
            return Ok(None);
        }
        let resumed = tx.newest_event_for_loop("resume_requested", "human", self.loop_id.as_str(), event.timestamp)?;
        let Some(other) = tx.find_loop(other.as_str())?.filter(|row| row.status == LoopStatus::Running) else {
            return Ok(None);
        };
        // A test that was begun later is another matter.
        let at_it = tx
            .tests(None, Some(TestStatus::InProgress))?
            .into_iter()
            .any(|test| test.loop_id == other.id && test.last_attempt_at.is_none_or(|begun| begun <= event.timestamp));
        Ok((at_it && resumed.is_none()).then_some(Contest { said, other }))
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

    /// Pauses the loop itself at a conflict while pm is lost.
    pub(crate) fn yield_without_pm(&self, attempt: &Attempt) -> Result<Option<Interrupt>> {
        let Some(begun) = attempt.test.last_attempt_at.filter(|_| self.managed) else { return Ok(None) };
        if self.db.read(|tx| self.conflict_to_yield_at(tx, begun))?.is_none() {
            return Ok(None);
        }
        // Two loops must not make way for each other: once more, with the write lock held.
        let reason = self.db.write(|tx| {
            let Some((event, contest)) = self.conflict_to_yield_at(tx, begun)? else { return Ok(None) };
            let reason = format!(
                "{} and {} have both changed {} and pm is not there to settle it; {} waits until the test of {} has ended, or pm is back",
                self.loop_id, contest.other.id, contest.said.file_path, self.loop_id, contest.other.id
            );
            tx.add_pause(&self.loop_id, &ActorId::from(&self.loop_id), &reason, Some(&event.id))?;
            Ok::<_, coord_db::Error>(Some(reason))
        })?;
        Ok(reason.map(|reason| {
            tracing::warn!(reason, "pausing itself");
            Interrupt::plain(Order::Pause, &reason)
        }))
    }

    /// Lifts the loop's own pause once its conflict is over or pm has taken it.
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
        let why = if settled { "pm is back" } else { "nobody else is at work on it any more" };
        let reason = format!("{why}, so {} goes on ({})", self.loop_id, pause.reason);
        tracing::info!(reason, "lifting its own pause");
        if tx.loop_row(&self.loop_id)?.status == LoopStatus::Paused && tx.pauses(Some(&self.loop_id))?.is_empty() {
            tx.set_loop_status(&self.loop_id, LoopStatus::Running)?;
            let caused_by = event.as_ref().map(|event| event.id.to_string());
            let said = LoopResumed { loop_id: self.loop_id.clone(), reason, caused_by };
            tx.publish(&NewEvent::new(by, said).caused_by_opt(event.as_ref()))?;
        }
        Ok(())
    }
}
