//! What every measurement needs: a fresh database, a raw connection to it, an event, a clock that processes share.

use std::path::Path;
use std::time::{Duration, Instant};

use coord_db::{AcquireRequest, Database, Durability, NewEvent, OpenOptions, Payload};
use rusqlite::Connection;
use serde_json::json;
use test_support::acquire_request;

use crate::Failure;

/// What a typical event says.
pub const PAYLOAD: &str = r#"{"test_id":"CP-UFS-001","loop_id":"loop-1","attempt":1,"duration_seconds":12,"tokens_estimated":null,"files_modified":["src/a.rs"],"verified":true,"verification_checks":{"tests":true},"commit":"0123456789abcdef0123456789abcdef01234567"}"#;

/// That event.
pub fn event() -> Result<NewEvent, Failure> {
    let payload = Payload::parse("test_passed", &serde_json::from_str(PAYLOAD)?)?;
    Ok(NewEvent::new("loop-1".parse()?, payload))
}

/// The lease that is taken.
pub fn lease() -> AcquireRequest {
    AcquireRequest { ttl_seconds: 900, ..acquire_request("loop-1", &["src/a.rs"]) }
}

/// Options with a durability.
pub fn options(durability: Durability) -> OpenOptions {
    OpenOptions { durability, ..OpenOptions::default() }
}

/// A connection that knows nothing of this crate, with the same settings.
pub fn raw(path: &Path, durability: Durability) -> Result<Connection, Failure> {
    let connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.busy_timeout(Duration::from_secs(5))?;
    let synchronous = if durability == Durability::Full { "FULL" } else { "NORMAL" };
    connection.execute_batch(&format!("PRAGMA synchronous = {synchronous}; PRAGMA temp_store = memory"))?;
    Ok(connection)
}

/// A database with this number of subscriptions, of which the first `matching` match [`event`].
pub fn database(path: &Path, durability: Durability, subscriptions: usize, matching: usize) -> Result<Database, Failure> {
    let db = Database::create(path, &options(durability))?;
    let connection = raw(path, durability)?;
    connection.execute_batch("DELETE FROM subscriptions; INSERT INTO loops (id, name, priority, status) VALUES ('loop-1', '', 1, 'running'); DELETE FROM subscriptions")?;
    for at in 0..subscriptions {
        let types = if at < matching { json!(["test_passed", "test_failed"]) } else { json!(["file_locked", "test_blocked"]) };
        connection.execute(
            "INSERT INTO subscriptions (id, subscriber, event_types) VALUES (?1, ?1, ?2)",
            rusqlite::params![format!("reader-{at}"), types.to_string()],
        )?;
    }
    Ok(db)
}

/// The same table and indexes without triggers.
pub fn without_triggers(path: &Path, durability: Durability) -> Result<Connection, Failure> {
    drop(Database::create(path, &options(durability))?);
    let connection = raw(path, durability)?;
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'events'")?;
    let triggers: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    drop(statement);
    for trigger in triggers {
        connection.execute_batch(&format!("DROP TRIGGER {trigger}"))?;
    }
    Ok(connection)
}

/// The plainest way to say it.
pub const INSERT: &str = "INSERT INTO events (id, timestamp, source, event_type, payload, correlation_id, priority)
    VALUES (?1, '2026-11-22 00:00:01.005', 'loop-1', 'test_passed', ?2, ?1, 5)";

/// Inserts `count` events as plainly as can be; the ids are made before the clock starts. Seconds for each event.
pub fn insert_raw(connection: &Connection, count: usize, per_transaction: usize) -> Result<f64, Failure> {
    let ids: Vec<String> = (0..count).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let mut insert = connection.prepare(INSERT)?;
    let begin = Instant::now();
    for batch in ids.chunks(per_transaction) {
        if batch.len() > 1 {
            connection.execute_batch("BEGIN IMMEDIATE")?;
        }
        for id in batch {
            insert.execute([id.as_str(), PAYLOAD])?;
        }
        if batch.len() > 1 {
            connection.execute_batch("COMMIT")?;
        }
    }
    Ok(begin.elapsed().as_secs_f64() / count as f64)
}

/// Publishes `count` events. Seconds for each.
pub fn publish(db: &Database, event: &NewEvent, count: usize, per_transaction: usize) -> Result<f64, Failure> {
    let begin = Instant::now();
    let batch = vec![event.clone(); per_transaction];
    for _ in 0..count / per_transaction {
        if let [event] = &batch[..] {
            db.publish(event)?;
        } else {
            db.write(|tx| tx.publish_all(&batch))?;
        }
    }
    Ok(begin.elapsed().as_secs_f64() / count as f64)
}

/// Seconds on a clock that all processes share.
pub fn now() -> f64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9
}
