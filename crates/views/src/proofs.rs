//! How we know: what the gate's checks showed of an attempt, and what has been seen of it since.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use coord_db::{
    BaseRun, CheckRun, Error, Event, IdOf, PassingTest, Proof, ProofRun, ProofStage, ReadTx, Regression, RunOutcome, TestId,
    Timestamp, strip_cold_suffix,
};
use serde::Serialize;

use crate::ids;
use crate::sentence::short;
use crate::when::clock;

/// A proof with the run behind it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Proven {
    #[serde(flatten)]
    pub proof: Proof,
    pub run: Option<ProofRun>,
    /// What the same check showed at the base that the work was put on.
    pub base: Option<BaseRun>,
}

/// The proofs of a test, of one attempt or all, oldest first.
pub fn of_test(tx: &ReadTx<'_>, test: &TestId, attempt: Option<i64>) -> Result<Vec<Proven>, Error> {
    let mut runs: BTreeMap<String, ProofRun> =
        tx.proof_runs(test)?.into_iter().map(|run| (run.proof_id.clone(), run)).collect();
    let mut bases: BTreeMap<String, Vec<BaseRun>> = BTreeMap::new();
    let mut proofs = Vec::new();
    for proof in tx.proofs(test, attempt)? {
        let run = runs.remove(&proof.id);
        let tree = run.as_ref().and_then(|run| run.base_tree.clone());
        let base = match tree {
            Some(tree) => {
                let known = match bases.entry(tree) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let known = tx.base_runs(new.key())?;
                        new.insert(known)
                    }
                };
                known.iter().find(|base| base.check_name == proof.check_name).cloned()
            }
            None => None,
        };
        proofs.push(Proven { proof, run, base });
    }
    Ok(proofs)
}

/// The evidence behind an event that reports the end of an attempt.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Evidence {
    pub proofs: Vec<Proven>,
    /// The commits at which the test has been seen to pass.
    pub baselines: Vec<PassingTest>,
    /// What its checks showed on fresh clones without caches since it landed.
    pub cold: Vec<CheckRun>,
    pub regressions: Vec<Regression>,
}

/// The evidence behind a `test_passed` or `test_failed`; none for other events.
pub fn behind(tx: &ReadTx<'_>, event: &Event) -> Result<Option<Evidence>, Error> {
    let passed = event.event_type == "test_passed";
    if !passed && event.event_type != "test_failed" {
        return Ok(None);
    }
    let Some(test) = event.payload["test_id"].as_str().and_then(|id| id.parse::<TestId>().ok()) else { return Ok(None) };
    let mut proofs = of_test(tx, &test, event.payload["attempt"].as_i64())?;
    if let Some(commit) = event.payload["commit"].as_str() {
        // The proof that it failed before is of the base.
        let is_before = |proven: &Proven| proven.run.as_ref().is_some_and(|run| run.stage == ProofStage::RedBefore);
        // What landed inside of a batch was judged on another commit alone, and together on the last one of the batch.
        let landed = tx.landings_of(&test)?.into_iter().rev().find(|landing| landing.queued_at <= event.timestamp);
        let of_landing = |proven: &Proven| {
            landed.as_ref().is_some_and(|landing| !landing.proof.is_empty() && proven.proof.id.starts_with(&landing.proof))
        };
        proofs.retain(|proven| proven.proof.commit_hash == commit || is_before(proven) || of_landing(proven));
    } else {
        // Attempts that were given back have the number of the next one.
        proofs.retain(|proven| proven.proof.created_at <= event.timestamp);
    }
    let (baselines, regressions) = if passed {
        let regressions = tx.regressions(false)?.into_iter().filter(|row| row.test_id == test).collect();
        (tx.newest_baselines_of(&test, 3)?, regressions)
    } else {
        (Vec::new(), Vec::new())
    };
    let cold = if passed { cold_of(tx, &proofs, event.timestamp)? } else { Vec::new() };
    Ok(Some(Evidence { proofs, baselines, cold, regressions }))
}

/// The newest runs of the checks behind some proofs on fresh clones without caches, not before a moment.
pub fn cold_of(tx: &ReadTx<'_>, proofs: &[Proven], since: Timestamp) -> Result<Vec<CheckRun>, Error> {
    let mut runs = tx.cold_runs(since)?;
    runs.retain(|run| proofs.iter().any(|proven| strip_cold_suffix(&run.check_name) == Some(proven.proof.check_name.as_str())));
    Ok(runs)
}

/// A run on a fresh clone without caches, in words.
pub fn cold_words(run: &CheckRun) -> String {
    let check = strip_cold_suffix(&run.check_name).unwrap_or(&run.check_name);
    let how = match run.outcome {
        RunOutcome::Pass => "passed",
        RunOutcome::Fail => "failed",
        RunOutcome::Flaky => "failed once and then passed",
        RunOutcome::Error => "could not run",
    };
    format!("{check} {how} on a fresh clone without caches at {}, {}", short(&run.commit_hash), clock(run.ran_at))
}

/// The test and the commit of a landing that a commit or a proof names.
pub fn landing(tx: &ReadTx<'_>, given: &str) -> Result<Option<(TestId, String)>, Error> {
    let plain = given.len() >= 7 && given.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !plain {
        return Ok(None);
    }
    let mut proofs = tx.proofs_beginning(given)?;
    if proofs.is_empty()
        && let [id] = &ids::candidates(tx, IdOf::Proof, given)?[..]
    {
        proofs = tx.proofs_beginning(id)?;
    }
    if proofs.is_empty() {
        proofs = tx.proofs_of_commit(&given.to_ascii_lowercase())?;
    }
    Ok(proofs.pop().map(|proof| (proof.test_id, proof.commit_hash)))
}
