//! The standing check: baselines (`passing_tests`), runs of checks on the integration branch, and regressions with blame.

use serde_json::Value;

use super::json;
use crate::{
    Error, EventId, LoopId, ReadTx, RegressionStatus, Result, RunOutcome, TestId, TestStatus, Timestamp, WriteTx, new_id,
};

row! {
    /// This test passed at this commit.
    PassingTest { test_id: TestId, commit_hash: String, passed_at: Timestamp }
}

row! {
    /// A test that has a baseline, with what chooses its checks. Without a row in `tests` its category is empty.
    BaselineTest { test_id: TestId, category: String, loop_id: Option<LoopId>, status: Option<TestStatus> }
}

row! {
    /// How a check fared at a commit of the integration branch.
    CheckRun {
        check_name: String, commit_hash: String, outcome: RunOutcome, runs: i64, output_tail: String, ran_at: Timestamp,
    }
}

row! {
    /// A test that passed once and fails now.
    Regression {
        id: String, test_id: TestId, check_name: String, last_good_commit: String, bad_commit: String,
        first_bad_commit: Option<String>, blamed_loop: Option<String>, blamed_test: Option<String>, status: RegressionStatus,
        bisect: Option<Value>, output_tail: String, detected_at: Timestamp, resolved_at: Option<Timestamp>,
        event_id: Option<EventId>,
    }
}

/// What the name of a check ends in where it ran on a fresh clone without caches.
const COLD: &str = " (cold)";

/// The name under which runs of a check on fresh clones, and what fails only there, are recorded.
#[must_use]
pub fn cold_name(check: &str) -> String {
    format!("{check}{COLD}")
}

/// The name of a check, if this is one under which its runs on fresh clones are recorded.
#[must_use]
pub fn strip_cold_suffix(name: &str) -> Option<&str> {
    name.strip_suffix(COLD)
}

impl ReadTx<'_> {
    /// The newest run of each check on a fresh clone without caches, not before a moment.
    pub fn cold_runs(&self, since: Timestamp) -> Result<Vec<CheckRun>> {
        self.query(
            select!(
                CheckRun,
                "FROM check_runs AS c WHERE check_name LIKE '% (cold)' AND ran_at >= ?1
                   AND rowid = (SELECT max(rowid) FROM check_runs AS d WHERE d.check_name = c.check_name) ORDER BY check_name"
            ),
            [since],
            CheckRun::from_row,
        )
    }

    /// The newest commit at which a check has passed on a fresh clone without caches.
    pub fn last_cold_pass(&self, check: &str) -> Result<Option<String>> {
        self.query_opt(
            "SELECT commit_hash FROM check_runs WHERE check_name = ?1 AND outcome = 'pass' ORDER BY rowid DESC LIMIT 1",
            [cold_name(check)],
            |row| row.get(0),
        )
    }

    /// How many tests have landed since a moment, and when the first did.
    pub fn landings_since(&self, since: Option<Timestamp>) -> Result<(i64, Option<Timestamp>)> {
        let row = self.query_opt(
            "SELECT count(*), min(verified_at) FROM tests WHERE status = 'passed' AND (verified_at > ?1 OR ?1 IS NULL)",
            [since],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(row.unwrap_or((0, None)))
    }

    /// All baselines, or those of one test, oldest first.
    pub fn baselines(&self, test: Option<&TestId>) -> Result<Vec<PassingTest>> {
        self.query(
            select!(PassingTest, "FROM passing_tests WHERE test_id = ?1 OR ?1 IS NULL ORDER BY passed_at, test_id"),
            [test],
            PassingTest::from_row,
        )
    }

    /// The newest baseline of each test.
    pub fn newest_baselines(&self) -> Result<Vec<PassingTest>> {
        self.query(
            select!(
                PassingTest,
                "FROM passing_tests AS p WHERE rowid = (SELECT rowid FROM passing_tests AS q WHERE q.test_id = p.test_id
                 ORDER BY passed_at DESC, rowid DESC LIMIT 1) ORDER BY test_id"
            ),
            [],
            PassingTest::from_row,
        )
    }

    /// The tests that have a baseline, by id. Steps from test to test, however many baselines each has.
    pub fn baseline_tests(&self) -> Result<Vec<BaselineTest>> {
        self.query(
            select!(
                BaselineTest,
                "FROM (WITH RECURSIVE named (id) AS (
                         SELECT min(test_id) FROM passing_tests
                         UNION ALL
                         SELECT (SELECT min(test_id) FROM passing_tests WHERE test_id > named.id) FROM named
                         WHERE named.id IS NOT NULL)
                       SELECT named.id AS test_id, coalesce(t.category, '') AS category, t.loop_id AS loop_id, t.status AS status
                       FROM named LEFT JOIN tests AS t ON t.id = named.id WHERE named.id IS NOT NULL) AS tests_named
                 ORDER BY test_id"
            ),
            [],
            BaselineTest::from_row,
        )
    }

    /// Whether any test of these categories (of any, if none is named) has a baseline.
    pub fn has_baseline_tests(&self, categories: &[String]) -> Result<bool> {
        if categories.is_empty() {
            return self.value("SELECT EXISTS (SELECT 1 FROM passing_tests)", []);
        }
        self.value(
            "SELECT EXISTS (SELECT 1 FROM tests AS t WHERE t.category IN (SELECT value FROM json_each(?1))
               AND EXISTS (SELECT 1 FROM passing_tests AS p WHERE p.test_id = t.id))",
            [json(&categories)],
        )
    }

    /// How many tests have a baseline but are of none of these categories, and the first few of them, by id.
    pub fn baseline_tests_beyond(&self, categories: &[String], first: usize) -> Result<(i64, Vec<TestId>)> {
        let categories = json(&categories);
        let count = self.value(
            "SELECT count(*) FROM tests AS t WHERE t.category NOT IN (SELECT value FROM json_each(?1))
               AND EXISTS (SELECT 1 FROM passing_tests AS p WHERE p.test_id = t.id)",
            [&categories],
        )?;
        let ids = self.query(
            "SELECT t.id FROM tests AS t WHERE t.category NOT IN (SELECT value FROM json_each(?1))
               AND EXISTS (SELECT 1 FROM passing_tests AS p WHERE p.test_id = t.id) ORDER BY t.id LIMIT ?2",
            params![categories, i64::try_from(first).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
        Ok((count, ids))
    }

    /// The newest commits at which a test passed, newest first; at most `limit`.
    pub fn newest_baselines_of(&self, test: &TestId, limit: usize) -> Result<Vec<PassingTest>> {
        self.query(
            select!(PassingTest, "FROM passing_tests WHERE test_id = ?1 ORDER BY passed_at DESC, rowid DESC LIMIT ?2"),
            params![test, i64::try_from(limit).unwrap_or(i64::MAX)],
            PassingTest::from_row,
        )
    }

    /// The newest runs of checks, newest first; at most `limit`.
    pub fn check_runs(&self, limit: usize) -> Result<Vec<CheckRun>> {
        self.query(
            select!(CheckRun, "FROM check_runs ORDER BY ran_at DESC, rowid DESC LIMIT ?1"),
            [i64::try_from(limit).unwrap_or(i64::MAX)],
            CheckRun::from_row,
        )
    }

    /// How a check fared at a commit.
    pub fn check_run(&self, check: &str, commit: &str) -> Result<Option<CheckRun>> {
        self.query_opt(
            select!(CheckRun, "FROM check_runs WHERE check_name = ?1 AND commit_hash = ?2"),
            [check, commit],
            CheckRun::from_row,
        )
    }

    /// The commit at which a check was run last.
    pub fn last_checked(&self, check: &str) -> Result<Option<String>> {
        // Not by the clock, which can be set back.
        self.query_opt("SELECT commit_hash FROM check_runs WHERE check_name = ?1 ORDER BY rowid DESC LIMIT 1", [check], |row| {
            row.get(0)
        })
    }

    /// Regressions, unresolved ones only or all, oldest first.
    pub fn regressions(&self, open_only: bool) -> Result<Vec<Regression>> {
        self.query(
            select!(Regression, "FROM regressions WHERE ?1 = 0 OR resolved_at IS NULL ORDER BY detected_at, id"),
            [open_only],
            Regression::from_row,
        )
    }

    /// One regression.
    pub fn regression(&self, id: &str) -> Result<Option<Regression>> {
        self.query_opt(select!(Regression, "FROM regressions WHERE id = ?1"), [id], Regression::from_row)
    }

    /// The regression of a test that a commit is blamed for, resolved or not; there is at most one.
    pub fn regression_since(&self, test: &TestId, first_bad_commit: &str) -> Result<Option<Regression>> {
        self.query_opt(
            select!(Regression, "FROM regressions WHERE test_id = ?1 AND first_bad_commit = ?2"),
            params![test, first_bad_commit],
            Regression::from_row,
        )
    }
}

impl WriteTx<'_> {
    /// Records that a test passed at a commit.
    ///
    /// # Errors
    /// [`Error::Invalid`] without a commit.
    pub(crate) fn add_baseline(&self, test: &TestId, commit: &str) -> Result<()> {
        if commit.is_empty() {
            return Err(Error::Invalid(format!("a baseline of test {test} needs the commit at which it passed")));
        }
        self.execute(
            "INSERT INTO passing_tests (test_id, commit_hash, passed_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (test_id, commit_hash) DO UPDATE SET passed_at = excluded.passed_at",
            params![test, commit, self.now()],
        )?;
        Ok(())
    }

    /// Adds a baseline, and keeps only the newest `keep` commits of the test and the one that it landed as.
    ///
    /// # Errors
    /// [`Error::IllegalMove`] for a test that has no baseline: only the gate's verdict makes the first one.
    pub fn advance_baseline(&self, test: &TestId, commit: &str, keep: usize) -> Result<()> {
        if self.newest_baselines_of(test, 1)?.is_empty() {
            return Err(Error::illegal(
                "baseline of test",
                test,
                "not there",
                "advance: only a verified pass creates the first one",
            ));
        }
        self.add_baseline(test, commit)?;
        self.execute(
            "DELETE FROM passing_tests WHERE test_id = ?1
               AND commit_hash IS DISTINCT FROM (SELECT commit_hash FROM tests WHERE id = ?1)
               AND rowid NOT IN (SELECT rowid FROM passing_tests WHERE test_id = ?1
                                 ORDER BY passed_at DESC, rowid DESC LIMIT ?2)",
            params![test, i64::try_from(keep).unwrap_or(i64::MAX)],
        )?;
        Ok(())
    }

    /// Records how a check fared at a commit; a later run replaces an earlier one, and is the newest of the check.
    pub fn record_check_run(&self, check: &str, commit: &str, outcome: RunOutcome, runs: i64, output_tail: &str) -> Result<()> {
        let earlier: Option<i64> =
            self.query_opt("SELECT runs FROM check_runs WHERE check_name = ?1 AND commit_hash = ?2", [check, commit], |row| {
                row.get(0)
            })?;
        self.execute("DELETE FROM check_runs WHERE check_name = ?1 AND commit_hash = ?2", [check, commit])?;
        self.execute(
            "INSERT INTO check_runs (check_name, commit_hash, outcome, runs, output_tail, ran_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![check, commit, outcome, runs.saturating_add(earlier.unwrap_or(0)), output_tail, self.now()],
        )?;
        Ok(())
    }

    /// A test that had passed fails: a suspicion, until it is confirmed. Gives its id.
    pub fn add_regression(&self, test: &TestId, check: &str, last_good: &str, bad: &str, output_tail: &str) -> Result<String> {
        let id = new_id();
        self.execute(
            "INSERT INTO regressions (id, test_id, check_name, last_good_commit, bad_commit, status, output_tail, detected_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'suspected', ?6, ?7)",
            params![id, test, check, last_good, bad, output_tail, self.now()],
        )?;
        Ok(id)
    }

    /// Writes down how far a regression is, its blame and its bisect. A resolved status (`flaky`, `cleared`) closes it.
    pub fn update_regression(&self, row: &Regression) -> Result<()> {
        let resolved_at = matches!(row.status, RegressionStatus::Flaky | RegressionStatus::Cleared)
            .then(|| row.resolved_at.unwrap_or_else(|| self.now()));
        self.execute(
            "UPDATE regressions SET first_bad_commit = ?2, blamed_loop = ?3, blamed_test = ?4, status = ?5, bisect = ?6,
               output_tail = ?7, resolved_at = ?8, event_id = ?9, bad_commit = ?10 WHERE id = ?1",
            params![
                row.id,
                row.first_bad_commit,
                row.blamed_loop,
                row.blamed_test,
                row.status,
                row.bisect.as_ref().map(Value::to_string),
                row.output_tail,
                resolved_at,
                row.event_id,
                row.bad_commit
            ],
        )?;
        Ok(())
    }
}
