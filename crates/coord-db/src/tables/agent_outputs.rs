//! How far monitor has read what each loop's agent writes, and what it found there.

use serde_json::Value;

use crate::{ReadTx, Result, Timestamp, WriteTx};

row! {
    /// The reading of one loop's current log. `errors` is an object by normalised error: `example`, `times` (rounds in a row
    /// that showed it) and `shown` (how often the last of them did).
    AgentOutput {
        loop_id: String, log: String, read_bytes: i64, read_at: Timestamp, news_at: Timestamp, errors: Value,
    }
}

impl ReadTx<'_> {
    /// All readings, by loop.
    pub fn agent_outputs(&self) -> Result<Vec<AgentOutput>> {
        self.query(select!(AgentOutput, "FROM agent_outputs ORDER BY loop_id"), [], AgentOutput::from_row)
    }
}

impl WriteTx<'_> {
    /// Writes a reading down in place of the loop's last one.
    pub fn store_agent_output(&self, row: &AgentOutput) -> Result<()> {
        self.execute(
            "INSERT INTO agent_outputs (loop_id, log, read_bytes, read_at, news_at, errors) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (loop_id) DO UPDATE SET log = excluded.log, read_bytes = excluded.read_bytes,
               read_at = excluded.read_at, news_at = excluded.news_at, errors = excluded.errors",
            params![row.loop_id, row.log, row.read_bytes, row.read_at, row.news_at, row.errors.to_string()],
        )?;
        Ok(())
    }

    /// Forgets the reading of a loop that is not registered any more.
    pub fn delete_agent_output(&self, loop_id: &str) -> Result<()> {
        self.execute("DELETE FROM agent_outputs WHERE loop_id = ?1", [loop_id])?;
        Ok(())
    }
}
