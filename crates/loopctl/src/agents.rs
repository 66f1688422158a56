//! For agents and scripts that drive a loop by hand: claim, give back, beat, lease.

use coding_loop::BroughtUp;
use coord_db::process::ProcessIdentity;
use coord_db::{
    Acquire, Blocker, ComponentId, Config, Database, Error, ErrorCategory, FailedAttempt, Grant, IdOf, LoopId, LoopStatus,
    TestId, WriteTx,
};
use serde_json::json;
use views::health::Health;
use views::sentence::count;
use views::text::{safe, safe_block};
use views::when::{clock, span};

use crate::cli::LockArgs;
use crate::context::Context;
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::leasing::{self, Refusal, Wanted};
use crate::place::Place;
use crate::submit::workspace_for;
use crate::wait::Waiter;
use git::shown;

/// `loopctl next`: claims the loop's next test.
///
/// # Errors
/// Exit 1 if none is ready, the loop works on one, is paused, or a process of its own drives it.
pub fn next(cx: &Context, loop_id: &LoopId) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    if config.agent_of(loop_id).command.is_empty() && db.read(|tx| tx.has_deliveries(loop_id.as_str()))? {
        obey(&db, &config, loop_id);
    }
    // A paused loop is settled for good, although nothing is claimed then.
    db.write(|tx| {
        let row = tx.loop_row(loop_id)?;
        if tx.is_driven(&row)? {
            let pid = row.pid.unwrap_or_default();
            return Err(Error::Refused(format!(
                "loop {loop_id} is driven by its own process, pid {pid}; stop that process first"
            )));
        }
        tx.touch_by_hand(loop_id)?;
        tx.settle_by_hand(loop_id)
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
                        let request = views::ids::short(tx, IdOf::ChangeRequest, &open.id)?;
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
        if tx.is_driven(&owner)? {
            return Err(Error::Refused(format!(
                "loop {loop_id} is driven by its own process; pause it with loopctl pause {loop_id}, or remove the test with loopctl skip {test}"
            )));
        }
        let message = reason.map_or_else(|| format!("given back by hand ({category})"), str::to_owned);
        end_by_hand(tx, test, &loop_id, category, message)?;
        tx.test(test)
    })?;
    let attempts = format!("{} of {} attempts used", row.attempts, row.max_attempts);
    cx.out.done(&row, &format!("test {test} is {}, {attempts}", row.status))
}

/// Ends an attempt of a loop that is driven by hand.
///
/// # Errors
/// [`Error::Refused`] if the test is not in progress.
pub(crate) fn end_by_hand(
    tx: &WriteTx<'_>,
    test: &TestId,
    loop_id: &LoopId,
    category: ErrorCategory,
    message: String,
) -> Result<(), Error> {
    tx.record_failed(test, loop_id, &FailedAttempt::new(category, message))?;
    tx.release_for(loop_id, test)
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
        if tx.is_driven(&row)? {
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
    let paths = Place::of(cx, &config)?.paths(&args.paths)?;
    let wanted = Wanted { paths, ttl: args.ttl, reason: args.reason, test: args.test };
    let request = leasing::request(&db, &config, &args.loop_id, wanted)?;
    let answer = match args.wait {
        None | Some(0) => leasing::at_once(&db, &config, &request)?,
        Some(seconds) => {
            // Before any other thread, so that a signal finds only the one that expects it.
            let mut waiter = Waiter::new(&cx.path);
            leasing::queue(&db, &config, &request, seconds, &mut waiter, |_| {})?
        }
    };
    match answer {
        Acquire::Granted(grant) => {
            let updated = coding_loop::bring_up_to_date(&db, &config, &request.loop_id, &grant.paths, grant.fencing_token);
            granted(cx, &grant, updated)
        }
        Acquire::Refused(blockers) => refused(cx, &request.loop_id, &blockers),
    }
}

fn granted(cx: &Context, grant: &Grant, updated: coding_loop::Result<BroughtUp>) -> Outcome {
    let paths: Vec<String> = grant.paths.iter().map(ToString::to_string).collect();
    let mut text = format!("token {}, expires at {}: {}", grant.fencing_token, clock(grant.expires_at), paths.join(" "));
    let BroughtUp { updated, kept, .. } = updated.unwrap_or_else(|error| {
        let why = coord_db::error_chain(&error);
        eprintln_quietly(&safe(&format!("loopctl: cannot update the files to what has landed; they are unchanged: {why}")));
        BroughtUp::default()
    });
    let [updated, kept] = [updated, kept].map(|files| files.iter().map(|file| shown(file)).collect::<Vec<String>>());
    for (files, what) in [
        (&updated, "updated to what other loops have landed"),
        (&kept, "changed by you and by what other loops have landed, which is merged when your work lands"),
    ] {
        if !files.is_empty() {
            text.push_str(&format!("\n{what}: {}", safe(&files.join(" "))));
        }
    }
    let mut document = serde_json::to_value(grant).unwrap_or_default();
    (document["updated"], document["kept"]) = (json!(updated), json!(kept));
    cx.out.answer(&document, &text)
}

fn refused(cx: &Context, loop_id: &LoopId, blockers: &[Blocker]) -> Outcome {
    if cx.out.json {
        cx.out.document(&blockers)?;
        return Err(Failure::Reported);
    }
    let refusal = Refusal::of(loop_id, blockers);
    let advice = match &refusal.owned {
        Some(path) => format!("request the change with loopctl request create {path} --loop {loop_id}"),
        None => "wait with --wait SECONDS, or work on other files".to_owned(),
    };
    Err(Failure::No(format!("refused: {}; {advice}", refusal.why)))
}

/// `loopctl renew`
///
/// # Errors
/// Exit 1 if the token holds nothing any more.
pub fn renew(cx: &Context, loop_id: &LoopId, token: i64, ttl: Option<i64>) -> Outcome {
    let db = cx.open()?;
    let grant = db.write(|tx| tx.renew(loop_id, token, ttl))?;
    granted(cx, &grant, Ok(BroughtUp::default()))
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
