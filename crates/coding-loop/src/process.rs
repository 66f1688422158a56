//! The main loop of the `coding-loop` process.

use std::pin::pin;
use std::time::Duration;

use coord_db::process::ProcessIdentity;
use coord_db::{Counts, ErrorCategory, FailedAttempt, HoldKind, LoopStatus, Start, Test, TestId, WriteTx};
use crash_point::{Point, reach};
use process_host::{BackOff, Reload};
use tokio::sync::watch;

use crate::Result;
use crate::base::Base;
use crate::context::{Attempt, Context};
use crate::control::{Waiter, end_if_lost};
use crate::end::{End, error_as_failure};
use crate::train::Train;
use crate::{Error, agents, attempt};

/// With `--once`: maximum time to wait for the retry of a test.
const MAX_RETRY_WAIT_SECONDS: i64 = 10;

/// Maximum number of repairs of a damaged store by one process.
const MAX_REPAIRS: u32 = 3;

/// Interval at which an idle loop reads the branch that it follows.
const FOLLOW_EVERY: Duration = Duration::from_secs(5);

/// The limits of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) once: bool,
    pub(crate) max_tests: Option<u64>,
}

/// Why the main loop has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A stop was requested, or the limits are reached.
    Done,
    /// With `--once`: tests are left that wait for this.
    Unfinished(String),
    /// A reload of the settings was requested; with the number of attempts left.
    Reload(Option<u64>),
}

/// Works until a stop or a reload is requested, or the limits are reached; beside it, queued work is judged and lands.
pub(crate) async fn work(context: &Context<'_>, waiter: &mut Waiter, limits: Limits) -> Result<Ended> {
    let train = Train::new(context);
    let (halt, halted) = watch::channel(false);
    let mut judging = pin!(train.run(halted));
    let mut working = pin!(make_attempts(context, waiter, limits));
    tokio::select! {
        ended = &mut working => {
            halt.send_replace(true);
            judging.await;
            ended
        }
        () = &mut judging => working.await,
    }
}

async fn make_attempts(context: &Context<'_>, waiter: &mut Waiter, limits: Limits) -> Result<Ended> {
    let mut left = limits.max_tests.unwrap_or(u64::MAX);
    let (mut back_off, mut repairs) = (BackOff::default(), MAX_REPAIRS);
    while left > 0 && !waiter.stopping() {
        if waiter.reload.as_mut().is_some_and(Reload::take) {
            return Ok(Ended::Reload(limits.max_tests.map(|_| left)));
        }
        waiter.beat(context, None);
        waiter.looked(context);
        match turn(context, waiter, limits).await {
            Ok(Turn::Worked) => {
                back_off.recovered();
                left -= 1;
                waiter.during(context, context.send_refs()).await;
                context.rest_if_unwatched(waiter).await;
            }
            Ok(Turn::Again) => back_off.recovered(),
            Ok(Turn::Wait(most)) => {
                back_off.recovered();
                waiter.during(context, context.send_unsent()).await;
                waiter.wait(context, most).await;
            }
            Ok(Turn::Done) => return Ok(Ended::Done),
            Ok(Turn::Blocked(why)) if limits.once => return Ok(Ended::Unfinished(why)),
            Ok(Turn::Blocked(_)) => {
                back_off.recovered();
                waiter.wait(context, Duration::from_secs(60)).await;
            }
            Err(error) if error.is_temporary() => {
                waiter.rest(context, None, back_off.after(&error)).await;
            }
            Err(error) => {
                if !may_repair(context, &error, &mut repairs)? {
                    return Err(error);
                }
            }
        }
    }
    // The last attempts are done when their work has landed, or was given back.
    let waits = || Ok(context.db.read(|tx| tx.has_open_landing(Some(&context.loop_id)))?);
    while waiter.until_usable(context, None, waits).await? && !waiter.stopping() {
        waiter.beat(context, None);
        waiter.looked(context);
        waiter.during(context, context.send_unsent()).await;
        waiter.wait(context, Duration::from_secs(5)).await;
    }
    Ok(Ended::Done)
}

/// Settles and saves what an earlier process has left, as soon as the database can be used.
///
/// `former` is its current test: work left in the workspace is saved under this name.
pub(crate) async fn prepare(context: &Context<'_>, waiter: &mut Waiter, former: Option<&TestId>) -> Result<()> {
    let (mut back_off, mut repairs) = (BackOff::default(), MAX_REPAIRS);
    // If another process has given the test back meanwhile, the last run still says whose work it is.
    let last = waiter.until_usable(context, None, || context.settle_unseen_run()).await?;
    let former = former.or(last.as_ref());
    loop {
        let tidied = context.workspace().and_then(|workspace| {
            context.tidy(&workspace, former, "left by an earlier process")?;
            // Which works have landed is known only then.
            context.recover_train()?;
            context.settle_queued_refs()
        });
        match tidied {
            Ok(_) => break,
            Err(error) if error.is_temporary() && !waiter.stopping() => {
                waiter.rest(context, None, back_off.after(&error)).await;
            }
            Err(error) => {
                if !may_repair(context, &error, &mut repairs)? {
                    return Err(error);
                }
            }
        }
    }
    reach(Point::StartTidied);
    // Changed git settings of the user apply to later check-outs.
    if let Err(error) = context.store.refresh_settings(&context.user) {
        tracing::warn!(%error, "cannot reload the user's git settings");
    }
    context.publish();
    Ok(())
}

/// Repairs a damaged store, unless that has not helped before. False if the error has another cause.
fn may_repair(context: &Context<'_>, error: &Error, left: &mut u32) -> Result<bool> {
    if *left == 0 || !context.repair_store(error)? {
        return Ok(false);
    }
    *left -= 1;
    Ok(true)
}

enum Turn {
    /// One attempt was made, with any result.
    Worked,
    /// An order was obeyed; continue at once.
    Again,
    /// Nothing to do until an event or this time.
    Wait(Duration),
    /// Nothing to do, and nothing to wait for.
    Done,
    /// A test is ready, but no attempt can start before this.
    Blocked(String),
}

async fn turn(context: &Context<'_>, waiter: &mut Waiter, limits: Limits) -> Result<Turn> {
    context.remake_lost_store()?;
    if let Some(interrupt) = context.orders(None)? {
        context.obey(&interrupt, None)?;
        return Ok(Turn::Again);
    }
    let id = &context.loop_id;
    let settle = || {
        context.db.write_quietly(|tx| {
            context.lift_own_pause(tx)?;
            let pauses = tx.settle_pauses(id)?;
            tx.apply_pauses(id, &pauses)
        })
    };
    // Every commit wakes all idle loops, which need not queue for the write lock then.
    let paused = !context.db.read(|tx| tx.is_unpaused(id))? && settle()?;
    if paused {
        return Ok(if limits.once { Turn::Done } else { Turn::Wait(Duration::from_secs(60)) });
    }
    // Before a test is claimed that has already landed.
    match waiter.during(context, context.refresh_if_reachable()).await {
        Some(true) => context.recover_dead_loops()?,
        Some(false) => {}
        None => return Ok(Turn::Again),
    }
    context.publish_if_moved();
    if context.follow_between_tests(waiter).await? {
        return Ok(Turn::Again);
    }
    let ready = context.db.read(|tx| tx.next_ready_test(id, true))?;
    let Some(ready) = ready else {
        // If the time has passed, something else blocks the test.
        let retry = context.db.read(|tx| {
            let at = tx.next_retry_at(id)?.filter(|at| *at > tx.now());
            Ok::<_, coord_db::Error>(at.map(|at| at.seconds_since(tx.now()) + 1))
        })?;
        let is_landing = limits.once && context.db.read(|tx| tx.has_open_landing(Some(id)))?;
        return Ok(match retry {
            // It may come back, and others may depend on it.
            _ if is_landing => Turn::Wait(Duration::from_secs(5)),
            Some(seconds) if !limits.once || seconds <= MAX_RETRY_WAIT_SECONDS => {
                Turn::Wait(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)))
            }
            _ if limits.once => Turn::Done,
            // Commits of the user cause no wake-up.
            _ if context.config.repository.follow_automatically => Turn::Wait(FOLLOW_EVERY),
            _ => Turn::Wait(Duration::from_secs(60)),
        });
    };
    match context.db.read(|tx| tx.may_start(id))? {
        Start::Now => {}
        Start::At(until, hold) => {
            let seconds = until.seconds_since(context.db.now()) + 1;
            tracing::debug!(subject = hold.subject, reason = hold.reason, seconds, "attempts are on hold");
            return Ok(match limits.once && seconds > MAX_RETRY_WAIT_SECONDS {
                true => Turn::Done,
                false => Turn::Wait(Duration::from_secs(u64::try_from(seconds.clamp(1, 60)).unwrap_or(1))),
            });
        }
        Start::Asked(hold) => {
            tracing::debug!(subject = hold.subject, reason = hold.reason, "attempts are on hold until the human answers");
            return Ok(Turn::Blocked(context.describe_hold(&hold)?));
        }
    }
    // Before the claim, so that an unusable repository costs no attempt.
    let unusable = |error: Error, what: &str| {
        if limits.once || error.is_temporary() || context.is_store_damaged(&error) {
            return Err(error);
        }
        tracing::warn!(%error, "no test is claimed until {what}");
        Ok(Turn::Wait(Duration::from_secs(5)))
    };
    if let Err(error) = context.workspace() {
        return unusable(error, "the workspace can be used");
    }
    let mends = match context.prove_base(&ready, waiter).await {
        Ok(Base::Ready) => false,
        Ok(Base::Mending) => true,
        Ok(Base::Again) => return Ok(Turn::Again),
        Ok(Base::Running) => return Ok(Turn::Wait(Duration::from_secs(5))),
        Ok(Base::Red(why)) => return Ok(Turn::Blocked(why)),
        Err(error) => return unusable(error, "the checks can run at the head of integration"),
    };
    let own = ProcessIdentity::own();
    let claimed = context.db.write(|tx| {
        let row = tx.loop_row(id)?;
        // Another process took this one for dead and cleaned up; the loop takes its row again.
        if row.status != LoopStatus::Running || row.pid != Some(own.pid) {
            tx.start_loop(id, &own, env!("CARGO_PKG_VERSION"))?;
        }
        if context.db.server().is_some() {
            // What it reported of its last attempt.
            tx.replace_worktree_changes(id, &[])?;
        }
        match tx.start_or_wait(id)? {
            Start::Now if mends => tx.claim_mending_test(id),
            Start::Now => tx.claim_next_test(id, true),
            Start::At(..) | Start::Asked(_) => Ok(None),
        }
    });
    let test = match claimed {
        Ok(Some(test)) => test,
        Ok(None) => return Ok(Turn::Again),
        // Somebody intervened: a claim by hand, or a pause in the table.
        Err(coord_db::Error::Refused(why)) if !limits.once => {
            tracing::warn!(why, "cannot claim a test");
            return Ok(Turn::Wait(Duration::from_secs(5)));
        }
        Err(error) => return Err(error.into()),
    };
    tracing::info!(test = %test.id, attempt = test.attempts, "claimed");
    reach(Point::AttemptClaimed);
    one_attempt(context, test, waiter).await;
    Ok(Turn::Worked)
}

/// Makes one attempt and records its end in any case. Internal errors count as nobody's failure, and an unavailable
/// database is waited for. If a stop is requested first, the next start or heartbeat gives the test back.
async fn one_attempt(context: &Context<'_>, test: Test, waiter: &mut Waiter) {
    let id = test.id.clone();
    let begun = waiter.until_usable(context, None, || context.begin(test.clone())).await;
    let (attempt, end) = match begun {
        Ok(mut attempt) => {
            let rounds = context.config.agent_of(&context.loop_id).fix_rounds;
            let machine = attempt::Attempt::new().with_fix_rounds(rounds);
            let end = context.carry_out(machine, &mut attempt, waiter).await;
            if matches!(end, End::Queued(_)) {
                // Work that is alone in the queue lands at once, so that the next attempt begins with it.
                context.news.await_look().await;
            }
            (Some(attempt), end)
        }
        Err(error) => {
            end_if_lost(&error);
            (None, End::Failed(context.failure_of(&error)))
        }
    };
    let mut back_off = BackOff::default();
    loop {
        let finished = match (&attempt, &end) {
            (Some(attempt), end) => finish(context, attempt, end),
            (None, End::Failed(why)) => record_failed(context, &id, why, None),
            (None, _) => Ok(()),
        };
        match finished {
            Ok(()) => return,
            Err(error) if error.is_temporary() && !waiter.stopping() => {
                waiter.rest(context, attempt.as_ref(), back_off.after(&error)).await;
            }
            Err(error) => {
                end_if_lost(&error);
                tracing::error!(%error, test = %id, "cannot finish the attempt");
                // Unsaved work stays in the workspace, and the start of the next attempt saves it.
                let why = error_as_failure(&error);
                if let Err(error) = record_failed(context, &id, &why, None) {
                    tracing::error!(%error, test = %id, "cannot record the end of the attempt; the next start gives the test back");
                }
                return;
            }
        }
    }
}

/// Records the end of an attempt and prepares the workspace for the next one. A pass is already recorded.
pub(crate) fn finish(context: &Context<'_>, attempt: &Attempt, end: &End) -> Result<()> {
    let test = &attempt.test.id;
    let save = |target, reason| context.save_work(&attempt.workspace, Some(test), target, reason);
    let elsewhere = match end {
        End::Failed(_) | End::Unchanged => context.watch_checkout(attempt)?,
        _ => Vec::new(),
    };
    match end {
        End::Queued(_) => {
            tracing::info!(%test, "the work has passed alone and waits to land");
            if context.managed
                && let Err(error) = context.leave_queued(attempt)
            {
                tracing::debug!(%error, "cannot reset the workspace now; it is reset before the next attempt");
            }
        }
        End::Failed(why) => {
            tracing::info!(%test, category = %why.category, error = why.message.lines().next().unwrap_or_default(), "attempt failed");
            // A human may want to continue in the workspace.
            save(context.managed.then_some(&attempt.base), "the attempt failed")?;
            record_failed(context, test, why, Some(attempt))?;
            reach(Point::AttemptFailed);
        }
        End::Unchanged => {
            tracing::info!(%test, "the agent claims success without a change");
            save(None, "nothing was changed")?;
            context.record_unchanged(attempt, &elsewhere)?;
        }
        End::GreenBefore(check) => {
            tracing::info!(%test, check, "the check passes before the work, but fails_before requires it to fail");
            save(context.managed.then_some(&attempt.base), "the check passes already")?;
            context.record_green_before(attempt, check)?;
        }
        End::Moot(reason) => {
            tracing::info!(%test, reason, "the test is obsolete");
            save(context.managed.then_some(&attempt.base), reason)?;
            let why = FailedAttempt::new(ErrorCategory::Permanent, reason.clone());
            record_end(context, test, &why, Some(attempt), |tx| tx.skip_test(test, Some(reason)))?;
        }
        End::Trouble(trouble) => {
            tracing::warn!(%test, kind = %trouble.kind, reason = trouble.reason, "the agent cannot work for now");
            save(Some(&attempt.base), "the agent cannot work for now")?;
            let category = match trouble.kind {
                HoldKind::Limit => ErrorCategory::Resource,
                HoldKind::Human => ErrorCategory::Human,
                HoldKind::Outage | HoldKind::Repeated => ErrorCategory::Transient,
            };
            let why = FailedAttempt { counts: Counts::GivenBack, ..FailedAttempt::new(category, trouble.reason.clone()) };
            record_end(context, test, &why, Some(attempt), |tx| context.hold(tx, test, trouble))?;
        }
        End::SetUpFailed(reason) => {
            tracing::warn!(%test, reason, "the set-up fails at the base; attempts are on hold until the human answers");
            save(Some(&attempt.base), "the set-up fails")?;
            let why = FailedAttempt { counts: Counts::GivenBack, ..FailedAttempt::new(ErrorCategory::Human, reason.clone()) };
            record_end(context, test, &why, Some(attempt), |tx| context.hold_set_up(tx, test, reason))?;
        }
        End::Interrupted(interrupt) => drop(context.obey(interrupt, Some(attempt))?),
    }
    Ok(())
}

fn record_failed(context: &Context<'_>, test: &TestId, why: &FailedAttempt, attempt: Option<&Attempt>) -> Result<()> {
    let changed = attempt.is_some_and(|attempt| attempt.changed);
    record_end(context, test, why, attempt, |tx| match worth(why, changed) {
        // No agent is started for a loop that is driven by hand.
        _ if !context.managed => Ok(()),
        Worth::Vain => tx.count_vain_run(&context.loop_id, test, &agents::one_line(&why.message)),
        Worth::Progress => tx.forget_vain_runs(&context.loop_id),
        Worth::Neither => Ok(()),
    })
}

/// Whether further attempts are worthwhile after a failed one.
#[derive(Debug, PartialEq)]
enum Worth {
    Vain,
    Progress,
    Neither,
}

/// Estimates whether the next attempt is likely to end like this one: nothing was changed, or an external cause stopped
/// it and would stop the next one too.
fn worth(why: &FailedAttempt, changed: bool) -> Worth {
    match why.category {
        // There is a question about these.
        ErrorCategory::Dependency | ErrorCategory::Spec | ErrorCategory::Human | ErrorCategory::Resource => Worth::Neither,
        ErrorCategory::System | ErrorCategory::Transient => Worth::Vain,
        _ if changed => Worth::Progress,
        _ => Worth::Vain,
    }
}

/// Records a failed attempt and its consequences in one transaction.
pub(crate) fn record_end(
    context: &Context<'_>,
    test: &TestId,
    why: &FailedAttempt,
    attempt: Option<&Attempt>,
    also: impl Fn(&WriteTx<'_>) -> coord_db::Result<()>,
) -> Result<()> {
    let recorded = context.db.write(|tx| {
        context.release_all(tx, Some(test), attempt, None, |test| tx.record_failed(test, &context.loop_id, why).map(drop))?;
        also(tx)
    });
    Ok(recorded?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_come_back_counts_as_vain() {
        let worth = |category, changed| worth(&FailedAttempt::new(category, "why"), changed);
        assert_eq!(worth(ErrorCategory::Code, false), Worth::Vain);
        assert_eq!(worth(ErrorCategory::Code, true), Worth::Progress);
        assert_eq!(worth(ErrorCategory::Conflict, true), Worth::Progress);
        assert_eq!(worth(ErrorCategory::System, true), Worth::Vain);
        assert_eq!(worth(ErrorCategory::Transient, true), Worth::Vain);
        assert_eq!(worth(ErrorCategory::Spec, false), Worth::Neither);
        assert_eq!(worth(ErrorCategory::Dependency, true), Worth::Neither);
    }
}
