//! Writes the rows and events of one action.
//!
//! An action that the rows no longer allow (a deleted test, an earlier answer) is logged and skipped; it must not fail
//! the pass, which would be repeated forever.

use std::collections::BTreeMap;

use coord_db::payload::{PauseRequested, RestartRequested, ResumeRequested, TestMoved};
use coord_db::{
    ActorId, AlertType, EventId, LoopId, NewAlert, NewEvent, Payload, Result, Severity, TestId, TestStatus, WriteTx,
};
use serde_json::{Value, json};

use crate::decide::{Act, Action, Verdict};
use crate::perform::OPERATION;

pub(crate) fn apply(tx: &WriteTx<'_>, action: &Action) -> Result<()> {
    carry_out(tx, &action.act, action.cause.as_ref())
}

/// Turns a refusal into a log line, so that the pass continues.
fn tolerate<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_refusal() => {
            tracing::warn!(%error, "action skipped");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn pm() -> Result<ActorId> {
    "pm".parse()
}

fn publish(tx: &WriteTx<'_>, payload: impl Into<Payload>, cause: Option<&EventId>) -> Result<EventId> {
    tx.publish(&NewEvent::new(pm()?, payload).caused_by_id(cause.cloned()))
}

fn who(by_human: bool) -> Result<ActorId> {
    if by_human { Ok(ActorId::human()) } else { pm() }
}

fn judge(tx: &WriteTx<'_>, id: &str, verdict: &Verdict) -> Result<()> {
    match verdict {
        Verdict::Settle(settlement) => {
            tracing::info!(reason = settlement.reason, "conflict settled");
            tx.settle_conflict(id, &settlement.winner, &settlement.loser, Some(&settlement.winner_test))
        }
        Verdict::Over(why) => tx.resolve_conflict(id, why),
        Verdict::Later => Ok(()),
    }
}

fn carry_out(tx: &WriteTx<'_>, act: &Act, cause: Option<&EventId>) -> Result<()> {
    let event = |id: Option<&EventId>| id.map_or(Ok(None), |id| tx.event(id.as_str()));
    match act {
        Act::OpenConflict { file, one, other, verdict } => {
            let Some(cause) = cause else { return Ok(()) };
            if let Some(id) = tx.add_conflict(file, one, other, cause)? {
                judge(tx, &id, verdict)?;
            }
        }
        Act::JudgeConflict { id, verdict } => judge(tx, id, verdict)?,
        Act::Pause { loop_id, reason, by_human } => {
            let payload = PauseRequested { loop_id: loop_id.clone(), reason: reason.clone(), requested_by: who(*by_human)? };
            publish(tx, payload, cause)?;
        }
        Act::Resume { loop_id, reason } => {
            let payload = ResumeRequested { loop_id: loop_id.clone(), reason: reason.clone(), requested_by: pm()? };
            publish(tx, payload, cause)?;
        }
        Act::Restart { loop_id, reason, by_human } => {
            let payload = RestartRequested { loop_id: loop_id.clone(), reason: reason.clone(), requested_by: who(*by_human)? };
            publish(tx, payload, cause)?;
        }
        Act::Ask(question) => {
            let id = tolerate(tx.ask(question, event(cause)?.as_ref()))?;
            tracing::info!(decision = ?id, summary = question.summary, "question asked");
        }
        Act::Resolve { id, choice, by_human, comment, then } => {
            let cause = event(cause)?;
            let resolved = tolerate(tx.resolve_decision(id, choice.as_deref(), *by_human, comment.as_deref(), cause.as_ref()))?;
            if let Some(event) = resolved {
                tracing::info!(decision = %id, choice, by_human, "decision settled");
                follow(tx, then, &event)?;
            }
        }
        Act::Announce { id, then } => {
            if let Some(event) = tolerate(tx.announce_decision(id))? {
                tracing::info!(decision = %id, "decision applied that another process settled");
                follow(tx, then, &event)?;
            }
        }
        Act::ResetTest { test } => drop(tolerate(tx.reset_test(test))?),
        Act::RedoTest { test, reason } => {
            if tolerate(tx.reset_test_because(test, reason))? == Some(false) {
                tracing::info!(%test, "the test is already pending or in progress");
            }
        }
        Act::RollBack { test, to, commit, undone, reason } => {
            roll_back(tx, (test, to), commit, (undone.as_ref(), reason), cause)?
        }
        Act::SkipTest { test, reason } => drop(tolerate(tx.skip_test(test, Some(reason)))?),
        Act::SkipQueue { loop_id, reason } => {
            for test in tx.tests(Some(loop_id), Some(TestStatus::Pending))? {
                tolerate(tx.skip_test(&test.id, Some(reason)))?;
            }
        }
        Act::HoldTest { test, until } => drop(tolerate(tx.delay_test(test, *until))?),
        Act::AcceptNoChange { test } => drop(tolerate(tx.accept_no_change(test))?),
        Act::LiftHold { subject } => tx.lift_hold(subject)?,
        Act::FollowBase { answer, reason } => drop(tolerate(tx.apply_base_answer(answer, reason))?),
        Act::ReportSystemError { message, test } => {
            tx.raise_alert(&NewAlert {
                fingerprint: crate::matters::SYSTEM.to_owned(),
                severity: Severity::Error,
                alert_type: AlertType::Resource,
                source: "pm".to_owned(),
                message: message.clone(),
                context: json!({ "kind": "system", "test_id": test }),
                event_id: cause.cloned(),
            })?;
        }
        Act::ClearDependency { test } => drop(tolerate(tx.clear_dependency(test))?),
        Act::HandOn { from, kind, why, moves } => hand_on(tx, from, (kind, why), moves, cause)?,
        Act::Supersede { id, by } => drop(tolerate(tx.supersede_knowledge(id, by))?),
        Act::AnswerChange { id, to, by_human } => {
            tolerate(tx.resolve_change(id, *to, &who(*by_human)?, cause.cloned()))?;
        }
        Act::CloseAlert { fingerprint } => drop(tx.close_alert(fingerprint)?),
        Act::Notify { id, message } => drop(tx.begin_operation_once(id, OPERATION, "pm", message, cause)?),
        Act::BeginReports { id, message } => {
            if tx.begin_operation_once(id, OPERATION, "pm", message, cause)? {
                tx.end_operation(id, true)?;
            }
        }
        Act::Ignore(why) => tracing::info!(why, "ignored"),
    }
    Ok(())
}

fn follow(tx: &WriteTx<'_>, acts: &[Act], event: &EventId) -> Result<()> {
    acts.iter().try_for_each(|act| carry_out(tx, act, Some(event)))
}

fn roll_back(
    tx: &WriteTx<'_>,
    (test, to): (&TestId, &LoopId),
    commit: &str,
    (undone, reason): (Option<&TestId>, &str),
    cause: Option<&EventId>,
) -> Result<()> {
    if tolerate(tx.reset_test_because(test, reason))?.is_none() {
        return Ok(());
    }
    // A test in progress has other work; the revert waits for its next attempt.
    if tx.test(test)?.loop_id != *to {
        tolerate(tx.move_test(test, to))?;
    }
    tx.ask_revert(test, commit, cause)?;
    tracing::info!(%test, %to, commit, "revert scheduled");
    if let Some(undone) = undone {
        let why = format!("commit {commit} was reverted because it broke test {test}: do the work again without breaking it");
        tolerate(tx.reset_test_because(undone, &why))?;
        tolerate(tx.add_dependency(undone, test))?;
    }
    Ok(())
}

fn hand_on(
    tx: &WriteTx<'_>,
    from: &LoopId,
    (kind, why): (&str, &str),
    moves: &[(TestId, LoopId)],
    cause: Option<&EventId>,
) -> Result<()> {
    let fingerprint = format!("{kind}:{from}");
    // An open alert also lists earlier moves.
    let reported = tx.open_alert(&fingerprint)?.and_then(|alert| alert.context.get("tests").cloned());
    let mut tests: BTreeMap<String, Value> =
        reported.as_ref().and_then(Value::as_object).map(|reported| reported.clone().into_iter().collect()).unwrap_or_default();
    for (test, to) in moves {
        if tolerate(tx.move_test(test, to))?.is_some() {
            let moved =
                TestMoved { test_id: test.clone(), from_loop: from.clone(), to_loop: to.clone(), reason: why.to_owned() };
            publish(tx, moved, cause)?;
            tests.insert(test.to_string(), json!(to));
        }
    }
    let list: Vec<String> = tests.iter().map(|(test, to)| format!("{test} to {}", to.as_str().unwrap_or_default())).collect();
    let message = format!("{why}; its tests were moved: {}", list.join(", "));
    tracing::info!("{message}");
    tx.raise_alert(&NewAlert {
        fingerprint,
        severity: Severity::Info,
        alert_type: AlertType::Resource,
        source: "pm".to_owned(),
        message,
        context: json!({ "kind": kind, "loop_id": from, "tests": tests }),
        event_id: cause.cloned(),
    })?;
    Ok(())
}
