//! The loop of a loop's process.

use std::time::Duration;

use coord_db::{ActorId, HealthStatus, LoopStatus, UnlockCause};

use crate::Result;
use crate::agent::{self, AgentEnd};
use crate::context::{Attempt, Context};
use crate::control::{Order, Waiter};
use crate::landing::Landed;

/// Between two tests while monitor is not there to watch.
const UNWATCHED_PAUSE: Duration = Duration::from_secs(2);
/// With `--once`, a test that only waits for its next try is waited for so long at most.
const MOST_RETRY_WAIT_SECONDS: i64 = 10;

/// What to do until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) once: bool,
    pub(crate) max_tests: Option<u64>,
}

/// Works until told to stop, or until the limits are reached.
pub(crate) async fn work(context: &Context<'_>, waiter: &mut Waiter, limits: Limits) -> Result<()> {
    let mut left = limits.max_tests.unwrap_or(u64::MAX);
    let mut failures: u32 = 0;
    context.tidy(&context.worktree()?, "left from a former life")?;
    while left > 0 && !waiter.stopping() {
        waiter.beat(context, None);
        waiter.wakes.looked(context.db);
        match turn(context, waiter, limits).await {
            Ok(Turn::Worked) => {
                failures = 0;
                left -= 1;
                unwatched(context, waiter).await;
            }
            Ok(Turn::Again) => failures = 0,
            Ok(Turn::Wait(most)) => {
                failures = 0;
                waiter.wait(context, most).await;
            }
            Ok(Turn::Done) => return Ok(()),
            Err(error) if error.is_temporary() => {
                if failures == 0 {
                    tracing::warn!(%error, "holding still until the database can be used again");
                }
                failures = (failures + 1).min(7);
                pause(waiter, Duration::from_millis(50 << failures)).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A wait that ends early only when told to stop.
async fn pause(waiter: &mut Waiter, time: Duration) {
    tokio::select! {
        () = tokio::time::sleep(time) => {}
        _ = waiter.stop.changed() => {}
    }
}

/// Without monitor nobody sees a loop run wild: it goes a little slower.
async fn unwatched(context: &Context<'_>, waiter: &mut Waiter) {
    let heartbeat = &context.config.heartbeat;
    let watched = context.db.read(|tx| {
        let row = tx.component("monitor")?;
        Ok::<_, coord_db::Error>(row.is_some_and(|row| {
            row.verdict(tx.now(), heartbeat.degraded_seconds, heartbeat.dead_seconds) == HealthStatus::Healthy
        }))
    });
    if !watched.unwrap_or(false) {
        pause(waiter, UNWATCHED_PAUSE).await;
    }
}

enum Turn {
    /// One attempt was made, however it ended.
    Worked,
    /// Something was obeyed; look again.
    Again,
    /// There is nothing to do.
    Wait(Duration),
    /// There is nothing to do, and nothing is waited for.
    Done,
}

async fn turn(context: &Context<'_>, waiter: &mut Waiter, limits: Limits) -> Result<Turn> {
    if let Some(interrupt) = context.orders(None)? {
        context.obey(&interrupt, None)?;
        return Ok(Turn::Again);
    }
    let id = &context.loop_id;
    let paused = context.db.write_quietly(|tx| {
        let pauses = tx.settle_pauses(id)?;
        tx.apply_pauses(id, &pauses)
    })?;
    if paused {
        return Ok(if limits.once { Turn::Done } else { Turn::Wait(Duration::from_secs(60)) });
    }
    // A look without the write lock: an idle loop writes nothing but its beats.
    let ready = context.db.read(|tx| tx.next_ready_test(id, true))?;
    if ready.is_none() {
        let retry =
            context.db.read(|tx| Ok::<_, coord_db::Error>(tx.next_retry_at(id)?.map(|at| at.seconds_since(tx.now()) + 1)))?;
        return Ok(match retry {
            Some(seconds) if !limits.once || seconds <= MOST_RETRY_WAIT_SECONDS => {
                Turn::Wait(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)))
            }
            _ if limits.once => Turn::Done,
            _ => Turn::Wait(Duration::from_secs(60)),
        });
    }
    // Before the claim, so that a repository that cannot be worked in costs no attempt.
    context.worktree()?;
    let Some(test) = context.db.write(|tx| {
        if tx.loop_row(id)?.status != LoopStatus::Running {
            tx.set_loop_status(id, LoopStatus::Running)?;
        }
        tx.claim_next_test(id, true)
    })?
    else {
        return Ok(Turn::Again);
    };
    tracing::info!(test = %test.id, attempt = test.attempts, "claimed");
    let mut attempt = context.begin(test)?;
    let end = one_attempt(context, &mut attempt, waiter).await?;
    finish(context, &attempt, end)?;
    Ok(Turn::Worked)
}

async fn one_attempt(context: &Context<'_>, attempt: &mut Attempt, waiter: &mut Waiter) -> Result<Landed> {
    match agent::run(context, attempt, waiter).await? {
        AgentEnd::Claimed => context.land(attempt, waiter).await,
        AgentEnd::Failed(why) => Ok(Landed::Failed(why)),
        AgentEnd::Interrupted(interrupt) => Ok(Landed::Interrupted(interrupt)),
    }
}

/// Records how an attempt ended and leaves the worktree ready for the next one. A pass is recorded already.
pub(crate) fn finish(context: &Context<'_>, attempt: &Attempt, end: Landed) -> Result<()> {
    let test = &attempt.test.id;
    match end {
        Landed::Passed(commit) => {
            tracing::info!(%test, commit = %commit.short(), "passed and landed");
        }
        Landed::Failed(why) => {
            tracing::info!(%test, category = %why.category, error = why.message.lines().next().unwrap_or_default(), "the attempt failed");
            let saved = context.save_work(&attempt.worktree, Some(test), &attempt.base, "the attempt failed")?;
            let recorded = context.db.write(|tx| {
                if let Some(saved) = &saved {
                    tx.add_checkpoint(saved)?;
                }
                let by = ActorId::from(&context.loop_id);
                tx.release_everything(context.loop_id.as_str(), &by, UnlockCause::Released, None)?;
                tx.record_failed(test, &context.loop_id, &why)
            });
            match recorded {
                // Somebody has taken the test out of the loop's hands at the last moment; there is nothing to record.
                Err(coord_db::Error::Refused(why)) => tracing::info!(%test, why, "not recorded"),
                other => {
                    other?;
                }
            }
            attempt.worktree.restore_branch_to(&attempt.branch, &attempt.base)?;
        }
        Landed::Interrupted(interrupt) => {
            context.give_up(attempt, &interrupt)?;
            if interrupt.order == Order::Stop {
                tracing::info!(%test, "given back, as the loop stops");
            }
        }
    }
    Ok(())
}
