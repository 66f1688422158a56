//! After a standby was promoted that had not received the last transactions: what they had given out must not be given out again.

use serde::Serialize;

use super::connection::Postgres;
use crate::engine::Row;
use crate::time::GRACE_SECONDS;
use crate::{Result, Timestamp};

/// How far numbers advance that nobody reads: further than any that can have been given out in transactions that were lost.
pub const JUMP: i64 = 1_000_000;
/// How far migration numbers advance, which stand in the names of files.
const MIGRATION_JUMP: i64 = 1_000;

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct AfterFailover {
    /// The next fencing token is above this one.
    pub fencing_token: i64,
    /// The next migration gets a number above this one.
    pub migration_number: i64,
    /// Until when no lease is taken from its holder because it has expired.
    pub grace_until: Timestamp,
    /// The event that reports it.
    pub event_id: String,
}

/// In the caller's transaction: lets all numbers advance, begins the grace for leases on all hosts, and publishes an event.
pub(crate) fn advance(server: &Postgres, now: Timestamp, grace_seconds: i64) -> Result<AfterFailover> {
    server.execute(
        "UPDATE counters SET value = value + CASE name WHEN 'migration_number' THEN ?1::bigint ELSE ?2::bigint END
         WHERE name IN ('fencing_token', 'wait_edge', 'test_wait', 'migration_number')",
        params![MIGRATION_JUMP, JUMP],
    )?;
    server.each(
        "SELECT setval(number, nextval(number) + ?1) FROM (
           SELECT pg_get_serial_sequence(c.relname, a.attname)::regclass AS number
           FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
           WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND a.attidentity <> '') AS numbers",
        &[JUMP],
        |_| Ok(true),
    )?;
    server.execute("UPDATE coding_loops_schema SET timeline = server_timeline()", &[])?;
    let grace_until = now.plus_seconds(grace_seconds.max(GRACE_SECONDS));
    server.execute("UPDATE clock SET grace_until = ?1", &[grace_until])?;
    let counter = |name: &str| {
        let mut value = 0;
        server.each("SELECT value FROM counters WHERE name = ?1", &[name], |row: &Row<'_>| {
            value = row.get(0)?;
            Ok(false)
        })?;
        Ok::<i64, crate::Error>(value)
    };
    let (fencing_token, migration_number) = (counter("fencing_token")?, counter("migration_number")?);
    // The place of the next event comes after the newest one's.
    let event_id = crate::new_id();
    let payload = crate::engine::note(&format!(
        "the server failed over: fencing tokens continue after {fencing_token}, migration numbers after {migration_number}, and \
         leases have a grace until {}",
        grace_until.to_rfc3339()
    ));
    server.execute(
        "INSERT INTO events (rowid, id, timestamp, source, event_type, payload)
         SELECT coalesce(max(rowid), 0) + ?1, ?2, ?3, 'human', 'human_message', ?4 FROM events",
        params![JUMP, event_id, now, payload],
    )?;
    Ok(AfterFailover { fencing_token, migration_number, grace_until, event_id })
}
