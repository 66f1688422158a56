//! Writes the rows and events of one action.

use coord_db::payload::ForceRelease;
use coord_db::{
    ActorId, AlertType, Config, Deadlock, DeadlockOutcome, NewAlert, NewDeadlock, NewDecision, NewEvent, Result, Severity,
    UnlockCause, WriteTx,
};
use serde_json::{Value, json};
use supervisor::Supervisor;

use crate::test_cycles::{DEPENDENCY_CYCLE, Question};
use crate::{Action, DeadlockDetector};

pub(crate) fn apply(config: &Config, tx: &WriteTx<'_>, action: &Action) -> Result<()> {
    let me: ActorId = DeadlockDetector::ID.parse()?;
    match action {
        Action::Resolve { id, outcome } => resolve(tx, id, *outcome)?,
        Action::Revoke { deadlock, waits_too } => revoke(tx, &me, deadlock, *waits_too)?,
        Action::ForceRelease { victim, cycle, locks, reason } => {
            let payload = ForceRelease {
                loop_id: victim.clone(),
                reason: reason.clone(),
                locks_held: locks.clone(),
                must_rollback: true,
                cycle: cycle.clone(),
            };
            let event_id = tx.publish(&NewEvent::new(me, payload))?;
            let id = tx.add_deadlock(&NewDeadlock {
                victim: victim.to_string(),
                cycle: cycle.clone(),
                locks: locks.clone(),
                reason: reason.clone(),
                revoke_at: tx.now().plus_seconds(config.deadlock.grace_seconds),
                event_id: event_id.clone(),
            })?;
            tracing::info!(deadlock = %id, %victim, reason, "victim chosen");
            let context = json!({
                "kind": "deadlock", "deadlock_id": id, "victim": victim, "cycle": cycle, "locks_held": locks,
            });
            alert(tx, fingerprint(&id), reason.clone(), context, Some(event_id))?;
        }
        Action::Unbreakable { fingerprint, members } => {
            let message = format!(
                "deadlock of {}: none of them is a loop, so no victim can be chosen; delete one of their rows in wait_graph",
                members.join(", ")
            );
            let context = json!({"kind": "deadlock_unbreakable", "cycle": members});
            alert(tx, fingerprint.clone(), message, context, None)?;
        }
        Action::AwaitsPermission { fingerprint, members, requests, message } => {
            let context = json!({"kind": "deadlock_awaits_leave", "cycle": members, "requests": requests});
            alert(tx, fingerprint.clone(), message.clone(), context, None)?;
        }
        Action::Ask(question) => ask(config, tx, me, question)?,
        Action::CloseAlert { fingerprint } => {
            tx.close_alert(fingerprint)?;
        }
    }
    Ok(())
}

fn ask(config: &Config, tx: &WriteTx<'_>, me: ActorId, question: &Question) -> Result<()> {
    let new = NewDecision {
        decision_type: DEPENDENCY_CYCLE.to_owned(),
        summary: question.summary.clone(),
        options: question.options.clone(),
        default_option: Some(question.default.clone()),
        context: question.context.clone(),
        timeout_minutes: Some(config.pm.decision_timeout_minutes.max(0)),
        requested_by: me,
        fingerprint: Some(question.fingerprint.clone()),
    };
    let id = tx.ask(&new, None)?;
    tracing::info!(decision = %id, summary = question.summary, "asked the human");
    Ok(())
}

fn fingerprint(id: &str) -> String {
    format!("deadlock:{id}")
}

fn alert(
    tx: &WriteTx<'_>,
    fingerprint: String,
    message: String,
    context: Value,
    event_id: Option<coord_db::EventId>,
) -> Result<()> {
    tx.raise_alert(&NewAlert {
        fingerprint,
        severity: Severity::Warning,
        alert_type: AlertType::Conflict,
        source: DeadlockDetector::ID.to_owned(),
        message,
        context,
        event_id,
    })?;
    Ok(())
}

fn resolve(tx: &WriteTx<'_>, id: &str, outcome: DeadlockOutcome) -> Result<()> {
    tx.resolve_deadlock(id, outcome)?;
    tx.close_alert(&fingerprint(id))?;
    tracing::info!(deadlock = id, %outcome, "deadlock resolved");
    Ok(())
}

fn revoke(tx: &WriteTx<'_>, me: &ActorId, deadlock: &Deadlock, waits_too: bool) -> Result<()> {
    let event = tx.event(deadlock.event_id.as_str())?;
    let revoked = if waits_too {
        tx.release_everything(&deadlock.victim, me, UnlockCause::Revoked, event.as_ref())?
    } else {
        tx.revoke_leases(&deadlock.victim, me, UnlockCause::Revoked, event.as_ref())?
    };
    resolve(tx, &deadlock.id, DeadlockOutcome::Revoked)?;
    let given_up = if waits_too { "leases and waits" } else { "leases" };
    let message = format!("{} did not release its leases in time; its {given_up} were revoked", deadlock.victim);
    let context = json!({
        "kind": "deadlock_revoked", "deadlock_id": deadlock.id, "victim": deadlock.victim, "cycle": deadlock.cycle,
        "revoked": revoked, "waits_too": waits_too,
    });
    alert(tx, format!("deadlock_revoked:{}", deadlock.id), message, context, Some(deadlock.event_id.clone()))
}
