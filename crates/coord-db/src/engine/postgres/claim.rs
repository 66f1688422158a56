//! That one process at a time runs as a supervisor, by a lock that ends with its connection. Another one sees at once that it is
//! free, and not only when heartbeats have been missing for long.
//!
//! A connection that breaks is a suspicion and no proof. The process takes the lock again when it connects again, and ends if
//! another one has it by then.

use std::time::{Duration, Instant};

use super::errors::Failure;
use super::worker::{Worker, text};

/// How long to wait for the end of a session that is ended.
const ENDING: Duration = Duration::from_secs(2);

/// The lock that a process holds.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    component: String,
    /// The condition that a row of `pg_stat_activity` is the session that holds it.
    session: String,
}

/// The lock's key. Component ids have no quotes.
fn key(component: &str) -> String {
    format!("hashtextextended('coding-loops {}', 0)", component.replace('\'', ""))
}

fn is_true(rows: &[Vec<Option<String>>]) -> bool {
    text(rows, 0).as_deref() == Some("t")
}

impl Claim {
    /// The component.
    pub(super) fn component(&self) -> &str {
        &self.component
    }

    /// Ends the sessions that hold the lock of a component.
    pub(super) fn end_others(worker: &Worker, component: &str) {
        let holders = format!(
            "pid <> pg_backend_pid() AND pid IN (SELECT l.pid FROM pg_locks AS l
               WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                 AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND (l.classid::bigint << 32) | l.objid::bigint = {})",
            key(component)
        );
        end_sessions(worker, &holders);
    }

    /// Takes the lock if it is free.
    pub(super) fn take(worker: &Worker, component: &str) -> Result<Option<Self>, Failure> {
        if !is_true(&worker.batch(&format!("SELECT pg_try_advisory_lock({})", key(component)))?) {
            return Ok(None);
        }
        let rows = worker.batch(
            "SELECT format('pid = %s AND backend_start = %L', pid, backend_start) FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        )?;
        Ok(Some(Self { component: component.to_owned(), session: text(&rows, 0).unwrap_or_else(|| "false".to_owned()) }))
    }

    /// Takes it again on a new connection. The old one may still stand at the server, which has not noticed that it broke.
    ///
    /// # Errors
    /// [`Failure::Replaced`] if another session has it.
    pub(super) fn renew(&self, worker: &Worker) -> Result<Self, Failure> {
        let claim = match Self::take(worker, &self.component)? {
            Some(claim) => Some(claim),
            None => {
                end_sessions(worker, &self.session);
                Self::take(worker, &self.component)?
            }
        };
        claim.ok_or_else(|| Failure::Replaced(self.component.clone()))
    }
}

/// Ends sessions of `pg_stat_activity`, and waits a while for their end. A role that may not do that leaves them alone.
#[allow(clippy::disallowed_methods)]
fn end_sessions(worker: &Worker, condition: &str) {
    let ended = worker.batch(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {condition}"));
    let end = Instant::now() + ENDING;
    let is_there = || worker.batch(&format!("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE {condition})"));
    while ended.is_ok() && is_there().is_ok_and(|rows| is_true(&rows)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
}
