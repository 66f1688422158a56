//! Steering: what a human (or who acts for one) asks of the loops. A loop with a process takes the request itself; for one
//! without, this tool applies it at once.

use coord_db::payload::{RestartRequested, RollbackTriggered};
use coord_db::process::ProcessIdentity;
use coord_db::{
    Decision, Error, EventId, IdOf, Loop, LoopId, LoopStatus, NewEvent, ReadTx, Steered, TestId, UnlockCause, WriteTx,
};
use serde_json::json;
use views::sentence::{count, list};
use views::text::safe;

use crate::cli::Which;
use crate::context::Context;
use crate::exit::{Failure, Outcome, eprintln_quietly};
use crate::ids;
use crate::submit::failure;

/// The component that applies the human's answers.
const PM: &str = "pm";

fn selected(tx: &WriteTx<'_>, which: &Which) -> Result<Vec<Loop>, Error> {
    match which {
        Which::All => tx.loops(),
        Which::One(id) => Ok(vec![tx.loop_row(id)?]),
    }
}

fn report(cx: &Context, steered: &[Steered], driven: &str, applied: &str) -> Outcome {
    if cx.out.json {
        return cx.out.document(&steered);
    }
    if cx.out.quiet {
        return Ok(());
    }
    if steered.is_empty() {
        return cx.out.text("no loops; add one with loopctl loop add");
    }
    let mut text = String::new();
    for one in steered {
        let how = if one.driven { driven } else { applied };
        let test = one.gave_back.as_ref().map(|test| format!("; test {test} is pending again")).unwrap_or_default();
        text.push_str(&safe(&format!("{} {how}{test}", one.loop_id)));
        text.push('\n');
    }
    cx.out.text(&text)
}

/// `loopctl pause`
///
/// # Errors
/// Exit 4 for an unknown loop.
pub fn pause(cx: &Context, which: &Which, reason: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let actor = cx.actor();
    let steered: Vec<Steered> = db.write(|tx| {
        selected(tx, which)?.iter().map(|row| tx.request_pause(row, reason, &actor)).collect::<Result<_, Error>>()
    })?;
    report(cx, &steered, "is asked to pause and saves its work first", "is paused")
}

/// `loopctl resume`
///
/// # Errors
/// Exit 4 for an unknown loop; exit 1 if a pause stands that is not the actor's to lift.
pub fn resume(cx: &Context, which: &Which, reason: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let actor = cx.actor();
    let steered: Vec<Steered> = db.write(|tx| {
        selected(tx, which)?.iter().map(|row| tx.request_resume(row, reason, &actor)).collect::<Result<_, Error>>()
    })?;
    let still = steered.iter().any(|one| !one.driven && one.status == LoopStatus::Paused);
    let applied = if still { "is still paused by another request" } else { "is not paused" };
    report(cx, &steered, "is asked to resume", applied)
}

/// `loopctl skip`
///
/// # Errors
/// Exit 4 for an unknown test, 1 for one that has passed or is skipped already.
pub fn skip(cx: &Context, test: &TestId, reason: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let (row, waiting) = db.write(|tx| Ok::<_, Error>((tx.skip_and_release(test, reason)?, tx.dependents(test)?)))?;
    let waiting = match waiting.len() {
        0 => String::new(),
        more => format!("; {} of it still wait", count(i64::try_from(more).unwrap_or(i64::MAX), "dependent")),
    };
    cx.out.done(&row, &format!("test {test} is skipped{waiting}"))
}

/// `loopctl reset`
///
/// # Errors
/// Exit 4 for an unknown test, 1 while a loop works on it, and for one that has passed unless it is forced.
pub fn reset(cx: &Context, test: &TestId, force: bool) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let row = db.write(|tx| {
        let row = tx.test(test)?;
        if row.status == coord_db::TestStatus::Passed && !force {
            let branch = &config.repository.integration_branch;
            let landed =
                row.commit_hash.as_deref().map_or_else(String::new, |commit| format!(" (commit {commit} on {branch})"));
            return Err(Error::Refused(format!(
                "test {test} has passed{landed}: a reset puts it back on the queue of {} to be verified again, \
                 and its commit stays; confirm with loopctl reset --force {test}",
                row.loop_id
            )));
        }
        tx.reset_test(test)?;
        tx.test(test)
    })?;
    cx.out.done(&row, &format!("test {test} is pending again; its attempts are cleared"))
}

/// `loopctl restart`
///
/// # Errors
/// Exit 4 for an unknown loop; for one that is driven by hand git's error.
pub fn restart(cx: &Context, loop_id: &LoopId, reason: Option<&str>) -> Outcome {
    let actor = cx.actor();
    let reason = reason.map_or_else(|| format!("asked by {actor}"), str::to_owned);
    let payload = RestartRequested { loop_id: loop_id.clone(), reason, requested_by: actor.clone() };
    request(cx, loop_id, NewEvent::new(actor, payload), ("restart", "restarted"))
}

/// `loopctl rollback`: the loop acts; for one that is driven by hand this tool does.
///
/// # Errors
/// Exit 4 for an unknown loop or checkpoint, 1 for another loop's or one whose ref is deleted, 2 for the beginning of several.
pub fn rollback(cx: &Context, loop_id: &LoopId, checkpoint: Option<&str>, reason: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let checkpoint = match checkpoint {
        Some(given) => {
            let id = db.read(|tx| ids::find(tx, IdOf::Checkpoint, given))?;
            db.read(|tx| tx.rollback_checkpoint(&id, loop_id))?;
            Some(id)
        }
        None => None,
    };
    let actor = cx.actor();
    let payload = RollbackTriggered {
        loop_id: loop_id.clone(),
        checkpoint_id: checkpoint,
        reason: reason.map_or_else(|| format!("asked by {actor}"), str::to_owned),
        triggered_by: actor.clone(),
    };
    request(cx, loop_id, NewEvent::new(actor, payload), ("roll back", "rolled back"))
}

fn request(cx: &Context, loop_id: &LoopId, event: NewEvent, (what, done): (&str, &str)) -> Outcome {
    let (db, config) = cx.open_with_config()?;
    let (id, driven) = db.write(|tx| {
        let row = tx.loop_row(loop_id)?;
        Ok::<_, Error>((tx.publish(&event)?, tx.is_driven(&row)?))
    })?;
    let answer = |status: LoopStatus| json!({ "loop_id": loop_id, "event_id": id, "status": status });
    let status = || db.read(|tx| Ok::<_, Error>(tx.loop_row(loop_id)?.status));
    if !driven && config.agent_of(loop_id).command.is_empty() {
        let said = {
            let _working = cx.out.working(format!("{loop_id}: saving its work, resetting its workspace"));
            coding_loop::obey_by_hand(&db, &config, loop_id).map_err(failure)?
        };
        if let Some(Err(why)) = said.last() {
            return Err(Failure::No(format!("{loop_id} cannot {what}: {why}")));
        }
        return cx.out.done(
            &answer(status()?),
            &format!("{loop_id} is {done}; its work is saved, see loopctl checkpoints --loop {loop_id}"),
        );
    }
    if !driven {
        eprintln_quietly(&format!(
            "loopctl: loop {loop_id} is not running; coding-loop {loop_id} carries out the request when it starts"
        ));
    }
    cx.out.done(&answer(status()?), &format!("{loop_id} is asked to {what}"))
}

/// `loopctl priority`
///
/// # Errors
/// Exit 4 for an unknown loop.
pub fn priority(cx: &Context, loop_id: &LoopId, priority: i64, reason: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let actor = cx.actor();
    let reason = reason.map_or_else(|| format!("set by {actor}"), str::to_owned);
    let row = db.write(|tx| {
        tx.set_priority(loop_id, priority, &reason, &actor, None)?;
        tx.loop_row(loop_id)
    })?;
    cx.out.done(&row, &format!("{loop_id} has priority {priority}"))
}

/// `loopctl force-unlock`: leases end by the human's hand; the old tokens are stale from then on.
///
/// # Errors
/// Exit 4 for a loop that is neither registered nor holds anything.
pub fn force_unlock(cx: &Context, loop_id: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let actor = cx.actor();
    let ended = db.write(|tx| {
        let mut holders: Vec<String> = tx.leases(false)?.into_iter().map(|lease| lease.locked_by).collect();
        holders.sort();
        holders.dedup();
        if let Some(id) = loop_id {
            if !holders.iter().any(|holder| holder == id) && tx.find_loop(id)?.is_none() {
                return Err(Error::NotFound { what: "loop", id: id.to_owned() });
            }
            holders.retain(|holder| holder == id);
        }
        let mut ended = Vec::new();
        for holder in holders {
            let paths = tx.revoke_leases(&holder, &actor, UnlockCause::Forced, None)?;
            ended.extend(paths.into_iter().map(|path| json!({ "file_path": path, "locked_by": holder })));
        }
        Ok(ended)
    })?;
    let number = count(i64::try_from(ended.len()).unwrap_or(i64::MAX), "lease");
    cx.out.done(&ended, &format!("{number} revoked"))
}

/// `loopctl decide`: the answer is an event; pm applies it.
///
/// # Errors
/// Exit 4 for an unknown decision, 2 for no option of it, 1 if it is settled.
pub fn decide(cx: &Context, decision: &str, option: &str, comment: Option<&str>) -> Outcome {
    let db = cx.open()?;
    let actor = cx.actor();
    let (answered, pm) = db.write(|tx| {
        let rows = if decision == ALL {
            open_with(tx, option)?
        } else {
            vec![tx.decision(&ids::find(tx, IdOf::Decision, decision)?.parse()?)?]
        };
        let mut answered = Vec::new();
        for row in rows {
            let short = views::ids::short(tx, IdOf::Decision, row.id.as_str())?;
            let event = tx.answer(&row.id, option, comment, &actor, "cli")?;
            answered.push((row, short, event));
        }
        Ok::<_, Failure>((answered, tx.running_process(PM, &ProcessIdentity::own())?.is_some()))
    })?;
    let waits_for_pm = answered.iter().any(|(row, ..)| !row.is_of_base());
    if !pm && waits_for_pm {
        eprintln_quietly("loopctl: pm-agent is not running; apply the answer now with pm-agent --once");
    } else if !pm {
        eprintln_quietly("loopctl: pm-agent is not running; the next loop that starts an attempt applies the answer");
    }
    let document =
        |(row, _, event): &(Decision, String, EventId)| json!({ "decision_id": row.id, "choice": option, "event_id": event });
    let lines: Vec<String> =
        answered.iter().map(|(_, short, _)| format!("decision {short} is answered with {option}")).collect();
    match &answered[..] {
        [one] if decision != ALL => cx.out.done(&document(one), &lines.join("\n")),
        all => cx.out.done(&all.iter().map(document).collect::<Vec<_>>(), &lines.join("\n")),
    }
}

/// What stands for every question that has the option.
const ALL: &str = "all";

/// The open questions without an answer that have an option.
fn open_with(tx: &ReadTx<'_>, option: &str) -> Outcome<Vec<Decision>> {
    let open = views::questions::questions(tx, tx.decisions(true)?)?;
    let waiting: Vec<Decision> = open.into_iter().filter(|one| one.answered.is_none()).map(|one| one.row).collect();
    let has = |row: &Decision| row.option_ids().iter().any(|id| id == option);
    if waiting.iter().any(has) {
        return Ok(waiting.into_iter().filter(has).collect());
    }
    if waiting.is_empty() {
        return Err(Failure::No("no question waits for an answer".to_owned()));
    }
    let mut known: Vec<String> = waiting.iter().flat_map(Decision::option_ids).collect();
    known.sort();
    known.dedup();
    Err(Failure::usage(format!("no open question has the option {option:?}; there are {}", list(&known))))
}

/// `loopctl ack-alert`
///
/// # Errors
/// Exit 4 for an unknown alert, 1 for one that is acknowledged or closed already.
pub fn ack_alert(cx: &Context, id: &str) -> Outcome {
    let db = cx.open()?;
    let actor = cx.actor();
    let (row, short) = db.write(|tx| {
        let id = ids::find(tx, IdOf::Alert, id)?;
        tx.acknowledge_alert(&id, actor.as_str())?;
        Ok::<_, Failure>((tx.alert(&id)?, views::ids::short(tx, IdOf::Alert, &id)?))
    })?;
    cx.out.done(&row, &format!("alert {short} is marked as seen"))
}
