//! The gate: runs the configured checks in its own check-out at the commit that would land. Each run leaves a proof.

mod proof;

use std::cell::Cell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::pin;

use coord_db::config::CheckConfig;
use coord_db::{
    BaseRun, BaseState, CheckOutcome, Counts, ErrorCategory, FailedAttempt, LeasePath, NoChange, Proof, ProofRun, ProofStage,
    RegressionStatus, RunKind, RunOf, StringList, Test, new_id,
};
use crash_point::{Point, reach};
use git::check::{CheckEnd, CheckResult, CheckSpec, CheckVerdict, run_check};
use git::{CommitHash, WorkTree};
use tokio::sync::watch;

use crate::Result;
use crate::agents::reason_of;
use crate::auto_lease::exactly;
use crate::base::BaseCheck;
use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::known_failure::{Failure, Likeness, compare};
use crate::per_test::applies;

pub(crate) use proof::{Proving, end_of, failure_of};
use proof::{as_base, describe, failures_in, proof_of};

/// Maximum number of broken tests named in a failure message.
const MAX_NAMED: usize = 3;

/// The state that is being judged.
struct Judged<'a> {
    commit: &'a CommitHash,
    tree: String,
    /// The head of integration to which the work was applied.
    head: &'a CommitHash,
    base_tree: String,
    worktree: WorkTree,
    /// The check-out was prepared for its first check.
    is_ready: Cell<bool>,
    /// The ignored checks.
    ignored: Vec<String>,
    /// The test was created to repair the base.
    is_mending: bool,
}

/// A check to run.
struct CheckRun<'a> {
    check: &'a CheckConfig,
    spec: &'a CheckSpec,
    is_per_test: bool,
    is_ignored: bool,
    /// Number of earlier failures on these files.
    failed: u32,
}

/// A recorded run of a check.
struct Ran {
    result: CheckResult,
    /// The text of its proof.
    why_proven: String,
    let_through: bool,
    /// The check is ignored, but fails differently than at the base.
    differs: bool,
}

/// The result of a check that does not prevent landing.
enum Accepted {
    /// It passed.
    Passed,
    /// The same check has passed on the same files before.
    Reused,
    /// It fails as at the base, and the human has decided to ignore it.
    Ignored,
}

impl Context<'_> {
    pub(crate) fn check_spec(&self, check: &CheckConfig, test: &Test) -> Result<CheckSpec> {
        let mut env = self.environment(test);
        env.extend(self.gate_variables()?);
        Ok(self.spec(check, env))
    }

    /// The environment variables that the settings define for this loop's gate.
    pub(crate) fn gate_variables(&self) -> Result<Vec<(String, OsString)>> {
        self.own_variables(&self.layout.gate(self.loop_id.as_str()))
    }

    fn checks_of(&self, test: &Test) -> Vec<&CheckConfig> {
        self.config.gate.check.iter().filter(|check| applies(check, test)).collect()
    }

    /// The reason why no work for the test could ever be verified, if there is one.
    pub(crate) fn unverifiable(&self, test: &Test) -> Option<FailedAttempt> {
        self.checks_of(test).is_empty().then(|| {
            let message =
                format!("no checks are configured for category {:?}; add [[gate.check]] to config.toml", test.category);
            FailedAttempt::new(ErrorCategory::System, message)
        })
    }

    /// The check-out for this loop's checks, at a commit. Only caches remain from earlier runs.
    pub(crate) fn gate_check_out(&self, commit: &CommitHash) -> Result<WorkTree> {
        let folder = self.layout.gate(self.loop_id.as_str());
        Ok(self.store.check_out_with_caches(&folder, commit, &self.config.workspace.cache)?)
    }

    /// True if a check decides about this test alone.
    pub(crate) fn has_own_check(&self, test: &Test, head: &CommitHash) -> Result<bool> {
        for check in self.checks_of(test) {
            if self.is_per_test(check, head)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Judges a commit based on a head of integration. Returns the names of the checks and whether each has passed; one
    /// that has not is ignored. A check that has already passed on the same files does not run again.
    pub(crate) async fn gate(
        &self,
        attempt: &mut Attempt,
        (head, commit): (&CommitHash, &CommitHash),
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Vec<(String, bool)>> {
        let test = attempt.test.clone();
        if let Some(why) = self.unverifiable(&test) {
            return Err(why.into());
        }
        // For work by hand this was not checked before.
        self.must_fail_before(attempt, waiter).await?;
        let (tree, base_tree) = (self.history().tree_of(commit)?.to_string(), self.history().tree_of(head)?.to_string());
        let (is_mending, ignored) =
            self.db.read(|tx| Ok::<_, coord_db::Error>((tx.is_mending(&test.id)?, tx.ignored_checks()?)))?;
        let ignored: Vec<String> = ignored.into_iter().map(|check| check.check_name).filter(|_| !is_mending).collect();
        let checks = self.touched(&test, (head, commit), (&base_tree, &tree))?;
        // The result of an ignored check at the head is the reference for comparison.
        for check in checks.iter().filter(|check| ignored.contains(&check.name)) {
            if !self.is_per_test(check, head)? {
                self.known_at_base(check, (head, &base_tree), waiter).await?;
            }
        }
        let worktree = self.gate_check_out(commit)?;
        reach(Point::GateCheckedOut);
        let mut judged = Judged { commit, tree, head, base_tree, worktree, is_ready: Cell::new(false), ignored, is_mending };
        match self.judge_all(attempt, &judged, &checks, true, proving, waiter).await {
            // A check may have failed because others did not run that build what it needs.
            Err((Stop::End(End::Failed(_)), true)) => {
                judged.worktree = self.gate_check_out(commit)?;
                judged.is_ready.set(false);
                self.judge_all(attempt, &judged, &checks, false, proving, waiter).await
            }
            other => other,
        }
        .map_err(|(stop, _)| stop)
    }

    /// The checks of a test that are affected by its change; all if none is, because nothing lands without a check.
    pub(crate) fn touched(
        &self,
        test: &Test,
        (head, commit): (&CommitHash, &CommitHash),
        (base_tree, tree): (&str, &str),
    ) -> Result<Vec<&CheckConfig>> {
        let all = self.checks_of(test);
        if all.iter().all(|check| check.paths.is_empty()) {
            return Ok(all);
        }
        let changed: Vec<PathBuf> = self.history().changed_between(head, commit)?;
        let is_touched = |check: &CheckConfig| {
            let globs = exactly(&check.paths);
            check.paths.is_empty() || changed.iter().any(|file| globs.is_match(file))
        };
        let (touched, others): (Vec<&CheckConfig>, Vec<&CheckConfig>) = all.iter().partition(|check| is_touched(check));
        if touched.is_empty() {
            return Ok(all);
        }
        for check in others {
            // Its result at the base stays valid, because nothing that it reads has changed.
            let hash = self.base_hash(check);
            self.db.write(|tx| tx.carry_base_run(base_tree, &hash, tree, commit.as_str()))?;
        }
        Ok(touched)
    }

    /// Runs the checks in order. An error is returned with whether an earlier check was skipped.
    async fn judge_all(
        &self,
        attempt: &mut Attempt,
        judged: &Judged<'_>,
        checks: &[&CheckConfig],
        may_reuse: bool,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> std::result::Result<Vec<(String, bool)>, (Stop, bool)> {
        let (mut results, mut has_reused) = (Vec::new(), false);
        for check in checks {
            match self.judge_by(check, attempt, judged, may_reuse, proving, waiter).await {
                Ok(result) => {
                    has_reused |= matches!(result, Accepted::Reused);
                    results.push((check.name.clone(), !matches!(result, Accepted::Ignored)));
                }
                Err(stop) => return Err((stop, has_reused)),
            }
        }
        Ok(results)
    }

    async fn judge_by(
        &self,
        check: &CheckConfig,
        attempt: &mut Attempt,
        judged: &Judged<'_>,
        may_reuse: bool,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Accepted> {
        let test = attempt.test.clone();
        let spec = self.check_spec(check, &test)?;
        let (check_hash, base_hash) = (spec.fingerprint(), self.base_hash(check));
        let is_per_test = self.is_per_test(check, judged.head)?;
        if may_reuse && self.reuse(check, attempt, judged, (&check_hash, &base_hash), is_per_test, proving)? {
            return Ok(Accepted::Reused);
        }
        let is_ignored = !is_per_test && judged.ignored.contains(&check.name);
        let commit = judged.commit.as_str();
        if may_reuse && is_ignored && self.db.read(|tx| tx.was_let_through(commit, &judged.base_tree, &check_hash, &test.id))? {
            return Ok(Accepted::Ignored);
        }
        if !judged.is_ready.replace(true) {
            self.make_gate_ready(&judged.worktree, judged.commit, judged.head, Some(attempt), waiter).await?;
        }
        let mut failed = 0;
        let ran = loop {
            let run = CheckRun { check, spec: &spec, is_per_test, is_ignored, failed };
            let ran = self.run_once(&run, attempt, judged, (&check_hash, &base_hash), proving, waiter).await?;
            let is_failure = ran.result.end == CheckEnd::Failed && !ran.let_through;
            if !is_failure
                || failed >= self.config.regression.retries
                || !self.db.read(|tx| tx.is_known_flaky(&check.name, &base_hash))?
            {
                break ran;
            }
            failed += 1;
            tracing::info!(check = check.name, failed, "a flaky check failed; running it again");
        };
        let Ran { result, why_proven, let_through, differs } = ran;
        let tail = end_of(&result.output_tail);
        let ended = match result.verdict {
            CheckVerdict::Pass => return Ok(Accepted::Passed),
            CheckVerdict::Cancelled => {
                return Err(Stop::failed(ErrorCategory::Transient, format!("check {} was cancelled", check.name)));
            }
            _ if let_through => {
                tracing::warn!(check = check.name, "the check fails as at the base and is ignored");
                return Ok(Accepted::Ignored);
            }
            // A timeout is not the agent's fault.
            CheckVerdict::Fail(why) if result.end == CheckEnd::TimedOut => {
                Stop::failed(ErrorCategory::System, format!("{why}\n{tail}"))
            }
            CheckVerdict::Fail(_) if differs => Stop::failed(ErrorCategory::Code, format!("{why_proven}\n{tail}")),
            CheckVerdict::Fail(why) => {
                let reason = reason_of(&result.output_tail);
                match is_per_test || judged.is_mending || !self.fails_at_base(check, judged, waiter).await? {
                    true => {
                        let known = self.broken_already(check, &test)?;
                        Stop::failed(ErrorCategory::Code, format!("{why}{known}: {reason}\n{tail}"))
                    }
                    false => FailedAttempt {
                        counts: Counts::GivenBack,
                        ..FailedAttempt::new(
                            ErrorCategory::Transient,
                            format!("{why}, as at the base ({}): {reason}\n{tail}", judged.head.short()),
                        )
                    }
                    .into(),
                }
            }
            CheckVerdict::Error(why) => Stop::failed(ErrorCategory::System, format!("{why}\n{tail}")),
        };
        Err(ended)
    }

    /// Runs a check once and stores the proof.
    async fn run_once(
        &self,
        run: &CheckRun<'_>,
        attempt: &mut Attempt,
        judged: &Judged<'_>,
        (check_hash, base_hash): (&str, &str),
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Ran> {
        let &CheckRun { check, spec, is_per_test, is_ignored, failed } = run;
        let (result, failures) = self.run_for(check, spec, attempt, &judged.worktree, waiter).await?;
        reach(Point::GateChecked);
        self.note_that_it_runs(&check.name, result.end)?;
        let passed = result.verdict == CheckVerdict::Pass;
        let likeness = match &result.verdict {
            CheckVerdict::Fail(why) | CheckVerdict::Error(why) if is_ignored => {
                let exit_code = result.exit_code.map(i64::from);
                let failure = Failure { why: why.clone(), exit_code, lines: failures.clone().map(|lines| lines.0) };
                self.as_at_base(base_hash, judged, &failure)?
            }
            _ => None,
        };
        let let_through = matches!(likeness, Some(Likeness::Same | Likeness::Unclear(_)));
        let proof_id = proving.next();
        let at = (judged.commit, judged.tree.as_str(), self.db.now());
        let (proof, mut run) = proof_of(&check.name, &result, &attempt.test, at, (proof_id, check_hash.to_owned()));
        run.base_tree = Some(judged.base_tree.clone());
        run.let_through = let_through;
        if passed && let Some(by) = &attempt.landed_by {
            run.why = format!("nothing is left to change: {by} has landed the same change");
        }
        let mut as_base = as_base(&proof, &run, failures, base_hash);
        if passed && failed > 0 {
            run.why = format!("{} is flaky: it failed in {failed} of {} runs on these files", check.name, failed + 1);
            (as_base.state, as_base.runs, as_base.why) = (BaseState::Flaky, i64::from(failed) + 1, run.why.clone());
        }
        match &likeness {
            Some(Likeness::Unclear(why)) => {
                run.why.push_str(&format!("; it is unclear whether it fails as at the base: {why}"))
            }
            Some(Likeness::Different(how)) => {
                run.why.push_str(&format!("; the check is ignored, but it fails differently than at the base: {how}"))
            }
            _ => {}
        }
        self.db.write(|tx| {
            tx.add_proof(&proof, Some(&run))?;
            // A pass on these files, or the same failure as before, also holds for the next head.
            match passed || let_through {
                true if !is_per_test => tx.record_base_run(&as_base),
                _ => Ok(()),
            }
        })?;
        let differs = matches!(likeness, Some(Likeness::Different(_)));
        Ok(Ran { result, why_proven: run.why, let_through, differs })
    }

    /// Reuses a pass of the same check on the same files.
    fn reuse(
        &self,
        check: &CheckConfig,
        attempt: &Attempt,
        judged: &Judged<'_>,
        (check_hash, base_hash): (&str, &str),
        is_per_test: bool,
        proving: &mut Proving,
    ) -> Result<bool> {
        let test = &attempt.test;
        // A failure is never reused: the machine may have caused it.
        let proven = self.db.read(|tx| tx.proven(&judged.tree, &check.name, check_hash, &test.id))?;
        let why = attempt.landed_by.as_ref().map(|by| format!("nothing is left to change: {by} has landed the same change"));
        let run = |proof_id: String, reused_from, stage| ProofRun {
            proof_id,
            kind: RunKind::Passed,
            why: why.clone().unwrap_or_default(),
            check_hash: check_hash.to_owned(),
            reused_from,
            stage,
            base_tree: Some(judged.base_tree.clone()),
            let_through: false,
        };
        let (attempts, commit_hash) = (test.attempts, judged.commit.to_string());
        if let Some(proof) = proven {
            if proof.commit_hash != commit_hash || proof.attempt != attempts {
                let run = run(proving.next(), Some(proof.id.clone()), ProofStage::Alone);
                let proof = Proof { id: run.proof_id.clone(), attempt: attempts, commit_hash, ..proof };
                self.db.write(|tx| {
                    tx.add_proof(&proof, Some(&run))?;
                    if is_per_test { Ok(()) } else { tx.record_base_run(&as_base(&proof, &run, None, base_hash)) }
                })?;
            }
            return Ok(true);
        }
        if is_per_test {
            return Ok(false);
        }
        let known = self.db.read(|tx| tx.base_runs(&judged.tree))?;
        let Some(base) = known.into_iter().find(|run| run.check_hash == base_hash && run.state == BaseState::Green) else {
            return Ok(false);
        };
        let run = run(proving.next(), base.proof_id.clone(), ProofStage::Base);
        let proof = Proof {
            id: run.proof_id.clone(),
            test_id: test.id.clone(),
            attempt: attempts,
            commit_hash,
            tree_hash: judged.tree.clone(),
            check_name: check.name.clone(),
            outcome: CheckOutcome::Pass,
            exit_code: base.exit_code,
            duration_ms: base.duration_ms,
            output_sha256: base.output_sha256,
            output_tail: base.output_tail,
            created_at: self.db.now(),
        };
        self.db.write(|tx| tx.add_proof(&proof, Some(&run)))?;
        Ok(true)
    }

    /// True if a check that is the same for all tests also fails at the head to which the work was applied.
    async fn fails_at_base(&self, check: &CheckConfig, judged: &Judged<'_>, waiter: &mut Waiter) -> Step<bool> {
        let run = self.known_at_base(check, (judged.head, &judged.base_tree), waiter).await?;
        Ok(run.is_some_and(|run| run.state == BaseState::Red))
    }

    /// Compares the failure of an ignored check with its failure at that head; none if it does not fail there.
    fn as_at_base(&self, base_hash: &str, judged: &Judged<'_>, failure: &Failure) -> Result<Option<Likeness>> {
        let known = self.db.read(|tx| tx.base_runs(&judged.base_tree))?;
        let red = known.iter().find(|run| run.check_hash == base_hash && run.state == BaseState::Red);
        Ok(red.map(|run| compare(&failure_of(run), failure)))
    }

    /// The result at a head of a check that is the same for all tests. If it is unknown (the human skipped it, or
    /// somebody else moved integration), the check runs there.
    pub(crate) async fn known_at_base(
        &self,
        check: &CheckConfig,
        (head, tree): (&CommitHash, &str),
        waiter: &mut Waiter,
    ) -> Step<Option<BaseRun>> {
        let hash = self.base_hash(check);
        let known = self.db.read(|tx| tx.base_runs(tree))?.into_iter().find(|run| run.check_hash == hash);
        if let Some(known) = known.filter(|run| run.state != BaseState::Skipped) {
            return Ok(Some(known));
        }
        let spec = self.base_spec(check)?;
        let worktree = self.gate_check_out(head)?;
        self.make_gate_ready(&worktree, head, head, None, waiter).await?;
        let base = BaseCheck { config: check, spec, hash };
        let Some((run, end)) = self.run_at_base(&base, &worktree, head, tree, waiter).await? else { return Ok(None) };
        if self.is_result_for_all(&run, end)? {
            self.db.write(|tx| tx.record_base_run(&run))?;
        }
        Ok(Some(run))
    }

    // ---- red before, green after ----

    /// Runs the checks with `fails_before` at the base, unless they are known to fail there.
    pub(crate) async fn must_fail_before(&self, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<()> {
        let (test, base) = (attempt.test.clone(), attempt.base.clone());
        if test.no_change == NoChange::Accepted || attempt.in_place.is_some() {
            return Ok(());
        }
        let mut checks = self.checks_of(&test);
        checks.retain(|check| check.fails_before);
        if checks.is_empty() {
            return Ok(());
        }
        let tree = self.history().tree_of(&base)?.to_string();
        for check in checks {
            if !self.is_per_test(check, &base)? {
                continue;
            }
            let spec = self.check_spec(check, &test)?;
            let check_hash = spec.fingerprint();
            if self.db.read(|tx| tx.red_before(&check_hash, &test.id, &tree))?.is_some() || self.may_be_green(&test, check)? {
                continue;
            }
            let worktree = self.gate_check_out(&base)?;
            self.make_gate_ready(&worktree, &base, &base, Some(attempt), waiter).await?;
            let (result, _) = self.run_for(check, &spec, attempt, &worktree, waiter).await?;
            let at = (&base, tree.as_str(), self.db.now());
            let (proof, mut run) = proof_of(&check.name, &result, &test, at, (new_id(), check_hash));
            run.stage = ProofStage::RedBefore;
            self.db.write(|tx| tx.add_proof(&proof, Some(&run)))?;
            let tail = end_of(&result.output_tail);
            match result.verdict {
                CheckVerdict::Fail(why) if result.end == CheckEnd::TimedOut => {
                    return Err(Stop::failed(ErrorCategory::System, format!("at the base, before the attempt: {why}\n{tail}")));
                }
                CheckVerdict::Fail(_) => {}
                // The test may be about writing this program.
                CheckVerdict::Error(_) if matches!(result.end, CheckEnd::Missing | CheckEnd::NotExecutable) => {}
                CheckVerdict::Pass => return Err(Stop::End(End::GreenBefore(check.name.clone()))),
                CheckVerdict::Error(why) => {
                    return Err(Stop::failed(ErrorCategory::System, format!("at the base, before the attempt: {why}\n{tail}")));
                }
                CheckVerdict::Cancelled => {
                    return Err(Stop::failed(ErrorCategory::Transient, format!("check {} was cancelled", check.name)));
                }
            }
        }
        Ok(())
    }

    // ---- running ----

    /// Runs a check for an attempt, with leases on its exclusive resources.
    pub(crate) async fn run_for(
        &self,
        check: &CheckConfig,
        spec: &CheckSpec,
        attempt: &mut Attempt,
        worktree: &WorkTree,
        waiter: &mut Waiter,
    ) -> Step<(CheckResult, Option<StringList>)> {
        let leased = self.lease_resources(check, attempt, waiter).await?;
        let result = self.run_one(spec, worktree, Some(attempt), waiter, || Ok(false)).await;
        if let Some(token) = leased.first().and_then(|path| attempt.tokens.get(path).copied()) {
            attempt.tokens.retain(|path, _| !leased.contains(path));
            match self.db.write(|tx| tx.release(&self.loop_id, &leased, Some(token))) {
                // Another loop may have used the resource, so the result is not reliable.
                Err(coord_db::Error::LeaseLost { .. }) => {
                    let text = format!("an exclusive resource of check {} was revoked", check.name);
                    return Err(Stop::failed(ErrorCategory::Transient, text));
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        result
    }

    /// Acquires the exclusive resources of a check that the attempt does not hold yet.
    async fn lease_resources(&self, check: &CheckConfig, attempt: &mut Attempt, waiter: &mut Waiter) -> Step<Vec<LeasePath>> {
        let paths = check.resources.iter().filter_map(|resource| resource.parse().ok());
        let paths: Vec<LeasePath> = paths.filter(|path| !attempt.tokens.contains_key(path)).collect();
        if paths.is_empty() {
            return Ok(paths);
        }
        let test = Some(&attempt.test.id);
        let request = self.lease_request(paths.clone(), format!("needed by check {}", check.name), test);
        self.lease_or_queue(attempt, request)?;
        self.await_leases(attempt, waiter).await?;
        Ok(paths)
    }

    /// Known failures of the same check on the integration branch, for the failure message.
    fn broken_already(&self, check: &CheckConfig, test: &Test) -> Result<String> {
        let open = self.db.read(|tx| tx.regressions(true))?;
        let others = open.iter().filter(|row| {
            row.check_name == check.name
                && row.status != RegressionStatus::Flaky
                && row.test_id != test.id
                && row.blamed_test.as_deref() != Some(test.id.as_str())
        });
        let tests: Vec<&str> = others.map(|row| row.test_id.as_str()).take(MAX_NAMED).collect();
        Ok(if tests.is_empty() {
            String::new()
        } else {
            format!(" (as it does on the integration branch for {}; see loopctl regressions)", tests.join(", "))
        })
    }

    /// Runs a check until it ends, the loop is interrupted, or `enough` returns true. If it fails, also returns the
    /// lines that state the failure.
    pub(crate) async fn run_one(
        &self,
        spec: &CheckSpec,
        worktree: &WorkTree,
        attempt: Option<&Attempt>,
        waiter: &mut Waiter,
        enough: impl FnMut() -> Result<bool>,
    ) -> Step<(CheckResult, Option<StringList>)> {
        let test = attempt.map(|attempt| &attempt.test);
        let log = test.map_or("base".to_owned(), |test| format!("{}-{}", test.id, test.attempts));
        let recorded = self.begin_run(test, RunOf::Check, None, &spec.name, &format!("{log}.{}", spec.name))?;
        let spec = &CheckSpec { log_path: Some(recorded.log.clone()), ..spec.clone() };
        let (cancel, mut cancelled) = watch::channel(false);
        let on_keeper = |keeper| self.record_child(Some(keeper));
        let test = test.map_or("none, at the base", |test| test.id.as_str());
        tracing::info!(test, check = %spec.name, "running a check");
        let running = pin!(run_check(spec, worktree, &mut cancelled, on_keeper));
        let (result, interrupt) = self.attend(running, &cancel, attempt, waiter, enough).await?;
        let result = result?;
        self.end_run(&recorded, &describe(&result.verdict));
        if let Some(interrupt) = interrupt {
            return Err(interrupt.into());
        }
        let failures = if result.verdict == CheckVerdict::Pass { None } else { failures_in(&recorded.log, worktree.root()) };
        Ok((result, failures))
    }
}
