//! The ledger: whatever was passed stays watched. How each check last fared for one test alone, what is known of each test
//! that had passed, and commits that are to be reverted.

use serde::Serialize;

use super::StringList;
use crate::{EventId, ReadTx, RegressionStatus, Result, RunOutcome, TestId, Timestamp, WriteTx};

/// A flaky test that has since passed at this number of heads is no longer flaky.
const STEADY: i64 = 3;

row! {
    /// How a check last fared for one test, asked about it alone.
    BaselineRun { test_id: TestId, commit_hash: String, outcome: RunOutcome, runs: i64, ran_at: Timestamp }
}

row! {
    /// A commit that the next attempt at a test takes back.
    Revert { test_id: TestId, commit_hash: String, asked_at: Timestamp, event_id: Option<EventId> }
}

/// What is known of a test that had passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerState {
    /// No failure is known.
    Good,
    /// It fails; whose fault that is has been found, or is looked for.
    Regressed,
    /// It fails at times and passes at times, at the same commit.
    Flaky,
    /// It fails, and the cause cannot be determined.
    Unknown,
    /// It had regressed and passed again when it was run last.
    Cleared,
}

impl LedgerState {
    /// As `--json` shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Regressed => "regressed",
            Self::Flaky => "flaky",
            Self::Unknown => "unknown",
            Self::Cleared => "cleared",
        }
    }
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LedgerEntry {
    /// The test.
    pub test_id: TestId,
    /// What is known of it.
    pub state: LedgerState,
    /// The newest commit at which it passed.
    pub good_commit: String,
    /// When it passed there.
    pub passed_at: Timestamp,
    /// The check that fails, or failed last.
    pub check_name: Option<String>,
    /// The newest entry of `regressions` about it.
    pub regression_id: Option<String>,
    /// Whose commit it was, if that is known.
    pub blamed_loop: Option<String>,
    /// The first bad commit, if that is known.
    pub first_bad_commit: Option<String>,
}

impl ReadTx<'_> {
    /// The ledger, or one test's line of it, by test. A test without a baseline has none.
    pub fn ledger(&self, test: Option<&TestId>) -> Result<Vec<LedgerEntry>> {
        self.query(
            "WITH RECURSIVE named (id) AS (
                 SELECT min(test_id) FROM passing_tests WHERE test_id = ?1 OR ?1 IS NULL
                 UNION ALL
                 SELECT (SELECT min(test_id) FROM passing_tests WHERE test_id > named.id AND (test_id = ?1 OR ?1 IS NULL))
                 FROM named WHERE named.id IS NOT NULL)
             SELECT n.id, p.commit_hash, p.passed_at, r.id, r.check_name, r.status, r.resolved_at, r.blamed_loop,
               r.first_bad_commit,
               (SELECT count(*) FROM passing_tests AS q WHERE q.test_id = n.id AND q.passed_at > r.resolved_at)
             FROM named AS n
             JOIN passing_tests AS p ON p.rowid = (SELECT rowid FROM passing_tests AS q WHERE q.test_id = n.id
                                                   ORDER BY passed_at DESC, rowid DESC LIMIT 1)
             LEFT JOIN regressions AS r ON r.rowid = (SELECT rowid FROM regressions AS s WHERE s.test_id = n.id
               ORDER BY s.resolved_at IS NOT NULL, coalesce(s.resolved_at, s.detected_at) DESC, s.rowid DESC LIMIT 1)
             WHERE n.id IS NOT NULL ORDER BY n.id",
            [test],
            |row| {
                let status: Option<RegressionStatus> = row.get(5)?;
                let since: i64 = row.get(9)?;
                Ok(LedgerEntry {
                    test_id: row.get(0)?,
                    good_commit: row.get(1)?,
                    passed_at: row.get(2)?,
                    regression_id: row.get(3)?,
                    check_name: row.get(4)?,
                    state: state_of(status, since),
                    blamed_loop: row.get(7)?,
                    first_bad_commit: row.get(8)?,
                })
            },
        )
    }

    /// How a check fared at a commit for single tests.
    pub fn baseline_runs_at(&self, check: &str, commit: &str) -> Result<Vec<BaselineRun>> {
        self.query(
            select!(BaselineRun, "FROM baseline_runs WHERE check_name = ?1 AND commit_hash = ?2 ORDER BY test_id"),
            [check, commit],
            BaselineRun::from_row,
        )
    }

    /// When a check was last asked about a single test.
    pub fn last_baseline_run(&self) -> Result<Option<Timestamp>> {
        self.value("SELECT max(ran_at) FROM baseline_runs", [])
    }

    /// The newest commit other than this one at which a check was run.
    pub fn check_run_before(&self, check: &str, commit: &str) -> Result<Option<String>> {
        self.query_opt(
            "SELECT commit_hash FROM check_runs WHERE check_name = ?1 AND commit_hash <> ?2 ORDER BY ran_at DESC, rowid DESC LIMIT 1",
            [check, commit],
            |row| row.get(0),
        )
    }

    /// What each test that has a baseline is about: its scope and the files that its attempts have changed, as other rows
    /// tell; of one test or of all. A test about which nothing is known is not named.
    pub fn paths_of_tests(&self, test: Option<&TestId>) -> Result<Vec<(TestId, StringList)>> {
        self.query(
            "SELECT id, json_group_array(DISTINCT path) FROM (
               SELECT t.id AS id, s.value AS path FROM tests AS t, json_each(t.scope) AS s
                 WHERE (t.id = ?1 OR ?1 IS NULL) AND s.type = 'text'
               UNION ALL
               SELECT u.test_id, f.value FROM usage AS u, json_each(u.files_modified) AS f
                 WHERE u.test_id IS NOT NULL AND (u.test_id = ?1 OR ?1 IS NULL) AND f.type = 'text') AS known
             WHERE EXISTS (SELECT 1 FROM passing_tests AS p WHERE p.test_id = known.id) GROUP BY id ORDER BY id",
            [test],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The newest regression of a test that a check found and that has this status, resolved or not.
    pub(crate) fn newest_regression(
        &self,
        test: &TestId,
        check: &str,
        status: RegressionStatus,
    ) -> Result<Option<crate::Regression>> {
        let id: Option<String> = self.query_opt(
            "SELECT id FROM regressions WHERE test_id = ?1 AND check_name = ?2 AND status = ?3 ORDER BY rowid DESC LIMIT 1",
            params![test, check, status],
            |row| row.get(0),
        )?;
        id.map_or(Ok(None), |id| self.regression(&id))
    }

    /// Whether a test is known to fail or pass by chance: a check is recorded as failed and as passed for it at one commit.
    pub fn has_flaked(&self, test: &TestId, check: &str) -> Result<bool> {
        self.value(
            "SELECT EXISTS (SELECT 1 FROM regressions AS r WHERE r.test_id = ?1 AND r.check_name = ?2
                 AND (r.status = 'flaky'
                      OR EXISTS (SELECT 1 FROM passing_tests AS p WHERE p.test_id = r.test_id AND p.commit_hash = r.bad_commit)))",
            params![test, check],
        )
    }

    /// The commit that the next attempt at a test is to take back, unless the test has passed since that was asked.
    pub fn revert_due(&self, test: &TestId) -> Result<Option<Revert>> {
        self.query_opt(
            select!(
                Revert,
                "FROM reverts WHERE test_id = ?1
                   AND NOT EXISTS (SELECT 1 FROM tests AS t WHERE t.id = reverts.test_id AND t.verified_at >= reverts.asked_at)"
            ),
            [test],
            Revert::from_row,
        )
    }
}

fn state_of(status: Option<RegressionStatus>, passes_since: i64) -> LedgerState {
    match status {
        None => LedgerState::Good,
        Some(RegressionStatus::Suspected | RegressionStatus::Bisecting | RegressionStatus::Regressed) => LedgerState::Regressed,
        Some(RegressionStatus::Unknown) => LedgerState::Unknown,
        Some(RegressionStatus::Flaky) if passes_since < STEADY => LedgerState::Flaky,
        Some(RegressionStatus::Cleared) if passes_since == 0 => LedgerState::Cleared,
        Some(RegressionStatus::Flaky | RegressionStatus::Cleared) => LedgerState::Good,
    }
}

impl WriteTx<'_> {
    /// Writes down how a check fared for one test alone; a later run replaces an earlier one.
    pub fn record_baseline_run(&self, check: &str, test: &TestId, commit: &str, outcome: RunOutcome, runs: i64) -> Result<()> {
        self.execute(
            "INSERT INTO baseline_runs (check_name, test_id, commit_hash, outcome, runs, ran_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (check_name, test_id) DO UPDATE SET commit_hash = excluded.commit_hash, outcome = excluded.outcome, runs = excluded.runs,
               ran_at = excluded.ran_at",
            params![check, test, commit, outcome, runs, self.now()],
        )?;
        Ok(())
    }

    /// Records that a check passed as a whole at a commit: so it would have for each test that it was ever asked about alone.
    pub fn record_baseline_passes(&self, check: &str, commit: &str) -> Result<()> {
        self.execute(
            "UPDATE baseline_runs SET commit_hash = ?2, outcome = 'pass', ran_at = ?3 WHERE check_name = ?1",
            params![check, commit, self.now()],
        )?;
        Ok(())
    }

    /// A test failed and then passed at the same commit. Said of a test again it is the same matter, seen again.
    pub fn record_flaky(&self, test: &TestId, check: &str, last_good: &str, commit: &str, output_tail: &str) -> Result<()> {
        let id = match self.newest_regression(test, check, RegressionStatus::Flaky)? {
            Some(row) => row.id,
            None => self.add_regression(test, check, last_good, commit, output_tail)?,
        };
        let Some(row) = self.regression(&id)? else { return Ok(()) };
        self.update_regression(&crate::Regression {
            status: RegressionStatus::Flaky,
            bad_commit: commit.to_owned(),
            resolved_at: None,
            output_tail: output_tail.to_owned(),
            ..row
        })
    }

    /// A test has passed: the revert requested for it is done, also when the test is to be done again some day.
    pub(crate) fn forget_revert(&self, test: &TestId) -> Result<()> {
        self.execute("DELETE FROM reverts WHERE test_id = ?1", [test]).map(drop)
    }

    /// Asks that the next attempt at a test takes a commit back.
    pub fn ask_revert(&self, test: &TestId, commit: &str, cause: Option<&EventId>) -> Result<()> {
        self.execute(
            "INSERT INTO reverts (test_id, commit_hash, asked_at, event_id) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (test_id) DO UPDATE SET commit_hash = excluded.commit_hash, asked_at = excluded.asked_at,
               event_id = excluded.event_id",
            params![test, commit, self.now(), cause],
        )?;
        Ok(())
    }
}
