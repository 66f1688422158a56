//! Tests: goals on a loop's queue. A test is passed only together with the gate's time and its proofs.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use super::loops::CURRENT_TESTS;
use super::{StringList, json};
use crate::payload::{TestBlocked, TestFailed, TestPassed, TestStarted};
use crate::{
    ActorId, Error, ErrorCategory, EventId, LastResult, LoopId, LoopStatus, NewEvent, NoChange, ReadTx, Result, TestId,
    TestMove, TestStatus, Timestamp, WriteTx,
};

row! {
    /// A test.
    Test {
        id: TestId, loop_id: LoopId, category: String, status: TestStatus, attempts: i64, max_attempts: i64,
        last_result: Option<LastResult>, depends_on: Option<TestId>, automatable: bool, notes: Option<String>,
        spec_content: Option<String>, last_attempt_at: Option<Timestamp>, passed_at: Option<Timestamp>,
        verified_at: Option<Timestamp>, created_at: Timestamp, scope: StringList, last_error: Option<String>,
        error_category: Option<ErrorCategory>, not_before: Option<Timestamp>, commit_hash: Option<String>, give_backs: i64,
        no_change: NoChange,
    }
}

/// A test to be put on a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTest {
    /// Its id.
    pub id: TestId,
    /// Whose queue.
    pub loop_id: LoopId,
    /// `build`, `specification`, … any word.
    pub category: String,
    /// Attempts before it blocks.
    pub max_attempts: i64,
    /// The test that must pass first.
    pub depends_on: Option<TestId>,
    /// Whether an agent can work on it.
    pub automatable: bool,
    /// A short description.
    pub notes: Option<String>,
    /// The whole specification.
    pub spec_content: Option<String>,
    /// Globs of the files that it is about.
    pub scope: Vec<String>,
    /// A claim without a change is judged like any other.
    pub allow_no_change: bool,
}

/// An attempt that the gate has verified.
#[derive(Debug, Clone)]
pub struct PassedAttempt {
    /// The commit on the integration branch.
    pub commit: String,
    /// The results of the gate's checks, by name.
    pub checks: Vec<(String, bool)>,
    /// How long the attempt took.
    pub duration_seconds: i64,
    /// What it cost, where known.
    pub tokens_estimated: Option<i64>,
    /// What it changed.
    pub files_modified: Vec<String>,
}

/// An attempt that failed.
#[derive(Debug, Clone)]
pub struct FailedAttempt {
    /// Failure category.
    pub category: ErrorCategory,
    /// Error message.
    pub message: String,
    /// The event that caused it, if any.
    pub caused_by: Option<EventId>,
    /// Whether the attempt counts.
    pub counts: Counts,
}

/// Whether a failed attempt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// As its category says: an error that is not the agent's is given back, and tried again after a pause.
    ByCategory,
    /// It is given back; something else says when it is tried again.
    GivenBack,
}

impl FailedAttempt {
    /// A failure that counts as its category says.
    #[must_use]
    pub fn new(category: ErrorCategory, message: impl Into<String>) -> Self {
        Self { category, message: message.into(), caused_by: None, counts: Counts::ByCategory }
    }
}

impl ReadTx<'_> {
    /// Tests by id, of one loop or all, with one status or any.
    pub fn tests(&self, loop_id: Option<&LoopId>, status: Option<TestStatus>) -> Result<Vec<Test>> {
        // A condition on a parameter that may be NULL uses no index.
        match (loop_id, status) {
            (None, None) => self.query(select!(Test, "FROM tests ORDER BY id"), [], Test::from_row),
            (Some(loop_id), None) => {
                self.query(select!(Test, "FROM tests WHERE loop_id = ?1 ORDER BY id"), [loop_id], Test::from_row)
            }
            (None, Some(status)) => {
                self.query(select!(Test, "FROM tests WHERE status = ?1 ORDER BY id"), [status], Test::from_row)
            }
            (Some(loop_id), Some(status)) => self.query(
                select!(Test, "FROM tests WHERE loop_id = ?1 AND status = ?2 ORDER BY id"),
                params![loop_id, status],
                Test::from_row,
            ),
        }
    }

    /// One test.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn test(&self, id: &TestId) -> Result<Test> {
        self.find_test(id.as_str())?.ok_or_else(|| Error::not_found("test", id))
    }

    /// One test, if there is one.
    pub fn find_test(&self, id: &str) -> Result<Option<Test>> {
        self.query_opt(select!(Test, "FROM tests WHERE id = ?1"), [id], Test::from_row)
    }

    /// The passed tests and the commits that they landed as.
    pub fn landed_tests(&self) -> Result<Vec<(TestId, String)>> {
        self.query(
            "SELECT id, commit_hash FROM tests WHERE status = 'passed' AND commit_hash IS NOT NULL ORDER BY id",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
    }

    /// The tests that wait for this one to pass.
    pub fn dependents(&self, id: &TestId) -> Result<Vec<Test>> {
        self.query(
            select!(Test, "FROM tests WHERE depends_on = ?1 AND status IN ('pending', 'in_progress', 'blocked') ORDER BY id"),
            [id],
            Test::from_row,
        )
    }

    /// Tests in progress whose loop is stopped, dead or not registered, by id: nobody works on them. At most `limit`.
    pub fn abandoned_tests(&self, limit: usize) -> Result<Vec<Test>> {
        self.query(
            select!(
                Test,
                "FROM tests WHERE status = 'in_progress'
                   AND NOT EXISTS (SELECT 1 FROM loops WHERE id = tests.loop_id AND status IN ('running', 'paused'))
                   AND id NOT IN (SELECT test_id FROM landings WHERE ended_at IS NULL)
                 ORDER BY id LIMIT ?1"
            ),
            [limit as i64],
            Test::from_row,
        )
    }

    /// Blocked and failed tests about which the human has not been asked since their last attempt, by id. At most `limit`.
    pub fn unasked_blocked_tests(&self, limit: usize) -> Result<Vec<Test>> {
        self.query(
            select!(
                Test,
                "FROM tests
                 LEFT JOIN (SELECT fingerprint AS matter, max(requested_at) AS asked_at FROM decisions
                            WHERE decision_type = 'blocked' AND fingerprint IS NOT NULL GROUP BY fingerprint) AS asked
                   ON matter = 'test:' || id
                 WHERE status IN ('blocked', 'failed') AND coalesce(last_attempt_at, created_at) <= ?1
                   AND (asked_at IS NULL OR asked_at < coalesce(last_attempt_at, created_at))
                   AND NOT EXISTS (SELECT 1 FROM decisions AS d WHERE d.fingerprint = 'test:' || tests.id
                                   AND d.status = 'pending')
                 ORDER BY id LIMIT ?2"
            ),
            params![self.now(), limit as i64],
            Test::from_row,
        )
    }

    /// Pending tests whose last attempt failed by the fault of the specification, the system, a resource, a dependency or for
    /// want of a human, by id. At most `limit`.
    pub fn tests_that_failed(&self, limit: usize) -> Result<Vec<Test>> {
        self.query(
            select!(
                Test,
                "FROM tests WHERE error_category IN ('spec', 'human', 'system', 'resource', 'dependency')
                   AND +status = 'pending' ORDER BY id LIMIT ?1"
            ),
            [limit as i64],
            Test::from_row,
        )
    }

    /// Pending tests whose dependency is skipped, failed, blocked or not there, by id.
    pub fn stalled_tests(&self) -> Result<Vec<Test>> {
        // The plus keeps SQLite from reading every pending test where the index on depends_on finds the few.
        let mut stalled = self.query(
            select!(
                Test,
                "FROM tests WHERE +status = 'pending' AND depends_on IN
                   (SELECT d.id FROM tests AS d WHERE d.status IN ('skipped', 'failed', 'blocked'))"
            ),
            [],
            Test::from_row,
        )?;
        stalled.extend(self.query(
            select!(
                Test,
                "FROM tests WHERE +status = 'pending' AND depends_on IN
                   (SELECT t.depends_on FROM tests AS t WHERE t.depends_on IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM tests AS d WHERE d.id = t.depends_on))"
            ),
            [],
            Test::from_row,
        )?);
        stalled.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(stalled)
    }

    /// The test that `claim_next_test` would claim.
    pub fn next_ready_test(&self, loop_id: &LoopId, automatable_only: bool) -> Result<Option<Test>> {
        self.query_opt(
            select!(
                Test,
                "FROM tests AS t
                 WHERE loop_id = ?1 AND status = 'pending'
                   AND (depends_on IS NULL
                        OR EXISTS (SELECT 1 FROM tests AS d WHERE d.id = t.depends_on AND d.status = 'passed'))
                   AND (not_before IS NULL OR not_before <= ?2) AND (automatable = 1 OR ?3 = 0)
                   AND NOT EXISTS (SELECT 1 FROM change_request_tests AS w JOIN change_requests AS r ON r.id = w.request_id
                                   WHERE w.test_id = t.id AND r.status = 'pending')
                 ORDER BY id LIMIT 1"
            ),
            params![loop_id, self.now(), automatable_only],
            Test::from_row,
        )
    }

    /// When the next test that is only held back by its `not_before` becomes ready.
    pub fn next_retry_at(&self, loop_id: &LoopId) -> Result<Option<Timestamp>> {
        self.value("SELECT min(not_before) FROM tests WHERE loop_id = ?1 AND status = 'pending'", [loop_id])
    }
}

/// How long a given-back attempt waits before it is tried again: 5 s, doubling, at most 5 minutes. What has run out (a rate
/// limit, a quota) is not there again in seconds: 30 s, doubling, at most half an hour.
fn back_off_seconds(category: Option<ErrorCategory>, give_backs: i64) -> i64 {
    match category {
        Some(ErrorCategory::Resource) => 30_i64.saturating_mul(1 << give_backs.clamp(0, 6)).min(1800),
        _ => 5_i64.saturating_mul(1 << give_backs.clamp(0, 6)).min(300),
    }
}

impl Test {
    /// For how long its given-back attempts have waited altogether, at least.
    #[must_use]
    pub fn backed_off_seconds(&self) -> i64 {
        let (rungs, rest) = (self.give_backs.clamp(0, 7), (self.give_backs - 7).max(0));
        let last = back_off_seconds(self.error_category, 7);
        (0..rungs)
            .map(|rung| back_off_seconds(self.error_category, rung))
            .sum::<i64>()
            .saturating_add(rest.saturating_mul(last))
    }
}

impl WriteTx<'_> {
    /// Puts tests on their queues: all or none, with one message for each that is wrong, `(index, message)`.
    pub fn import_tests(&self, tests: &[NewTest]) -> Result<Vec<(usize, String)>> {
        let mut problems = Vec::new();
        let batch: HashMap<&str, usize> = tests.iter().enumerate().map(|(at, test)| (test.id.as_str(), at)).collect();
        let cyclic = cyclic(tests, &batch);
        // One question each instead of two for each test: a server is far away.
        let loops: HashSet<String> = self.query("SELECT id FROM loops", [], |row| row.get(0))?.into_iter().collect();
        let named: BTreeSet<&str> =
            tests.iter().flat_map(|test| [Some(&test.id), test.depends_on.as_ref()]).flatten().map(TestId::as_str).collect();
        let existing: HashSet<String> = self
            .query("SELECT id FROM tests WHERE id IN (SELECT value FROM json_each(?1))", [json(&named)], |row| row.get(0))?
            .into_iter()
            .collect();
        for (at, test) in tests.iter().enumerate() {
            let mut problem = |message: String| problems.push((at, message));
            if !loops.contains(test.loop_id.as_str()) {
                problem(format!("test {}: no loop {:?}; register it with loopctl loop add", test.id, test.loop_id.as_str()));
            }
            if existing.contains(test.id.as_str()) {
                problem(format!("test {} exists already", test.id));
            } else if batch[test.id.as_str()] != at {
                problem(format!("test {} is named twice", test.id));
            }
            if let Err(error) = test.id.allow_as_new() {
                problem(error.to_string());
            }
            if test.max_attempts < 1 {
                problem(format!("test {}: max_attempts must be at least 1", test.id));
            }
            if let Some(dependency) = &test.depends_on {
                if !batch.contains_key(dependency.as_str()) && !existing.contains(dependency.as_str()) {
                    problem(format!("test {}: depends_on names no test {:?}", test.id, dependency.as_str()));
                } else if cyclic.contains(&at) {
                    problem(format!("test {} depends on itself in the end", test.id));
                }
            }
        }
        if problems.is_empty() {
            for test in tests {
                self.execute(
                    "INSERT INTO tests (id, loop_id, category, max_attempts, depends_on, automatable, notes, spec_content, scope,
                       created_at, no_change) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
                    params![
                        test.id,
                        test.loop_id,
                        test.category,
                        test.max_attempts,
                        test.depends_on,
                        test.automatable,
                        test.notes,
                        test.spec_content,
                        json(&test.scope),
                        self.now(),
                        if test.allow_no_change { NoChange::Allowed } else { NoChange::Ask }
                    ],
                )?;
            }
        }
        Ok(problems)
    }

    /// Claims the loop's next ready test: `in_progress`, one attempt more, published as `test_started`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown loop; [`Error::Refused`] if the loop works on a test or is paused.
    pub fn claim_next_test(&self, loop_id: &LoopId, automatable_only: bool) -> Result<Option<Test>> {
        self.claim(loop_id, || self.next_ready_test(loop_id, automatable_only))
    }

    pub(super) fn claim(&self, loop_id: &LoopId, next: impl FnOnce() -> Result<Option<Test>>) -> Result<Option<Test>> {
        let row = self.loop_row(loop_id)?;
        if row.status == LoopStatus::Paused {
            return Err(Error::Refused(format!("loop {loop_id} is paused; lift it with loopctl resume {loop_id}")));
        }
        let current: Option<TestId> = self.query(CURRENT_TESTS, [loop_id], |row| row.get(0))?.into_iter().next();
        if let Some(test) = current {
            return Err(Error::Refused(format!(
                "loop {loop_id} works on test {test}; end it with loopctl submit or loopctl give-back"
            )));
        }
        let Some(test) = next()? else { return Ok(None) };
        // A loop that claims is running: a test in progress of a stopped loop would belong to nobody.
        self.touch_by_hand(loop_id)?;
        if self.loop_row(loop_id)?.status == LoopStatus::Paused {
            return Err(Error::Refused(format!("loop {loop_id} is paused; lift it with loopctl resume {loop_id}")));
        }
        self.execute(
            "UPDATE tests SET status = 'in_progress', attempts = attempts + 1, last_attempt_at = ?2, not_before = NULL WHERE id = ?1",
            params![test.id, self.now()],
        )?;
        self.execute(
            "UPDATE loops SET current_test_id = ?2, updated_at = ?3 WHERE id = ?1",
            params![loop_id, test.id, self.now()],
        )?;
        let test = self.test(&test.id)?;
        let payload = TestStarted {
            test_id: test.id.clone(),
            loop_id: loop_id.clone(),
            attempt: test.attempts,
            spec_summary: test.notes.as_deref().or(test.spec_content.as_deref()).map(summary),
        };
        self.publish(&NewEvent::new(ActorId::from(loop_id), payload))?;
        Ok(Some(test))
    }

    /// The test, if it may be moved so from where it stands.
    fn test_that_allows(&self, id: &TestId, what: TestMove) -> Result<Test> {
        let test = self.test(id)?;
        if !test.status.allows(what) {
            return Err(Error::illegal("test", id, test.status, what.refused()));
        }
        Ok(test)
    }

    fn own_test_that_allows(&self, id: &TestId, loop_id: &LoopId, what: TestMove) -> Result<Test> {
        let test = self.test(id)?;
        if test.loop_id != *loop_id {
            return Err(Error::Refused(format!("test {id} belongs to loop {}, not to {loop_id}", test.loop_id)));
        }
        self.test_that_allows(id, what)
    }

    /// The loop has ended its attempt at a test; another one that it works on stays its current test.
    pub(super) fn clear_current_test(&self, loop_id: &LoopId, test: &TestId) -> Result<()> {
        self.execute(
            "UPDATE loops SET current_test_id = nullif(current_test_id, ?3), updated_at = ?2 WHERE id = ?1",
            params![loop_id, self.now(), test],
        )?;
        Ok(())
    }

    /// The gate has verified the attempt: the test is passed, with its time, its commit and its baseline.
    ///
    /// # Errors
    /// [`Error::IllegalMove`] if the test is not in progress (any more); [`Error::Refused`] if it is another loop's.
    pub fn record_passed(&self, id: &TestId, loop_id: &LoopId, attempt: &PassedAttempt) -> Result<EventId> {
        let test = self.own_test_that_allows(id, loop_id, TestMove::Pass)?;
        self.execute(
            "UPDATE tests SET status = 'passed', verified_at = ?2, passed_at = ?2, last_result = 'pass', commit_hash = ?3,
               last_error = NULL, error_category = NULL WHERE id = ?1",
            params![id, self.now(), attempt.commit],
        )?;
        self.clear_current_test(loop_id, id)?;
        self.add_baseline(id, &attempt.commit)?;
        self.forget_revert(id)?;
        let payload = TestPassed {
            test_id: id.clone(),
            loop_id: loop_id.clone(),
            attempt: test.attempts,
            duration_seconds: attempt.duration_seconds,
            tokens_estimated: attempt.tokens_estimated,
            files_modified: attempt.files_modified.clone(),
            verified: true,
            verification_checks: attempt
                .checks
                .iter()
                .map(|(name, ok)| (name.clone(), Value::Bool(*ok)))
                .collect::<Map<_, _>>(),
            commit: attempt.commit.clone(),
        };
        let attempt = self.newest_attempt(id)?;
        let passed = self.publish(&NewEvent::new(ActorId::from(loop_id), payload).of_attempt(attempt))?;
        self.apply_changes_for(id, &passed)?;
        Ok(passed)
    }

    /// Records a pass whose commit is on the integration branch already: from in progress, or from pending if the loop's
    /// previous process was cleaned up in between. A test that has passed at that commit stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that has passed at another commit.
    pub fn adopt_landed(&self, id: &TestId, loop_id: &LoopId, attempt: &PassedAttempt) -> Result<Option<EventId>> {
        let test = self.test(id)?;
        match test.status {
            TestStatus::Passed if test.commit_hash.as_deref() == Some(attempt.commit.as_str()) => return Ok(None),
            TestStatus::Pending => {
                self.execute(
                    "UPDATE tests SET status = 'in_progress', loop_id = ?2, attempts = attempts + 1, not_before = NULL WHERE id = ?1",
                    params![id, loop_id],
                )?;
            }
            // Skipped, blocked or reset by a hand while the work landed: it is verified all the same.
            TestStatus::Skipped | TestStatus::Blocked | TestStatus::Failed => {
                self.execute("UPDATE tests SET status = 'in_progress', loop_id = ?2 WHERE id = ?1", params![id, loop_id])?;
            }
            TestStatus::InProgress | TestStatus::Passed => {}
        }
        self.record_passed(id, loop_id, attempt).map(Some)
    }

    /// The human accepts what a claim left unchanged: the next attempt goes to the gate without a run of the agent.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that is not pending.
    pub fn accept_no_change(&self, id: &TestId) -> Result<()> {
        self.test_that_allows(id, TestMove::Delay)?;
        self.execute("UPDATE tests SET no_change = 'accepted', not_before = NULL WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Holds a pending test back until a moment.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that is not pending.
    pub fn delay_test(&self, id: &TestId, until: Timestamp) -> Result<()> {
        self.test_that_allows(id, TestMove::Delay)?;
        self.execute("UPDATE tests SET not_before = ?2 WHERE id = ?1", params![id, until])?;
        Ok(())
    }

    /// The attempt failed. An error that is not the agent's gives it back; below the maximum the test is pending again,
    /// at the maximum blocked; a permanent error fails it.
    ///
    /// # Errors
    /// [`Error::IllegalMove`] if the test is not in progress (any more); [`Error::Refused`] if it is another loop's.
    pub fn record_failed(&self, id: &TestId, loop_id: &LoopId, attempt: &FailedAttempt) -> Result<TestStatus> {
        let test = self.own_test_that_allows(id, loop_id, TestMove::Fail)?;
        let held = attempt.counts == Counts::GivenBack;
        let given_back = held || attempt.category.gives_attempt_back();
        let status = if given_back {
            TestStatus::Pending
        } else if attempt.category == ErrorCategory::Permanent {
            TestStatus::Failed
        } else if test.attempts >= test.max_attempts {
            TestStatus::Blocked
        } else {
            TestStatus::Pending
        };
        let not_before =
            (given_back && !held).then(|| self.now().plus_seconds(back_off_seconds(Some(attempt.category), test.give_backs)));
        let last_result = if status == TestStatus::Blocked { LastResult::Blocked } else { LastResult::Fail };
        self.execute(
            "UPDATE tests SET status = ?2, last_result = CASE WHEN ?3 THEN last_result ELSE ?4 END, last_error = ?5, error_category = ?6,
               attempts = CASE WHEN ?3 THEN max(attempts - 1, 0) ELSE attempts END,
               give_backs = CASE WHEN ?3 THEN give_backs + 1 ELSE 0 END, not_before = ?7
             WHERE id = ?1",
            params![id, status, given_back, last_result, attempt.message, attempt.category, not_before],
        )?;
        self.clear_current_test(loop_id, id)?;
        let failed = TestFailed {
            test_id: id.clone(),
            loop_id: loop_id.clone(),
            attempt: test.attempts,
            error_category: attempt.category,
            error_message: attempt.message.clone(),
            will_retry: status == TestStatus::Pending,
        };
        let failed = NewEvent::new(ActorId::from(loop_id), failed).caused_by_id(attempt.caused_by.clone());
        let failed = self.publish(&failed.of_attempt(self.newest_attempt(id)?))?;
        if matches!(status, TestStatus::Blocked | TestStatus::Failed) {
            let blocked = TestBlocked {
                test_id: id.clone(),
                loop_id: loop_id.clone(),
                attempts: test.attempts,
                last_error: attempt.message.clone(),
                blocking_dependents: self.dependents(id)?.into_iter().map(|test| test.id).collect(),
            };
            self.publish(&NewEvent::new(ActorId::from(loop_id), blocked).caused_by_id(Some(failed)))?;
        }
        Ok(status)
    }

    /// The attempt ended for a reason that is nobody's failure (a pause, a forced release, a rollback, a shutdown): the test
    /// is pending again and the attempt is given back.
    ///
    /// # Errors
    /// [`Error::IllegalMove`] if the test is not in progress (any more); [`Error::Refused`] if it is another loop's.
    pub fn give_back(&self, id: &TestId, loop_id: &LoopId, reason: &str) -> Result<()> {
        self.own_test_that_allows(id, loop_id, TestMove::GiveBack)?;
        if let Some(landing) = self.open_landing(id)? {
            return Err(Error::Refused(format!("test {id} is {} to land; see loopctl landings", landing.state)));
        }
        self.execute(
            "UPDATE tests SET status = 'pending', attempts = max(attempts - 1, 0), give_backs = give_backs + 1, last_error = ?2
             WHERE id = ?1",
            params![id, reason],
        )?;
        self.clear_current_test(loop_id, id)
    }

    /// As [`WriteTx::give_back`], on behalf of a loop that no longer works on the test; published as a failed attempt that
    /// does not count.
    pub fn give_back_abandoned(&self, test: &Test, by: &ActorId, reason: &str, cause: Option<EventId>) -> Result<EventId> {
        self.give_back(&test.id, &test.loop_id, reason)?;
        let payload = TestFailed {
            test_id: test.id.clone(),
            loop_id: test.loop_id.clone(),
            attempt: test.attempts,
            error_category: ErrorCategory::System,
            error_message: reason.to_owned(),
            will_retry: true,
        };
        self.publish(&NewEvent::new(by.clone(), payload).caused_by_id(cause).of_attempt(self.newest_attempt(&test.id)?))
    }

    /// Takes a test out of the queue on purpose.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that has passed or is skipped already; [`Error::Refused`] while its
    /// work is judged for landing.
    pub fn skip_test(&self, id: &TestId, reason: Option<&str>) -> Result<()> {
        self.test_that_allows(id, TestMove::Skip)?;
        self.withdraw_landing(id, "the test was skipped")?;
        self.execute(
            "UPDATE tests SET status = 'skipped', last_error = coalesce(?2, last_error) WHERE id = ?1",
            params![id, reason],
        )?;
        self.execute(
            "UPDATE loops SET current_test_id = NULL, updated_at = ?2 WHERE current_test_id = ?1",
            params![id, self.now()],
        )?;
        Ok(())
    }

    /// Puts a test back to its beginning, its attempts forgotten; a passed one has to be verified again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] while a loop works on it; [`Error::Refused`] while its work is judged for
    /// landing.
    pub fn reset_test(&self, id: &TestId) -> Result<()> {
        if self.withdraw_landing(id, "the test was reset")? {
            self.execute("UPDATE tests SET status = 'pending' WHERE id = ?1", [id])?;
        }
        self.test_that_allows(id, TestMove::Reset)?;
        self.execute(
            "UPDATE tests SET status = 'pending', attempts = 0, last_result = NULL, last_error = NULL, error_category = NULL,
               passed_at = NULL, verified_at = NULL, not_before = NULL, commit_hash = NULL, give_backs = 0,
               no_change = CASE no_change WHEN 'accepted' THEN 'ask' ELSE no_change END WHERE id = ?1",
            [id],
        )?;
        // At the beginning it may ask again for what it was denied.
        self.execute(
            "DELETE FROM change_request_tests WHERE test_id = ?1
               AND request_id IN (SELECT id FROM change_requests WHERE status = 'rejected')",
            [id],
        )?;
        Ok(())
    }

    /// Puts a test that nobody works on back to its beginning, saying why in its last error. False for one that is pending
    /// or in progress: it is being done anyway.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn reset_test_because(&self, id: &TestId, reason: &str) -> Result<bool> {
        if matches!(self.test(id)?.status, TestStatus::Pending | TestStatus::InProgress) {
            return Ok(false);
        }
        self.reset_test(id)?;
        self.execute("UPDATE tests SET last_error = ?2 WHERE id = ?1", params![id, reason])?;
        Ok(true)
    }

    /// Makes a pending test without a dependency depend on another. False if it is not pending or has a dependency.
    pub fn add_dependency(&self, id: &TestId, dependency: &TestId) -> Result<bool> {
        // No test may depend on itself, not even through others.
        let changed = self.execute(
            "UPDATE tests SET depends_on = ?2 WHERE id = ?1 AND status = 'pending' AND depends_on IS NULL
               AND ?1 NOT IN (WITH RECURSIVE up (id) AS (
                 SELECT id FROM tests WHERE id = ?2
                 UNION SELECT t.depends_on FROM up JOIN tests AS t ON t.id = up.id WHERE t.depends_on IS NOT NULL)
                 SELECT id FROM up)",
            params![id, dependency],
        )?;
        Ok(changed > 0)
    }

    /// Removes the dependency of a test. False if it has none.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that is in progress or has passed.
    pub fn clear_dependency(&self, id: &TestId) -> Result<bool> {
        self.test_that_allows(id, TestMove::ClearDependency)?;
        Ok(self.execute("UPDATE tests SET depends_on = NULL WHERE id = ?1 AND depends_on IS NOT NULL", [id])? > 0)
    }

    /// Gives a pending test to another loop.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::IllegalMove`] for one that is not pending.
    pub fn move_test(&self, id: &TestId, to: &LoopId) -> Result<()> {
        self.loop_row(to)?;
        self.test_that_allows(id, TestMove::HandOn)?;
        self.execute("UPDATE tests SET loop_id = ?2 WHERE id = ?1", params![id, to])?;
        Ok(())
    }
}

/// Which tests of a batch come back to themselves when `depends_on` is followed inside the batch. Visits each test once.
fn cyclic(tests: &[NewTest], batch: &HashMap<&str, usize>) -> HashSet<usize> {
    let mut cyclic = HashSet::new();
    // On which walk a test was first visited.
    let mut walks: Vec<Option<usize>> = vec![None; tests.len()];
    for start in 0..tests.len() {
        let (mut path, mut next) = (Vec::new(), Some(start));
        while let Some(at) = next {
            if let Some(walk) = walks[at] {
                if walk == start {
                    cyclic.extend(path.into_iter().skip_while(|visited| *visited != at));
                }
                break;
            }
            walks[at] = Some(start);
            path.push(at);
            next = tests[at].depends_on.as_ref().and_then(|dependency| batch.get(dependency.as_str()).copied());
        }
    }
    cyclic
}

fn summary(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}
