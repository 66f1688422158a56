//! The only effect: ends processes left by the agent of a dead loop, if its keeper did not.
//!
//! It must only touch the processes of one keeper, identified by its pid and start time in this boot and by the mark of
//! its descendants.

use coord_db::{AlertType, ComponentId, JournalEntry, NewAlert, Result, Severity, WriteTx};
use serde_json::{Value, json};
use supervisor::{LocalFuture, Supervisor};

use crate::Heartbeat;
use crate::snapshot::Leftover;

/// The operation in the journal.
pub const OPERATION: &str = "end_leftovers";

/// The result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Number of processes ended; zero if the keeper had done its work.
    Processes(usize),
    /// A process could not be ended; with the reason.
    Failed(String),
}

/// Records the intent, once for each keeper.
pub(crate) fn begin(tx: &WriteTx<'_>, component: &str, leftover: &Leftover) -> Result<()> {
    let steps = json!({
        "component": component, "pid": leftover.pid, "start_time": leftover.start_time, "boot_id": coord_db::process::boot_id(),
    });
    let id = format!("leftovers:{component}:{}:{}", leftover.pid, leftover.start_time);
    let own = tx.supervisor_id(Heartbeat::ID)?;
    if !tx.begin_operation_once(&id, OPERATION, own.as_str(), &steps, None)? {
        // It was already ended, but an external tool changed the row.
        forget(tx, component, leftover.pid)?;
    }
    Ok(())
}

fn forget(tx: &WriteTx<'_>, component: &str, pid: i64) -> Result<()> {
    if tx.component(component)?.is_some_and(|row| row.child_pid == Some(pid)) {
        tx.set_child(&component.parse::<ComponentId>()?, None)?;
    }
    Ok(())
}

pub(crate) fn perform(entry: &JournalEntry) -> LocalFuture<Ended> {
    let number = |key: &str| entry.steps.intent.get(key).and_then(Value::as_i64);
    let same_boot = entry.steps.text("boot_id") == Some(coord_db::process::boot_id());
    let keeper = number("pid").and_then(|pid| u32::try_from(pid).ok());
    let start = number("start_time").and_then(|start| u64::try_from(start).ok());
    let (true, true, Some(pid), Some(start)) = (entry.operation == OPERATION, same_boot, keeper, start) else {
        return Box::pin(async { Ended::Processes(0) });
    };
    Box::pin(async move {
        match tokio::task::spawn_blocking(move || command_runner::keeper::kill_leftover(pid, start)).await {
            Ok(Ok(count)) => Ended::Processes(count),
            Ok(Err(error)) => Ended::Failed(error.to_string()),
            Err(error) => Ended::Failed(error.to_string()),
        }
    })
}

pub(crate) fn record(tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Ended) -> Result<()> {
    let component = entry.steps.text("component").unwrap_or_default();
    let pid = entry.steps.intent.get("pid").and_then(Value::as_i64).unwrap_or_default();
    let message = match outcome {
        Ended::Processes(0) => None,
        Ended::Processes(count) => {
            Some((Severity::Info, format!("{count} processes left by the agent of the dead loop {component} were ended")))
        }
        Ended::Failed(why) => Some((
            Severity::Error,
            format!(
                "cannot end the processes left by the agent of the dead loop {component} under pid {pid}: {why}; end them by hand"
            ),
        )),
    };
    if let Some((severity, message)) = message {
        tracing::warn!("{message}");
        tx.raise_alert(&NewAlert {
            fingerprint: entry.id.clone(),
            severity,
            alert_type: AlertType::Resource,
            source: Heartbeat::ID.to_owned(),
            message,
            context: json!({"kind": "leftovers", "component": component, "pid": pid}),
            event_id: None,
        })?;
    }
    if matches!(outcome, Ended::Processes(_)) {
        // The alert is reported and closed at once.
        tx.close_alert(&entry.id)?;
    }
    forget(tx, component, pid)?;
    tx.end_operation(&entry.id, matches!(outcome, Ended::Processes(_)))?;
    Ok(())
}
