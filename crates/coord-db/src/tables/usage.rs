//! Use of tokens, money and time.

use serde::Serialize;

use super::{Run, StringList, UsageKey, json};
use crate::engine::Row;
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
    /// Millionths of a US dollar, if known.
    pub cost_microusd: i64,
}

/// Recorded tokens and seconds.
#[derive(Default)]
struct Recorded {
    tokens: i64,
    seconds: i64,
}

/// The sums of [`UsageTotal`] after its key.
const SUMS: &str = "count(*), CAST(total(tokens_estimated) AS BIGINT), CAST(total(duration_seconds) AS BIGINT),
  CAST(total(input_tokens) AS BIGINT), CAST(total(output_tokens) AS BIGINT), CAST(total(cache_read_tokens) AS BIGINT),
  CAST(total(cache_write_tokens) AS BIGINT), CAST(total(cost_microusd) AS BIGINT)";

fn total(row: &Row<'_>) -> Result<UsageTotal> {
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
            "SELECT CAST(total(duration_seconds) AS BIGINT) FROM usage WHERE test_id = ?1 AND recorded_at >= ?2",
            params![test, since],
        )
    }

    /// What a loop has recorded of a test since a moment.
    fn recorded(&self, loop_id: &LoopId, test: &TestId, since: Option<Timestamp>) -> Result<Recorded> {
        let sums = "SELECT CAST(total(tokens_estimated) AS BIGINT), CAST(total(duration_seconds) AS BIGINT) FROM usage
             WHERE test_id = ?1 AND loop_id = ?2 AND recorded_at >= ?3";
        let found = self
            .query_opt(sums, params![test, loop_id, since], |row| Ok(Recorded { tokens: row.get(0)?, seconds: row.get(1)? }))?;
        Ok(found.unwrap_or_default())
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
        let used = self.query_opt(&sums, params![position, since], total)?;
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
            params![
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

    /// Records the end of an agent's run and what it has used, one record for each model, unless its end is known already.
    /// What the agent has recorded itself meanwhile stands in place of it, and its seconds are taken off.
    pub fn end_agent_run(&self, id: &str, used: &[ModelUse], seconds: i64, outcome: &str) -> Result<()> {
        let Some(run) = self.run(id)?.filter(Run::has_unseen_end) else { return Ok(()) };
        let own = match &run.test_id {
            Some(test) => self.recorded(&run.loop_id, test, Some(run.started_at.plus_millis(1)))?,
            None => Recorded::default(),
        };
        let used = if own.tokens > 0 { &[] } else { used };
        for (place, model) in used.iter().enumerate() {
            let seconds = if place == 0 { seconds.saturating_sub(own.seconds) } else { 0 };
            self.record_usage(Some(&run.loop_id), run.test_id.as_ref(), model, seconds, &[])?;
        }
        self.end_run(id, outcome)
    }

    /// Records the files of an attempt at a test that began then, and its seconds that are not recorded yet. They stand beside
    /// the use of its last run. Gives the tokens of the attempt.
    pub fn record_attempt_usage(
        &self,
        loop_id: &LoopId,
        test: &TestId,
        begun: Option<Timestamp>,
        seconds: i64,
        files: &[String],
    ) -> Result<i64> {
        let before = self.recorded(loop_id, test, begun)?;
        let seconds = seconds.saturating_sub(before.seconds).max(0);
        let changed = self.execute(
            "UPDATE usage SET duration_seconds = duration_seconds + ?4, files_modified = ?5 WHERE id =
               (SELECT id FROM usage WHERE test_id = ?1 AND loop_id = ?2 AND recorded_at >= ?3 AND agent IS NOT NULL
                ORDER BY rowid DESC LIMIT 1)",
            params![test, loop_id, begun, seconds, json(&files)],
        )?;
        if changed == 0 {
            self.record_usage(Some(loop_id), Some(test), &ModelUse::default(), seconds, files)?;
        }
        Ok(before.tokens)
    }
}
