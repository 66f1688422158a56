//! Token and time use.

use serde::Serialize;

use super::{StringList, UsageKey, json};
use crate::{LoopId, ReadTx, Result, TestId, Timestamp, WriteTx, new_id};

row! {
    /// One record of use.
    Usage {
        id: String, loop_id: Option<LoopId>, test_id: Option<TestId>, tokens_estimated: i64, duration_seconds: i64,
        files_modified: StringList, recorded_at: Timestamp,
    }
}

/// Use added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UsageTotal {
    /// Which loop, test or day.
    pub key: String,
    /// Records.
    pub records: i64,
    /// Tokens.
    pub tokens_estimated: i64,
    /// Seconds.
    pub duration_seconds: i64,
}

impl ReadTx<'_> {
    /// Use since a moment, added up by loop, test or day.
    pub fn usage_totals(&self, by: UsageKey, since: Option<Timestamp>) -> Result<Vec<UsageTotal>> {
        let key = match by {
            UsageKey::Loop => "loop_id",
            UsageKey::Test => "test_id",
            UsageKey::Day => "substr(recorded_at, 1, 10)",
        };
        self.query(
            &format!(
                "SELECT coalesce({key}, '') AS key, count(*), CAST(total(tokens_estimated) AS INTEGER),
                   CAST(total(duration_seconds) AS INTEGER)
                 FROM usage WHERE recorded_at >= coalesce(?1, '') GROUP BY key ORDER BY key"
            ),
            [since],
            |row| {
                Ok(UsageTotal {
                    key: row.get(0)?,
                    records: row.get(1)?,
                    tokens_estimated: row.get(2)?,
                    duration_seconds: row.get(3)?,
                })
            },
        )
    }

    /// Tokens and seconds spent on a test so far.
    pub fn usage_of_test(&self, test: &TestId) -> Result<(i64, i64)> {
        Ok(self
            .query_opt(
                "SELECT CAST(total(tokens_estimated) AS INTEGER), CAST(total(duration_seconds) AS INTEGER) FROM usage WHERE test_id = ?1",
                [test],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .unwrap_or_default())
    }
}

impl ReadTx<'_> {
    /// Seconds spent on a test, as recorded since a moment.
    pub fn seconds_of_test_since(&self, test: &TestId, since: Timestamp) -> Result<i64> {
        self.value(
            "SELECT CAST(total(duration_seconds) AS INTEGER) FROM usage WHERE test_id = ?1 AND recorded_at >= ?2",
            rusqlite::params![test, since],
        )
    }

    /// When a loop's use was recorded last.
    pub fn last_usage_of(&self, loop_id: &LoopId) -> Result<Option<Timestamp>> {
        self.value("SELECT max(recorded_at) FROM usage WHERE loop_id = ?1", [loop_id])
    }

    /// Tokens recorded since a moment in the records after a position, and the position of the last record.
    pub fn tokens_since(&self, since: Timestamp, position: i64) -> Result<(i64, i64)> {
        let last: i64 = self.value("SELECT coalesce(max(rowid), 0) FROM usage", [])?;
        if last == position {
            return Ok((0, last));
        }
        let tokens = self.value(
            "SELECT CAST(total(tokens_estimated) AS INTEGER) FROM usage WHERE rowid > ?1 AND recorded_at >= ?2",
            rusqlite::params![position, since],
        )?;
        Ok((tokens, last))
    }
}

impl WriteTx<'_> {
    /// Records use.
    pub fn record_usage(
        &self,
        loop_id: Option<&LoopId>,
        test: Option<&TestId>,
        tokens: i64,
        seconds: i64,
        files: &[String],
    ) -> Result<String> {
        let id = new_id();
        self.execute(
            "INSERT INTO usage (id, loop_id, test_id, tokens_estimated, duration_seconds, files_modified, recorded_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            rusqlite::params![id, loop_id, test, tokens.max(0), seconds.max(0), json(&files), self.now()],
        )?;
        Ok(id)
    }

    /// Records what an attempt at a test that began then has cost, so far as the agent has not recorded it itself: its own
    /// count of tokens stands in place of an estimate, and the time that it gave is taken off. Gives the tokens of the
    /// attempt.
    pub fn record_attempt_usage(
        &self,
        loop_id: &LoopId,
        test: &TestId,
        begun: Option<Timestamp>,
        tokens: i64,
        seconds: i64,
        files: &[String],
    ) -> Result<i64> {
        let (own_tokens, own_seconds): (i64, i64) = self
            .query_opt(
                "SELECT coalesce(sum(tokens_estimated), 0), coalesce(sum(duration_seconds), 0) FROM usage
                 WHERE test_id = ?1 AND loop_id = ?2 AND recorded_at >= ?3",
                rusqlite::params![test, loop_id, begun],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .unwrap_or_default();
        let counted = if own_tokens > 0 { 0 } else { tokens.max(0) };
        self.record_usage(Some(loop_id), Some(test), counted, seconds - own_seconds, files)?;
        Ok(own_tokens + counted)
    }
}
