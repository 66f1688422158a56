//! What the loop is told while it works, and giving an attempt up without losing anything.

use std::time::{Duration, Instant};

use coord_db::payload::RollbackDone;
use coord_db::{ActorId, Event, NewEvent, Payload, TestStatus, UnlockCause};
use tokio::sync::watch;
use work_tree::CommitHash;

use crate::Result;
use crate::context::{Attempt, Context};
use crate::wakes::Wakes;

/// How long a victim of a deadlock holds back before it takes its test up again, so that the survivor goes first.
const VICTIM_PAUSE_SECONDS: i64 = 2;

/// What an attempt is given up for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Order {
    Pause,
    ForceRelease,
    Rollback {
        checkpoint: Option<String>,
    },
    Restart,
    /// Somebody has taken the test out of its hands.
    TestGone,
    /// Somebody has taken its leases.
    LeasesLost,
    /// The process is told to end.
    Stop,
}

#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    pub(crate) order: Order,
    pub(crate) reason: String,
    /// What is acknowledged together with obeying.
    delivery: Option<i64>,
    event: Option<Box<Event>>,
}

impl Interrupt {
    fn plain(order: Order, reason: &str) -> Self {
        Self { order, reason: reason.to_owned(), delivery: None, event: None }
    }

    pub(crate) fn stop() -> Self {
        Self::plain(Order::Stop, "the loop was told to stop")
    }
}

/// Waits for something to happen, and beats meanwhile.
pub(crate) struct Waiter {
    pub(crate) wakes: Wakes,
    pub(crate) stop: watch::Receiver<bool>,
    next_beat: Instant,
    every: Duration,
}

impl Waiter {
    pub(crate) fn new(context: &Context<'_>, stop: watch::Receiver<bool>) -> Self {
        let path = context.db.path().map(std::path::Path::to_owned).unwrap_or_default();
        Self {
            wakes: Wakes::new(&path),
            stop,
            next_beat: Instant::now(),
            every: Duration::from_secs(context.config.heartbeat.beat_seconds),
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Beats if it is time.
    pub(crate) fn beat(&mut self, context: &Context<'_>, attempt: Option<&Attempt>) {
        if Instant::now() >= self.next_beat {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            match context.beat(attempt) {
                Ok(()) => self.next_beat = Instant::now() + self.every,
                Err(error) => {
                    tracing::warn!(%error, "cannot beat; trying again");
                    self.next_beat = Instant::now() + Duration::from_millis(500);
                }
            }
        }
    }

    /// Returns when others have committed, when told to stop, or after `most`.
    pub(crate) async fn wait(&mut self, context: &Context<'_>, most: Duration) {
        let most = most.min(self.next_beat.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        if self.stopping() {
            return;
        }
        tokio::select! {
            () = self.wakes.changed(context.db, most) => {}
            _ = self.stop.changed() => {}
        }
    }
}

impl Context<'_> {
    /// Takes what the loop has been told since it looked last. Requests for others, and what needs no doing, are
    /// acknowledged; what interrupts the work is acknowledged when it is obeyed.
    pub(crate) fn orders(&self, attempt: Option<&Attempt>) -> Result<Option<Interrupt>> {
        if let Some(interrupt) = self.told()? {
            return Ok(Some(interrupt));
        }
        let Some(attempt) = attempt else { return Ok(None) };
        let test = self.db.read(|tx| tx.find_test(attempt.test.id.as_str()))?;
        if !test.is_some_and(|test| test.status == TestStatus::InProgress && test.loop_id == self.loop_id) {
            return Ok(Some(Interrupt::plain(Order::TestGone, "the test was taken from the loop")));
        }
        if !self.leases_stand(attempt)? {
            return Ok(Some(Interrupt::plain(Order::LeasesLost, "the loop's leases were taken from it")));
        }
        Ok(None)
    }

    fn told(&self) -> Result<Option<Interrupt>> {
        let deliveries = self.db.read(|tx| tx.pending_deliveries(self.loop_id.as_str(), 100))?;
        if deliveries.is_empty() {
            return Ok(None);
        }
        let mut interrupt = None;
        let (mut done, mut misfits, mut pausing) = (Vec::new(), Vec::new(), false);
        for delivery in deliveries {
            let payload = match delivery.event.parse() {
                Ok(payload) => payload,
                Err(error) => {
                    misfits.push((delivery.seq, error.to_string()));
                    continue;
                }
            };
            let order = match payload {
                Payload::PauseRequested(_) | Payload::ResumeRequested(_) => {
                    pausing = true;
                    continue;
                }
                Payload::ForceRelease(request) if request.loop_id == self.loop_id => {
                    Some((Order::ForceRelease, request.reason))
                }
                Payload::RestartRequested(request) if request.loop_id == self.loop_id => Some((Order::Restart, request.reason)),
                Payload::RollbackTriggered(request) if request.loop_id == self.loop_id => {
                    Some((Order::Rollback { checkpoint: request.checkpoint_id }, request.reason))
                }
                _ => None,
            };
            match order {
                Some((order, reason)) if interrupt.is_none() => {
                    interrupt =
                        Some(Interrupt { order, reason, delivery: Some(delivery.seq), event: Some(Box::new(delivery.event)) });
                }
                // One at a time: the next one stays and is taken after this one is obeyed.
                Some(_) => {}
                None => done.push(delivery.seq),
            }
        }
        self.db.write_quietly(|tx| {
            tx.acknowledge(done)?;
            for (seq, why) in misfits {
                tracing::warn!(seq, why, "setting a delivery aside");
                tx.set_aside(seq, &why)?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        if interrupt.is_none() && pausing {
            let pauses = self.db.write(|tx| tx.settle_pauses(&self.loop_id))?;
            if let Some(pause) = pauses.first() {
                interrupt = Some(Interrupt::plain(Order::Pause, &pause.reason));
            }
        }
        Ok(interrupt)
    }

    /// Ends an attempt for a reason that is not the agent's: the work is saved, leases and test are given back, what was
    /// asked is acknowledged, and the worktree goes back to where the attempt began. The agent is gone already.
    pub(crate) fn give_up(&self, attempt: &Attempt, interrupt: &Interrupt) -> Result<()> {
        let test = &attempt.test.id;
        tracing::info!(%test, reason = %interrupt.reason, "giving the attempt back");
        let saved = self.save_work(&attempt.worktree, Some(test), &attempt.base, &interrupt.reason)?;
        self.db.write(|tx| {
            if let Some(saved) = &saved {
                tx.add_checkpoint(saved)?;
            }
            tx.release_everything(
                self.loop_id.as_str(),
                &ActorId::from(&self.loop_id),
                UnlockCause::Released,
                interrupt.event.as_deref(),
            )?;
            let row = tx.find_test(test.as_str())?;
            if row.is_some_and(|row| row.status == TestStatus::InProgress && row.loop_id == self.loop_id) {
                tx.give_back(test, &self.loop_id, &interrupt.reason)?;
                if interrupt.order == Order::ForceRelease {
                    tx.delay_test(test, tx.now().plus_seconds(VICTIM_PAUSE_SECONDS))?;
                }
            }
            Ok::<_, coord_db::Error>(())
        })?;
        attempt.worktree.restore_branch_to(&attempt.branch, &attempt.base)?;
        self.obey(interrupt, Some(attempt))
    }

    /// What is left to do of an order once nothing is in hand any more.
    pub(crate) fn obey(&self, interrupt: &Interrupt, attempt: Option<&Attempt>) -> Result<()> {
        let mut done = None;
        if let Order::Rollback { checkpoint } = &interrupt.order {
            let (git_ref, commit) = self.rollback_target(checkpoint.as_deref(), attempt)?;
            let worktree = self.worktree()?;
            let base = self.integration_head()?;
            if let Some(saved) = self.save_work(&worktree, None, &base, "before a rollback")? {
                self.db.write(|tx| tx.add_checkpoint(&saved))?;
            }
            worktree.restore_branch_to(&self.branch()?, &commit)?;
            done = Some(RollbackDone { loop_id: self.loop_id.clone(), checkpoint_id: checkpoint.clone(), git_ref });
        }
        self.db.write(|tx| {
            if attempt.is_none() && interrupt.order == Order::ForceRelease {
                let by = ActorId::from(&self.loop_id);
                tx.release_everything(self.loop_id.as_str(), &by, UnlockCause::Released, interrupt.event.as_deref())?;
            }
            if let Some(done) = done {
                let event = NewEvent::new(ActorId::from(&self.loop_id), done);
                tx.publish(&event.caused_by_opt(interrupt.event.as_deref()))?;
            }
            tx.acknowledge(interrupt.delivery)?;
            let pauses = tx.pauses(&self.loop_id)?;
            tx.apply_pauses(&self.loop_id, &pauses)?;
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(())
    }

    fn rollback_target(&self, checkpoint: Option<&str>, attempt: Option<&Attempt>) -> Result<(String, CommitHash)> {
        if let Some(id) = checkpoint {
            let row = self.db.read(|tx| tx.checkpoint(id))?;
            let commit = self.repository.commit(&row.git_ref)?;
            return Ok((row.git_ref, commit));
        }
        Ok(match attempt {
            Some(attempt) => (attempt.checkpoint_ref.clone(), attempt.base.clone()),
            None => (self.integration_ref(), self.integration_head()?),
        })
    }
}
