//! From a claim to the integration branch: wait for the leases, rebase, gate on the rebased result, move the branch by
//! compare-and-swap, record. The branch only ever moves to a state that passed the gate.

use std::collections::BTreeSet;
use std::time::Duration;

use coord_db::payload::DecisionOption;
use coord_db::process::ProcessIdentity;
use coord_db::{
    AcquireRequest, ActorId, AgentTrouble, DecisionStatus, ErrorCategory, EventFilter, EventId, FailedAttempt, LeasePath,
    NewDecision, NoChange, PassedAttempt, TestStatus, UnlockCause, Waiting, owned_intent,
};
use crash_point::{Point, reach};
use serde_json::json;
use work_tree::{CommitHash, RefExpectation, Trailer};

use crate::agent::failed;
use crate::auto_lease::{INTEGRATION, exactly};
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Waiter};
use crate::gate::{Proving, Verdict};
use crate::journal::{REBASE, SQUASH};
use crate::{Error, Result};

/// The journal's word for moving the integration branch.
pub(crate) const INTEGRATE: &str = "integrate";
/// How often the branch may move under us before the attempt is given back.
const MOST_ROUNDS: usize = 5;

/// How a landing ended.
pub(crate) enum Landed {
    Passed(CommitHash),
    Failed(FailedAttempt),
    /// The agent claims success and has changed nothing.
    Unchanged,
    /// The agent cannot work, nor can it for any other loop.
    Trouble(AgentTrouble),
    Interrupted(Interrupt),
}

/// What is being landed.
pub(crate) struct Work {
    /// The head of the integration branch that it is on.
    pub(crate) base: CommitHash,
    /// The one commit that it is; none if nothing is changed.
    pub(crate) commit: Option<CommitHash>,
    /// The files that it changed when it was claimed done; what is protected among them is approved.
    pub(crate) files: Vec<std::path::PathBuf>,
}

/// One step of a landing: go on with a value, or end.
pub(crate) type Step<T> = Result<std::result::Result<T, Landed>>;

macro_rules! go_on {
    ($step:expr) => {
        match $step? {
            Ok(value) => value,
            Err(end) => return Ok(end),
        }
    };
}

pub(crate) fn integration_lease() -> Result<LeasePath> {
    Ok(INTEGRATION.parse()?)
}

/// The names in the trailers of a landed commit.
fn trailers(context: &Context<'_>, attempt: &Attempt, proof: &str) -> Vec<Trailer> {
    vec![
        ("Loop".to_owned(), context.loop_id.to_string()),
        ("Test".to_owned(), attempt.test.id.to_string()),
        ("Proof".to_owned(), proof.to_owned()),
    ]
}

fn message(attempt: &Attempt) -> String {
    let test = &attempt.test;
    let text = test.notes.as_deref().or(test.spec_content.as_deref()).unwrap_or_default();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("done").trim();
    format!("{}: {}", test.id, first.chars().take(120).collect::<String>())
}

impl Context<'_> {
    /// Lands what the attempt's worktree holds.
    pub(crate) async fn land(&self, attempt: &mut Attempt, waiter: &mut Waiter) -> Result<Landed> {
        let mut proving = Proving::new();
        let intent = json!({
            "test": attempt.test.id, "attempt": attempt.test.attempts, "base": attempt.base.as_str(),
            "head": attempt.worktree.head()?.as_str(), "worktree": attempt.worktree.root(),
        });
        let entry = self.intend(SQUASH, intent)?;
        reach(Point::SquashIntended);
        let squashed =
            match attempt.worktree.squash_since(&attempt.base, &message(attempt), &trailers(self, attempt, &proving.id)) {
                Ok(squashed) => squashed,
                Err(
                    error @ (work_tree::Error::OperationInProgress { .. }
                    | work_tree::Error::NotAncestor { .. }
                    | work_tree::Error::Unstorable { .. }),
                ) => {
                    self.settle(&entry, false)?;
                    let text = format!("the worktree cannot be landed: {error}");
                    return Ok(Landed::Failed(failed(ErrorCategory::Code, text)));
                }
                Err(error) => return Err(error.into()),
            };
        reach(Point::SquashMade);
        self.settle(&entry, true)?;
        reach(Point::SquashSettled);
        if squashed.is_none() && !attempt.may_be_empty && attempt.test.no_change == NoChange::Ask {
            return Ok(Landed::Unchanged);
        }
        let files = match &squashed {
            Some(commit) => self.repository.changed_between(&attempt.base, commit)?,
            None => Vec::new(),
        };
        if let Some(file) = self.of_our_own(&files) {
            let text =
                format!("{} belongs to coding-loops itself, and nothing below it lands; leave it as it is", file.display());
            return Ok(Landed::Failed(failed(ErrorCategory::Code, text)));
        }
        self.forget_waits(attempt, &files)?;
        go_on!(self.ask_owners(attempt, &files));
        let mut problems = self.lease_files(attempt, &files)?;
        problems.extend(self.misnumbered(squashed.as_ref())?);
        if !problems.is_empty() {
            return Ok(Landed::Failed(failed(ErrorCategory::Code, problems.join("; "))));
        }
        go_on!(self.await_files(attempt, waiter).await);
        // Something may have become owned while the loop waited for it.
        go_on!(self.ask_owners(attempt, &files));
        go_on!(self.approve_protected(attempt, squashed.as_ref(), &files, waiter).await);
        let mut work = Work { base: attempt.base.clone(), commit: squashed, files };
        // Judged once before its turn, on what has landed so far: a suite that is slow or fails holds nobody up. If nothing
        // lands meanwhile, the proofs stand; else the gate runs again with the branch leased, so that it cannot be overtaken for ever.
        go_on!(self.rebase_and_gate(attempt, &mut work, &mut proving, waiter).await);
        reach(Point::LandingJudged);
        go_on!(self.await_integration(attempt, waiter).await);
        reach(Point::LandingLeased);
        for _ in 0..MOST_ROUNDS {
            let checks = go_on!(self.rebase_and_gate(attempt, &mut work, &mut proving, waiter).await);
            let (judged, head) = (work.commit.clone().unwrap_or_else(|| work.base.clone()), work.base.clone());
            let changed = match &work.commit {
                Some(commit) => self.repository.changed_between(&head, commit)?,
                None => Vec::new(),
            };
            if let Some(why) = self.broken_rule(attempt, &work, &changed, &proving.id)? {
                return Ok(Landed::Failed(why));
            }
            if self.integrate(attempt, &judged, &head, &proving.id, checks, &changed)? {
                return Ok(Landed::Passed(judged));
            }
        }
        let text = format!("the integration branch moved {MOST_ROUNDS} times while the attempt was being landed");
        Ok(Landed::Failed(failed(ErrorCategory::Transient, text)))
    }

    /// Puts the work on the head of the integration branch, and judges it there. Gives what the checks said.
    async fn rebase_and_gate(
        &self,
        attempt: &Attempt,
        work: &mut Work,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Vec<(String, bool)>> {
        let head = self.integration_head()?;
        if let Some(own) = &work.commit
            && work.base != head
        {
            if attempt.worktree.head()? != *own {
                let text = "somebody has committed to the loop's branch while it was being landed";
                return Ok(Err(Landed::Failed(failed(ErrorCategory::Transient, text))));
            }
            let intent = json!({
                "test": attempt.test.id, "attempt": attempt.test.attempts, "commit": own.as_str(), "base": work.base.as_str(),
                "onto": head.as_str(), "worktree": attempt.worktree.root(),
            });
            let entry = self.intend(REBASE, intent)?;
            reach(Point::RebaseIntended);
            work.commit = match attempt.worktree.rebase_onto(&head, &work.base) {
                Ok(rebased) if rebased == head => None,
                Ok(rebased) => Some(rebased),
                Err(work_tree::Error::RebaseConflict { files }) => {
                    self.settle(&entry, false)?;
                    return Ok(Err(Landed::Failed(self.conflict(own, &work.base, &head, &files)?)));
                }
                Err(error) => return Err(error.into()),
            };
            reach(Point::RebaseMade);
            self.settle(&entry, true)?;
            reach(Point::RebaseSettled);
        }
        work.base = head;
        let judged = work.commit.as_ref().unwrap_or(&work.base);
        let checks = match self.gate(attempt, judged, proving, waiter).await? {
            Verdict::Passed(checks) => checks,
            Verdict::Failed(why) => return Ok(Err(Landed::Failed(why))),
            Verdict::Interrupted(interrupt) => return Ok(Err(Landed::Interrupted(interrupt))),
        };
        reach(Point::GatePassed);
        Ok(Ok(checks))
    }

    /// The first of these files at or below the folder of the database: a merge by the human would write it over the
    /// database's own files.
    fn of_our_own<'f>(&self, files: &'f [std::path::PathBuf]) -> Option<&'f std::path::PathBuf> {
        let top = self.repository.root().canonicalize().ok()?;
        let home = self.home.canonicalize().ok()?;
        let ours = home.strip_prefix(top).ok().filter(|ours| !ours.as_os_str().is_empty())?;
        files.iter().find(|file| file.starts_with(ours))
    }

    /// Waits until every file that the attempt changed is leased.
    async fn await_files(&self, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
        loop {
            waiter.wakes.looked(self.db);
            self.ask_again(attempt)?;
            if attempt.waiting.is_empty() {
                return Ok(Ok(()));
            }
            if let Some(end) = self.told_to_end(attempt, waiter)? {
                return Ok(Err(end));
            }
            waiter.wait(self, Duration::from_secs(1)).await;
        }
    }

    fn told_to_end(&self, attempt: &Attempt, waiter: &mut Waiter) -> Result<Option<Landed>> {
        waiter.beat(self, Some(attempt));
        if waiter.stopping() {
            return Ok(Some(Landed::Interrupted(Interrupt::stop())));
        }
        Ok(self.orders(Some(attempt))?.map(Landed::Interrupted))
    }

    /// Waits for the right to move the integration branch.
    async fn await_integration(&self, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
        let request = AcquireRequest {
            loop_id: self.loop_id.clone(),
            paths: vec![integration_lease()?],
            ttl_seconds: self.config.lease.ttl_seconds,
            reason: Some(format!("landing {}", attempt.test.id)),
            test_id: Some(attempt.test.id.clone()),
            automatic: true,
        };
        let silent = self.config.lease.silent_waiter_seconds;
        let (id, answer) = self.db.write(|tx| tx.acquire_or_queue(&request, tx.now().plus_seconds(600), silent))?;
        match (id, answer) {
            (_, Waiting::Granted(grant)) => {
                attempt.tokens.extend(grant.paths.into_iter().map(|path| (path, grant.fencing_token)));
                Ok(Ok(()))
            }
            (Some(id), _) => {
                attempt.waiting.push((id, request));
                self.await_files(attempt, waiter).await
            }
            (None, _) => Err(Error::SetUp("a queued acquire has no id".to_owned())),
        }
    }

    /// A change to a protected path needs the human's leave.
    async fn approve_protected(
        &self,
        attempt: &Attempt,
        commit: Option<&CommitHash>,
        files: &[std::path::PathBuf],
        waiter: &mut Waiter,
    ) -> Step<()> {
        let protected = exactly(&self.config.gate.protected);
        let touched: Vec<String> =
            files.iter().filter(|file| protected.is_match(file)).map(|file| file.display().to_string()).collect();
        let (Some(commit), false) = (commit, touched.is_empty()) else { return Ok(Ok(())) };
        let tree = self.repository.tree_of(commit)?;
        let fingerprint = format!("protected:{}:{tree}", attempt.test.id);
        let option = |id: &str, description: &str| DecisionOption { id: id.to_owned(), description: description.to_owned() };
        let question = NewDecision {
            decision_type: "protected_change".to_owned(),
            summary: format!("test {} changes protected files: {}", attempt.test.id, touched.join(", ")),
            options: vec![
                option("approve", "the change goes on to the gate"),
                option("reject", "the attempt fails; its work is kept under a ref"),
            ],
            default_option: Some("reject".to_owned()),
            context: json!({"test_id": attempt.test.id, "loop_id": self.loop_id, "files": touched, "commit": commit.as_str()}),
            timeout_minutes: Some(self.config.pm.decision_timeout_minutes),
            requested_by: ActorId::from(&self.loop_id),
            fingerprint: Some(fingerprint),
        };
        let id = self.db.write(|tx| tx.ask(&question, None))?;
        loop {
            waiter.wakes.looked(self.db);
            let decision = self.db.read(|tx| tx.decision(&id))?;
            if decision.status != DecisionStatus::Pending {
                return Ok(if decision.choice.as_deref() == Some("approve") {
                    Ok(())
                } else {
                    let text = format!("the change of protected files was not approved: {}", touched.join(", "));
                    Err(Landed::Failed(failed(ErrorCategory::Human, text)))
                });
            }
            if let Some(end) = self.told_to_end(attempt, waiter)? {
                return Ok(Err(end));
            }
            waiter.wait(self, Duration::from_secs(5)).await;
        }
    }

    fn conflict(
        &self,
        own: &CommitHash,
        base: &CommitHash,
        head: &CommitHash,
        files: &[std::path::PathBuf],
    ) -> Result<FailedAttempt> {
        let wanted: BTreeSet<&std::path::PathBuf> = files.iter().collect();
        let mut others = BTreeSet::new();
        let mut caused_by = None;
        for commit in self.repository.commits_between(base, head)? {
            let parent = commit.parents.first().unwrap_or(base);
            if self.repository.changed_between(parent, &commit.hash)?.iter().any(|file| wanted.contains(file)) {
                let name = |key| commit.trailer(key).unwrap_or("somebody").to_owned();
                others.insert(format!("{} of loop {} ({})", name("Test"), name("Loop"), commit.hash.short()));
                if caused_by.is_none()
                    && let Some(test) = commit.trailer("Test")
                {
                    caused_by = self.pass_of(test, &commit.hash)?;
                }
            }
        }
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let others: Vec<String> = others.into_iter().collect();
        let message = format!("{} conflicts in {} with {}", own.short(), names.join(", "), others.join(", "));
        Ok(FailedAttempt { caused_by, ..FailedAttempt::new(ErrorCategory::Conflict, message) })
    }

    /// The event that told of a commit's landing: what a conflict with it has cost is charged to that event's loop.
    fn pass_of(&self, test: &str, commit: &CommitHash) -> Result<Option<EventId>> {
        let (event_type, test_id) = (Some("test_passed".to_owned()), Some(test.to_owned()));
        let passes = self.db.read(|tx| tx.events(&EventFilter { event_type, test_id, ..EventFilter::default() }))?;
        let of_commit = |event: &coord_db::Event| event.payload["commit"].as_str() == Some(commit.as_str());
        Ok(passes.into_iter().rev().find(of_commit).map(|event| event.id))
    }

    /// Writes down the intent, moves the branch, records the pass. False if somebody else has moved the branch meanwhile.
    fn integrate(
        &self,
        attempt: &Attempt,
        commit: &CommitHash,
        head: &CommitHash,
        proof: &str,
        checks: Vec<(String, bool)>,
        files: &[std::path::PathBuf],
    ) -> Result<bool> {
        let test = &attempt.test;
        let passed = PassedAttempt {
            commit: commit.to_string(),
            checks,
            duration_seconds: i64::try_from(attempt.begun.elapsed().as_secs()).unwrap_or(i64::MAX),
            tokens_estimated: Some(attempt.tokens_spent),
            files_modified: files.iter().map(|file| file.to_string_lossy().into_owned()).collect(),
        };
        let steps = json!({
            "test": test.id, "attempt": test.attempts, "commit": commit.as_str(), "old": head.as_str(),
            "branch": self.integration_branch(), "proof": proof, "checks": passed.checks,
            "seconds": passed.duration_seconds, "tokens": passed.tokens_estimated, "files": passed.files_modified,
        });
        let steps = owned_intent(steps, &ProcessIdentity::own());
        // The last look: whoever was paused, skipped or revoked until here does not land.
        let entry = self.db.write_durably(|tx| {
            let row = tx.test(&test.id)?;
            if row.status != TestStatus::InProgress || row.loop_id != self.loop_id {
                return Err(coord_db::Error::Refused(format!("test {} was taken from the loop", test.id)));
            }
            tx.begin_operation(INTEGRATE, self.loop_id.as_str(), Some(&self.loop_id), &steps, None)
        })?;
        reach(Point::IntegrateIntended);
        if commit != head {
            // The gate took its time; moving a branch that somebody has checked out since would pull it from under their feet.
            if let Err(error) = self.integration_head() {
                self.db.write(|tx| tx.end_operation(&entry, false))?;
                return Err(error);
            }
            match self.repository.set_ref(&self.integration_ref(), commit, &RefExpectation::At(head.clone())) {
                Ok(()) => {}
                Err(work_tree::Error::RefMoved { .. }) => {
                    self.db.write(|tx| tx.end_operation(&entry, false))?;
                    return Ok(false);
                }
                Err(error) => {
                    self.db.write(|tx| tx.end_operation(&entry, false))?;
                    return Err(error.into());
                }
            }
        }
        reach(Point::IntegrateMoved);
        self.record(&entry, &attempt.test.id, &passed)?;
        reach(Point::IntegrateRecorded);
        Ok(true)
    }

    /// Records a pass whose commit is on the integration branch. Waits out a database that cannot be written: the branch
    /// has moved, so there is no way back.
    pub(crate) fn record(&self, entry: &str, test: &coord_db::TestId, passed: &PassedAttempt) -> Result<()> {
        loop {
            let recorded = self.db.write(|tx| {
                let begun = self.attempt_begun(tx.test(test)?.last_attempt_at);
                let (tokens, files) = (passed.tokens_estimated.unwrap_or(0), &passed.files_modified);
                let spent = tx.record_attempt_usage(&self.loop_id, test, begun, tokens, passed.duration_seconds, files)?;
                let passed = PassedAttempt { tokens_estimated: Some(spent).filter(|spent| *spent > 0), ..passed.clone() };
                tx.adopt_landed(test, &self.loop_id, &passed)?;
                tx.forget_vain_runs(&self.loop_id)?;
                match tx.end_operation(entry, true) {
                    // Somebody took this process for gone before the branch moved. It has moved all the same.
                    Err(error) if error.is_refusal() => tracing::warn!(%error, "the journal was settled by another hand"),
                    other => drop(other?),
                }
                tx.release_everything(self.loop_id.as_str(), &ActorId::from(&self.loop_id), UnlockCause::Released, None)?;
                Ok::<_, coord_db::Error>(())
            });
            match recorded {
                Ok(()) => return Ok(()),
                Err(error) if error.is_temporary() => {
                    tracing::warn!(%error, %test, "the work has landed but cannot be recorded yet; trying again");
                    std::thread::park_timeout(Duration::from_millis(500));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
