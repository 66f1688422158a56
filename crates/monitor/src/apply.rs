//! Writes the rows and events of one action.

use coord_db::{ActorId, ComponentId, EventId, HealthStatus, NewAlert, NewEvent, Result, WriteTx};
use serde_json::{Map, Value, json};

use crate::decide::{Action, AlertEvent, Finding};
use crate::snapshot::ID;

pub(crate) fn apply(tx: &WriteTx<'_>, action: &Action) -> Result<()> {
    match action {
        Action::StoreFiles { loop_id, rows } => {
            tx.replace_worktree_changes(loop_id, rows)?;
        }
        Action::StoreOutput(row) => tx.store_agent_output(row)?,
        Action::ForgetOutput(loop_id) => tx.delete_agent_output(loop_id)?,
        Action::Excuse(loops) => {
            let now = Value::String(tx.now().to_rfc3339());
            let excused: Map<String, Value> = loops.iter().map(|id| (id.to_string(), now.clone())).collect();
            let own: ComponentId = ID.parse()?;
            tx.beat(&own, HealthStatus::Healthy, Some(&json!({ "excused": excused })))?;
        }
        Action::WriteClock { grace_seconds } => {
            tx.observe_clock(*grace_seconds)?;
        }
        Action::Raise(finding, event) => {
            let event = event.as_ref().map(|event| publish(tx, event)).transpose()?;
            write(tx, finding, event)?;
            tracing::warn!(alert = %finding.fingerprint, "{}", finding.message);
        }
        Action::Escalate(finding, event) => {
            let event = publish(tx, event)?;
            write(tx, finding, Some(event))?;
            tracing::warn!(alert = %finding.fingerprint, "{}", finding.message);
        }
        Action::Amend(finding) => {
            let before = tx.open_alert(&finding.fingerprint)?;
            let event = before.and_then(|alert| alert.context.get("event_id")?.as_str()?.parse().ok());
            write(tx, finding, event)?;
        }
        Action::Close { fingerprint } => {
            tx.close_alert(fingerprint)?;
            tracing::info!(alert = %fingerprint, "alert closed: its cause no longer exists");
        }
    }
    Ok(())
}

fn publish(tx: &WriteTx<'_>, event: &AlertEvent) -> Result<EventId> {
    let me: ActorId = ID.parse()?;
    tx.publish(&NewEvent::from_json(me, &event.event_type, event.payload.clone())?.caused_by_id(event.caused_by.clone()))
}

fn write(tx: &WriteTx<'_>, finding: &Finding, event_id: Option<EventId>) -> Result<()> {
    let mut context = finding.context.clone();
    if let (Value::Object(fields), Some(event)) = (&mut context, &event_id) {
        fields.insert("event_id".to_owned(), json!(event));
    }
    tx.raise_alert(&NewAlert {
        fingerprint: finding.fingerprint.clone(),
        severity: finding.severity,
        alert_type: finding.alert_type,
        source: ID.to_owned(),
        message: finding.message.clone(),
        context,
        event_id,
    })?;
    Ok(())
}
