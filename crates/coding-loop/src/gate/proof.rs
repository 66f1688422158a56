//! Converts the result of a check to rows: the proof of the work, and the result for a tree.

use std::path::Path;

use coord_db::{BaseRun, BaseState, CheckOutcome, Proof, ProofRun, ProofStage, RunKind, StringList, Test, Timestamp, new_id};
use git::CommitHash;
use git::check::{CheckEnd, CheckResult, CheckVerdict};

use crate::known_failure::{Failure, failing_lines};

/// Number of lines of a check's output in a failure message.
const MESSAGE_LINES: usize = 20;

/// Allocates ids for the proofs of one landing. They begin with the id in the commit's `Proof:` trailer.
pub(crate) struct Proving {
    pub(crate) id: String,
    made: u32,
}

impl Proving {
    pub(crate) fn new() -> Self {
        Self { id: new_id(), made: 0 }
    }

    pub(super) fn next(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.id, self.made)
    }
}

pub(crate) fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("\n")
}

/// Describes a verdict.
pub(super) fn describe(verdict: &CheckVerdict) -> String {
    match verdict {
        CheckVerdict::Pass => "passed".to_owned(),
        CheckVerdict::Fail(why) | CheckVerdict::Error(why) => why.clone(),
        CheckVerdict::Cancelled => "stopped".to_owned(),
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

/// The lines that state a failure in the output of a check that ran in a folder; none if the output is incomplete.
pub(super) fn failures_in(log: &Path, root: &Path) -> Option<StringList> {
    let output = std::fs::read(log).ok()?;
    let output = String::from_utf8_lossy(&output);
    let is_cut = output.lines().next_back().is_some_and(|line| line.ends_with(" bytes in all]"));
    (!is_cut).then(|| StringList(failing_lines(&output, &root.to_string_lossy())))
}

/// The proof of a run, for the work alone.
pub(super) fn proof_of(
    check: &str,
    result: &CheckResult,
    test: &Test,
    (commit, tree, now): (&CommitHash, &str, Timestamp),
    (id, check_hash): (String, String),
) -> (Proof, ProofRun) {
    let (outcome, why) = match &result.verdict {
        CheckVerdict::Pass => (CheckOutcome::Pass, String::new()),
        CheckVerdict::Fail(why) => (CheckOutcome::Fail, why.clone()),
        CheckVerdict::Error(why) => (CheckOutcome::Error, why.clone()),
        CheckVerdict::Cancelled => (CheckOutcome::Error, format!("check {check} was cancelled")),
    };
    let run = ProofRun {
        proof_id: id.clone(),
        kind: kind_of(result.end),
        why,
        check_hash,
        reused_from: None,
        stage: ProofStage::Alone,
        base_tree: None,
        let_through: false,
    };
    let proof = Proof {
        id,
        test_id: test.id.clone(),
        attempt: test.attempts,
        commit_hash: commit.to_string(),
        tree_hash: tree.to_owned(),
        check_name: check.to_owned(),
        outcome,
        exit_code: result.exit_code.map(i64::from),
        duration_ms: i64::try_from(result.duration.as_millis()).unwrap_or(i64::MAX),
        output_sha256: result.output_sha256.clone(),
        // Shells and database drivers of other languages end a text at its first NUL.
        output_tail: result.output_tail.replace('\0', "\u{fffd}"),
        created_at: now,
    };
    (proof, run)
}

/// The failure at the base, for comparison.
pub(crate) fn failure_of(run: &BaseRun) -> Failure {
    Failure { why: run.why.clone(), exit_code: run.exit_code, lines: run.failures.clone().map(|lines| lines.0) }
}

/// The proof of the work as the result for its tree, which becomes the base when it lands.
pub(super) fn as_base(proof: &Proof, run: &ProofRun, failures: Option<StringList>, base_hash: &str) -> BaseRun {
    let passed = proof.outcome == CheckOutcome::Pass;
    BaseRun {
        tree_hash: proof.tree_hash.clone(),
        check_hash: base_hash.to_owned(),
        check_name: proof.check_name.clone(),
        commit_hash: proof.commit_hash.clone(),
        state: if passed { BaseState::Green } else { BaseState::Red },
        why: if passed { String::new() } else { run.why.clone() },
        exit_code: proof.exit_code,
        runs: 1,
        duration_ms: proof.duration_ms,
        output_sha256: proof.output_sha256.clone(),
        output_tail: proof.output_tail.clone(),
        proof_id: Some(proof.id.clone()),
        ran_at: proof.created_at,
        failures,
    }
}
