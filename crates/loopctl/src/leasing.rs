//! Acquiring leases for a loop: at once, or in the queue.

use std::time::Duration;

use coord_db::wake::SLOW_LOOK;
use coord_db::{
    Acquire, AcquireRequest, Blocker, Config, Database, Error, LeasePath, LoopId, LoopStatus, TestId, Timestamp, Waiting,
};
use views::sentence::list;
use views::when::clock;

use crate::exit::{Failure, Outcome};
use crate::wait::{Waiter, Woken};

/// How long the row of a waiting acquire stands without this process: a killed one leaves no ghost for longer.
const STANDS_SECONDS: i64 = 30;

/// The leases that somebody wants for a loop.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) paths: Vec<LeasePath>,
    /// Seconds until they expire; by default as configured.
    pub(crate) ttl: Option<i64>,
    pub(crate) reason: Option<String>,
    /// The test that needs them; by default the one that the loop works on.
    pub(crate) test: Option<TestId>,
}

/// The request for these leases.
///
/// # Errors
/// Exit 4 for an unknown loop or test, 1 for a paused loop.
pub(crate) fn request(db: &Database, config: &Config, loop_id: &LoopId, wanted: Wanted) -> Outcome<AcquireRequest> {
    Ok(db.read(|tx| {
        let row = tx.loop_row(loop_id)?;
        if row.status == LoopStatus::Paused {
            let id = &row.id;
            return Err(Error::Refused(format!(
                "loop {id} is paused and acquires no leases; resume it with loopctl resume {id}"
            )));
        }
        if let Some(test) = &wanted.test {
            tx.test(test)?;
        }
        Ok(AcquireRequest {
            loop_id: loop_id.clone(),
            paths: wanted.paths,
            ttl_seconds: wanted.ttl.unwrap_or(config.lease.ttl_seconds),
            reason: wanted.reason,
            test_id: wanted.test.or(row.current_test_id),
            automatic: false,
        })
    })?)
}

/// Acquires all of it now, or nothing.
///
/// # Errors
/// What the database reports.
pub(crate) fn at_once(db: &Database, config: &Config, request: &AcquireRequest) -> Outcome<Acquire> {
    Ok(db.write(|tx| {
        let answer = tx.acquire(request, config.lease.silent_waiter_seconds)?;
        if matches!(answer, Acquire::Granted(_)) {
            tx.touch_by_hand(&request.loop_id)?;
        }
        Ok::<_, Error>(answer)
    })?)
}

/// Queues and asks again whenever something has changed, until it is granted or the time is over. Leaves nothing behind.
/// `on_wait` receives what is in the way, each time.
///
/// # Errors
/// Exit 1 if the waiter is interrupted.
pub(crate) fn queue(
    db: &Database,
    config: &Config,
    request: &AcquireRequest,
    seconds: i64,
    waiter: &mut Waiter,
    mut on_wait: impl FnMut(&[Blocker]),
) -> Outcome<Acquire> {
    let silent = config.lease.silent_waiter_seconds;
    let over = db.now().plus_seconds(seconds);
    let until = |now: Timestamp| over.min(now.plus_seconds(STANDS_SECONDS));
    // Before the first look, so that no commit falls between.
    let mut version = db.data_version()?;
    let (mut id, mut answer) = db.write(|tx| {
        let answer = tx.acquire_or_queue(request, until(tx.now()), silent)?;
        // A waiter counts as live only while its loop is at work.
        if !matches!(answer.1, Waiting::GaveUp(_)) {
            tx.touch_by_hand(&request.loop_id)?;
        }
        Ok::<_, Error>(answer)
    })?;
    loop {
        let blockers = match answer {
            Waiting::Granted(grant) => return Ok(Acquire::Granted(grant)),
            Waiting::GaveUp(blockers)
                if blockers.is_empty() || blockers.iter().any(|blocker| blocker.owned_by.is_some()) || db.now() >= over =>
            {
                return Ok(Acquire::Refused(blockers));
            }
            // The row expired while the machine was suspended: queue again.
            Waiting::GaveUp(_) => {
                (id, answer) = db.write(|tx| tx.acquire_or_queue(request, until(tx.now()), silent))?;
                continue;
            }
            Waiting::Queued(blockers) => blockers,
        };
        let Some(ticket) = id.clone() else { return Ok(Acquire::Refused(blockers)) };
        on_wait(&blockers);
        let due = next_look(&blockers, db.now(), over);
        loop {
            let left = due.millis_since(db.now());
            if left <= 0 {
                break;
            }
            if waiter.wait(Duration::from_millis(left.unsigned_abs())) == Woken::Interrupted {
                db.write(|tx| tx.withdraw_request(&ticket))?;
                return Err(Failure::No("interrupted; the request for the leases is withdrawn".to_owned()));
            }
            let seen = db.data_version()?;
            if seen != version {
                version = seen;
                break;
            }
        }
        // Ringing for an answer that changes nothing would only wake this process again.
        answer = db.write_quietly(|tx| {
            let answer = tx.retry_request(&ticket, request, silent)?;
            if matches!(answer, Waiting::Queued(_)) {
                tx.extend_request(&ticket, until(tx.now()))?;
            }
            Ok::<_, Error>(answer)
        })?;
        if !matches!(answer, Waiting::Queued(_)) {
            db.write(|_| Ok::<_, Error>(()))?;
        }
    }
}

/// When to ask again although nothing changes: a lease in the way runs out, a silent waiter's turn is over, the end.
fn next_look(blockers: &[Blocker], now: Timestamp, over: Timestamp) -> Timestamp {
    let slow = now.plus_millis(i64::try_from(SLOW_LOOK.as_millis()).unwrap_or(5_000));
    let expiry = blockers.iter().filter_map(|blocker| blocker.expires_at).min();
    [Some(slow), expiry, Some(over)].into_iter().flatten().min().unwrap_or(slow).max(now.plus_millis(20))
}

/// Why leases are not granted, in words.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    /// A path that another loop owns: waiting does not help.
    pub(crate) owned: Option<LeasePath>,
}

impl Refusal {
    pub(crate) fn of(loop_id: &LoopId, blockers: &[Blocker]) -> Self {
        let mut owned: Vec<String> = blockers
            .iter()
            .filter_map(|blocker| Some(format!("{} is owned by {}", blocker.file_path, blocker.owned_by.as_ref()?)))
            .collect();
        owned.dedup();
        if let Some(first) = blockers.iter().find(|blocker| blocker.owned_by.is_some()) {
            return Self { why: list(&owned), owned: Some(first.file_path.clone()) };
        }
        let mut held = Vec::new();
        for blocker in blockers {
            let until = match blocker.expires_at {
                Some(at) => format!("leased by {} until {}", blocker.locked_by, clock(at)),
                None => format!("leased or waited for by {}", blocker.locked_by),
            };
            held.push(format!("{} is {until}", blocker.file_path));
        }
        held.dedup();
        let why = if held.is_empty() { format!("the request of {loop_id} was withdrawn") } else { list(&held) };
        Self { why, owned: None }
    }
}
