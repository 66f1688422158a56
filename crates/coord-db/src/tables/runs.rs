//! Runs of agents and checks: what a loop has running now and since when, and which log belongs to which run.

use std::collections::BTreeMap;

use super::json;
use crate::{LoopId, ModelUse, ReadTx, Result, RunOf, TestId, Timestamp, WriteTx, new_id};

row! {
    /// One run. `log` is the name of a file in the loop's folder for logs. Without `ended_at` it runs, or nobody saw its end.
    Run {
        id: String, loop_id: LoopId, test_id: Option<TestId>, attempt: i64, kind: RunOf, name: String, log: String,
        started_at: Timestamp, ended_at: Option<Timestamp>, outcome: Option<String>, session: Option<String>,
        session_used: Option<String>, progress: Option<String>,
    }
}

/// A run that is about to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun<'a> {
    /// Whose.
    pub loop_id: &'a LoopId,
    /// For which test; none for a check that all loops need.
    pub test_id: Option<&'a TestId>,
    /// In which attempt at it; 0 without a test.
    pub attempt: i64,
    /// What runs.
    pub kind: RunOf,
    /// The session of the agent that it continues.
    pub session: Option<&'a str>,
    /// The agent's program, or the check.
    pub name: &'a str,
    /// The name of its log, which no other run has.
    pub log: &'a str,
}

/// How a run ended that its loop did not see end.
const UNSEEN: &str = "interrupted";
/// As [`UNSEEN`], once its log is read.
pub(crate) const KILLED: &str = "its loop was killed";

impl Run {
    /// True if nobody saw its end.
    #[must_use]
    pub fn has_unseen_end(&self) -> bool {
        self.ended_at.is_none() || self.outcome.as_deref() == Some(UNSEEN)
    }
}

impl ReadTx<'_> {
    /// What a loop has running.
    pub fn open_run(&self, loop_id: &LoopId) -> Result<Option<Run>> {
        Ok(self.last_run(loop_id)?.filter(|run| run.ended_at.is_none()))
    }

    /// What a loop has, or had, running last.
    pub fn last_run(&self, loop_id: &LoopId) -> Result<Option<Run>> {
        self.query_opt(
            select!(Run, "FROM runs WHERE loop_id = ?1 ORDER BY started_at DESC, id DESC LIMIT 1"),
            [loop_id],
            Run::from_row,
        )
    }

    /// One run.
    pub fn run(&self, id: &str) -> Result<Option<Run>> {
        self.query_opt(select!(Run, "FROM runs WHERE id = ?1"), [id], Run::from_row)
    }

    /// All runs for a test, oldest first.
    pub fn runs_of_test(&self, test_id: &TestId) -> Result<Vec<Run>> {
        self.query(select!(Run, "FROM runs WHERE test_id = ?1 ORDER BY started_at, id"), [test_id], Run::from_row)
    }

    /// The newest run of an agent for an attempt, with the session that it had.
    pub fn last_agent_run(&self, loop_id: &LoopId, test_id: &TestId, attempt: i64) -> Result<Option<Run>> {
        self.query_opt(
            select!(
                Run,
                "FROM runs WHERE test_id = ?2 AND loop_id = ?1 AND attempt = ?3 AND kind = 'agent'
                 ORDER BY started_at DESC, id DESC LIMIT 1"
            ),
            params![loop_id, test_id, attempt],
            Run::from_row,
        )
    }

    /// The number of the newest runs of an agent for an attempt during which their loop was killed.
    pub(crate) fn killed_runs(&self, loop_id: &LoopId, test_id: &TestId, attempt: i64) -> Result<i64> {
        let runs = "FROM runs WHERE test_id = ?2 AND loop_id = ?1 AND attempt = ?3 AND kind = 'agent'";
        self.value(
            &format!(
                "SELECT count(*) {runs} AND outcome = ?4
                 AND started_at > coalesce((SELECT max(started_at) {runs} AND outcome <> ?4), '')"
            ),
            params![loop_id, test_id, attempt, KILLED],
        )
    }

    /// What a session had used by the end of its newest run that stated it, by model.
    pub fn session_used(&self, loop_id: &LoopId, session: &str) -> Result<BTreeMap<String, ModelUse>> {
        let text: Option<Option<String>> = self.query_opt(
            "SELECT session_used FROM runs WHERE loop_id = ?1 AND session = ?2 AND session_used IS NOT NULL
             ORDER BY started_at DESC, id DESC LIMIT 1",
            [loop_id.as_str(), session],
            |row| row.get(0),
        )?;
        Ok(text.flatten().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    }

    /// The runs that have not ended before a moment, oldest first.
    pub fn runs_since(&self, since: Timestamp) -> Result<Vec<Run>> {
        self.query(
            select!(Run, "FROM runs WHERE ended_at IS NULL OR ended_at >= ?1 ORDER BY started_at, id"),
            [since],
            Run::from_row,
        )
    }

    /// The oldest runs that began before a time, at most `limit`, without those of loops of other hosts: their logs are there.
    pub fn runs_before(&self, before: Timestamp, limit: usize) -> Result<Vec<Run>> {
        self.query(
            select!(
                Run,
                "FROM runs WHERE started_at < ?1
                   AND NOT EXISTS (SELECT 1 FROM component_health AS c WHERE c.component = runs.loop_id AND c.host <> ?3)
                 ORDER BY started_at, id LIMIT ?2"
            ),
            params![before, limit as i64, crate::process::host()],
            Run::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Writes down that a run starts, and ends those of the loop that nobody saw end. Gives its id.
    pub fn begin_run(&self, run: &NewRun<'_>) -> Result<String> {
        self.end_open_runs(run.loop_id)?;
        let id = new_id();
        self.execute(
            "INSERT INTO runs (id, loop_id, test_id, attempt, kind, session, name, log, started_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![id, run.loop_id, run.test_id, run.attempt, run.kind, run.session, run.name, run.log, self.now()],
        )?;
        Ok(id)
    }

    /// Writes down how a run ended.
    pub fn end_run(&self, id: &str, outcome: &str) -> Result<()> {
        let now = self.now();
        self.execute("UPDATE runs SET ended_at = ?2, outcome = ?3 WHERE id = ?1", params![id, now, outcome])?;
        Ok(())
    }

    /// Records the end of an agent's run that nobody saw, with what its log says.
    pub fn end_unseen_run(&self, run: &Run, session: Option<&str>, used: &[ModelUse]) -> Result<()> {
        self.note_run(&run.id, session, None)?;
        self.end_agent_run(&run.id, used, 0, KILLED)?;
        self.count_killed_runs(run)
    }

    /// Records the session of a running agent, and what it does.
    pub fn note_run(&self, id: &str, session: Option<&str>, progress: Option<&str>) -> Result<()> {
        self.execute("UPDATE runs SET session = ?2, progress = ?3 WHERE id = ?1", params![id, session, progress])?;
        Ok(())
    }

    /// Records what a session has used by the end of a run, by model.
    pub fn note_session_used(&self, id: &str, used: &BTreeMap<String, ModelUse>) -> Result<()> {
        self.execute("UPDATE runs SET session_used = ?2 WHERE id = ?1", params![id, json(used)])?;
        Ok(())
    }

    /// Ends the runs of a loop that nobody saw end.
    pub(crate) fn end_open_runs(&self, loop_id: &LoopId) -> Result<()> {
        self.execute(
            "UPDATE runs SET ended_at = ?2, outcome = ?3 WHERE loop_id = ?1 AND ended_at IS NULL",
            params![loop_id, self.now(), UNSEEN],
        )?;
        Ok(())
    }

    /// Deletes a run whose log is missing.
    pub fn delete_run(&self, id: &str) -> Result<()> {
        self.execute("DELETE FROM runs WHERE id = ?1", [id])?;
        Ok(())
    }
}
