//! Runs the checks on a state without a test: integration merged with the user's new commits.

use coord_db::config::CheckConfig;
use coord_db::{BaseRun, BaseState, ErrorCategory};
use crash_point::{Point, reach};
use git::CommitHash;
use git::check::CheckEnd;

use crate::agents::reason_of;
use crate::base::BaseCheck;
use crate::context::Context;
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::gate::{end_of, failure_of};
use crate::known_failure::{Likeness, compare};

/// The result of the checks.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// The checks, and whether each has passed; one that has not is ignored and fails as without the new commits.
    Green(Vec<(String, bool)>),
    /// The first failing check.
    Red(Box<Red>),
}

#[derive(Debug, Clone)]
pub(crate) struct Red {
    pub(crate) check: String,
    /// The reason, on one line.
    pub(crate) why: String,
    /// The end of its output.
    pub(crate) output: String,
    /// The run, unless the set-up failed.
    run: Option<BaseRun>,
}

impl Context<'_> {
    /// Runs the checks on the new commit of integration, which is at `ours`. The results are also valid for it as the
    /// base of attempts.
    pub(crate) async fn judge_state(&self, commit: &CommitHash, ours: &CommitHash, waiter: &mut Waiter) -> Step<Verdict> {
        if self.config.gate.check.is_empty() {
            let text = "cannot verify anything, because no checks are configured; add [[gate.check]] to config.toml";
            return Err(Stop::failed(ErrorCategory::System, text));
        }
        let mut passed = Vec::new();
        let ignored = self.db.read(|tx| tx.ignored_checks())?;
        let base = self.history().tree_of(ours)?.to_string();
        for check in &self.config.gate.check {
            let Some(red) = self.run_on_state(check, commit, ours, waiter).await? else {
                passed.push((check.name.clone(), true));
                continue;
            };
            if let Some(run) = red.run.as_ref().filter(|_| ignored.iter().any(|row| row.check_name == check.name))
                && let Some(before) = self.known_at_base(check, (ours, &base), waiter).await?
                && before.state == BaseState::Red
                && !matches!(compare(&failure_of(&before), &failure_of(run)), Likeness::Different(_))
            {
                self.db.write(|tx| tx.record_base_run(run))?;
                passed.push((check.name.clone(), false));
                continue;
            }
            // A check for single tests may fail without a test, whatever the state.
            if !self.is_per_test(check, commit)? || self.run_on_state(check, ours, ours, waiter).await?.is_none() {
                return Ok(Verdict::Red(Box::new(red)));
            }
        }
        Ok(Verdict::Green(passed))
    }

    /// Runs one check on a descendant of `base`; none if it passes.
    async fn run_on_state(
        &self,
        check: &CheckConfig,
        commit: &CommitHash,
        base: &CommitHash,
        waiter: &mut Waiter,
    ) -> Step<Option<Red>> {
        let (hash, tree) = (self.base_hash(check), self.history().tree_of(commit)?.to_string());
        let is_per_test = self.is_per_test(check, commit)?;
        let known = self.db.read(|tx| tx.base_runs(&tree))?;
        if !is_per_test && known.iter().any(|run| run.check_hash == hash && run.state == BaseState::Green) {
            return Ok(None);
        }
        let worktree = self.gate_check_out(commit)?;
        match self.make_gate_ready(&worktree, commit, base, None, waiter).await {
            Err(Stop::End(End::Failed(why))) if why.category == ErrorCategory::Code => {
                let (why, output) = (reason_of(&why.message), why.message);
                return Ok(Some(Red { check: "set-up".to_owned(), why, output, run: None }));
            }
            made => made?,
        }
        let spec = self.base_spec(check)?;
        let ran = self.run_at_base(&BaseCheck { config: check, spec, hash }, &worktree, commit, &tree, waiter).await?;
        reach(Point::SyncChecked);
        // None: the human has skipped it.
        let Some((run, end)) = ran else { return Ok(None) };
        if !matches!(end, CheckEnd::Passed | CheckEnd::Failed | CheckEnd::TimedOut | CheckEnd::ChangedFiles) {
            return Err(Stop::failed(ErrorCategory::System, format!("{}\n{}", run.why, end_of(&run.output_tail))));
        }
        // A failing state does not become the head.
        if !is_per_test && run.state == BaseState::Green {
            self.db.write(|tx| tx.record_base_run(&run))?;
        }
        let is_red = run.state == BaseState::Red;
        Ok(is_red.then(|| {
            let why = format!("{}: {}", run.why, reason_of(&run.output_tail));
            let output = end_of(&run.output_tail);
            Red { check: check.name.clone(), why, output, run: (!is_per_test).then_some(run) }
        }))
    }
}
