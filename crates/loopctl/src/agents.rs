//! For agents and scripts that drive a loop by hand: claim, give back, beat, lease.

use std::path::PathBuf;
use std::time::Duration;

use coord_db::process::ProcessIdentity;
use coord_db::wake::SLOW_LOOK;
use coord_db::{
    Acquire, AcquireRequest, Blocker, ComponentId, Config, Database, Error, ErrorCategory, FailedAttempt, Grant, IdOf, LoopId,
    LoopStatus, TestId, Timestamp, Waiting, WriteTx,
};
use serde_json::json;

use crate::cli::LockArgs;
use crate::context::{Context, is_driven};
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::ids;
use crate::place::Place;
use crate::see::Health;
use crate::sentence::{count, list};
use crate::steer::{release_for, settle_by_hand};
use crate::submit::workspace_for;
use crate::text::{safe, safe_block};
use crate::wait::{Waiter, Woken};
use crate::when::{clock, span};
use git::shown;

/// `loopctl next`: claims the loop's next test.
///
/// # Errors
/// Exit 1 if none is ready, the loop has one in hand, is paused, or a process of its own drives it.
pub fn next(cx: &Context, loop_id: &LoopId) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    if config.agent_of(loop_id).command.is_empty() && db.read(|tx| tx.has_deliveries(loop_id.as_str()))? {
        obey(&db, &config, loop_id);
    }
    // A paused loop is settled for good, although nothing is claimed then.
    db.write(|tx| {
        let row = tx.loop_row(loop_id)?;
        if is_driven(tx, &row)? {
            let pid = row.pid.unwrap_or_default();
            return Err(Error::Refused(format!(
                "loop {loop_id} is driven by its own process, pid {pid}; stop that process first"
            )));
        }
        tx.touch_by_hand(loop_id)?;
        settle_by_hand(tx, loop_id)
    })?;
    let claimed = db.write(|tx| tx.claim_next_test(loop_id, true))?;
    let Some(test) = claimed else { return Err(Failure::No(none_ready(&db, loop_id)?)) };
    let workspace = workspace_for(&db, &config, loop_id);
    if workspace.is_some()
        && let Err(error) = coding_loop::checkpoint(&db, &config, &test.id)
    {
        eprintln_quietly(&format!("loopctl: cannot record a checkpoint for this attempt: {error}"));
    }
    if cx.out.json {
        let mut document = serde_json::to_value(&test).unwrap_or_default();
        document["workspace"] = json!(workspace);
        // What it is called by callers of earlier versions.
        document["worktree"] = json!(workspace);
        return cx.out.document(&document);
    }
    let mut text = format!("{}  (attempt {} of {})", safe(test.id.as_str()), test.attempts, test.max_attempts);
    for line in [&test.notes, &test.spec_content].into_iter().flatten() {
        text.push_str(&format!("\n\n{}", safe_block(line).trim_end()));
    }
    if let Some(workspace) = workspace {
        let submit = format!("loopctl submit {}", test.id);
        text.push_str(&format!("\n\nwork in {}, then: {submit}", safe(&workspace.display().to_string())));
    }
    if let Some(error) = &test.last_error {
        text.push_str(&format!("\n\nthe previous attempt: {}", safe_block(error).trim_end()));
    }
    cx.out.text(&text)
}

/// A loop without a process has nobody else who would.
fn obey(db: &Database, config: &Config, loop_id: &LoopId) {
    match coding_loop::obey_by_hand(db, config, loop_id) {
        Ok(said) => {
            for order in said {
                let outcome = order.map_or_else(|why| format!("failed: {why}"), |reason| format!("carried out: {reason}"));
                eprintln_quietly(&format!("loopctl: a request to loop {loop_id} is {}", safe(&outcome)));
            }
        }
        Err(error) => eprintln_quietly(&format!("loopctl: requests to loop {loop_id} are still pending: {error}")),
    }
}

fn none_ready(db: &Database, loop_id: &LoopId) -> Outcome<String> {
    Ok(db.read(|tx| {
        let pending = tx.tests(Some(loop_id), Some(coord_db::TestStatus::Pending))?;
        let manual = pending.iter().filter(|test| !test.automatable).count();
        let retry = tx.next_retry_at(loop_id)?.filter(|at| *at > tx.now());
        Ok::<_, Error>(match (pending.len(), retry) {
            (0, _) => format!("no test is ready for loop {loop_id}: its queue is empty; add one with loopctl test add"),
            (n, _) if n == manual => format!("no test is ready for loop {loop_id}: the remaining tests are left to a person"),
            (_, Some(at)) => format!(
                "no test is ready for loop {loop_id}; the next retry is due in {}",
                span(at.seconds_since(tx.now()) + 1)
            ),
            _ => {
                for test in &pending {
                    let requests = tx.change_requests_for(&test.id)?;
                    if let Some(open) = requests.iter().find(|request| request.status == coord_db::RequestStatus::Pending) {
                        let request = ids::short(tx, IdOf::ChangeRequest, &open.id)?;
                        return Ok(format!(
                            "no test is ready for loop {loop_id}: {} waits for change request {request}; answer it with \
                             loopctl request approve {request} or loopctl request reject {request}",
                            test.id
                        ));
                    }
                }
                format!("no test is ready for loop {loop_id}: the remaining tests depend on tests that have not passed; see loopctl tests")
            }
        })
    })?)
}

/// `loopctl give-back`: the attempt ended without a pass. What was leased for it is free.
///
/// # Errors
/// Exit 4 for an unknown test, 1 if it is not in progress.
pub fn give_back(cx: &Context, test: &TestId, category: ErrorCategory, reason: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let row = db.write(|tx| {
        let loop_id = tx.test(test)?.loop_id;
        let owner = tx.loop_row(&loop_id)?;
        if is_driven(tx, &owner)? {
            return Err(Error::Refused(format!(
                "loop {loop_id} is driven by its own process; pause it with loopctl pause {loop_id}, or remove the test with loopctl skip {test}"
            )));
        }
        let message = reason.map_or_else(|| format!("given back by hand ({category})"), str::to_owned);
        tx.record_failed(test, &loop_id, &FailedAttempt::new(category, message))?;
        release_for(tx, &loop_id, test)?;
        tx.test(test)
    })?;
    let attempts = format!("{} of {} attempts used", row.attempts, row.max_attempts);
    cx.out.done(&row, &format!("test {test} is {}, {attempts}", row.status))
}

/// `loopctl beat`
///
/// # Errors
/// Exit 4 for an unknown loop, 1 if no such process runs here.
pub fn beat(cx: &Context, loop_id: &LoopId, pid: Option<i64>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let identity = pid.map(ProcessIdentity::of);
    if let Some(identity) = &identity
        && identity.liveness() == coord_db::process::Liveness::Gone
    {
        return Err(Failure::No(format!(
            "no process {} runs on this machine; give the pid of the process that drives the loop",
            identity.pid
        )));
    }
    let beat = |tx: &WriteTx<'_>| {
        let row = tx.loop_row(loop_id)?;
        if is_driven(tx, &row)? {
            return Err(Error::Refused(format!("loop {loop_id} is driven by its own process, which sends its heartbeats")));
        }
        tx.touch_by_hand(loop_id)?;
        let component = ComponentId::from(loop_id);
        let known = tx.component(component.as_str())?.and_then(|row| row.identity());
        tx.beat_as(&component, identity.as_ref().or(known.as_ref()))?;
        let now = tx.now();
        Ok(tx.component(component.as_str())?.map(|row| Health::of(row, now, &config)))
    };
    let stands_still = db.read(|tx| tx.loop_row(loop_id))?.status != LoopStatus::Running;
    // Nobody waits for a beat; a loop that comes to life is news.
    let row = if stands_still { db.write(beat)? } else { db.write_quietly(beat)? };
    cx.out.done(&row, &format!("heartbeat of loop {loop_id} is recorded"))
}

/// `loopctl lock`
///
/// # Errors
/// Exit 1 if another holds or owns any of it, with who that is.
pub fn lock(cx: &Context, args: LockArgs) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let silent = config.lease.silent_waiter_seconds;
    let paths = Place::of(cx, &config)?.paths(&args.paths)?;
    let request = db.read(|tx| {
        let row = tx.loop_row(&args.loop_id)?;
        if row.status == LoopStatus::Paused {
            let id = &row.id;
            return Err(Error::Refused(format!(
                "loop {id} is paused and acquires no leases; resume it with loopctl resume {id}"
            )));
        }
        if let Some(test) = &args.test {
            tx.test(test)?;
        }
        Ok(AcquireRequest {
            loop_id: args.loop_id.clone(),
            paths: paths.clone(),
            ttl_seconds: args.ttl.unwrap_or(config.lease.ttl_seconds),
            reason: args.reason.clone(),
            test_id: args.test.clone().or(row.current_test_id),
            automatic: false,
        })
    })?;
    let answer = match args.wait {
        None | Some(0) => db.write(|tx| {
            let answer = tx.acquire(&request, silent)?;
            if matches!(answer, Acquire::Granted(_)) {
                tx.touch_by_hand(&request.loop_id)?;
            }
            Ok::<_, Error>(answer)
        })?,
        Some(seconds) => queue(&db, &config, &request, seconds)?,
    };
    match answer {
        Acquire::Granted(grant) => {
            let updated = coding_loop::bring_up_to_date(&db, &config, &request.loop_id, &grant.paths, grant.fencing_token);
            granted(cx, &grant, updated)
        }
        Acquire::Refused(blockers) => refused(cx, &request.loop_id, &blockers),
    }
}

fn granted(cx: &Context, grant: &Grant, updated: coding_loop::Result<Vec<PathBuf>>) -> Outcome {
    let paths: Vec<String> = grant.paths.iter().map(ToString::to_string).collect();
    let mut text = format!("token {}, expires at {}: {}", grant.fencing_token, clock(grant.expires_at), paths.join(" "));
    let updated: Vec<String> = match updated {
        Ok(files) => files.iter().map(|file| shown(file)).collect(),
        Err(error) => {
            let why = coord_db::error_chain(&error);
            eprintln_quietly(&safe(&format!("loopctl: cannot update the files to what has landed; they are unchanged: {why}")));
            Vec::new()
        }
    };
    if !updated.is_empty() {
        text.push_str(&format!("\nupdated to what other loops have landed: {}", safe(&updated.join(" "))));
    }
    let mut document = serde_json::to_value(grant).unwrap_or_default();
    document["updated"] = json!(updated);
    cx.out.answer(&document, &text)
}

fn refused(cx: &Context, loop_id: &LoopId, blockers: &[Blocker]) -> Outcome {
    if cx.out.json {
        cx.out.document(&blockers)?;
        return Err(Failure::Reported);
    }
    let mut owned: Vec<String> = blockers
        .iter()
        .filter_map(|blocker| Some(format!("{} is owned by {}", blocker.file_path, blocker.owned_by.as_ref()?)))
        .collect();
    owned.dedup();
    if let Some(first) = blockers.iter().find(|blocker| blocker.owned_by.is_some()) {
        let ask = format!("loopctl request create {} --loop {loop_id}", first.file_path);
        return Err(Failure::No(format!("refused: {}; request the change with {ask}", list(&owned))));
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
    Err(Failure::No(format!("refused: {why}; wait with --wait SECONDS, or work on other files")))
}

/// How long the row of a waiting acquire stands without this process: a killed one leaves no ghost for longer.
const STANDS_SECONDS: i64 = 30;

/// Queues and asks again whenever something has changed, until it is granted or the time is over. Leaves nothing behind.
fn queue(db: &Database, config: &Config, request: &AcquireRequest, seconds: i64) -> Outcome<Acquire> {
    let silent = config.lease.silent_waiter_seconds;
    // Before any other thread, so that a signal finds only the one that expects it.
    let mut waiter = Waiter::new(db.path().unwrap_or_else(|| std::path::Path::new(".")));
    let over = db.clock().now().plus_seconds(seconds);
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
                if blockers.is_empty()
                    || blockers.iter().any(|blocker| blocker.owned_by.is_some())
                    || db.clock().now() >= over =>
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
        let due = next_look(&blockers, db.clock().now(), over);
        loop {
            let left = due.millis_since(db.clock().now());
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

/// `loopctl renew`
///
/// # Errors
/// Exit 1 if the token holds nothing any more.
pub fn renew(cx: &Context, loop_id: &LoopId, token: i64, ttl: Option<i64>) -> Outcome {
    let db = cx.open()?;
    let grant = db.write(|tx| tx.renew(loop_id, token, ttl))?;
    granted(cx, &grant, Ok(Vec::new()))
}

/// `loopctl unlock`
///
/// # Errors
/// Exit 1 if something is not held (under that token) any more; nothing is released then.
pub fn unlock(cx: &Context, loop_id: &LoopId, paths: &[String], all: bool, token: Option<i64>) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let paths = Place::of(cx, &config)?.paths(paths)?;
    let released = db.write(|tx| if all { tx.release_all(loop_id, token) } else { tx.release(loop_id, &paths, token) })?;
    let number = count(i64::try_from(released.len()).unwrap_or(i64::MAX), "lease");
    cx.out.done(&json!({ "released": released }), &format!("{number} released"))
}
