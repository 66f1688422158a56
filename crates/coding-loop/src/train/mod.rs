//! The landing train: finished works are put on one another and judged together, and integration moves to states that have
//! passed.
//!
//! Each process of a loop runs one beside its attempts. One of them at a time is the judge: it holds the lease on
//! integration. If it dies, another one continues with what is in the database. `plan.rs` decides what is judged and what
//! lands; `build.rs` makes the commits, `judge.rs` runs the checks, `hunt.rs` finds with what a work fails, `land.rs` moves
//! integration and gives works back, `halt.rs` rests while nothing can be judged.

mod build;
mod drive;
mod halt;
mod hunt;
mod judge;
mod land;
pub mod plan;
mod queue;

pub use queue::ranked;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coord_db::process::ProcessIdentity;
use coord_db::{AcquireRequest, ActorId, JournalEntry, JudgeRole, LeasePath, LoopId, UnlockCause};
use crash_point::{Point, reach};
use process_host::{BackOff, Stop, service, stop_requested};

use crate::context::Context;
use crate::operation::Operation;
use crate::{Error, Result};

/// Delay before the next try if works cannot be judged.
const RETRY: Duration = Duration::from_secs(10);

/// Interval at which a process that is not the judge looks at the queue, whatever it hears.
const LOOK: Duration = Duration::from_secs(60);

/// Interval at which works that have not arrived from another machine are looked for.
const LOOK_FOR_MISSED: Duration = Duration::from_secs(5);

/// The landing train of one process.
pub(crate) struct Train<'a> {
    /// The loop in whose name it judges.
    judge: &'a Context<'a>,
    /// The actor that holds the leases of queued work.
    context: Context<'a>,
    /// Its newest role as the judge.
    role: RefCell<Option<JudgeRole>>,
    /// Queued works of other machines that have not arrived yet, with the time at which they were first missed.
    missed: RefCell<BTreeMap<String, Instant>>,
}

impl<'a> Train<'a> {
    pub(crate) fn new(judge: &'a Context<'a>) -> Self {
        judge.news.is_at_work.set(true);
        Self { judge, context: judge.acting_as(LoopId::train()), role: RefCell::default(), missed: RefCell::default() }
    }

    /// Judges and lands queued work until a stop is requested.
    pub(crate) async fn run(&self, stop: Stop) {
        let mut pulse = Pulse { stop, next_beat: Instant::now() };
        let mut back_off = BackOff::default();
        while !pulse.is_stopping() {
            let turned = self.turn(&mut pulse).await;
            self.judge.news.note_looked();
            match turned {
                Ok(most) => {
                    back_off.recovered();
                    pulse.wait(&self.context, most).await;
                }
                Err(error) => {
                    let rest = if error.is_temporary() { back_off.after(&error) } else { RETRY };
                    tracing::warn!(error = coord_db::error_chain(&error), "the landing train cannot continue; trying again");
                    pulse.rest(rest).await;
                }
            }
        }
    }

    /// Judges if work waits and nobody else does. Returns the time until the next look.
    async fn turn(&self, pulse: &mut Pulse) -> Result<Duration> {
        let db = self.context.db;
        if !db.read(|tx| tx.has_open_landing(None))? {
            self.go_on(true)?;
            return Ok(LOOK);
        }
        // Even if another process judges: the leases of queued work stay while any loop runs.
        pulse.beat(&self.context)?;
        // With a remote each look costs a conversation. While another process judges there is nothing to look for. A role of this
        // process is one that it could not give up: it is settled below.
        if self.context.store.remote().is_some() && db.read(|tx| tx.has_other_judge(&ProcessIdentity::own()))? {
            return Ok(LOOK);
        }
        let halted = self.halted_for()?;
        if halted.is_none()
            && let Some(Err(error)) = pulse.unless_stopped(self.context.refresh()).await
        {
            if error.is_outage() {
                return Err(error);
            }
            let why = coord_db::error_chain(&error);
            tracing::warn!(why, "nothing lands until the remote can be asked");
            self.halt(&why)?;
            return Ok(RETRY);
        }
        // A halted train may have lost its remote; what is open waits for that.
        if halted.is_none() || self.context.store.remote().is_none() {
            match self.context.recover_train() {
                // The next turn asks the remote.
                Err(Error::Waiting(_)) => return Ok(Duration::ZERO),
                recovered => recovered?,
            }
        }
        if let Some(halted) = halted {
            return Ok(halted.min(LOOK));
        }
        let Some(role) = self.take_role()? else { return Ok(LOOK) };
        reach(Point::TrainTaken);
        self.role.replace(Some(role.clone()));
        self.judge.news.is_judging.set(true);
        let driven = self.drive(pulse).await;
        self.judge.news.is_judging.set(false);
        let released = db.write(|tx| tx.leave_judge_role(&role));
        self.judge.news.settled.notify_one();
        let halts_for = match &driven {
            Err(Error::NotJudged(why)) => Some(why.clone()),
            Err(error @ Error::Git(git::Error::RemoteUnreachable { .. })) => Some(error.to_string()),
            _ => None,
        };
        if let Some(why) = halts_for {
            tracing::warn!(why, "the landing train halts");
            self.halt(&why)?;
            released?;
            return Ok(RETRY);
        }
        let has_progress = driven?;
        released?;
        // There may be more.
        Ok(match has_progress {
            true => Duration::ZERO,
            false if !self.missed.borrow().is_empty() => LOOK_FOR_MISSED,
            false => LOOK,
        })
    }

    /// The request for the lease of the judge. Its events belong to the attempt whose work has waited longest.
    fn lease_request(&self) -> Result<AcquireRequest> {
        let oldest = self.context.db.read(|tx| tx.open_landings())?.into_iter().next().map(|landing| landing.test_id);
        Ok(self.judge.lease_request(vec![LeasePath::integration()], "judges the landing train".to_owned(), oldest.as_ref()))
    }

    /// Becomes the judge; none if another process is, or integration is leased for something else.
    fn take_role(&self) -> Result<Option<JudgeRole>> {
        if self.judge.news.wants_turn.get() {
            return Ok(None);
        }
        let (request, silent) = (self.lease_request()?, self.context.config.lease.silent_waiter_seconds);
        let (own, runs_as) = (ProcessIdentity::own(), self.judge.runs_as());
        let taken = self.context.db.write(|tx| tx.take_judge_role(&request, silent, &own, runs_as))?;
        if taken.is_none() {
            // Its holder may be dead.
            self.judge.free_from_dead(&LeasePath::integration())?;
        }
        Ok(taken)
    }

    /// True while this process holds the lease on integration.
    fn holds_role(&self) -> Result<bool> {
        let role = self.role.borrow();
        let lease = role.as_ref().map(|role| self.context.db.read(|tx| tx.judge_lease(role))).transpose()?;
        Ok(lease.flatten().is_some())
    }
}

/// When the train does something without news.
pub(crate) struct Pulse {
    stop: Stop,
    next_beat: Instant,
}

impl Pulse {
    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Renews the leases of queued work when it is due.
    fn beat(&mut self, context: &Context<'_>) -> Result<()> {
        if Instant::now() >= self.next_beat {
            context.db.write_quietly(|tx| tx.renew_all(&LoopId::train(), context.lease_seconds()))?;
            self.next_beat = Instant::now() + service::beat_interval(context.config.heartbeat.beat_seconds);
        }
        Ok(())
    }

    /// Waits for something; none if a stop is requested meanwhile, which cuts it off.
    async fn unless_stopped<T>(&mut self, running: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            ended = running => Some(ended),
            () = stop_requested(&mut self.stop) => None,
        }
    }

    /// Returns when there is news, when a stop is requested, or after `most`.
    async fn wait(&mut self, context: &Context<'_>, most: Duration) {
        tokio::select! {
            () = context.news.queued.notified() => {}
            () = stop_requested(&mut self.stop) => {}
            () = tokio::time::sleep(most) => {}
        }
    }

    /// Sleeps; only a requested stop ends it early.
    async fn rest(&mut self, time: Duration) {
        tokio::select! {
            () = stop_requested(&mut self.stop) => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}

impl Context<'_> {
    /// Settles what a judge has left that has died or stands still, or whose process has given up: a batch that reached
    /// integration is recorded, and another process may judge.
    pub(crate) fn recover_train(&self) -> Result<()> {
        let own = ProcessIdentity::own();
        let (entries, lease) = self.db.read(|tx| {
            let lease = tx.lease(&LeasePath::integration())?.filter(|lease| lease.expires_at.is_none_or(|at| at > tx.now()));
            Ok::<_, coord_db::Error>((tx.open_journal(Some(LoopId::train().as_str()))?, lease))
        })?;
        let with_operation = |entry: JournalEntry| {
            let operation = Operation::of(&entry);
            (entry, operation)
        };
        let mut left: Vec<(JournalEntry, Option<Operation>)> = entries.into_iter().map(with_operation).collect();
        // The processes that judge without the lease on integration: they stand still, or will find out.
        let overdue: Vec<ProcessIdentity> = left
            .iter()
            .filter(|(_, operation)| match operation {
                Some(Operation::Judge { token, .. }) => lease.as_ref().is_none_or(|lease| lease.fencing_token != *token),
                _ => false,
            })
            .filter_map(|(entry, _)| entry.steps.owner())
            .collect();
        // Landings before the role, so that nobody judges on a head that is not recorded.
        left.sort_by_key(|(_, operation)| matches!(operation, Some(Operation::Judge { .. })));
        for (entry, operation) in left {
            let Some(owner) = entry.steps.owner() else { continue };
            let has_ended = match owner == own {
                true => !self.news.is_judging.get(),
                false => self.db.read(|tx| tx.has_owner_ended(&entry.steps))?,
            };
            if !has_ended && (owner == own || !overdue.contains(&owner)) {
                continue;
            }
            match &operation {
                Some(Operation::Integrate(landing)) => {
                    self.ask_remote_of(&entry, has_ended)?;
                    // A process that stands still may move integration yet.
                    if has_ended || self.has_reached_integration(landing)? {
                        self.db.write(|tx| self.settle_landing(tx, &entry, landing))?;
                    }
                }
                Some(Operation::Judge { judge, token }) => {
                    self.end_judge(&JudgeRole { entry: entry.id, judge: judge.clone(), token: *token })?;
                }
                _ => self.settle(&entry.id, false)?,
            }
        }
        Ok(())
    }

    fn end_judge(&self, role: &JudgeRole) -> Result<()> {
        tracing::info!(judge = %role.judge, "the judge of the landing train has ended; another loop may continue");
        self.db.write(|tx| {
            if !tx.end_judge_role(role)? {
                return Ok(());
            }
            let by = ActorId::from(&LoopId::train());
            // What its checks needed.
            for slot in 1..=self.config.gate.parallel.max(1) + 1 {
                tx.release_everything(LoopId::train_slot(slot).as_str(), &by, UnlockCause::OwnerDied, None)?;
            }
            Ok::<_, coord_db::Error>(())
        })?;
        Ok(())
    }
}
