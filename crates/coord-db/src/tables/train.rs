//! What the landing train does in the database: takes and leaves the role of the judge, lands a batch, gives a work back. Each is one
//! transaction, which the programs and the simulation share.

use serde_json::{Value, json};

use crate::process::{Liveness, ProcessIdentity};
use crate::{
    Acquire, AcquireRequest, ActorId, Error, ErrorCategory, FailedAttempt, JournalEntry, Landing, LandingState, Lease,
    LeasePath, LoopId, PassedAttempt, ReadTx, Result, TestId, TestStatus, UnlockCause, WriteTx, owned_intent,
};

/// The operation in the journal of the process that is the judge.
pub const JUDGE_OPERATION: &str = "judge";
/// The operation in the journal that moves integration.
pub const LANDING_OPERATION: &str = "integrate";

/// The role of the judge: the lease on integration in the name of a loop, and an open entry in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgeRole {
    /// The id of the entry.
    pub entry: String,
    /// The loop.
    pub judge: LoopId,
    /// The token of the lease.
    pub token: i64,
}

impl JudgeRole {
    /// The role that an entry of the journal is about.
    #[must_use]
    pub fn of(entry: &JournalEntry) -> Option<Self> {
        let intent = &entry.steps.intent;
        let judge = intent["judge"].as_str().filter(|_| entry.operation == JUDGE_OPERATION)?.parse().ok()?;
        Some(Self { entry: entry.id.clone(), judge, token: intent["token"].as_i64()? })
    }
}

/// A work of a batch that is on integration.
#[derive(Debug, Clone)]
pub struct LandedWork {
    /// Its test.
    pub test: TestId,
    /// Its row; none in an entry of the journal of an older version.
    pub landing: Option<String>,
    /// Its loop.
    pub author: LoopId,
    /// The pass to record.
    pub passed: PassedAttempt,
}

impl ReadTx<'_> {
    /// True if another process, which is not known to be dead, is the judge, with a lease that has not expired.
    pub fn has_other_judge(&self, own: &ProcessIdentity) -> Result<bool> {
        for entry in self.open_journal(Some(LoopId::train().as_str()))? {
            let Some(role) = JudgeRole::of(&entry) else { continue };
            let is_other = entry.steps.owner().is_some_and(|owner| owner != *own && owner.liveness() != Liveness::Gone);
            let lease = self.judge_lease(&role)?.filter(|lease| lease.expires_at.is_none_or(|at| at > self.now()));
            if is_other && lease.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The lease on integration, if it is that of this judge.
    pub fn judge_lease(&self, role: &JudgeRole) -> Result<Option<Lease>> {
        let is_own = |lease: &Lease| lease.locked_by == role.judge.as_str() && lease.fencing_token == role.token;
        Ok(self.lease(&LeasePath::integration())?.filter(is_own))
    }
}

impl WriteTx<'_> {
    /// Makes a process the judge, with the requested lease on integration. None if there is a judge, or integration is leased.
    pub fn take_judge_role(
        &self,
        request: &AcquireRequest,
        silent_waiter_seconds: i64,
        owner: &ProcessIdentity,
        runs_as: Option<&LoopId>,
    ) -> Result<Option<JudgeRole>> {
        let train = LoopId::train();
        if self.open_journal(Some(train.as_str()))?.iter().any(|entry| JudgeRole::of(entry).is_some()) {
            return Ok(None);
        }
        let Acquire::Granted(grant) = self.acquire(request, silent_waiter_seconds)? else { return Ok(None) };
        let (judge, token) = (request.loop_id.clone(), grant.fencing_token);
        let intent = owned_intent(json!({ "judge": judge, "token": token }), owner, runs_as);
        let entry = self.begin_operation(JUDGE_OPERATION, train.as_str(), None, &intent, None)?;
        Ok(Some(JudgeRole { entry, judge, token }))
    }

    /// The judge ends, unless another process has taken it for dead.
    pub fn leave_judge_role(&self, role: &JudgeRole) -> Result<()> {
        if !self.is_operation_open(&role.entry)? {
            return Ok(());
        }
        self.judge_landings(&[])?;
        match self.release(&role.judge, &[LeasePath::integration()], Some(role.token)) {
            Err(Error::LeaseLost { .. }) => {}
            other => drop(other?),
        }
        self.end_operation(&role.entry, true).map(drop)
    }

    /// Ends the role of a judge that has died or stands still; false if that was done already.
    pub fn end_judge_role(&self, role: &JudgeRole) -> Result<bool> {
        if !self.is_operation_open(&role.entry)? {
            return Ok(false);
        }
        self.judge_landings(&[])?;
        if let Some(lease) = self.judge_lease(role)? {
            self.end_lease(&lease, &ActorId::from(&LoopId::train()), UnlockCause::OwnerDied, None)?;
        }
        self.end_operation(&role.entry, false)
    }

    /// Records that these works are about to land, each with its row. None if the judge has lost its lease, or a test was taken
    /// away.
    pub fn begin_landing(&self, role: &JudgeRole, works: &[(&TestId, &str)], intent: &Value) -> Result<Option<String>> {
        let is_valid = |lease: &Lease| lease.expires_at.is_none_or(|at| at > self.now());
        if self.judge_lease(role)?.filter(is_valid).is_none() {
            return Ok(None);
        }
        for (test, id) in works {
            let is_open = self.open_landing(test)?.is_some_and(|landing| landing.id == *id);
            if self.test(test)?.status != TestStatus::InProgress || !is_open {
                return Ok(None);
            }
        }
        self.begin_operation(LANDING_OPERATION, LoopId::train().as_str(), None, intent, None).map(Some)
    }

    /// Records the passes of a batch that is on integration. Returns the tests that were settled otherwise, which must not prevent
    /// anything else, with the reason.
    pub fn record_landed(&self, works: &[LandedWork], batch: Option<&str>) -> Result<Vec<(TestId, Error)>> {
        let mut refused = Vec::new();
        for LandedWork { test, landing, author, passed } in works {
            match landing {
                // First, because nothing settles a test whose work waits.
                Some(id) => drop(self.end_landing(id, LandingState::Landed, batch, None, &[])?),
                // The loop has kept its leases until here.
                None => drop(self.release_everything(author.as_str(), &ActorId::from(author), UnlockCause::Released, None)?),
            }
            match self.adopt_landed(test, author, passed) {
                Err(error) if error.is_refusal() => refused.push((test.clone(), error)),
                other => drop(other?),
            }
        }
        if let Some(batch) = batch {
            self.batch_landed(batch)?;
        }
        Ok(refused)
    }

    /// Gives a work back to its loop; a permanent failure skips its test. False if its wait has ended already.
    pub fn return_landing(
        &self,
        landing: &Landing,
        why: &FailedAttempt,
        batch: Option<&str>,
        clashes: &[TestId],
    ) -> Result<bool> {
        let first = why.message.lines().next().unwrap_or_default();
        if !self.end_landing(&landing.id, LandingState::Returned, batch, Some(first), clashes)? {
            return Ok(false);
        }
        let test = &landing.test_id;
        match why.category {
            ErrorCategory::Permanent => self.skip_test(test, Some(&why.message))?,
            _ => drop(self.record_failed(test, &landing.loop_id, why)?),
        }
        Ok(true)
    }
}
