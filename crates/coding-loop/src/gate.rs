//! The gate: the configured checks, in a check-out of its own, at the commit that would land. Each run leaves a proof.

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
use crate::auto_lease::exactly;
use crate::base::BaseCheck;
use crate::context::{Attempt, Context};
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::known_failure::{Failure, Likeness, compare};
use crate::per_test::applies;
use crate::run_end::reason_of;

pub(crate) use proof::{Proving, end_of, failure_of};
use proof::{as_base, failures_in, proof_of, words};

/// Broken tests that a failure's message names.
const MOST_NAMED: usize = 3;

/// What is being judged.
struct Judged<'a> {
    commit: &'a CommitHash,
    tree: String,
    /// The head of integration that the work was put on.
    head: &'a CommitHash,
    base_tree: String,
    worktree: WorkTree,
    /// The check-out was made ready for its first check.
    is_ready: Cell<bool>,
    /// Checks that are let through.
    ignored: Vec<String>,
    /// The test was created to make the base pass.
    is_mending: bool,
}

/// A run of a check that is to be made.
struct Asked<'a> {
    check: &'a CheckConfig,
    spec: &'a CheckSpec,
    is_per_test: bool,
    is_ignored: bool,
    /// How often it has failed on these files before.
    failed: u32,
}

/// A run of a check that is on record.
struct Ran {
    result: CheckResult,
    /// What its proof says of it.
    why_proven: String,
    let_through: bool,
    /// The check is ignored, and fails in another way than at the base.
    differs: bool,
}

/// What a check came to that keeps nothing from landing.
enum Came {
    /// It has passed.
    Passed,
    /// The same check has passed on the same files before.
    Reused,
    /// It fails, as it does at the base, and the human lets it through.
    LetThrough,
}

impl Context<'_> {
    fn check_spec(&self, check: &CheckConfig, test: &Test) -> Result<CheckSpec> {
        let mut env = self.environment(test);
        env.extend(self.gate_variables()?);
        Ok(self.spec(check, env))
    }

    /// The variables that the settings give to what runs at this loop's gate.
    pub(crate) fn gate_variables(&self) -> Result<Vec<(String, OsString)>> {
        self.own_variables(&self.layout.gate(self.loop_id.as_str()))
    }

    fn checks_of(&self, test: &Test) -> Vec<&CheckConfig> {
        self.config.gate.check.iter().filter(|check| applies(check, test)).collect()
    }

    /// Why nothing that is done for the test could ever pass, if that is so.
    pub(crate) fn unverifiable(&self, test: &Test) -> Option<FailedAttempt> {
        self.checks_of(test).is_empty().then(|| {
            let message =
                format!("no checks are configured for category {:?}; add [[gate.check]] to config.toml", test.category);
            FailedAttempt::new(ErrorCategory::System, message)
        })
    }

    /// The check-out in which checks run for this loop, at a commit. Of earlier runs it holds the caches alone.
    pub(crate) fn gate_check_out(&self, commit: &CommitHash) -> Result<WorkTree> {
        let folder = self.layout.gate(self.loop_id.as_str());
        Ok(self.store.check_out_with_caches(&folder, commit, &self.config.workspace.cache)?)
    }

    /// Whether some check of a test says of that test alone that it is done.
    pub(crate) fn has_own_check(&self, test: &Test, head: &CommitHash) -> Result<bool> {
        for check in self.checks_of(test) {
            if self.is_per_test(check, head)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Judges a commit that was put on a head of integration; gives the checks, by name, and whether each has passed: one that
    /// has not was let through. What the same checks have passed on the same files is not run again.
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
        // By hand nobody has looked before the work was done.
        self.must_fail_before(attempt, waiter).await?;
        let (tree, base_tree) = (self.history().tree_of(commit)?.to_string(), self.history().tree_of(head)?.to_string());
        let (is_mending, ignored) =
            self.db.read(|tx| Ok::<_, coord_db::Error>((tx.is_mending(&test.id)?, tx.ignored_checks()?)))?;
        let ignored: Vec<String> = ignored.into_iter().map(|check| check.check_name).filter(|_| !is_mending).collect();
        let checks = self.touched(&test, (head, commit), (&base_tree, &tree))?;
        // What an ignored check shows there is what a failure is compared with.
        for check in checks.iter().filter(|check| ignored.contains(&check.name)) {
            if !self.is_per_test(check, head)? {
                self.known_at_base(check, (head, &base_tree), waiter).await?;
            }
        }
        let worktree = self.gate_check_out(commit)?;
        reach(Point::GateCheckedOut);
        let mut judged = Judged { commit, tree, head, base_tree, worktree, is_ready: Cell::new(false), ignored, is_mending };
        match self.judge_all(attempt, &judged, &checks, true, proving, waiter).await {
            // A check that failed beside others that were not run may have missed what they build.
            Err((Stop::End(End::Failed(_)), true)) => {
                judged.worktree = self.gate_check_out(commit)?;
                judged.is_ready.set(false);
                self.judge_all(attempt, &judged, &checks, false, proving, waiter).await
            }
            other => other,
        }
        .map_err(|(stop, _)| stop)
    }

    /// The checks of a test that its change touches; all of them if it touches none, as nothing lands that was not judged.
    fn touched(
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
            // What it showed of the base holds: nothing that it looks at differs.
            let hash = self.base_hash(check);
            self.db.write(|tx| tx.carry_base_run(base_tree, &hash, tree, commit.as_str()))?;
        }
        Ok(touched)
    }

    /// Judges by each check in turn. An error comes with whether an earlier check was not run.
    async fn judge_all(
        &self,
        attempt: &mut Attempt,
        judged: &Judged<'_>,
        checks: &[&CheckConfig],
        may_reuse: bool,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> std::result::Result<Vec<(String, bool)>, (Stop, bool)> {
        let (mut said, mut has_reused) = (Vec::new(), false);
        for check in checks {
            match self.judge_by(check, attempt, judged, may_reuse, proving, waiter).await {
                Ok(came) => {
                    has_reused |= matches!(came, Came::Reused);
                    said.push((check.name.clone(), !matches!(came, Came::LetThrough)));
                }
                Err(stop) => return Err((stop, has_reused)),
            }
        }
        Ok(said)
    }

    async fn judge_by(
        &self,
        check: &CheckConfig,
        attempt: &mut Attempt,
        judged: &Judged<'_>,
        may_reuse: bool,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Came> {
        let test = attempt.test.clone();
        let spec = self.check_spec(check, &test)?;
        let (check_hash, base_hash) = (spec.fingerprint(), self.base_hash(check));
        let is_per_test = self.is_per_test(check, judged.head)?;
        if may_reuse && self.reuse(check, attempt, judged, (&check_hash, &base_hash), is_per_test, proving)? {
            return Ok(Came::Reused);
        }
        let is_ignored = !is_per_test && judged.ignored.contains(&check.name);
        let commit = judged.commit.as_str();
        if may_reuse && is_ignored && self.db.read(|tx| tx.was_let_through(commit, &judged.base_tree, &check_hash, &test.id))? {
            return Ok(Came::LetThrough);
        }
        if !judged.is_ready.replace(true) {
            self.make_gate_ready(&judged.worktree, judged.commit, judged.head, Some(attempt), waiter).await?;
        }
        let mut failed = 0;
        let ran = loop {
            let asked = Asked { check, spec: &spec, is_per_test, is_ignored, failed };
            let ran = self.run_once(&asked, attempt, judged, (&check_hash, &base_hash), proving, waiter).await?;
            let is_failure = ran.result.end == CheckEnd::Failed && !ran.let_through;
            if !is_failure
                || failed >= self.config.regression.retries
                || !self.db.read(|tx| tx.is_known_flaky(&check.name, &base_hash))?
            {
                break ran;
            }
            failed += 1;
            tracing::info!(check = check.name, failed, "fails, is known to fail by chance, and runs again");
        };
        let Ran { result, why_proven, let_through, differs } = ran;
        let tail = end_of(&result.output_tail);
        let ended = match result.verdict {
            CheckVerdict::Pass => return Ok(Came::Passed),
            CheckVerdict::Cancelled => {
                return Err(Stop::failed(ErrorCategory::Transient, format!("check {} was stopped", check.name)));
            }
            _ if let_through => {
                tracing::warn!(check = check.name, "fails, as it does at the base, and is let through");
                return Ok(Came::LetThrough);
            }
            // The agent is not to blame for a machine, or a check, that does not come to an end.
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
                            format!("{why}, as it does at the base ({}): {reason}\n{tail}", judged.head.short()),
                        )
                    }
                    .into(),
                }
            }
            CheckVerdict::Error(why) => Stop::failed(ErrorCategory::System, format!("{why}\n{tail}")),
        };
        Err(ended)
    }

    /// Runs a check once and keeps the proof.
    async fn run_once(
        &self,
        asked: &Asked<'_>,
        attempt: &mut Attempt,
        judged: &Judged<'_>,
        (check_hash, base_hash): (&str, &str),
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Ran> {
        let &Asked { check, spec, is_per_test, is_ignored, failed } = asked;
        let (result, failures) = self.run_for(check, spec, attempt, &judged.worktree, waiter).await?;
        reach(Point::GateChecked);
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
        let at = (judged.commit, judged.tree.as_str(), self.db.clock().now());
        let (proof, mut run) = proof_of(&check.name, &result, &attempt.test, at, (proof_id, check_hash.to_owned()));
        run.base_tree = Some(judged.base_tree.clone());
        run.let_through = let_through;
        if passed && let Some(by) = &attempt.landed_by {
            run.why = format!("nothing is left to change: {by} has landed the same");
        }
        let mut as_base = as_base(&proof, &run, failures, base_hash);
        if passed && failed > 0 {
            run.why = format!("{} fails by chance: it failed in {failed} of {} runs on these files", check.name, failed + 1);
            (as_base.state, as_base.runs, as_base.why) = (BaseState::Flaky, i64::from(failed) + 1, run.why.clone());
        }
        match &likeness {
            Some(Likeness::Unclear(why)) => {
                run.why.push_str(&format!("; whether it fails as at the base cannot be told: {why}"))
            }
            Some(Likeness::Different(how)) => run.why.push_str(&format!("; the check is ignored, but {how}")),
            _ => {}
        }
        self.db.write(|tx| {
            tx.add_proof(&proof, Some(&run))?;
            // It has passed on these files, or fails as before: as the next head they need not be looked at again.
            match passed || let_through {
                true if !is_per_test => tx.record_base_run(&as_base),
                _ => Ok(()),
            }
        })?;
        let differs = matches!(likeness, Some(Likeness::Different(_)));
        Ok(Ran { result, why_proven: run.why, let_through, differs })
    }

    /// Takes a pass of the same check on the same files for this one, if there is such.
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
        // A failure is not believed twice: it may have been the machine's.
        let proven = self.db.read(|tx| tx.proven(&judged.tree, &check.name, check_hash, &test.id))?;
        let why = attempt.landed_by.as_ref().map(|by| format!("nothing is left to change: {by} has landed the same"));
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
            created_at: self.db.clock().now(),
        };
        self.db.write(|tx| tx.add_proof(&proof, Some(&run)))?;
        Ok(true)
    }

    /// Whether a check that is the same for all tests fails at the head that the work was put on too.
    async fn fails_at_base(&self, check: &CheckConfig, judged: &Judged<'_>, waiter: &mut Waiter) -> Step<bool> {
        let run = self.known_at_base(check, (judged.head, &judged.base_tree), waiter).await?;
        Ok(run.is_some_and(|run| run.state == BaseState::Red))
    }

    /// How a failure of an ignored check compares with what it shows at the head that the work was put on; none where it does
    /// not fail there.
    fn as_at_base(&self, base_hash: &str, judged: &Judged<'_>, failure: &Failure) -> Result<Option<Likeness>> {
        let known = self.db.read(|tx| tx.base_runs(&judged.base_tree))?;
        let red = known.iter().find(|run| run.check_hash == base_hash && run.state == BaseState::Red);
        Ok(red.map(|run| compare(&failure_of(run), failure)))
    }

    /// What a check that is the same for all tests shows at a head. Where nobody knows (the human did not wait, or somebody
    /// else has moved integration) it is run there.
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
        let Some((run, _)) = self.run_at_base(&base, &worktree, head, tree, waiter).await? else { return Ok(None) };
        self.db.write(|tx| tx.record_base_run(&run))?;
        Ok(Some(run))
    }

    // ---- red before, green after ----

    /// Runs the checks that have to fail for a test before its work, at the base, unless they were seen to do so.
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
            let at = (&base, tree.as_str(), self.db.clock().now());
            let (proof, mut run) = proof_of(&check.name, &result, &test, at, (new_id(), check_hash));
            run.stage = ProofStage::RedBefore;
            self.db.write(|tx| tx.add_proof(&proof, Some(&run)))?;
            let tail = end_of(&result.output_tail);
            match result.verdict {
                CheckVerdict::Fail(why) if result.end == CheckEnd::TimedOut => {
                    return Err(Stop::failed(ErrorCategory::System, format!("at the base, before any work: {why}\n{tail}")));
                }
                CheckVerdict::Fail(_) => {}
                // The work may be to write it.
                CheckVerdict::Error(_) if matches!(result.end, CheckEnd::Missing | CheckEnd::NotExecutable) => {}
                CheckVerdict::Pass => return Err(Stop::End(End::GreenBefore(check.name.clone()))),
                CheckVerdict::Error(why) => {
                    return Err(Stop::failed(ErrorCategory::System, format!("at the base, before any work: {why}\n{tail}")));
                }
                CheckVerdict::Cancelled => {
                    return Err(Stop::failed(ErrorCategory::Transient, format!("check {} was stopped", check.name)));
                }
            }
        }
        Ok(())
    }

    // ---- running ----

    /// Runs a check for an attempt, with what it needs alone leased.
    async fn run_for(
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
                // Others may have it by now, and what the check showed may be theirs.
                Err(coord_db::Error::LeaseLost { .. }) => {
                    let text = format!("what check {} needs alone was taken from the loop", check.name);
                    return Err(Stop::failed(ErrorCategory::Transient, text));
                }
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        result
    }

    /// Leases what a check needs alone and the attempt does not hold yet.
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

    /// What is known to be broken on the integration branch by somebody else, so that whoever reads of a failure of the same
    /// check can tell whose it is.
    fn broken_already(&self, check: &CheckConfig, test: &Test) -> Result<String> {
        let open = self.db.read(|tx| tx.regressions(true))?;
        let others = open.iter().filter(|row| {
            row.check_name == check.name
                && row.status != RegressionStatus::Flaky
                && row.test_id != test.id
                && row.blamed_test.as_deref() != Some(test.id.as_str())
        });
        let tests: Vec<&str> = others.map(|row| row.test_id.as_str()).take(MOST_NAMED).collect();
        Ok(if tests.is_empty() {
            String::new()
        } else {
            format!(" (as it does on the integration branch for {}; see loopctl regressions)", tests.join(", "))
        })
    }

    /// Runs a check until it ends, the loop is told something else, or it is `enough`: then it is stopped. Gives the lines that
    /// state a failure too, if it fails.
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
        let recorded = self.begin_run(test, RunOf::Check, &spec.name, &format!("{log}.{}", spec.name))?;
        let spec = &CheckSpec { log_path: Some(recorded.log.clone()), ..spec.clone() };
        let (cancel, mut cancelled) = watch::channel(false);
        let on_keeper = |keeper| self.record_child(Some(keeper));
        let test = test.map_or("none, at the base", |test| test.id.as_str());
        tracing::info!(test, check = %spec.name, "the gate runs a check");
        let running = pin!(run_check(spec, worktree, &mut cancelled, on_keeper));
        let (result, interrupt) = self.attend(running, &cancel, attempt, waiter, enough).await?;
        let result = result?;
        self.end_run(&recorded, &words(&result.verdict));
        if let Some(interrupt) = interrupt {
            return Err(interrupt.into());
        }
        let failures = if result.verdict == CheckVerdict::Pass { None } else { failures_in(&recorded.log, worktree.root()) };
        Ok((result, failures))
    }
}
