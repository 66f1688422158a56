//! The gate: the configured checks, in a check-out of its own, at the commit that would land. Each run leaves a proof.

use std::pin::pin;
use std::time::Duration;

use coord_db::config::CheckConfig;
use coord_db::{
    CheckOutcome, ComponentId, ErrorCategory, FailedAttempt, Proof, ProofRun, RegressionStatus, RunKind, RunOf, Test, new_id,
};
use crash_point::{Point, reach};
use tokio::sync::watch;
use work_tree::check::{CheckEnd, CheckResult, CheckSpec, CheckVerdict, run_check};
use work_tree::{CommitHash, WorkTree};

use crate::Result;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Waiter};
use crate::end::{Step, Stop};
use crate::run_end::reason_of;

/// The proofs of one landing: their ids begin with the one that stands in the commit's `Proof:` trailer.
pub(crate) struct Proving {
    pub(crate) id: String,
    made: u32,
}

impl Proving {
    pub(crate) fn new() -> Self {
        Self { id: new_id(), made: 0 }
    }

    fn next(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.id, self.made)
    }
}

fn kind_of(end: CheckEnd) -> RunKind {
    match end {
        CheckEnd::Passed => RunKind::Passed,
        CheckEnd::Failed => RunKind::Failed,
        CheckEnd::TimedOut => RunKind::TimedOut,
        CheckEnd::ChangedFiles => RunKind::ChangedFiles,
        CheckEnd::Missing => RunKind::Missing,
        CheckEnd::NotExecutable => RunKind::NotExecutable,
        CheckEnd::NotStarted => RunKind::NotStarted,
        CheckEnd::Signaled => RunKind::Signaled,
        CheckEnd::Lost => RunKind::Lost,
        CheckEnd::Cancelled => RunKind::Cancelled,
    }
}

/// Lines of a check's output that go into a failure's message.
const MESSAGE_LINES: usize = 20;
/// Broken tests that a failure's message names.
const MOST_NAMED: usize = 3;

fn applies(check: &CheckConfig, test: &Test) -> bool {
    check.categories.is_empty() || check.categories.contains(&test.category)
}

pub(crate) fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("\n")
}

/// What a check said, in words.
fn words(verdict: &CheckVerdict) -> String {
    match verdict {
        CheckVerdict::Pass => "passed".to_owned(),
        CheckVerdict::Fail(why) | CheckVerdict::Error(why) => why.clone(),
        CheckVerdict::Cancelled => "stopped".to_owned(),
    }
}

impl Context<'_> {
    fn check_spec(&self, check: &CheckConfig, test: &Test) -> CheckSpec {
        CheckSpec {
            name: check.name.clone(),
            argv: check.command.clone(),
            timeout: Duration::from_secs(check.timeout_seconds.unwrap_or(self.config.gate.timeout_seconds)),
            env: self.environment(test),
            nice: None,
            log_path: None,
            output_bytes: self.config.agent.output_bytes,
        }
    }

    /// Why nothing that is done for the test could ever pass, if that is so.
    pub(crate) fn unverifiable(&self, test: &Test) -> Option<FailedAttempt> {
        let none = !self.config.gate.check.iter().any(|check| applies(check, test));
        none.then(|| {
            let message =
                format!("no checks are configured for category {:?}; add [[gate.check]] to config.toml", test.category);
            FailedAttempt::new(ErrorCategory::System, message)
        })
    }

    /// Judges a commit; gives the checks, which have all passed, by name. What the same checks have passed for this test on the same files is not run again.
    pub(crate) async fn gate(
        &self,
        attempt: &Attempt,
        commit: &CommitHash,
        proving: &mut Proving,
        waiter: &mut Waiter,
    ) -> Step<Vec<(String, bool)>> {
        let test = &attempt.test;
        let checks: Vec<&CheckConfig> = self.config.gate.check.iter().filter(|check| applies(check, test)).collect();
        if let Some(why) = self.unverifiable(test) {
            return Err(why.into());
        }
        let tree = self.history().tree_of(commit)?;
        let folder = self.layout.gate(self.loop_id.as_str());
        let worktree = self.store.check_out_with_caches(&folder, commit, &self.config.workspace.cache)?;
        reach(Point::GateCheckedOut);
        let mut is_ready = false;
        let mut said = Vec::new();
        for check in checks {
            let spec = self.check_spec(check, test);
            let check_hash = spec.fingerprint();
            // A failure is not believed twice: it may have been the machine's.
            if let Some(proof) = self.db.read(|tx| tx.proven(tree.as_str(), &check.name, &check_hash, &test.id))? {
                if proof.commit_hash != commit.as_str() || proof.attempt != test.attempts {
                    let from = Some(proof.id.clone());
                    let run = ProofRun {
                        proof_id: proving.next(),
                        kind: RunKind::Passed,
                        why: String::new(),
                        check_hash,
                        reused_from: from,
                    };
                    let (attempt, commit_hash) = (test.attempts, commit.to_string());
                    self.add_proof(Proof { id: run.proof_id.clone(), attempt, commit_hash, ..proof }, &run)?;
                }
                said.push((check.name.clone(), true));
                continue;
            }
            if !std::mem::replace(&mut is_ready, true) {
                self.make_gate_ready(&worktree, commit, attempt, waiter).await?;
            }
            let result = self.run_one(&spec, &worktree, attempt, waiter).await?;
            reach(Point::GateChecked);
            let (outcome, why) = match &result.verdict {
                CheckVerdict::Pass => (CheckOutcome::Pass, String::new()),
                CheckVerdict::Fail(why) => (CheckOutcome::Fail, why.clone()),
                CheckVerdict::Error(why) => (CheckOutcome::Error, why.clone()),
                CheckVerdict::Cancelled => (CheckOutcome::Error, format!("check {} was stopped", check.name)),
            };
            let run = ProofRun { proof_id: proving.next(), kind: kind_of(result.end), why, check_hash, reused_from: None };
            let proof = Proof {
                id: run.proof_id.clone(),
                test_id: test.id.clone(),
                attempt: test.attempts,
                commit_hash: commit.to_string(),
                tree_hash: tree.to_string(),
                check_name: check.name.clone(),
                outcome,
                exit_code: result.exit_code.map(i64::from),
                duration_ms: i64::try_from(result.duration.as_millis()).unwrap_or(i64::MAX),
                output_sha256: result.output_sha256.clone(),
                // Shells and drivers of other languages end a text at its first NUL.
                output_tail: result.output_tail.replace('\0', "\u{fffd}"),
                created_at: self.db.clock().now(),
            };
            self.add_proof(proof, &run)?;
            let tail = end_of(&result.output_tail);
            match result.verdict {
                CheckVerdict::Pass => said.push((check.name.clone(), true)),
                CheckVerdict::Fail(why) => {
                    let known = self.broken_already(check, test)?;
                    let reason = reason_of(&result.output_tail);
                    return Err(Stop::failed(ErrorCategory::Code, format!("{why}{known}: {reason}\n{tail}")));
                }
                CheckVerdict::Error(why) => {
                    return Err(Stop::failed(ErrorCategory::System, format!("{why}\n{tail}")));
                }
                CheckVerdict::Cancelled => {
                    return Err(Stop::failed(ErrorCategory::Transient, format!("check {} was stopped", check.name)));
                }
            }
        }
        Ok(said)
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

    fn add_proof(&self, proof: Proof, run: &ProofRun) -> Result<()> {
        self.db.write(|tx| tx.add_proof_with_run(&proof, run))?;
        Ok(())
    }

    async fn run_one(
        &self,
        spec: &CheckSpec,
        worktree: &WorkTree,
        attempt: &Attempt,
        waiter: &mut Waiter,
    ) -> Step<CheckResult> {
        let test = &attempt.test;
        let log = format!("{}-{}.{}", test.id, test.attempts, spec.name);
        let recorded = self.begin_run(test, RunOf::Check, &spec.name, &log)?;
        let spec = &CheckSpec { log_path: Some(recorded.log.clone()), ..spec.clone() };
        let (cancel, mut cancelled) = watch::channel(false);
        let id = ComponentId::from(&self.loop_id);
        let on_keeper = |keeper: work_tree::keeper::KeeperId| {
            let child = (i64::from(keeper.pid), i64::try_from(keeper.start_time).ok());
            if let Err(error) = self.db.write_quietly(|tx| tx.set_child(&id, Some(child))) {
                tracing::warn!(%error, "cannot write down the check's process");
            }
        };
        tracing::info!(test = %attempt.test.id, check = %spec.name, "the gate runs a check");
        let mut running = pin!(run_check(spec, worktree, &mut cancelled, on_keeper));
        loop {
            waiter.beat(self, Some(attempt));
            waiter.wakes.looked(self.db);
            let told = if waiter.stopping() { Some(Interrupt::stop()) } else { self.orders(Some(attempt))? };
            if let Some(interrupt) = told {
                cancel.send_replace(true);
                self.end_run(&recorded, &words(&running.await?.verdict));
                return Err(interrupt.into());
            }
            tokio::select! {
                result = &mut running => {
                    let result = result?;
                    self.end_run(&recorded, &words(&result.verdict));
                    return Ok(result);
                }
                () = waiter.wait(self, Duration::from_secs(5)) => {}
            }
        }
    }
}
