//! Proves the base: before an agent runs, the checks that are the same for all tests have passed at the head of
//! integration.
//!
//! One loop runs them for all, under the lease `gate:base:<tree>`, and the others wait. The results are stored by tree
//! and check, and each landing adds those of the next head, so they are paid for once. Checks that run for each test
//! are not part of it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use coord_db::config::CheckConfig;
use coord_db::payload::BaseProven;
use coord_db::process::ProcessIdentity;
use coord_db::{
    Acquire, AlertType, BASE_QUESTION, BaseRun, BaseState, ComponentId, LeasePath, NewAlert, RedCheck, Severity, StringList,
    Test, Timestamp, Waiting,
};
use git::check::{CheckEnd, CheckResult, CheckSpec, CheckVerdict};
use git::{CommitHash, WorkTree};
use serde_json::json;

use crate::Result;
use crate::agents::reason_of;
use crate::auto_lease::WAIT_SECONDS;
use crate::base_question::is_of_others;
use crate::context::Context;
use crate::control::Waiter;
use crate::end::{End, Step, Stop};
use crate::per_test::applies;

/// The human is asked about a check that runs longer than this, and may skip it.
const SLOW: Duration = Duration::from_secs(30 * 60);

/// Source of the alerts about the base.
const ALERTS: &str = "coding-loop";
/// Prefix of the fingerprints of alerts about flaky checks.
const FLAKY: &str = "base_flaky:";

/// A check that is the same for all tests.
pub(crate) struct BaseCheck<'a> {
    pub(crate) config: &'a CheckConfig,
    pub(crate) spec: CheckSpec,
    /// Hash of name, command and time limit. The environment variables of the loop that runs it are not included.
    pub(crate) hash: String,
}

/// Says whether attempts may start at the head of integration.
#[derive(Debug)]
pub(crate) enum Base {
    /// Attempts may start.
    Ready,
    /// Only an attempt that repairs the checks may start.
    Mending,
    /// Another loop is running the checks.
    Running,
    /// No attempt may start before this: an answer of the human, a test that repairs the checks, or checks that can run here.
    Red(String),
    /// The state may have changed, or the loop was interrupted: evaluate again.
    Again,
}

/// The known results of the checks at a tree.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Ready,
    /// Some results are missing.
    Unproven,
    /// These checks fail, by index.
    Red(Vec<usize>),
}

/// Evaluates the known results. `checks` contains names and hashes.
fn judge(checks: &[(&str, &str)], runs: &[BaseRun], ignored: &BTreeSet<String>) -> Known {
    let state = |hash: &str| runs.iter().find(|run| run.check_hash == hash).map(|run| run.state);
    if checks.iter().any(|(_, hash)| state(hash).is_none()) {
        return Known::Unproven;
    }
    let is_red = |(name, hash): &(&str, &str)| state(hash) == Some(BaseState::Red) && !ignored.contains(*name);
    let red: Vec<usize> = checks.iter().enumerate().filter(|(_, check)| is_red(check)).map(|(at, _)| at).collect();
    if red.is_empty() { Known::Ready } else { Known::Red(red) }
}

/// The combined outcome of the runs of a check; none if more runs are needed.
fn confirmed(outcomes: &[CheckEnd], retries: u32) -> Option<BaseState> {
    let failures = u32::try_from(outcomes.len()).unwrap_or(u32::MAX);
    match outcomes.last()? {
        CheckEnd::Passed if failures == 1 => Some(BaseState::Green),
        CheckEnd::Passed => Some(BaseState::Flaky),
        // Repeating cannot help against a missing program.
        CheckEnd::Missing | CheckEnd::NotExecutable => Some(BaseState::Red),
        _ => (failures > retries).then_some(BaseState::Red),
    }
}

impl Context<'_> {
    /// The hash of a check and of the set-up of its check-out, independent of the loop that runs it.
    pub(crate) fn base_hash(&self, check: &CheckConfig) -> String {
        let setup = &self.config.workspace.setup;
        let env = if setup.is_empty() { Vec::new() } else { vec![("setup".to_owned(), format!("{setup:?}").into())] };
        self.spec(check, env).fingerprint()
    }

    /// The specification of a check that runs for no test, in this loop's gate.
    pub(crate) fn base_spec(&self, check: &CheckConfig) -> Result<CheckSpec> {
        let mut env = self.bare_environment();
        env.extend(self.gate_variables()?);
        Ok(self.spec(check, env))
    }

    pub(crate) fn spec(&self, check: &CheckConfig, env: Vec<(String, OsString)>) -> CheckSpec {
        CheckSpec {
            name: check.name.clone(),
            argv: check.command.clone(),
            timeout: Duration::from_secs(check.timeout_seconds.unwrap_or(self.config.gate.timeout_seconds)),
            env,
            nice: None,
            log_path: None,
            output_bytes: self.config.agent.output_bytes,
        }
    }

    /// The checks that are the same for all tests, according to the files of a commit.
    fn base_checks(&self, commit: &CommitHash) -> Result<Vec<BaseCheck<'_>>> {
        let mut checks = Vec::new();
        for config in &self.config.gate.check {
            if !self.is_per_test(config, commit)? {
                checks.push(BaseCheck { config, spec: self.base_spec(config)?, hash: self.base_hash(config) });
            }
        }
        Ok(checks)
    }

    /// Ensures that the checks of a test pass at the head of integration before its agent runs.
    pub(crate) async fn prove_base(&self, test: &Test, waiter: &mut Waiter) -> Result<Base> {
        let head = self.integration_head()?;
        let all = self.base_checks(&head)?;
        let checks: Vec<&BaseCheck<'_>> = all.iter().filter(|check| applies(check.config, test)).collect();
        if checks.is_empty() {
            return Ok(Base::Ready);
        }
        while self.apply_base_answers()? {}
        let tree = self.history().tree_of(&head)?.to_string();
        let (runs, ignored) = self.db.read(|tx| Ok::<_, coord_db::Error>((tx.base_runs(&tree)?, tx.ignored_checks()?)))?;
        let ignored: BTreeSet<String> = ignored.into_iter().map(|check| check.check_name).collect();
        let names: Vec<(&str, &str)> = checks.iter().map(|check| (check.config.name.as_str(), check.hash.as_str())).collect();
        match judge(&names, &runs, &ignored) {
            Known::Ready => {
                self.settle_base(&tree, &all, &runs, &ignored)?;
                Ok(Base::Ready)
            }
            Known::Red(red) => {
                let red: Vec<&BaseCheck<'_>> = red.into_iter().map(|at| checks[at]).collect();
                self.stop_at_red(&head, &tree, &red, &runs)
            }
            // Another machine may prove it meanwhile.
            Known::Unproven => match self.unrunnable_for_now(&checks)? {
                Some(why) => Ok(Base::Red(why)),
                None => self.run_base((&head, &tree), &checks, test, waiter).await,
            },
        }
    }

    /// Deletes results of other trees, and reinstates an ignored check that passes now.
    fn settle_base(&self, tree: &str, all: &[BaseCheck<'_>], runs: &[BaseRun], ignored: &BTreeSet<String>) -> Result<()> {
        let hashes: Vec<String> = all.iter().map(|check| check.hash.clone()).collect();
        let is_stale = |run: &BaseRun| run.tree_hash != tree || !hashes.contains(&run.check_hash);
        let passes_again = runs
            .iter()
            .any(|run| run.state == BaseState::Green && ignored.contains(&run.check_name) && hashes.contains(&run.check_hash));
        let (red, question) =
            self.db.read(|tx| Ok::<_, coord_db::Error>((tx.red_base()?, tx.open_decision(BASE_QUESTION)?)))?;
        let is_stale = red.iter().any(is_stale);
        if passes_again || is_stale {
            for name in self.db.write(|tx| tx.settle_base(tree, &hashes))? {
                tracing::info!(check = name, "the ignored check passes at the head of integration; it is required again");
            }
        }
        self.close_flaky_alerts(all)?;
        self.close_unrunnable_alerts(all)?;
        let Some(question) = question else { return Ok(()) };
        // A check of other tests may still fail there.
        if self.db.read(|tx| tx.red_base())?.is_empty() {
            self.withdraw(&question, "the checks now pass at the head of integration")?;
        }
        Ok(())
    }

    /// Closes the alerts about flaky checks that have passed at the first run ever since.
    fn close_flaky_alerts(&self, all: &[BaseCheck<'_>]) -> Result<()> {
        let alerts = self.db.read(|tx| tx.open_alerts_of(ALERTS))?;
        for fingerprint in alerts.into_iter().filter_map(|alert| alert.fingerprint) {
            let Some(name) = fingerprint.strip_prefix(FLAKY) else { continue };
            let runs = self.config.regression.retries + 1;
            let is_over = match all.iter().find(|check| check.config.name == name) {
                Some(check) => self.db.read(|tx| tx.is_steady(&check.hash, runs))?,
                None => true,
            };
            if is_over {
                tracing::info!(check = name, "the check is no longer flaky at the head of integration");
                self.db.write(|tx| tx.close_alert(&fingerprint))?;
            }
        }
        Ok(())
    }

    fn stop_at_red(&self, head: &CommitHash, tree: &str, red: &[&BaseCheck<'_>], runs: &[BaseRun]) -> Result<Base> {
        if self.managed && self.db.read(|tx| tx.next_mending_test(&self.loop_id))?.is_some() {
            return Ok(Base::Mending);
        }
        let (mut question, mending) =
            self.db.read(|tx| Ok::<_, coord_db::Error>((tx.open_decision(BASE_QUESTION)?, tx.mending_tests()?)))?;
        let mut names: Vec<&str> = red.iter().map(|check| check.config.name.as_str()).collect();
        names.sort_unstable();
        if let Some(asked) = question.take_if(|asked| is_of_others(asked, &names)) {
            self.withdraw(&asked, "other checks now fail at the head of integration")?;
        }
        if question.is_none() && mending.is_empty() {
            let of_check = |check: &&BaseCheck<'_>| runs.iter().find(|run| run.check_hash == check.hash).cloned();
            self.ask_about_red(head, tree, &red.iter().filter_map(of_check).collect::<Vec<_>>())?;
        }
        let question = match question {
            Some(question) => Some(question),
            None => self.db.read(|tx| tx.open_decision(BASE_QUESTION))?,
        };
        Ok(Base::Red(match (&question, mending.first()) {
            (Some(question), _) => self.describe_question(question, "the checks fail at the head of integration")?,
            (None, Some(test)) => {
                format!("test {} of {} has to repair the checks at the head of integration first", test.id, test.loop_id)
            }
            (None, None) => "the checks fail at the head of integration".to_owned(),
        }))
    }

    /// Asks the human about checks that fail at the head, unless that is asked already.
    pub(crate) fn ask_about_red(&self, head: &CommitHash, tree: &str, runs: &[BaseRun]) -> Result<()> {
        let categories = |name: &str| {
            let check = self.config.gate.check.iter().find(|check| check.name == name);
            check.map(|check| check.categories.clone()).unwrap_or_default()
        };
        let words = |run: &BaseRun| RedCheck {
            name: run.check_name.clone(),
            words: format!("{}: {}", run.why, reason_of(&run.output_tail)),
            output_tail: run.output_tail.clone(),
            categories: categories(&run.check_name),
        };
        let red: Vec<RedCheck> = runs.iter().map(words).collect();
        tracing::warn!(head = %head.short(), checks = ?red.iter().map(|check| &check.name).collect::<Vec<_>>(),
            "checks fail at the head of integration without any change by an agent; no attempt starts until you answer the question");
        self.db.write(|tx| tx.ask_about_base(&self.loop_id, head.as_str(), tree, &red))?;
        Ok(())
    }

    // ---- running them ----

    async fn run_base(
        &self,
        (head, tree): (&CommitHash, &str),
        checks: &[&BaseCheck<'_>],
        test: &Test,
        waiter: &mut Waiter,
    ) -> Result<Base> {
        let path: LeasePath = format!("gate:base:{tree}").parse()?;
        let reason = format!("runs the checks at {}, before any attempt starts there", head.short());
        let request = self.lease_request(vec![path.clone()], reason, None);
        let silent = self.config.lease.silent_waiter_seconds;
        let Acquire::Granted(grant) = self.db.write(|tx| tx.acquire(&request, silent))? else {
            return Ok(if self.free_from_dead(&path)? { Base::Again } else { Base::Running });
        };
        let ran = self.run_base_checks(head, tree, checks, waiter).await;
        let component = ComponentId::from(&self.loop_id);
        let released = self.db.write(|tx| {
            tx.set_child(&component, None)?;
            match tx.release(&self.loop_id, std::slice::from_ref(&path), Some(grant.fencing_token)) {
                Err(coord_db::Error::LeaseLost { .. }) => Ok(Vec::new()),
                other => other,
            }
        });
        if let Err(error) = released {
            tracing::warn!(%error, "cannot release the lease for running the checks at the base; it will expire");
        }
        // The landing train stops at a head that fails.
        self.news.queued.notify_one();
        match ran {
            // The order is obeyed in the next iteration.
            Ok(()) | Err(Stop::End(End::Interrupted(_))) => Ok(Base::Again),
            Err(Stop::End(End::SetUpFailed(reason))) => {
                self.db.write(|tx| self.hold_set_up(tx, &test.id, &reason))?;
                Ok(Base::Again)
            }
            Err(Stop::Error(error)) => Err(error),
            Err(Stop::End(end)) => {
                tracing::warn!(?end, "cannot run the checks at the base");
                Ok(Base::Running)
            }
        }
    }

    /// Releases the lease of a loop whose process has died instead of waiting for heartbeat; true if there was one.
    pub(crate) fn free_from_dead(&self, path: &LeasePath) -> Result<bool> {
        let own = ProcessIdentity::own();
        Ok(self.db.write(|tx| {
            let Some(lease) = tx.lease(path)? else { return Ok(true) };
            let Some(holder) = tx.find_loop(&lease.locked_by.to_string())? else { return Ok(false) };
            // A loop without a process is driven by hand and never holds this lease.
            if holder.pid.is_none() || tx.running_process(holder.id.as_str(), &own)?.is_some() {
                return Ok(false);
            }
            tx.release(&holder.id, std::slice::from_ref(path), Some(lease.fencing_token)).map(|_| true)
        })?)
    }

    async fn run_base_checks(&self, head: &CommitHash, tree: &str, checks: &[&BaseCheck<'_>], waiter: &mut Waiter) -> Step<()> {
        let begun = Instant::now();
        let (mut names, mut flaky, mut is_red) = (Vec::new(), Vec::new(), false);
        let known = self.db.read(|tx| tx.base_runs(tree))?;
        // Another loop may have run them meanwhile.
        if checks.iter().all(|check| known.iter().any(|run| run.check_hash == check.hash)) {
            return Ok(());
        }
        let worktree = self.gate_check_out(head)?;
        self.make_gate_ready(&worktree, head, head, None, waiter).await?;
        // All of them, because a check may need what an earlier one has built.
        for check in checks {
            let Some((run, end)) = self.run_at_base(check, &worktree, head, tree, waiter).await? else { continue };
            if !self.is_result_for_all(&run, end)? {
                // The next ones may fail for want of what it builds.
                return Ok(());
            }
            names.push(run.check_name.clone());
            is_red |= run.state == BaseState::Red;
            if run.state == BaseState::Flaky {
                flaky.push(run.check_name.clone());
            }
            self.db.write(|tx| {
                tx.record_base_run(&run)?;
                if run.state == BaseState::Flaky {
                    tx.raise_alert(&flaky_alert(&run))?;
                }
                Ok::<_, coord_db::Error>(())
            })?;
        }
        if !is_red && !names.is_empty() {
            let seconds = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
            let (loop_id, commit) = (self.loop_id.clone(), head.to_string());
            let proven = BaseProven { loop_id, commit, checks: names, flaky, seconds };
            self.db.write(|tx| tx.publish_base_proven(proven))?;
        }
        Ok(())
    }

    /// Runs a check at the base until its outcome is confirmed; returns the outcome and the end of the last run, or
    /// none if the human skips the check.
    pub(crate) async fn run_at_base(
        &self,
        check: &BaseCheck<'_>,
        worktree: &WorkTree,
        head: &CommitHash,
        tree: &str,
        waiter: &mut Waiter,
    ) -> Step<Option<(BaseRun, CheckEnd)>> {
        let leased = self.lease_for_base(check.config, waiter).await?;
        let ran = self.repeat_at_base(check, worktree, head, tree, waiter).await;
        self.release_for_base(leased);
        if let Ok(Some((run, end))) = &ran {
            self.note_that_it_runs(&run.check_name, *end)?;
        }
        ran
    }

    async fn repeat_at_base(
        &self,
        check: &BaseCheck<'_>,
        worktree: &WorkTree,
        head: &CommitHash,
        tree: &str,
        waiter: &mut Waiter,
    ) -> Step<Option<(BaseRun, CheckEnd)>> {
        let mut ends = Vec::new();
        let mut first: Option<(CheckResult, String, Option<StringList>)> = None;
        let slow_before = self
            .db
            .read(|tx| tx.last_duration(&check.hash))?
            .is_some_and(|millis| u128::try_from(millis).is_ok_and(|millis| millis >= SLOW.as_millis()));
        let (begun, mut is_asked) = (Instant::now(), false);
        loop {
            let enough = || {
                if !is_asked && (slow_before || begun.elapsed() >= SLOW) {
                    is_asked = true;
                    let minutes = i64::try_from(SLOW.as_secs() / 60).unwrap_or(0);
                    let name = (check.config.name.as_str(), check.hash.as_str());
                    self.db.write(|tx| tx.ask_about_slow_base(&self.loop_id, head.as_str(), tree, name, minutes))?;
                }
                if is_asked {
                    self.apply_base_answers()?;
                }
                let runs = self.db.read(|tx| tx.base_runs(tree))?;
                Ok(runs.iter().any(|run| run.check_hash == check.hash && run.state == BaseState::Skipped))
            };
            let (result, failures) = self.run_one(&check.spec, worktree, None, waiter, enough).await?;
            let why = match &result.verdict {
                CheckVerdict::Pass => String::new(),
                CheckVerdict::Fail(why) | CheckVerdict::Error(why) => why.clone(),
                CheckVerdict::Cancelled => return Ok(None),
            };
            let end = result.end;
            ends.push(end);
            let state = confirmed(&ends, self.config.regression.retries);
            // The first failing run is the most informative.
            let (telling, why, failures) = match first.take() {
                Some(first) if end != CheckEnd::Passed => first,
                Some((_, why, failures)) => (result, why, failures),
                None => (result, why, failures),
            };
            if let Some(state) = state {
                let runs = i64::try_from(ends.len()).unwrap_or(i64::MAX);
                let (of, now) = ((check.config.name.as_str(), check.hash.as_str()), self.db.now());
                let run = base_run_of(of, (head, tree), (state, why, runs), (telling, failures), now);
                return Ok(Some((run, end)));
            }
            first = Some((telling, why, failures));
        }
    }

    /// Releases what [`Context::lease_for_base`] has leased.
    pub(crate) fn release_for_base(&self, leased: Option<(Vec<LeasePath>, i64)>) {
        if let Some((paths, token)) = leased
            && let Err(error) = self.db.write(|tx| tx.release(&self.loop_id, &paths, Some(token)))
        {
            tracing::warn!(%error, "cannot release the exclusive resources of a check; their leases will expire");
        }
    }

    /// Leases the exclusive resources of a check for a run without an attempt.
    pub(crate) async fn lease_for_base(&self, check: &CheckConfig, waiter: &mut Waiter) -> Step<Option<(Vec<LeasePath>, i64)>> {
        let paths: Vec<LeasePath> = check.resources.iter().filter_map(|resource| resource.parse().ok()).collect();
        if paths.is_empty() {
            return Ok(None);
        }
        let request = self.lease_request(paths.clone(), format!("needed by check {}", check.name), None);
        let silent = self.config.lease.silent_waiter_seconds;
        let until = |now: Timestamp| now.plus_seconds(WAIT_SECONDS);
        let (mut id, mut answer) = self.db.write(|tx| tx.acquire_or_queue(&request, until(tx.now()), silent))?;
        loop {
            match (&answer, &id) {
                (Waiting::Granted(grant), _) => return Ok(Some((paths, grant.fencing_token))),
                (Waiting::Queued(_), Some(queued)) => {
                    waiter.beat(self, None);
                    waiter.looked(self);
                    if let Some(interrupt) = self.pending_interrupt(None, waiter)? {
                        self.db.write(|tx| tx.withdraw_request(queued))?;
                        return Err(interrupt.into());
                    }
                    waiter.wait(self, Duration::from_secs(5)).await;
                    answer = self.db.write(|tx| {
                        tx.extend_request(queued, until(tx.now()))?;
                        tx.retry_request(queued, &request, silent)
                    })?;
                }
                _ => (id, answer) = self.db.write(|tx| tx.acquire_or_queue(&request, until(tx.now()), silent))?,
            }
        }
    }
}

fn flaky_alert(run: &BaseRun) -> NewAlert {
    NewAlert {
        fingerprint: format!("{FLAKY}{}", run.check_name),
        severity: Severity::Warning,
        alert_type: AlertType::Regression,
        source: ALERTS.to_owned(),
        message: format!(
            "check {} is flaky: at {}, without any change by an agent, it failed and then passed ({}); attempts continue",
            run.check_name,
            run.commit_hash.get(..12).unwrap_or(&run.commit_hash),
            run.why
        ),
        context: json!({ "kind": "base_flaky", "check": run.check_name, "commit": run.commit_hash, "runs": run.runs }),
        event_id: None,
    }
}

/// The result of a check at a state, with the run that says most. A check is its name and hash, a state its commit and tree.
pub(crate) fn base_run_of(
    (check_name, check_hash): (&str, &str),
    (commit, tree): (&CommitHash, &str),
    (state, why, runs): (BaseState, String, i64),
    (result, failures): (CheckResult, Option<StringList>),
    ran_at: Timestamp,
) -> BaseRun {
    BaseRun {
        tree_hash: tree.to_owned(),
        check_hash: check_hash.to_owned(),
        check_name: check_name.to_owned(),
        commit_hash: commit.to_string(),
        state,
        why,
        exit_code: result.exit_code.map(i64::from),
        runs,
        duration_ms: i64::try_from(result.duration.as_millis()).unwrap_or(i64::MAX),
        output_sha256: result.output_sha256,
        output_tail: result.output_tail.replace('\0', "\u{fffd}"),
        proof_id: None,
        ran_at,
        failures,
    }
}

#[cfg(test)]
mod tests {
    use coord_db::Timestamp;

    use super::*;

    fn run(name: &str, state: BaseState) -> BaseRun {
        BaseRun {
            tree_hash: "t".to_owned(),
            check_hash: name.to_owned(),
            check_name: name.to_owned(),
            commit_hash: "c".to_owned(),
            state,
            why: String::new(),
            exit_code: None,
            runs: 1,
            duration_ms: 0,
            output_sha256: String::new(),
            output_tail: String::new(),
            proof_id: None,
            ran_at: Timestamp::from_millis(0),
            failures: None,
        }
    }

    #[test]
    fn attempts_start_where_nothing_fails_that_counts() {
        use BaseState::{Flaky, Green, Red, Skipped};
        let none = BTreeSet::new();
        let checks = [("a", "a"), ("b", "b")];
        let judged = |a, b, ignored: &BTreeSet<String>| judge(&checks, &[run("a", a), run("b", b)], ignored);
        assert_eq!(judge(&checks, &[run("a", Red)], &none), Known::Unproven);
        assert_eq!(judged(Green, Green, &none), Known::Ready);
        assert_eq!(judged(Flaky, Skipped, &none), Known::Ready);
        assert_eq!(judged(Green, Red, &none), Known::Red(vec![1]));
        assert_eq!(judged(Green, Red, &BTreeSet::from(["b".to_owned()])), Known::Ready);
        assert_eq!(judged(Red, Red, &BTreeSet::from(["b".to_owned()])), Known::Red(vec![0]));
    }

    #[test]
    fn a_failure_is_believed_once_it_has_come_again() {
        use CheckEnd::{Failed, Missing, Passed, TimedOut};
        assert_eq!(confirmed(&[], 2), None);
        assert_eq!(confirmed(&[Passed], 2), Some(BaseState::Green));
        assert_eq!(confirmed(&[Failed], 2), None);
        assert_eq!(confirmed(&[Failed, TimedOut], 2), None);
        assert_eq!(confirmed(&[Failed, TimedOut, Failed], 2), Some(BaseState::Red));
        assert_eq!(confirmed(&[Failed, Passed], 2), Some(BaseState::Flaky));
        assert_eq!(confirmed(&[Missing], 2), Some(BaseState::Red));
        assert_eq!(confirmed(&[Failed], 0), Some(BaseState::Red));
    }
}
