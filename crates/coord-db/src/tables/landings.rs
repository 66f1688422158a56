//! The landing train: finished work that waits to land (`landings`), and the judgements of works put on one another
//! (`batches`).
//!
//! A queued work belongs to the train: its loop takes its next test, and neither a pause nor the death of the loop changes
//! it. The leases on its files are held by the train under the tokens of their grants.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{StringList, json};
use crate::payload::{BatchJudged, LandingQueued};
use crate::{
    ActorId, BatchOutcome, CheckpointType, Error, EventId, LandingState, LeasePath, LoopId, NewCheckpoint, NewEvent, ReadTx,
    Result, Test, TestId, TestStatus, Timestamp, UnlockCause, WriteTx,
};

/// Number of ended landings from which the rate of failures is estimated.
const RATE_OF: i64 = 32;

row! {
    /// Finished work in the landing train. `checks`: the results of its own judgement, by name.
    Landing {
        id: String, test_id: TestId, loop_id: LoopId, attempt: i64, state: LandingState, urgent: bool, passed_over: i64,
        base_tree: String, tree: String, head: String, commit_hash: String, theirs: Option<String>, proof: String,
        checks: Value, seconds: i64, tokens: Option<i64>, files: StringList, batch: Option<String>, reason: Option<String>,
        clashes: StringList, queued_at: Timestamp, ended_at: Option<Timestamp>,
    }
}

row! {
    /// A judgement of works put on one another.
    Batch {
        id: String, base_commit: String, commit_hash: String, tree_hash: String, tests: StringList, outcome: BatchOutcome,
        check_name: Option<String>, why: String, output_tail: String, duration_ms: i64, reused: bool, judged_by: LoopId,
        judged_at: Timestamp, landed_at: Option<Timestamp>,
    }
}

/// Work that has passed its own judgement, to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLanding {
    /// Id of the row.
    pub id: String,
    /// The test.
    pub test_id: TestId,
    /// Its loop.
    pub loop_id: LoopId,
    /// The attempt.
    pub attempt: i64,
    /// It mends what has landed, so it goes first.
    pub urgent: bool,
    /// The tree that its change starts from: that of the head, or if nothing differs there, that of the workspace.
    pub base_tree: String,
    /// That tree with the changes.
    pub tree: String,
    /// The head of integration on which it was judged.
    pub head: String,
    /// The commit that was judged; equal to the head if nothing differs.
    pub commit_hash: String,
    /// The user's commit that it merges.
    pub theirs: Option<String>,
    /// Beginning of the ids of its proofs.
    pub proof: String,
    /// Its checks, and whether each has passed; one that has not is ignored.
    pub checks: Vec<(String, bool)>,
    /// Duration of the attempt in seconds.
    pub seconds: i64,
    /// LLM tokens, where known.
    pub tokens: Option<i64>,
    /// The changed files.
    pub files: Vec<String>,
}

/// Totals of the landing train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct LandingTotals {
    /// Works that have landed.
    pub landed: i64,
    /// Works that were given back.
    pub returned: i64,
    /// Judgements that ran checks.
    pub judged: i64,
    /// Runs of checks that were not needed, because the same check had passed on the same files.
    pub saved: i64,
    /// Their duration in milliseconds, as measured when they ran.
    pub saved_ms: i64,
}

/// Prefix of the references of the store that keep the queued work of a loop, each named after its row.
#[must_use]
pub fn queued_refs(of: &LoopId) -> String {
    format!("refs/coding-loops/queued/{of}/")
}

impl Landing {
    /// The reference of the store that keeps its commit; none if it changes nothing.
    #[must_use]
    pub fn git_ref(&self) -> Option<String> {
        (self.commit_hash != self.head).then(|| format!("{}{}", queued_refs(&self.loop_id), self.id))
    }

    /// The results of its own judgement.
    #[must_use]
    pub fn check_results(&self) -> Vec<(String, bool)> {
        let object = self.checks.as_object();
        object.into_iter().flatten().map(|(name, passed)| (name.clone(), passed.as_bool().unwrap_or(false))).collect()
    }
}

impl ReadTx<'_> {
    /// The work of a test that waits to land.
    pub fn open_landing(&self, test: &TestId) -> Result<Option<Landing>> {
        self.query_opt(select!(Landing, "FROM landings WHERE test_id = ?1 AND ended_at IS NULL"), [test], Landing::from_row)
    }

    /// All works that wait to land, the oldest first.
    pub fn open_landings(&self) -> Result<Vec<Landing>> {
        self.query(select!(Landing, "FROM landings WHERE ended_at IS NULL ORDER BY queued_at, id"), [], Landing::from_row)
    }

    /// The tests in progress whose work waits to land.
    pub fn queued_tests(&self) -> Result<BTreeMap<TestId, Test>> {
        let tests = self.query(
            select!(
                Test,
                "FROM tests WHERE id IN (SELECT test_id FROM landings WHERE ended_at IS NULL) AND status = 'in_progress'
                 ORDER BY id"
            ),
            [],
            Test::from_row,
        )?;
        Ok(tests.into_iter().map(|test| (test.id.clone(), test)).collect())
    }

    /// Whether a loop has work that waits to land, or whether any has.
    pub fn has_open_landing(&self, loop_id: Option<&LoopId>) -> Result<bool> {
        self.value("SELECT EXISTS (SELECT 1 FROM landings WHERE ended_at IS NULL AND (loop_id = ?1 OR ?1 IS NULL))", [loop_id])
    }

    /// One landing.
    pub fn landing(&self, id: &str) -> Result<Option<Landing>> {
        self.query_opt(select!(Landing, "FROM landings WHERE id = ?1"), [id], Landing::from_row)
    }

    /// The landings of a test, the oldest first.
    pub fn landings_of(&self, test: &TestId) -> Result<Vec<Landing>> {
        self.query(select!(Landing, "FROM landings WHERE test_id = ?1 ORDER BY queued_at, id"), [test], Landing::from_row)
    }

    /// The landings that ended last, the newest first.
    pub fn ended_landings(&self, limit: usize) -> Result<Vec<Landing>> {
        self.query(
            select!(Landing, "FROM landings WHERE ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT ?1"),
            [limit as i64],
            Landing::from_row,
        )
    }

    /// The priority of each loop with work that waits to land.
    pub fn landing_priorities(&self) -> Result<BTreeMap<LoopId, i64>> {
        let rows = self.query(
            "SELECT id, priority FROM loops WHERE id IN (SELECT loop_id FROM landings WHERE ended_at IS NULL)",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        Ok(rows.into_iter().collect())
    }

    /// The share of the newest ended landings that was given back, from 0 to 1.
    pub fn landing_failure_rate(&self) -> Result<f64> {
        self.value(
            "SELECT CAST(coalesce(avg(CASE state WHEN 'returned' THEN 1.0 ELSE 0.0 END), 0.0) AS DOUBLE PRECISION)
             FROM (SELECT state FROM landings WHERE ended_at IS NOT NULL AND state <> 'withdrawn'
                   ORDER BY ended_at DESC, id DESC LIMIT ?1) AS newest",
            [RATE_OF],
        )
    }

    /// One judgement.
    pub fn batch(&self, id: &str) -> Result<Option<Batch>> {
        self.query_opt(select!(Batch, "FROM batches WHERE id = ?1"), [id], Batch::from_row)
    }

    /// The newest judgements, the newest first.
    pub fn batches(&self, limit: usize) -> Result<Vec<Batch>> {
        self.query(select!(Batch, "FROM batches ORDER BY judged_at DESC, id DESC LIMIT ?1"), [limit as i64], Batch::from_row)
    }

    /// The commits to which integration has moved with a batch in which a check has passed that is the same for all tests.
    pub fn landed_states(&self, check_name: &str) -> Result<Vec<String>> {
        self.query(
            "SELECT DISTINCT b.commit_hash FROM base_runs AS r JOIN batches AS b ON b.tree_hash = r.tree_hash
             WHERE r.check_name = ?1 AND r.state = 'green' AND b.landed_at IS NOT NULL",
            [check_name],
            |row| row.get(0),
        )
    }

    /// Totals over all times.
    pub fn landing_totals(&self) -> Result<LandingTotals> {
        let counts: Option<(i64, i64)> = self.query_opt(
            "SELECT count(*) FILTER (WHERE state = 'landed'), count(*) FILTER (WHERE state = 'returned') FROM landings",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let judged = self.value("SELECT count(*) FROM batches WHERE reused = 0", [])?;
        // A proof of a batch is not a run of its own.
        let runs: Option<(i64, i64)> = self.query_opt(
            "SELECT count(*), CAST(coalesce(sum(p.duration_ms), 0) AS BIGINT) FROM proof_runs AS r JOIN proofs AS p ON p.id = r.proof_id
             WHERE r.reused_from IS NOT NULL AND r.stage <> 'batch'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let ((landed, returned), (saved, saved_ms)) = (counts.unwrap_or_default(), runs.unwrap_or_default());
        Ok(LandingTotals { landed, returned, judged, saved, saved_ms })
    }

    /// The checks that run now for attempts: the loop, the check's name and since when, for all loops that work on a test.
    pub fn running_checks(&self) -> Result<Vec<(LoopId, String, Timestamp)>> {
        self.query(
            "SELECT r.loop_id, r.name, r.started_at FROM runs AS r JOIN loops AS l ON l.id = r.loop_id AND l.status = 'running'
             WHERE r.ended_at IS NULL AND r.kind = 'check' AND r.test_id IS NOT NULL AND r.test_id = l.current_test_id",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
    }

    /// The duration in milliseconds of the newest passed run of a check.
    pub fn check_duration(&self, check_name: &str) -> Result<Option<i64>> {
        self.query_opt(
            "SELECT duration_ms FROM proofs WHERE check_name = ?1 AND outcome = 'pass' ORDER BY created_at DESC LIMIT 1",
            [check_name],
            |row| row.get(0),
        )
    }
}

impl WriteTx<'_> {
    /// Queues work that has passed its own judgement: the train takes the leases on its files, and the loop has no current test
    /// hand any more.
    ///
    /// # Errors
    /// [`Error::Refused`] if the test was taken from the loop, [`Error::LeaseLost`] if a lease was.
    pub fn queue_landing(&self, new: &NewLanding, leases: &[(LeasePath, i64)]) -> Result<EventId> {
        let test = self.test(&new.test_id)?;
        if test.status != TestStatus::InProgress || test.loop_id != new.loop_id || self.open_landing(&test.id)?.is_some() {
            return Err(Error::Refused(format!("test {} was taken from the loop", test.id)));
        }
        let checks: Map<String, Value> = new.checks.iter().map(|(name, passed)| (name.clone(), Value::Bool(*passed))).collect();
        self.execute(
            "INSERT INTO landings (id, test_id, loop_id, attempt, urgent, base_tree, tree, head, commit_hash, theirs, proof, checks,
               seconds, tokens, files, queued_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            params![
                new.id,
                new.test_id,
                new.loop_id,
                new.attempt,
                new.urgent,
                new.base_tree,
                new.tree,
                new.head,
                new.commit_hash,
                new.theirs,
                new.proof,
                json(&checks),
                new.seconds,
                new.tokens,
                json(&new.files),
                self.now(),
            ],
        )?;
        for (path, token) in leases {
            self.hand_to_train(&new.loop_id, &new.test_id, path, *token)?;
        }
        self.clear_current_test(&new.loop_id, &new.test_id)?;
        let position = self.value("SELECT count(*) FROM landings WHERE ended_at IS NULL", [])?;
        let payload = LandingQueued {
            landing_id: new.id.clone(),
            test_id: new.test_id.clone(),
            loop_id: new.loop_id.clone(),
            attempt: new.attempt,
            commit: new.commit_hash.clone(),
            position,
        };
        let start = self.newest_attempt(&new.test_id)?;
        self.publish(&NewEvent::new(ActorId::from(&new.loop_id), payload).of_attempt(start))
    }

    /// The train takes the lease that covers a path from a loop, under its token. Those who wait for it wait for the train.
    fn hand_to_train(&self, from: &LoopId, test: &TestId, path: &LeasePath, token: i64) -> Result<()> {
        let train = LoopId::train();
        let lease = self.leases_overlapping(path)?.into_iter().find(|lease| {
            lease.fencing_token == token
                && lease.file_path.covers(path)
                && [from, &train].iter().any(|of| lease.locked_by == of.as_str())
        });
        let Some(lease) = lease else {
            return Err(Error::LeaseLost { loop_id: from.to_string(), token, paths: vec![path.to_string()] });
        };
        // With another file of the same folder.
        if lease.locked_by == train.as_str() {
            return Ok(());
        }
        let path = &lease.file_path;
        self.execute(
            "UPDATE file_locks SET locked_by = ?1, test_id = ?2, lock_reason = 'waits to land' WHERE file_path = ?3",
            params![train, test, path],
        )?;
        self.execute("DELETE FROM lease_sets WHERE fencing_token = ?1 AND file_path = ?2", params![token, path])?;
        self.execute(
            "DELETE FROM wait_graph WHERE holder = ?1 AND resource = ?3 AND waiter IN (
               SELECT w.waiter FROM wait_graph AS w WHERE w.holder = ?2 AND w.resource = ?3 AND w.waiter <> ?1)",
            params![train, from, path],
        )?;
        self.execute(
            "UPDATE wait_graph SET holder = ?1 WHERE holder = ?2 AND resource = ?3 AND waiter <> ?1",
            params![train, from, path],
        )?;
        Ok(())
    }

    /// Marks exactly these works as being judged: they are not withdrawn before the verdict.
    pub fn judge_landings(&self, ids: &[String]) -> Result<()> {
        let ids = json(&ids);
        self.execute(
            "UPDATE landings SET state = 'judging' WHERE state = 'queued' AND id IN (SELECT value FROM json_each(?1))",
            [&ids],
        )?;
        self.execute(
            "UPDATE landings SET state = 'queued' WHERE state = 'judging' AND id NOT IN (SELECT value FROM json_each(?1))",
            [&ids],
        )?;
        Ok(())
    }

    /// Records a judgement and publishes it.
    pub fn record_batch(&self, batch: &Batch) -> Result<EventId> {
        self.execute(
            "INSERT INTO batches (id, base_commit, commit_hash, tree_hash, tests, outcome, check_name, why, output_tail,
               duration_ms, reused, judged_by, judged_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            params![
                batch.id,
                batch.base_commit,
                batch.commit_hash,
                batch.tree_hash,
                json(&batch.tests.0),
                batch.outcome,
                batch.check_name,
                batch.why,
                batch.output_tail,
                batch.duration_ms,
                batch.reused,
                batch.judged_by,
                batch.judged_at,
            ],
        )?;
        let payload = BatchJudged {
            batch_id: batch.id.clone(),
            batch: batch.tests.0.iter().map(TestId::trusted).collect(),
            base: batch.base_commit.clone(),
            commit: batch.commit_hash.clone(),
            outcome: batch.outcome,
            check: batch.check_name.clone(),
            why: Some(batch.why.clone()).filter(|why| !why.is_empty()),
            seconds: batch.duration_ms / 1000,
            reused: batch.reused,
        };
        self.publish(&NewEvent::new(ActorId::from(&batch.judged_by), payload))
    }

    /// Records that integration has moved to the commit of a batch: every work that is left in the queue was passed over.
    pub fn batch_landed(&self, batch: &str) -> Result<()> {
        self.execute("UPDATE batches SET landed_at = ?2 WHERE id = ?1 AND landed_at IS NULL", params![batch, self.now()])?;
        self.execute("UPDATE landings SET passed_over = passed_over + 1 WHERE ended_at IS NULL", [])?;
        Ok(())
    }

    /// Ends the wait of a work, and the leases on its files; what does not land is saved work from now on. False if it has
    /// ended already.
    pub fn end_landing(
        &self,
        id: &str,
        state: LandingState,
        batch: Option<&str>,
        reason: Option<&str>,
        clashes: &[TestId],
    ) -> Result<bool> {
        let Some(landing) = self.landing(id)?.filter(|landing| landing.state.may_become(state)) else { return Ok(false) };
        self.execute(
            "UPDATE landings SET state = ?2, batch = coalesce(?3, batch), reason = ?4, clashes = ?5, ended_at = ?6 WHERE id = ?1",
            params![id, state, batch, reason, json(&clashes), self.now()],
        )?;
        if let Some(git_ref) = landing.git_ref()
            && state != LandingState::Landed
            && self.find_loop(landing.loop_id.as_str())?.is_some()
        {
            self.add_checkpoint(&NewCheckpoint {
                loop_id: landing.loop_id.clone(),
                test_id: self.find_test(landing.test_id.as_str())?.map(|test| test.id),
                git_ref,
                checkpoint_type: CheckpointType::Stash,
                commit_hash: landing.commit_hash.clone(),
                reason: reason.unwrap_or("it did not land").to_owned(),
            })?;
        }
        let train = LoopId::train();
        for lease in self.leases_of(train.as_str())? {
            if lease.test_id.as_ref() == Some(&landing.test_id) {
                let loop_id = &landing.loop_id;
                self.end_lease_of(loop_id.as_str(), &lease, &ActorId::from(loop_id), UnlockCause::Released, None)?;
            }
        }
        Ok(true)
    }

    /// Takes the work of a test out of the queue; false if none waits.
    ///
    /// # Errors
    /// [`Error::Refused`] while it is judged.
    pub(super) fn withdraw_landing(&self, test: &TestId, reason: &str) -> Result<bool> {
        let Some(landing) = self.open_landing(test)? else { return Ok(false) };
        if landing.state == LandingState::Judging {
            return Err(Error::Refused(format!(
                "the work of test {test} is judged for landing right now; try again when loopctl landings shows the verdict"
            )));
        }
        self.end_landing(&landing.id, LandingState::Withdrawn, None, Some(reason), &[])
    }
}
