//! Events: immutable rows that say who says what.

use std::sync::LazyLock;

use serde_json::Value;

use crate::engine::sqlite::NOW;
use crate::engine::{Kind, Parameter};
use crate::{
    Database, Error, EventId, LeasePath, LoopId, NewEvent, Payload, ReadTx, Result, TestId, Timestamp, UnlockCause, WriteTx,
};

row! {
    /// An event, as it is in the database.
    Event {
        id: EventId, timestamp: Timestamp, source: String, event_type: String, payload: Value,
        correlation_id: Option<String>, priority: i64, acknowledged: bool, acknowledged_by: Option<String>,
        acknowledged_at: Option<Timestamp>, caused_by: Option<EventId>,
    }
}

impl Event {
    /// What it says, as a type.
    ///
    /// # Errors
    /// If the payload does not fit the catalog: a foreign writer's mistake.
    pub fn parse(&self) -> Result<Payload> {
        Payload::parse(&self.event_type, &self.payload)
    }
}

/// What an event says about how a loop's tests went; nothing more is read of it, so that many can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestMark {
    /// The event's place in the order of commits.
    pub position: i64,
    /// The event.
    pub event_id: EventId,
    /// When it was published.
    pub at: Timestamp,
    /// `test_started`, `test_failed`, `test_passed`, `test_blocked` or `loop_resumed`.
    pub event_type: String,
    /// The loop that it names, or else its source.
    pub loop_id: String,
    /// The test that it names.
    pub test_id: Option<String>,
    /// The number of the attempt that it names.
    pub attempt: Option<i64>,
    /// The beginning of the error that it names.
    pub error: Option<String>,
}

/// Which events to list; every set field narrows.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Said by.
    pub source: Option<String>,
    /// Of this type.
    pub event_type: Option<String>,
    /// About this test.
    pub test_id: Option<String>,
    /// Of this story.
    pub correlation_id: Option<String>,
    /// At most this number of events, the newest.
    pub limit: Option<i64>,
    /// Only rows after this position (see [`ReadTx::last_event_position`]).
    pub after_position: Option<i64>,
}

impl ReadTx<'_> {
    /// True if any event is older than a moment.
    pub fn has_events_before(&self, at: Timestamp) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM events WHERE timestamp < ?1)", [at])
    }

    /// True if an event with this id was moved into the archive.
    pub fn is_archived(&self, event: &str) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM archived_events WHERE id = ?1)", [event])
    }

    /// The event with this id.
    pub fn event(&self, id: &str) -> Result<Option<Event>> {
        self.query_opt(select!(Event, "FROM events WHERE id = ?1"), [id], Event::from_row)
    }

    /// Events in the order of commits, oldest first; of a limited list the newest.
    pub fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        let mut events = self.query(
            select!(
                Event,
                "FROM events
                 WHERE (timestamp >= ?1 OR ?1 IS NULL) AND (timestamp <= ?2 OR ?2 IS NULL)
                   AND (source = ?3 OR ?3 IS NULL) AND (event_type = ?4 OR ?4 IS NULL)
                   AND (json_extract(payload, '$.test_id') = ?5 OR ?5 IS NULL) AND (correlation_id = ?6 OR ?6 IS NULL)
                   AND (rowid > ?7 OR ?7 IS NULL)
                 ORDER BY rowid DESC LIMIT ?8"
            ),
            params![
                filter.since,
                filter.until,
                filter.source,
                filter.event_type,
                filter.test_id,
                filter.correlation_id,
                filter.after_position,
                filter.limit.unwrap_or(i64::MAX)
            ],
            Event::from_row,
        )?;
        events.reverse();
        Ok(events)
    }

    /// Events of some types since a moment, in the order of commits. A type may have years of rows and a moment many events of
    /// other types: the first row since then bounds those that are read of each type.
    pub fn events_of_types(&self, types: &[&str], since: Timestamp) -> Result<Vec<Event>> {
        self.query(
            select!(
                Event,
                "FROM events WHERE event_type IN (SELECT value FROM json_each(?2))
                   AND rowid >= (SELECT min(+rowid) FROM events WHERE timestamp >= ?1) AND +timestamp >= ?1 ORDER BY +rowid"
            ),
            params![since, serde_json::json!(types).to_string()],
            Event::from_row,
        )
    }

    /// The newest events about a test, at most `limit`, in the order of commits: those of its attempts, and what was published
    /// about it outside of them by this system. Found by their stories, because no index has the test of an event.
    pub fn events_of_test(&self, test: &TestId, limit: usize) -> Result<Vec<Event>> {
        let mut events = self.query(
            select!(
                Event,
                "FROM events WHERE json_extract(payload, '$.test_id') = ?1 AND rowid IN (
                   SELECT e.rowid FROM events AS s JOIN events AS e ON e.correlation_id = s.correlation_id
                     WHERE s.event_type = 'test_started' AND json_extract(s.payload, '$.test_id') = ?1
                   UNION
                   SELECT rowid FROM events WHERE event_type IN (
                     'test_started', 'test_passed', 'test_failed', 'test_blocked', 'test_moved', 'work_checked',
                     'agent_gave_up', 'landing_queued', 'regression_detected', 'regression_cleared', 'stuck_detected',
                     'digression_detected') AND json_extract(payload, '$.test_id') = ?1)
                 ORDER BY rowid DESC LIMIT ?2"
            ),
            params![test, limit as i64],
            Event::from_row,
        )?;
        events.reverse();
        Ok(events)
    }

    /// The next events about how loops' tests went, in the order of commits, after a position. At most `limit`.
    pub fn test_marks_after(&self, position: i64, limit: usize) -> Result<Vec<TestMark>> {
        self.query(
            "SELECT rowid, id, timestamp, event_type,
               coalesce(CAST(json_extract(payload, '$.loop_id') AS TEXT), source),
               CAST(json_extract(payload, '$.test_id') AS TEXT), CAST(json_extract(payload, '$.attempt') AS TEXT),
               substr(CAST(json_extract(payload, '$.error_message') AS TEXT), 1, 500)
             FROM events
             WHERE event_type IN ('test_started', 'test_failed', 'test_passed', 'test_blocked', 'loop_resumed') AND rowid > ?1
             ORDER BY rowid LIMIT ?2",
            params![position, limit as i64],
            |row| {
                Ok(TestMark {
                    position: row.get(0)?,
                    event_id: row.get(1)?,
                    at: row.get(2)?,
                    event_type: row.get(3)?,
                    loop_id: row.get(4)?,
                    test_id: row.get(5)?,
                    // What another program wrote there may be no number.
                    attempt: row.get::<Option<String>>(6)?.and_then(|attempt| attempt.parse().ok()),
                    error: row.get(7)?,
                })
            },
        )
    }

    /// The last event of a source, and its time.
    pub fn last_event_of(&self, source: &str) -> Result<Option<(EventId, Timestamp)>> {
        self.query_opt("SELECT id, timestamp FROM events WHERE source = ?1 ORDER BY rowid DESC LIMIT 1", [source], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    /// Where the list of events ends now; later events lie after it.
    pub fn last_event_position(&self) -> Result<i64> {
        self.value("SELECT coalesce(max(rowid), 0) FROM events", [])
    }

    /// The events that this one led to, oldest first.
    pub fn effects_of(&self, id: &EventId) -> Result<Vec<Event>> {
        self.query(select!(Event, "FROM events WHERE caused_by = ?1 ORDER BY rowid"), [id], Event::from_row)
    }

    /// The newest event of a type that names a loop and came from a source at or after a moment, if there is one.
    pub fn newest_event_for_loop(
        &self,
        event_type: &str,
        source: &str,
        loop_id: &str,
        since: Timestamp,
    ) -> Result<Option<Event>> {
        self.query_opt(
            select!(
                Event,
                "FROM events WHERE event_type = ?1 AND source = ?2 AND timestamp >= ?4
                   AND json_extract(payload, '$.loop_id') = ?3 ORDER BY rowid DESC LIMIT 1"
            ),
            params![event_type, source, loop_id, since],
            Event::from_row,
        )
    }

    /// The newest event of a type from a source that came after a moment, if there is one.
    pub fn newest_event(&self, event_type: &str, source: &str, after: Timestamp) -> Result<Option<Event>> {
        self.query_opt(
            select!(Event, "FROM events WHERE event_type = ?1 AND source = ?2 AND timestamp >= ?3 ORDER BY rowid DESC LIMIT 1"),
            params![event_type, source, after],
            Event::from_row,
        )
    }

    /// How the loop's last lease that covered `path` ended, if one ever has.
    pub fn last_unlock(&self, loop_id: &LoopId, path: &LeasePath) -> Result<Option<UnlockCause>> {
        self.query_opt(
            "SELECT json_extract(payload, '$.cause') FROM events
             WHERE event_type = 'file_unlocked' AND json_extract(payload, '$.loop_id') = ?1
               AND json_extract(payload, '$.file_path') IN (SELECT value FROM json_each(?2))
             ORDER BY rowid DESC LIMIT 1",
            params![loop_id, super::json(&path.equal_or_above())],
            |row| row.get(0),
        )
    }
}

/// In a transaction, with its time.
static INSERT: LazyLock<String> = LazyLock::new(|| insert("?2"));
/// In one of its own.
static INSERT_ALONE: LazyLock<String> = LazyLock::new(|| insert(NOW));

/// Inserts a row of [`parameters`] with a time. Several rows in one statement cost SQLite more each: five times as much for
/// fifty.
fn insert(time: &str) -> String {
    // What a loop says during an attempt without naming a cause, the attempt's start has led to.
    const CAUSE: &str = "coalesce(?7, CASE WHEN ?4 NOT IN ('test_started', 'component_started', 'component_stopped')
      THEN (SELECT event_id FROM running_attempts WHERE loop_id = ?3) END)";
    // An event belongs to the story of its cause.
    format!(
        "INSERT INTO events (id, timestamp, source, event_type, payload, priority, caused_by, correlation_id)
         VALUES (?1, {time}, ?3, ?4, ?5, ?6, {CAUSE},
           coalesce(?8, (SELECT correlation_id FROM events WHERE id = {CAUSE}), {CAUSE}, ?1))"
    )
}

fn parameters<'a>(id: &'a EventId, event: &'a NewEvent, now: Option<&'a str>) -> [Parameter<'a>; 8] {
    let text = |text: &'a str| Parameter::Text(text.into());
    let null = || Parameter::Null;
    [
        text(id.as_str()),
        now.map_or_else(null, text),
        text(event.source.as_str()),
        text(event.payload.event_type()),
        Parameter::Text(event.payload.to_json().into()),
        Parameter::Integer(event.priority.max(1)),
        event.caused_by.as_ref().map_or_else(null, |cause| text(cause.as_str())),
        event.correlation_id.as_ref().map_or_else(null, |story| text(story)),
    ]
}

impl Database {
    /// Says one thing, in a transaction of its own: cheaper than [`WriteTx::publish`] in one that does nothing else.
    pub fn publish(&self, event: &NewEvent) -> Result<EventId> {
        if self.engine().kind() != Kind::Sqlite {
            return self.write(|tx| tx.publish(event));
        }
        let id = EventId::generate();
        self.write_one(&INSERT_ALONE, parameters(&id, event, None))?;
        Ok(id)
    }
}

impl WriteTx<'_> {
    /// Says something. Each matching subscription gets its delivery in this transaction.
    pub fn publish(&self, event: &NewEvent) -> Result<EventId> {
        let id = EventId::generate();
        self.insert_event(&id, event)?;
        Ok(id)
    }

    /// Says several things, in this order, as [`WriteTx::publish`] says one.
    pub fn publish_all(&self, events: &[NewEvent]) -> Result<Vec<EventId>> {
        events.iter().map(|event| self.publish(event)).collect()
    }

    /// As [`WriteTx::publish`], with an id chosen by the caller.
    ///
    /// # Errors
    /// [`Error::Exists`] if an event has this id.
    pub fn publish_as(&self, id: &EventId, event: &NewEvent) -> Result<()> {
        if self.event(id.as_str())?.is_some() {
            return Err(Error::Exists { what: "event", id: id.to_string() });
        }
        self.insert_event(id, event)
    }

    fn insert_event(&self, id: &EventId, event: &NewEvent) -> Result<()> {
        let now = self.now().to_sql_text();
        self.execute(&INSERT, parameters(id, event, Some(&now))).map(drop)
    }
}
