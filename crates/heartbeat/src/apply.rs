//! Writes the rows and events of one action.

use coord_db::config::HeartbeatConfig;
use coord_db::payload::{ComponentDegraded, ComponentRecovered};
use coord_db::{
    ActorId, AlertType, CleanUp, Event, EventId, HealthStatus, LoopStatus, NewAlert, NewEvent, Result, Severity,
    StaleDeliveries, UnlockCause, WriteTx, is_reserved, supervisor_of, supervisors,
};
use serde_json::{Value, json};
use supervisor::Supervisor;

use crate::decide::incarnation;
use crate::snapshot::{FINGERPRINT, HeartbeatSnapshot, OPERATIONS, STALE_FINGERPRINT, Subject};
use crate::{Action, Heartbeat, perform};

pub(crate) fn apply(config: &HeartbeatConfig, tx: &WriteTx<'_>, snapshot: &HeartbeatSnapshot, action: &Action) -> Result<()> {
    let me: ActorId = Heartbeat::ID.parse()?;
    match action {
        Action::ObserveClock => {
            tx.observe_clock(config.wake_grace_seconds)?;
        }
        Action::Judge { subject, status, cause } => judge(tx, &me, &snapshot.subjects[*subject], *status, cause)?,
        Action::Recover { subject, down_for_seconds } => {
            let subject = &snapshot.subjects[*subject];
            recover(tx, me, subject, *down_for_seconds)?;
        }
        Action::Correct { subject, status } => {
            if let Some(health) = &snapshot.subjects[*subject].health {
                tx.judge_component(health, *status)?;
            }
        }
        Action::CleanUp { subject } => {
            let subject = &snapshot.subjects[*subject];
            let event = match last_event(subject) {
                Some(id) => tx.event(id.as_str())?,
                None => None,
            };
            clean_up(tx, &me, subject, "its process has ended", event.as_ref())?;
        }
        Action::EndLeftovers { subject } => {
            let subject = &snapshot.subjects[*subject];
            if let Some(leftover) = &subject.leftover {
                perform::begin(tx, &subject.id, leftover)?;
            }
        }
        Action::ReportOperations { component, message } => {
            tx.raise_alert(&NewAlert {
                fingerprint: format!("{OPERATIONS}{component}"),
                severity: Severity::Warning,
                alert_type: AlertType::Resource,
                source: Heartbeat::ID.to_owned(),
                message: message.clone(),
                context: json!({"kind": "journal", "component": component}),
                event_id: None,
            })?;
        }
        Action::CloseOperations { fingerprint } => drop(tx.close_alert(fingerprint)?),
        Action::CloseAlert { component } => {
            tx.close_alert(&format!("{FINGERPRINT}{component}"))?;
        }
        Action::Forget(component) => tx.forget_component(component)?,
        Action::EndLease(lease) => {
            tx.end_lease(lease, &me, UnlockCause::Expired, None)?;
        }
        Action::PutBack(test) => {
            let reason = format!("loop {} no longer works on it", test.loop_id);
            tx.give_back_abandoned(test, &me, &reason, None)?;
        }
        Action::DeleteEdge(edge) => {
            tx.delete_wait_edge(edge)?;
        }
        Action::WithdrawRequest(request) => tx.withdraw_request(&request.id)?,
        Action::SetAside(stale) => set_aside(tx, stale)?,
        Action::CloseUnread { fingerprint } => {
            tx.close_alert(fingerprint)?;
        }
    }
    Ok(())
}

/// Sets deliveries aside; one alert for each subscriber.
fn set_aside(tx: &WriteTx<'_>, stale: &StaleDeliveries) -> Result<()> {
    tx.set_aside_stale(stale, "not read for too long")?;
    let fingerprint = format!("{STALE_FINGERPRINT}{}", stale.subscription_id);
    let open = tx.open_alert(&fingerprint)?;
    let before = open.as_ref().and_then(|alert| alert.context.get("deliveries")).and_then(Value::as_u64).unwrap_or(0);
    let deliveries = before + stale.events.len() as u64;
    tx.raise_alert(&NewAlert {
        fingerprint,
        severity: Severity::Warning,
        alert_type: AlertType::Resource,
        source: Heartbeat::ID.to_owned(),
        message: format!("{} does not read its events; {deliveries} old deliveries were set aside", stale.subscriber),
        context: json!({
            "kind": "delivery", "subscriber": stale.subscriber, "subscription_id": stale.subscription_id,
            "deliveries": deliveries, "last_event_id": stale.events.last(),
        }),
        // There are many events, and they have to stay archivable.
        event_id: None,
    })?;
    tracing::warn!(subscriber = %stale.subscriber, deliveries = stale.events.len(), "unread deliveries set aside");
    Ok(())
}

/// The event that reported the present state.
fn last_event(subject: &Subject) -> Option<EventId> {
    let alert = subject.alert.as_ref()?;
    let newest = alert.context.get("event_id").and_then(Value::as_str).and_then(|id| id.parse().ok());
    newest.or_else(|| alert.event_id.clone())
}

fn judge(tx: &WriteTx<'_>, me: &ActorId, subject: &Subject, status: HealthStatus, cause: &str) -> Result<()> {
    if let Some(health) = &subject.health
        && !tx.judge_component(health, status)?
    {
        return Ok(());
    }
    let payload = ComponentDegraded {
        component: subject.id.clone(),
        last_heartbeat: subject.health.as_ref().and_then(|health| health.last_heartbeat),
        status,
        cause: Some(cause.to_owned()),
    };
    let event_id = tx.publish(&NewEvent::new(me.clone(), payload).caused_by_id(last_event(subject)))?;
    let what = if subject.loop_row.is_some() { "loop" } else { "component" };
    tx.raise_alert(&NewAlert {
        fingerprint: format!("{FINGERPRINT}{}", subject.id),
        severity: if status == HealthStatus::Dead { Severity::Error } else { Severity::Warning },
        alert_type: AlertType::Resource,
        source: Heartbeat::ID.to_owned(),
        message: format!("{what} {} is {status}: {cause}{}", subject.label(), meaning(&subject.id)),
        context: json!({
            "kind": "component", "component": subject.id, "status": status, "cause": cause,
            "incarnation": incarnation(subject), "event_id": event_id,
        }),
        event_id: Some(event_id.clone()),
    })?;
    tracing::warn!(component = %subject.id, %status, cause, "judged");
    if status == HealthStatus::Dead {
        let event = tx.event(event_id.as_str())?;
        clean_up(tx, me, subject, cause, event.as_ref())?;
    }
    Ok(())
}

/// The consequences while a supervisor is not running.
fn meaning(component: &str) -> String {
    supervisors::find(supervisor_of(component)).map_or_else(String::new, |known| format!("; {}", known.without))
}

fn recover(tx: &WriteTx<'_>, me: ActorId, subject: &Subject, down_for_seconds: i64) -> Result<()> {
    if let Some(health) = &subject.health
        && matches!(health.status, HealthStatus::Dead | HealthStatus::Degraded)
    {
        tx.judge_component(health, HealthStatus::Healthy)?;
    }
    let payload = ComponentRecovered { component: subject.id.clone(), down_for_seconds };
    tx.publish(&NewEvent::new(me, payload).caused_by_id(last_event(subject)))?;
    tx.close_alert(&format!("{FINGERPRINT}{}", subject.id))?;
    tracing::info!(component = %subject.id, down_for_seconds, "component recovered");
    Ok(())
}

/// Releases everything that a dead loop held. Processes left by its agent are ended by its keeper.
fn clean_up(tx: &WriteTx<'_>, me: &ActorId, subject: &Subject, cause: &str, event: Option<&Event>) -> Result<()> {
    let Some(row) = &subject.loop_row else {
        // An external tool may hold leases under a name that is not a loop.
        if !is_reserved(&subject.id) {
            tx.release_everything(&subject.id, me, UnlockCause::OwnerDied, event)?;
        }
        return Ok(());
    };
    let how = CleanUp {
        source: me.clone(),
        cause: UnlockCause::OwnerDied,
        // A loop in status `stopped` was not lost.
        status: if row.status == LoopStatus::Stopped { LoopStatus::Stopped } else { LoopStatus::Error },
        reason: format!("loop {} died during the attempt: {cause}", row.id),
    };
    tx.clean_up_loop(&row.id, &how, event)
}
