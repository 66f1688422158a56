//! Orders that arrive while the loop works, and ending an attempt without losing work.

use std::pin::Pin;
use std::time::{Duration, Instant};

use coord_db::payload::RollbackDone;
use coord_db::process::ProcessIdentity;
use coord_db::{ActorId, ComponentId, Event, LoopId, NewEvent, Payload, TestId, TestStatus, WriteTx};
use crash_point::{Point, reach};
use git::CommitHash;
use process_host::{BackOff, Reload, Stop, Wakes, exit, service, stop_requested};
use tokio::sync::watch;

use crate::context::{Attempt, Context};
use crate::{Error, Result};

/// Minimum delay before the victim of a deadlock starts its test again, so that the other loop runs first.
const VICTIM_PAUSE_MILLIS: i64 = 2_000;

/// The delay plus up to two seconds derived from the loop's id, so that two victims do not return at the same time.
fn victim_pause_millis(loop_id: &LoopId) -> i64 {
    let mix = loop_id.as_str().bytes().fold(17_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 2_000);
    VICTIM_PAUSE_MILLIS + mix
}

/// The reason for ending an attempt early.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Order {
    Pause,
    ForceRelease,
    Rollback {
        checkpoint: Option<String>,
    },
    Restart,
    /// The test was taken from the loop.
    TestGone,
    /// The leases were revoked.
    LeasesLost,
    /// The process has to stop.
    Stop,
}

#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    pub(crate) order: Order,
    pub(crate) reason: String,
    /// The event that is acknowledged when the order is obeyed.
    event: Option<Box<Event>>,
}

impl Interrupt {
    pub(crate) fn plain(order: Order, reason: &str) -> Self {
        Self { order, reason: reason.to_owned(), event: None }
    }

    pub(crate) fn stop() -> Self {
        Self::plain(Order::Stop, "the loop was requested to stop")
    }
}

/// Ends the process, as a kill would, after an error that takes its knowledge or its work away: another process runs the loop, or
/// nobody knows whether something was committed. The keeper ends the agent, and the next start reads everything again.
pub(crate) fn end_if_lost(error: &Error) {
    if let Error::Db(error @ (coord_db::Error::Replaced { .. } | coord_db::Error::CommitUnknown { .. })) = error {
        exit::end_with(env!("CARGO_PKG_NAME"), error);
    }
}

/// Waits for commits, signals and the end of runs, and sends heartbeats meanwhile.
pub(crate) struct Waiter {
    pub(crate) wakes: Wakes,
    pub(crate) stop: Stop,
    pub(crate) reload: Option<Reload>,
    next_beat: Instant,
    every: Duration,
}

impl Waiter {
    pub(crate) fn new(context: &Context<'_>, stop: Stop) -> Self {
        let path = context.db.path().map(std::path::Path::to_owned).unwrap_or_default();
        Self {
            wakes: Wakes::new(&path),
            stop,
            reload: None,
            next_beat: Instant::now(),
            every: service::beat_interval(context.config.heartbeat.beat_seconds),
        }
    }

    /// Applies a changed heartbeat interval, starting now.
    pub(crate) fn configure(&mut self, context: &Context<'_>) {
        self.next_beat = Instant::now();
        self.every = service::beat_interval(context.config.heartbeat.beat_seconds);
    }

    pub(crate) fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// To be called before reading the database. The landing train of this process does not watch the database itself; it
    /// is woken here by commits of other processes.
    pub(crate) fn looked(&mut self, context: &Context<'_>) {
        if self.wakes.looked(context.db) {
            context.news.queued.notify_one();
        }
    }

    /// Sends a heartbeat if one is due.
    pub(crate) fn beat(&mut self, context: &Context<'_>, attempt: Option<&Attempt>) {
        if Instant::now() >= self.next_beat {
            service::alive();
            match context.beat(attempt) {
                Ok(()) => self.next_beat = Instant::now() + self.every,
                Err(error) => {
                    // Whether a heartbeat was committed does not matter.
                    if matches!(error, Error::Db(coord_db::Error::Replaced { .. })) {
                        end_if_lost(&error);
                    }
                    tracing::warn!(%error, "cannot send a heartbeat; trying again");
                    self.next_beat = Instant::now() + Duration::from_millis(500);
                }
            }
        }
    }

    /// Returns when another connection has committed, when a stop is requested, or after `most`.
    pub(crate) async fn wait(&mut self, context: &Context<'_>, most: Duration) {
        let most = most.min(self.next_beat.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        if self.stopping() {
            return;
        }
        tokio::select! {
            _ = self.wakes.changed(context.db, most) => {}
            () = stop_requested(&mut self.stop) => {}
            () = reload_wanted(self.reload.as_mut()) => {}
            () = context.news.of(&context.loop_id).notified() => {}
        }
    }

    /// Sends heartbeats while something is done beside the loop. None if a stop was requested meanwhile; it is cut off then.
    pub(crate) async fn during<T>(&mut self, context: &Context<'_>, running: impl Future<Output = T>) -> Option<T> {
        let mut running = std::pin::pin!(running);
        while !self.stopping() {
            self.beat(context, None);
            let beat = self.next_beat.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            tokio::select! {
                ended = &mut running => return Some(ended),
                () = tokio::time::sleep(beat) => {}
                () = stop_requested(&mut self.stop) => {}
            }
        }
        None
    }

    /// Does something, again and again while the database cannot be used, until a stop is requested.
    pub(crate) async fn until_usable<T>(
        &mut self,
        context: &Context<'_>,
        attempt: Option<&Attempt>,
        mut act: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut back_off = BackOff::default();
        loop {
            match act() {
                Err(error) if error.is_outage() && !self.stopping() => {
                    self.rest(context, attempt, back_off.after(&error)).await;
                }
                done => return done,
            }
        }
    }

    /// Sleeps; only a requested stop ends it early.
    pub(crate) async fn rest(&mut self, context: &Context<'_>, attempt: Option<&Attempt>, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.stopping() {
            self.beat(context, attempt);
            let beat = self.next_beat.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            tokio::select! {
                () = tokio::time::sleep(end.saturating_duration_since(Instant::now()).min(beat)) => {}
                () = stop_requested(&mut self.stop) => {}
            }
        }
    }
}

/// Returns once a reload of the settings is requested; never without a listener. A running attempt keeps its settings.
async fn reload_wanted(reload: Option<&mut Reload>) {
    let Some(reload) = reload else { return std::future::pending().await };
    reload.wanted().await;
    tracing::info!("the settings have changed; reloading them before the next attempt");
}

impl Context<'_> {
    /// Waits until a run has ended, and sends heartbeats meanwhile. Stops the run if `enough` returns true or the loop
    /// is interrupted; the interrupt is returned too.
    pub(crate) async fn attend<T>(
        &self,
        mut running: Pin<&mut impl Future<Output = T>>,
        cancel: &watch::Sender<bool>,
        attempt: Option<&Attempt>,
        waiter: &mut Waiter,
        mut enough: impl FnMut() -> Result<bool>,
    ) -> Result<(T, Option<Interrupt>)> {
        loop {
            waiter.beat(self, attempt);
            waiter.looked(self);
            match self.pending_interrupt(attempt, waiter).and_then(|interrupt| Ok((interrupt, enough()?))) {
                Ok((Some(interrupt), _)) => {
                    cancel.send_replace(true);
                    return Ok((running.await, Some(interrupt)));
                }
                Ok((None, true)) => drop(cancel.send_replace(true)),
                Ok((None, false)) => {}
                // What runs needs no database.
                Err(error) if error.is_outage() => tracing::warn!(%error, "cannot use the database; what runs goes on"),
                Err(error) => return Err(error),
            }
            tokio::select! {
                ended = &mut running => return Ok((ended, None)),
                () = waiter.wait(self, Duration::from_secs(5)) => {}
            }
        }
    }

    /// Reads the new events for the loop. Events without effect are acknowledged at once; an event that interrupts the
    /// work is acknowledged when it is obeyed.
    pub(crate) fn orders(&self, attempt: Option<&Attempt>) -> Result<Option<Interrupt>> {
        if let Some(interrupt) = self.new_order()? {
            return Ok(Some(interrupt));
        }
        let Some(attempt) = attempt else { return Ok(None) };
        let test = self.db.read(|tx| tx.find_test(attempt.test.id.as_str()))?;
        if !test.is_some_and(|test| test.status == TestStatus::InProgress && test.loop_id == self.loop_id) {
            return Ok(Some(Interrupt::plain(Order::TestGone, "the test was taken from the loop")));
        }
        if !self.leases_stand(attempt)? {
            return Ok(Some(Interrupt::plain(Order::LeasesLost, "the leases of the loop were revoked")));
        }
        self.yield_without_pm(attempt)
    }

    fn new_order(&self) -> Result<Option<Interrupt>> {
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
                    misfits.push((delivery.event.id, error.to_string()));
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
                    interrupt = Some(Interrupt { order, reason, event: Some(Box::new(delivery.event)) });
                }
                // One at a time: the next order stays unread until this one is obeyed.
                Some(_) => {}
                None => done.push(delivery.event.id),
            }
        }
        if !(done.is_empty() && misfits.is_empty()) {
            self.db.write_quietly(|tx| {
                tx.acknowledge(self.loop_id.as_str(), &done)?;
                for (event, why) in &misfits {
                    tracing::warn!(%event, why, "delivery set aside");
                    tx.set_aside(self.loop_id.as_str(), event, why)?;
                }
                Ok::<_, coord_db::Error>(())
            })?;
        }
        if interrupt.is_none() && pausing {
            interrupt = self.asked_to_pause()?;
        }
        Ok(interrupt)
    }

    /// Combines the pending pause and resume requests. They are settled here only if no work has to be stopped for
    /// them; otherwise together with the order.
    fn asked_to_pause(&self) -> Result<Option<Interrupt>> {
        enum Found {
            Pause(String),
            Db(coord_db::Error),
        }
        impl From<coord_db::Error> for Found {
            fn from(error: coord_db::Error) -> Self {
                Self::Db(error)
            }
        }
        let settled = self.db.write(|tx| match tx.settle_pauses(&self.loop_id)?.first() {
            Some(pause) => Err(Found::Pause(pause.reason.clone())),
            None => Ok(()),
        });
        match settled {
            Ok(()) => Ok(None),
            Err(Found::Pause(reason)) => Ok(Some(Interrupt::plain(Order::Pause, &reason))),
            Err(Found::Db(error)) => Err(error.into()),
        }
    }

    /// Obeys an order. If there is an attempt (its agent has ended already), the work is saved and the workspace goes
    /// back to the base of the attempt or to the named checkpoint, without blame on the agent. Then, in one
    /// transaction, the leases are released, the test is given back and the order is acknowledged. Returns the reason
    /// if the order can never be obeyed.
    pub(crate) fn obey(&self, interrupt: &Interrupt, attempt: Option<&Attempt>) -> Result<Option<String>> {
        let reason = &interrupt.reason;
        let rollback = match &interrupt.order {
            Order::Rollback { checkpoint } => Some(checkpoint),
            _ => None,
        };
        let (mut done, mut refused) = (None, None);
        let mut target = attempt.map(|attempt| attempt.base.clone());
        if let Some(checkpoint) = rollback {
            match self.rollback_target(checkpoint.as_deref(), attempt) {
                Ok((git_ref, commit)) => {
                    target = Some(commit);
                    let (loop_id, checkpoint_id) = (self.loop_id.clone(), checkpoint.clone());
                    done = Some(RollbackDone { loop_id, checkpoint_id, git_ref });
                }
                Err(error) if error.is_temporary() => return Err(error),
                // A retry would not help.
                Err(error) => refused = Some(error.to_string()),
            }
        }
        if let Some(target) = target {
            match attempt {
                Some(attempt) => {
                    tracing::info!(test = %attempt.test.id, reason, "giving the attempt back");
                    self.save_work(&attempt.workspace, Some(&attempt.test.id), Some(&target), reason)?;
                }
                None => self.save_work(&self.workspace()?, None, Some(&target), reason)?,
            }
        }
        reach(Point::OrderDone);
        self.db.write(|tx| {
            let current = attempt.map(|attempt| &attempt.test.id);
            if current.is_some() || interrupt.order == Order::ForceRelease {
                self.release_all(tx, current, attempt, interrupt.event.as_deref(), |test| self.give_back(tx, test, interrupt))?;
            }
            if let Some(done) = done {
                let event = NewEvent::new(ActorId::from(&self.loop_id), done);
                tx.publish(&event.caused_by_opt(interrupt.event.as_deref()))?;
            }
            if let (Some(why), Some(event)) = (&refused, &interrupt.event) {
                tracing::warn!(why, "order set aside, because it cannot be obeyed");
                tx.set_aside(self.loop_id.as_str(), &event.id, why)?;
            }
            tx.acknowledge(self.loop_id.as_str(), interrupt.event.iter().map(|event| &event.id))?;
            // The loop stops in status `running`; pause requests wait for the next start.
            if interrupt.order != Order::Stop {
                let pauses = tx.settle_pauses(&self.loop_id)?;
                tx.apply_pauses(&self.loop_id, &pauses)?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        reach(Point::OrderRecorded);
        Ok(refused)
    }

    /// Ends the loop's current work; the only place that does so. Records the usage of the attempt, releases every
    /// lease and wait, and lets `settle` update the test if it still belongs to the loop.
    pub(crate) fn release_all(
        &self,
        tx: &WriteTx<'_>,
        test: Option<&TestId>,
        attempt: Option<&Attempt>,
        cause: Option<&Event>,
        settle: impl FnOnce(&TestId) -> coord_db::Result<()>,
    ) -> coord_db::Result<()> {
        if let Some(attempt) = attempt {
            let seconds = i64::try_from(attempt.begun.elapsed().as_secs()).unwrap_or(i64::MAX);
            let begun = self.attempt_begun(attempt.test.last_attempt_at);
            tx.record_attempt_usage(&self.loop_id, &attempt.test.id, begun, seconds, &[])?;
        }
        if self.managed {
            tx.check_runs_as(&ComponentId::from(&self.loop_id), &ProcessIdentity::own())?;
        }
        tx.release_work(&self.loop_id, cause)?;
        let Some(test) = test else { return Ok(()) };
        let row = tx.find_test(test.as_str())?;
        if row.is_some_and(|row| row.status == TestStatus::InProgress && row.loop_id == self.loop_id) {
            return settle(test);
        }
        tracing::info!(%test, "the test was taken from the loop meanwhile; nothing is recorded");
        Ok(())
    }

    /// Since when the agent may have recorded its own usage. None for a loop that is driven by hand, whose records
    /// never overlap with those made here.
    pub(crate) fn attempt_begun(&self, claimed: Option<coord_db::Timestamp>) -> Option<coord_db::Timestamp> {
        claimed.filter(|_| self.managed)
    }

    /// Gives the test back. The victim of a deadlock delays it for a moment.
    fn give_back(&self, tx: &WriteTx<'_>, test: &TestId, interrupt: &Interrupt) -> coord_db::Result<()> {
        tx.give_back(test, &self.loop_id, &interrupt.reason)?;
        if matches!(interrupt.order, Order::ForceRelease | Order::LeasesLost) {
            tx.delay_test(test, tx.now().plus_millis(victim_pause_millis(&self.loop_id)))?;
        }
        Ok(())
    }

    fn rollback_target(&self, checkpoint: Option<&str>, attempt: Option<&Attempt>) -> Result<(String, CommitHash)> {
        if let Some(id) = checkpoint {
            let row = self.db.read(|tx| tx.rollback_checkpoint(id, &self.loop_id))?;
            let commit = self.history().commit(&row.git_ref)?;
            return Ok((row.git_ref, commit));
        }
        Ok(match attempt {
            Some(attempt) => {
                let commit = self.history().resolve(&attempt.checkpoint_ref)?.unwrap_or_else(|| attempt.base.clone());
                (attempt.checkpoint_ref.clone(), commit)
            }
            None => (self.store.integration_ref().to_owned(), self.integration_head()?),
        })
    }
}
