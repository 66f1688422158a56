//! The gate: the configured checks, in a clean worktree, at the commit that would land. Each run leaves a proof.

use std::pin::pin;
use std::time::Duration;

use coord_db::config::CheckConfig;
use coord_db::{CheckOutcome, ComponentId, ErrorCategory, FailedAttempt, Proof, Test, new_id};
use crash_point::{Point, reach};
use serde_json::json;
use tokio::sync::watch;
use work_tree::check::{CheckResult, CheckSpec, CheckVerdict, run_check};
use work_tree::{CommitHash, WorkTree};

use crate::Result;
use crate::agent::failed;
use crate::context::{Attempt, Context};
use crate::control::{Interrupt, Waiter};
use crate::journal::MAKE_GATE_WORKTREE;

/// What the gate says.
pub(crate) enum Verdict {
    /// Every check passed; by name.
    Passed(Vec<(String, bool)>),
    Failed(FailedAttempt),
    Interrupted(Interrupt),
}

/// Lines of a check's output that go into a failure's message.
const MESSAGE_LINES: usize = 20;

fn applies(check: &CheckConfig, test: &Test) -> bool {
    check.categories.is_empty() || check.categories.contains(&test.category)
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("\n")
}

impl Context<'_> {
    pub(crate) fn gate_folder(&self) -> std::path::PathBuf {
        self.worktrees().join(format!(".gate-{}", self.loop_id))
    }

    /// The gate's own worktree, which stays for the next time with what builds have cached in it.
    fn gate_worktree(&self, commit: &CommitHash) -> Result<WorkTree> {
        let folder = self.gate_folder();
        if folder.join(".git").exists() {
            return Ok(self.repository.add_detached_worktree(&folder, commit)?);
        }
        let entry = self.intend(MAKE_GATE_WORKTREE, json!({"path": folder, "commit": commit.as_str()}))?;
        reach(Point::GateIntended);
        let worktree = self.repository.add_detached_worktree(&folder, commit)?;
        reach(Point::GateAdded);
        self.settle(&entry, true)?;
        reach(Point::GateSettled);
        Ok(worktree)
    }

    fn check_spec(&self, check: &CheckConfig, test: &Test) -> CheckSpec {
        CheckSpec {
            name: check.name.clone(),
            argv: check.command.clone(),
            timeout: Duration::from_secs(check.timeout_seconds.unwrap_or(self.config.gate.timeout_seconds)),
            env: self.environment(test),
            nice: None,
            log_path: Some(self.logs().join(format!("{}-{}.{}.log", test.id, test.attempts, check.name.replace('/', "_")))),
            output_bytes: self.config.agent.output_bytes,
        }
    }

    /// Why nothing that is done for the test could ever pass, if that is so.
    pub(crate) fn unverifiable(&self, test: &Test) -> Option<FailedAttempt> {
        let none = !self.config.gate.check.iter().any(|check| applies(check, test));
        none.then(|| {
            let message =
                format!("no checks are configured for category {:?}; add [[gate.check]] to config.toml", test.category);
            failed(ErrorCategory::System, message)
        })
    }

    /// Judges a commit.
    pub(crate) async fn gate(&self, attempt: &Attempt, commit: &CommitHash, waiter: &mut Waiter) -> Result<Verdict> {
        let test = &attempt.test;
        let checks: Vec<&CheckConfig> = self.config.gate.check.iter().filter(|check| applies(check, test)).collect();
        if let Some(why) = self.unverifiable(test) {
            return Ok(Verdict::Failed(why));
        }
        let tree = self.repository.tree_of(commit)?;
        let worktree = self.gate_worktree(commit)?;
        let mut said = Vec::new();
        for check in checks {
            // The same check on the same files for the same test says the same, but only within this attempt: what the
            // settings call by this name may have been another command before.
            let known = self.db.read(|tx| tx.passed_proof(tree.as_str(), &check.name, &test.id))?;
            if let Some(proof) = known.filter(|proof| test.last_attempt_at.is_some_and(|begun| proof.created_at >= begun)) {
                self.add_proof(Proof { id: new_id(), attempt: test.attempts, commit_hash: commit.to_string(), ..proof })?;
                said.push((check.name.clone(), true));
                continue;
            }
            let result = match self.run_one(&self.check_spec(check, test), &worktree, attempt, waiter).await? {
                Ok(result) => result,
                Err(interrupt) => return Ok(Verdict::Interrupted(interrupt)),
            };
            reach(Point::GateChecked);
            let outcome = match &result.verdict {
                CheckVerdict::Pass => CheckOutcome::Pass,
                CheckVerdict::Fail(_) => CheckOutcome::Fail,
                CheckVerdict::Error(_) | CheckVerdict::Cancelled => CheckOutcome::Error,
            };
            self.add_proof(Proof {
                id: new_id(),
                test_id: test.id.clone(),
                attempt: test.attempts,
                commit_hash: commit.to_string(),
                tree_hash: tree.to_string(),
                check_name: check.name.clone(),
                outcome,
                exit_code: result.exit_code.map(i64::from),
                duration_ms: i64::try_from(result.duration.as_millis()).unwrap_or(i64::MAX),
                output_sha256: result.output_sha256.clone(),
                output_tail: result.output_tail.clone(),
                created_at: self.db.clock().now(),
            })?;
            let tail = end_of(&result.output_tail);
            match result.verdict {
                CheckVerdict::Pass => said.push((check.name.clone(), true)),
                CheckVerdict::Fail(why) => {
                    return Ok(Verdict::Failed(failed(ErrorCategory::Code, format!("{why}\n{tail}"))));
                }
                CheckVerdict::Error(why) => {
                    return Ok(Verdict::Failed(failed(ErrorCategory::System, format!("{why}\n{tail}"))));
                }
                CheckVerdict::Cancelled => {
                    return Ok(Verdict::Failed(failed(ErrorCategory::Transient, format!("check {} was stopped", check.name))));
                }
            }
        }
        Ok(Verdict::Passed(said))
    }

    fn add_proof(&self, proof: Proof) -> Result<()> {
        self.db.write(|tx| tx.add_proof(&proof))?;
        Ok(())
    }

    async fn run_one(
        &self,
        spec: &CheckSpec,
        worktree: &WorkTree,
        attempt: &Attempt,
        waiter: &mut Waiter,
    ) -> Result<Result<CheckResult, Interrupt>> {
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
                running.await?;
                return Ok(Err(interrupt));
            }
            tokio::select! {
                result = &mut running => return Ok(Ok(result?)),
                () = waiter.wait(self, Duration::from_secs(5)) => {}
            }
        }
    }
}
