//! Judges works put on one another: the checks that are the same for all tests once, and those of each test.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use coord_db::config::CheckConfig;
use coord_db::{BaseRun, BaseState, BatchOutcome, ErrorCategory, TestId};
use git::check::{CheckEnd, CheckVerdict};
use git::{CommitHash, WorkTree};

use super::build::Work;
use crate::Result;
use crate::agents::reason_of;
use crate::auto_lease::exactly;
use crate::base::base_run_of;
use crate::base_unrunnable::has_result;
use crate::context::Context;
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::gate::{end_of, failure_of};
use crate::known_failure::{Likeness, compare};
use crate::per_test::applies;

/// A state to judge. Without works: the head itself, whose earlier results do not count.
pub(super) struct Job {
    pub(super) base: CommitHash,
    pub(super) commit: CommitHash,
    pub(super) works: Vec<Work>,
}

/// The result of a check on a state.
#[derive(Debug, Clone)]
pub(super) struct Ran {
    /// The test, for a check that runs for each.
    pub(super) test: Option<TestId>,
    pub(super) run: BaseRun,
    /// It passed, or fails as at the base and is ignored.
    pub(super) is_accepted: bool,
}

/// The result of judging a state.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) outcome: BatchOutcome,
    pub(super) ran: Vec<Ran>,
    /// The failed check with its reason and the end of its output.
    pub(super) failed: Option<(String, String, String)>,
    pub(super) millis: i64,
    /// No check had to run.
    pub(super) is_reused: bool,
}

impl Verdict {
    pub(super) fn has_passed(&self) -> bool {
        self.outcome != BatchOutcome::Failed
    }

    /// The checks that were run for a test, and whether each has passed.
    pub(super) fn checks_of(&self, test: &TestId) -> impl Iterator<Item = (String, bool)> {
        self.of(test).map(|ran| (ran.run.check_name.clone(), ran.run.state != BaseState::Red))
    }

    /// The results that are about a test: its own and those for all.
    pub(super) fn of(&self, test: &TestId) -> impl Iterator<Item = &Ran> {
        self.ran.iter().filter(move |ran| ran.test.as_ref().is_none_or(|of| of == test))
    }
}

impl Context<'_> {
    /// Judges a state in the check-out of this slot.
    pub(super) async fn judge_together(&self, job: &Job, waiter: &mut Waiter) -> Step<Verdict> {
        let begun = Instant::now();
        let history = self.history();
        let (tree, base_tree) = (history.tree_of(&job.commit)?.to_string(), history.tree_of(&job.base)?.to_string());
        let mut verdict = Verdict { outcome: BatchOutcome::Passed, ran: Vec::new(), failed: None, millis: 0, is_reused: true };
        if self.is_judged_alone(job, &tree)? {
            return Ok(verdict);
        }
        let ignored: BTreeSet<String> =
            self.db.read(|tx| tx.ignored_checks())?.into_iter().map(|check| check.check_name).collect();
        let checks = self.checks_of_state(job, &base_tree, &tree)?;
        for (check, _) in checks.iter().filter(|(check, work)| work.is_none() && ignored.contains(&check.name)) {
            self.known_at_base(check, (&job.base, &base_tree), waiter).await?;
        }
        let mut worktree = None;
        for (check, work) in checks {
            let hash = self.base_hash(check);
            if work.is_none() && !job.works.is_empty() {
                let known = self.db.read(|tx| tx.base_runs(&tree))?;
                if let Some(run) = known.into_iter().find(|run| run.check_hash == hash && run.state == BaseState::Green) {
                    verdict.ran.push(Ran { test: None, run, is_accepted: true });
                    continue;
                }
            }
            verdict.is_reused = false;
            let worktree = match &worktree {
                Some(worktree) => worktree,
                None => match self.prepared(job, waiter).await? {
                    Ok(prepared) => &*worktree.insert(prepared),
                    Err(failed) => {
                        (verdict.outcome, verdict.failed) = (BatchOutcome::Failed, Some(failed));
                        break;
                    }
                },
            };
            let (mut run, end) = self.run_together(check, work, &hash, (&job.commit, &tree), worktree, waiter).await?;
            let mut is_accepted = run.state != BaseState::Red;
            if work.is_none() {
                if run.state == BaseState::Red && ignored.contains(&check.name) {
                    let known = self.db.read(|tx| tx.base_runs(&base_tree))?;
                    let before = known.iter().find(|before| before.check_hash == hash && before.state == BaseState::Red);
                    is_accepted = before.is_some_and(|before| {
                        !matches!(compare(&failure_of(before), &failure_of(&run)), Likeness::Different(_))
                    });
                }
                if is_accepted {
                    self.db.write(|tx| tx.record_base_run(&run))?;
                }
            }
            if run.state == BaseState::Flaky {
                verdict.outcome = BatchOutcome::Flaky;
            }
            if !is_accepted {
                if !has_result(end) && self.has_no_result_at_base(check, work, &hash, (job, &base_tree), waiter).await? {
                    return Err(Stop::failed(ErrorCategory::System, format!("{}, at the head of integration too", run.why)));
                }
                run.why = format!("{}: {}", run.why, reason_of(&run.output_tail));
                let failed = (check.name.clone(), run.why.clone(), end_of(&run.output_tail));
                (verdict.outcome, verdict.failed) = (BatchOutcome::Failed, Some(failed));
            }
            verdict.ran.push(Ran { test: work.map(|work| work.test.id.clone()), run, is_accepted });
            if !is_accepted {
                break;
            }
        }
        verdict.millis = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        Ok(verdict)
    }

    /// True if a check that has no result with the works has none without them either: they are not the cause.
    async fn has_no_result_at_base(
        &self,
        check: &CheckConfig,
        work: Option<&Work>,
        hash: &str,
        (job, base_tree): (&Job, &str),
        waiter: &mut Waiter,
    ) -> Step<bool> {
        if job.works.is_empty() {
            return Ok(true);
        }
        let worktree = self.gate_check_out(&job.base)?;
        self.make_gate_ready(&worktree, &job.base, &job.base, None, waiter).await?;
        let (_, end) = self.run_together(check, work, hash, (&job.base, base_tree), &worktree, waiter).await?;
        Ok(!has_result(end))
    }

    /// True for a single work that was judged alone on exactly these files.
    fn is_judged_alone(&self, job: &Job, tree: &str) -> Result<bool> {
        let [work] = job.works.as_slice() else { return Ok(false) };
        let own = CommitHash::new(&work.landing.commit_hash)?;
        Ok(self.history().tree_of(&own)?.as_str() == tree)
    }

    /// The checks for a state: those for all tests, and those that run for each test of the works. A check with `paths` runs
    /// only if the works touch them; if none would run, all do, because nothing lands without a check.
    fn checks_of_state<'c>(
        &'c self,
        job: &'c Job,
        base_tree: &str,
        tree: &str,
    ) -> Result<Vec<(&'c CheckConfig, Option<&'c Work>)>> {
        let changed: Vec<PathBuf> = self.history().changed_between(&job.base, &job.commit)?;
        let is_touched =
            |check: &CheckConfig| check.paths.is_empty() || changed.iter().any(|file| exactly(&check.paths).is_match(file));
        let (mut all, mut touched) = (Vec::new(), Vec::new());
        for check in &self.config.gate.check {
            let works: Vec<&Work> = job.works.iter().filter(|work| applies(check, &work.test)).collect();
            if works.is_empty() && !job.works.is_empty() {
                continue;
            }
            let mut runs = Vec::new();
            match self.is_per_test(check, &job.commit)? {
                true => runs.extend(works.into_iter().map(|work| (check, Some(work)))),
                false => runs.push((check, None)),
            }
            if job.works.is_empty() || is_touched(check) {
                touched.extend(runs.iter().copied());
            } else if runs.iter().any(|(_, work)| work.is_none()) {
                // Its result at the head stays valid, because nothing that it reads has changed.
                let hash = self.base_hash(check);
                self.db.write(|tx| tx.carry_base_run(base_tree, &hash, tree, job.commit.as_str()))?;
            }
            all.extend(runs);
        }
        Ok(if touched.is_empty() { all } else { touched })
    }

    /// The check-out of this slot at a state, set up; or why the set-up fails with the works.
    async fn prepared(&self, job: &Job, waiter: &mut Waiter) -> Step<std::result::Result<WorkTree, (String, String, String)>> {
        let worktree = self.gate_check_out(&job.commit)?;
        match self.make_gate_ready(&worktree, &job.commit, &job.base, None, waiter).await {
            Ok(()) => Ok(Ok(worktree)),
            Err(Stop::End(End::Failed(why))) if why.category == ErrorCategory::Code => {
                Ok(Err(("set-up".to_owned(), reason_of(&why.message), why.message)))
            }
            Err(stop) => Err(stop),
        }
    }

    /// Runs a check once, or again if it is killed, or fails and is known to be flaky.
    async fn run_together(
        &self,
        check: &CheckConfig,
        work: Option<&Work>,
        hash: &str,
        (commit, tree): (&CommitHash, &str),
        worktree: &WorkTree,
        waiter: &mut Waiter,
    ) -> Step<(BaseRun, CheckEnd)> {
        let spec = match work {
            Some(work) => self.check_spec(check, &work.test)?,
            None => self.base_spec(check)?,
        };
        let leased = self.lease_for_base(check, waiter).await?;
        let mut failed = 0;
        let ran = loop {
            let ran = self.run_one(&spec, worktree, None, waiter, || Ok(false)).await;
            let Ok((result, failures)) = ran else { break ran.map(|_| None) };
            let may_repeat = match result.end {
                CheckEnd::Signaled | CheckEnd::Lost | CheckEnd::NotStarted => true,
                CheckEnd::Failed => self.db.read(|tx| tx.is_known_flaky(&check.name, hash))?,
                _ => false,
            };
            if !may_repeat || failed >= self.config.regression.retries {
                break Ok(Some((result, failures)));
            }
            failed += 1;
        };
        self.release_for_base(leased);
        let Some((result, failures)) = ran? else {
            return Err(Stop::failed(ErrorCategory::Transient, format!("check {} has no result", check.name)));
        };
        let why = match &result.verdict {
            CheckVerdict::Pass => String::new(),
            CheckVerdict::Fail(why) | CheckVerdict::Error(why) => why.clone(),
            CheckVerdict::Cancelled => {
                return Err(Stop::failed(ErrorCategory::Transient, format!("check {} was cancelled", check.name)));
            }
        };
        let state = match (&result.verdict, failed) {
            (CheckVerdict::Pass, 0) => BaseState::Green,
            (CheckVerdict::Pass, _) => BaseState::Flaky,
            _ => BaseState::Red,
        };
        let (end, at) = (result.end, (commit, tree));
        self.note_that_it_runs(&check.name, end)?;
        let judged = (state, why, i64::from(failed) + 1);
        let run = base_run_of((&check.name, hash), at, judged, (result, failures), self.db.now());
        Ok((run, end))
    }
}
