//! What a human asks of the loops. A loop with a process takes the request itself; for one without, it is applied at once.

use crate::payload::{PauseRequested, ResumeRequested};
use crate::process::ProcessIdentity;
use crate::{
    ActorId, Error, EventId, Loop, LoopId, LoopStatus, NewEvent, ReadTx, Result, Test, TestId, TestStatus, UnlockCause, WriteTx,
};

/// A loop of which something was asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Steered {
    /// The loop.
    pub loop_id: LoopId,
    /// The request.
    pub event_id: EventId,
    /// What the loop's row says now.
    pub status: LoopStatus,
    /// True if a process of its own takes the request.
    #[serde(skip)]
    pub driven: bool,
    /// The test that it has given back.
    #[serde(skip)]
    pub gave_back: Option<TestId>,
}

impl ReadTx<'_> {
    /// True if a process of its own drives the loop, so that requests to it are taken. A loop without a pid, or whose process
    /// is proven gone, has nobody but its tool.
    pub fn is_driven(&self, row: &Loop) -> Result<bool> {
        Ok(row.pid.is_some() && self.running_process(row.id.as_str(), &ProcessIdentity::own())?.is_some())
    }
}

impl WriteTx<'_> {
    /// Requests a loop to save its work and pause.
    pub fn request_pause(&self, row: &Loop, reason: Option<&str>, actor: &ActorId) -> Result<Steered> {
        let reason = reason.map_or_else(|| format!("asked by {actor}"), str::to_owned);
        let payload = PauseRequested { loop_id: row.id.clone(), reason, requested_by: actor.clone() };
        let event_id = self.publish(&NewEvent::new(actor.clone(), payload))?;
        let driven = self.is_driven(row)?;
        if !driven {
            self.settle_by_hand(&row.id)?;
        }
        let now = self.loop_row(&row.id)?;
        let gave_back = row.current_test_id.clone().filter(|_| !driven && now.current_test_id.is_none());
        Ok(Steered { loop_id: row.id.clone(), event_id, status: now.status, driven, gave_back })
    }

    /// Requests a loop to continue after a pause.
    ///
    /// # Errors
    /// [`Error::Refused`] if a pause stands that is not the actor's to lift.
    pub fn request_resume(&self, row: &Loop, reason: Option<&str>, actor: &ActorId) -> Result<Steered> {
        let others: Vec<String> = self.pauses(Some(&row.id))?.into_iter().map(|pause| pause.requested_by).collect();
        if actor.as_str() != "human" && !others.is_empty() && !others.iter().any(|by| by == actor.as_str()) {
            return Err(Error::Refused(format!(
                "loop {} is paused by {}; only they or the human can resume it",
                row.id,
                others.join(", ")
            )));
        }
        let reason = reason.map_or_else(|| format!("asked by {actor}"), str::to_owned);
        let payload = ResumeRequested { loop_id: row.id.clone(), reason, requested_by: actor.clone() };
        let event_id = self.publish(&NewEvent::new(actor.clone(), payload))?;
        let driven = self.is_driven(row)?;
        if !driven {
            self.settle_by_hand(&row.id)?;
        }
        Ok(Steered { loop_id: row.id.clone(), event_id, status: self.loop_row(&row.id)?.status, driven, gave_back: None })
    }

    /// Takes the requests that wait for a loop without a process. If it is paused then, its current test is given back and
    /// what it held or waited for is free. True if it is paused.
    pub fn settle_by_hand(&self, loop_id: &LoopId) -> Result<bool> {
        let pauses = self.settle_pauses(loop_id)?;
        let paused = self.apply_pauses(loop_id, &pauses)?;
        if let Some(pause) = pauses.first() {
            let reason = format!("paused by {}: {}", pause.requested_by, pause.reason);
            for test in self.tests(Some(loop_id), Some(TestStatus::InProgress))? {
                self.give_back(&test.id, loop_id, &reason)?;
            }
            let cause = match &pause.event_id {
                Some(event) => self.event(event.as_str())?,
                None => None,
            };
            self.release_everything(loop_id.as_str(), &ActorId::from(loop_id), UnlockCause::Released, cause.as_ref())?;
        }
        Ok(paused)
    }

    /// Gives back what a loop leased for one test.
    pub fn release_for(&self, loop_id: &LoopId, test: &TestId) -> Result<()> {
        for lease in self.leases_of(loop_id.as_str())?.iter().filter(|lease| lease.test_id.as_ref() == Some(test)) {
            self.end_lease(lease, &ActorId::from(loop_id), UnlockCause::Released, None)?;
        }
        Ok(())
    }

    /// Leaves a test out; a loop without a process that works on it stops. The test, as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Refused`] for a test that has passed or is skipped already.
    pub fn skip_and_release(&self, test: &TestId, reason: Option<&str>) -> Result<Test> {
        let before = self.test(test)?;
        let owner = self.loop_row(&before.loop_id)?;
        self.skip_test(test, reason)?;
        if before.status == TestStatus::InProgress && !self.is_driven(&owner)? {
            self.release_for(&before.loop_id, test)?;
        }
        self.test(test)
    }
}
