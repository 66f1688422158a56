//! Use of tokens, money and time.

use serde::Serialize;

use super::{StringList, UsageKey, json};
use crate::row::Row;
use crate::{LoopId, ModelUse, ReadTx, Result, TestId, Timestamp, WriteTx, new_id};

row! {
    /// One record of use. `tokens_estimated` is what counts against budgets: input that no cache had, writes to the cache, and output.
    Usage {
        id: String, loop_id: Option<LoopId>, test_id: Option<TestId>, tokens_estimated: i64, duration_seconds: i64,
        files_modified: StringList, recorded_at: Timestamp, agent: Option<String>, model: Option<String>, input_tokens: i64,
        output_tokens: i64, cache_read_tokens: i64, cache_write_tokens: i64, cost_microusd: Option<i64>,
    }
}

/// Use added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UsageTotal {
    /// Which loop, test, day or model.
    pub key: String,
    /// Records.
    pub records: i64,
    /// Tokens that count against budgets.
    pub tokens_estimated: i64,
    /// Seconds.
    pub duration_seconds: i64,
    /// Input tokens that no cache had.
    pub input_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Input tokens read from a cache.
    pub cache_read_tokens: i64,
    /// Input tokens written to a cache.
    pub cache_write_tokens: i64,
    /// Millionths of a US dollar, as far as known.
    pub cost_microusd: i64,
}

/// The sums of [`UsageTotal`] after its key.
const SUMS: &str = "count(*), CAST(total(tokens_estimated) AS INTEGER), CAST(total(duration_seconds) AS INTEGER),
  CAST(total(input_tokens) AS INTEGER), CAST(total(output_tokens) AS INTEGER), CAST(total(cache_read_tokens) AS INTEGER),
  CAST(total(cache_write_tokens) AS INTEGER), CAST(total(cost_microusd) AS INTEGER)";

fn total(row: &Row<'_, '_>) -> rusqlite::Result<UsageTotal> {
    Ok(UsageTotal {
        key: row.get(0)?,
        records: row.get(1)?,
        tokens_estimated: row.get(2)?,
        duration_seconds: row.get(3)?,
        input_tokens: row.get(4)?,
        output_tokens: row.get(5)?,
        cache_read_tokens: row.get(6)?,
        cache_write_tokens: row.get(7)?,
        cost_microusd: row.get(8)?,
    })
}

impl ReadTx<'_> {
    /// Use since a moment, added up.
    pub fn usage_totals(&self, by: UsageKey, since: Option<Timestamp>) -> Result<Vec<UsageTotal>> {
        let key = match by {
            UsageKey::Loop => "loop_id",
            UsageKey::Test => "test_id",
            UsageKey::Day => "substr(recorded_at, 1, 10)",
            UsageKey::Hour => "substr(recorded_at, 1, 13)",
            UsageKey::Model => "model",
            UsageKey::Agent => "agent",
        };
        self.query(
            &format!(
                "SELECT coalesce({key}, '') AS key, {SUMS} FROM usage WHERE recorded_at >= coalesce(?1, '') GROUP BY key ORDER BY key"
            ),
            [since],
            total,
        )
    }

    /// What a test has used so far. The key is empty.
    pub fn usage_of_test(&self, test: &TestId) -> Result<UsageTotal> {
        Ok(self.query_opt(&format!("SELECT '', {SUMS} FROM usage WHERE test_id = ?1"), [test], total)?.unwrap_or_default())
    }

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

    /// Use since a moment in the records after a position, and the position of the last record. The key is empty.
    pub fn usage_since(&self, since: Timestamp, position: i64) -> Result<(UsageTotal, i64)> {
        let last: i64 = self.value("SELECT coalesce(max(rowid), 0) FROM usage", [])?;
        if last == position {
            return Ok((UsageTotal::default(), last));
        }
        let sums = format!("SELECT '', {SUMS} FROM usage WHERE rowid > ?1 AND recorded_at >= ?2");
        let used = self.query_opt(&sums, rusqlite::params![position, since], total)?;
        Ok((used.unwrap_or_default(), last))
    }
}

impl WriteTx<'_> {
    /// Records use.
    pub fn record_usage(
        &self,
        loop_id: Option<&LoopId>,
        test: Option<&TestId>,
        used: &ModelUse,
        seconds: i64,
        files: &[String],
    ) -> Result<String> {
        let id = new_id();
        self.execute(
            "INSERT INTO usage (id, loop_id, test_id, tokens_estimated, duration_seconds, files_modified, recorded_at, agent, model,
               input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_microusd)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            rusqlite::params![
                id,
                loop_id,
                test,
                used.tokens.max(0),
                seconds.max(0),
                json(&files),
                self.now(),
                used.agent,
                used.model,
                used.input.max(0),
                used.output.max(0),
                used.cache_read.max(0),
                used.cache_write.max(0),
                used.cost_microusd.map(|cost| cost.max(0)),
            ],
        )?;
        Ok(id)
    }

    /// Records what an attempt at a test that began then has used, one record for each model. What the agent has recorded
    /// itself meanwhile stands in place of it, and its seconds are taken off. Gives the tokens of the attempt.
    pub fn record_attempt_usage(
        &self,
        loop_id: &LoopId,
        test: &TestId,
        begun: Option<Timestamp>,
        used: &[ModelUse],
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
        let nothing = [ModelUse::default()];
        let used = if own_tokens > 0 || used.is_empty() { &nothing } else { used };
        let mut tokens = own_tokens;
        for (place, model) in used.iter().enumerate() {
            // The time and the files are of the whole attempt.
            let (seconds, files) = if place == 0 { (seconds - own_seconds, files) } else { (0, [].as_slice()) };
            self.record_usage(Some(loop_id), Some(test), model, seconds, files)?;
            tokens = tokens.saturating_add(model.tokens.max(0));
        }
        Ok(tokens)
    }
}
