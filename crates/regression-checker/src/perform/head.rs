//! Runs one check at the head: a failure is confirmed by further runs, and then the check runs for each passed test.

use std::collections::BTreeSet;
use std::rc::Rc;

use coord_db::{Regression, RegressionStatus, RunOutcome, TestId};
use git::CommitHash;

use super::ask::{Asked, ask as ask_about, covered, order, repeated};
use super::{Note, NoteVerdict, Run, Runner, Why, error_text};
use crate::{Checked, ColdChecked, HeadCheck, TestVerdict};

/// Maximum number of baselines of a test that are compared with the head.
const MAX_BASELINES: usize = 50;

fn checked(outcome: RunOutcome, runs: i64, note: &Note) -> Checked {
    Checked { outcome, runs, message: note.message.clone(), output_tail: note.output_tail.clone(), tests: Vec::new() }
}

/// Runs the check. If it fails, runs it for single tests: as many as time allows, or, if it is known to fail, those in
/// doubt.
pub(super) async fn check(runner: &Rc<Runner>, steps: &HeadCheck) -> Result<Checked, Why> {
    let check = runner.check(&steps.check)?;
    let commit = CommitHash::new(&steps.commit).map_err(error_text)?;
    let retries = if steps.again { 0 } else { runner.config.regression.retries };
    let suite =
        async |n| runner.once(format!("suite/{n}"), Run { check, commit: &commit, test: None, slot: 0, is_cold: false }).await;
    let (outcome, runs, note) = repeated(retries, suite).await?;
    let mut result = checked(outcome, runs, &note);
    if outcome != RunOutcome::Fail {
        return Ok(result);
    }
    let mut tests = covered(runner, check).await?;
    if steps.again {
        let doubtful = in_doubt(runner, steps).await?;
        tests.retain(|test| doubtful.contains(&test.test_id));
    }
    let order = order(runner, check, &commit, tests, &note.output_tail).await?;
    let asked = ask_about(runner, check, &commit, order).await?;
    judge_all(runner, &commit, asked, &mut result).await?;
    Ok(result)
}

/// Runs the check on a fresh clone. If it fails, finds an earlier commit at which it passes there.
pub(super) async fn check_cold(runner: &Rc<Runner>, steps: &HeadCheck) -> Result<ColdChecked, Why> {
    let check = runner.check(&steps.check)?;
    let commit = CommitHash::new(&steps.commit).map_err(error_text)?;
    let run = async |key: String, commit: &CommitHash| {
        runner.once(key, Run { check, commit, test: None, slot: 0, is_cold: true }).await
    };
    let suite = async |n| run(format!("cold/{n}"), &commit).await;
    let (outcome, runs, note) = repeated(runner.config.regression.retries, suite).await?;
    let mut last_good = None;
    if outcome == RunOutcome::Fail {
        let (passed, makings) = runner.read(|tx| Ok((tx.last_cold_pass(&steps.check)?, tx.store_makings()?))).await?;
        let started = makings.into_iter().filter_map(|making| making.integration).next();
        for (known, has_passed) in passed.into_iter().map(|hash| (hash, true)).chain(started.map(|hash| (hash, false))) {
            let Some(good) = runner.repository().resolve(&known).map_err(error_text)? else { continue };
            let is_before = good != commit && runner.repository().is_ancestor(&good, &commit).map_err(error_text)?;
            // The check has never run at the commit at which the loops started.
            if is_before && (has_passed || run("cold/start".to_owned(), &good).await?.verdict == NoteVerdict::Pass) {
                last_good = Some(good.to_string());
                break;
            }
        }
    }
    let (message, output_tail, exit_code) = (note.message, note.output_tail, note.exit_code);
    Ok(ColdChecked { outcome, runs, message, exit_code, output_tail, last_good })
}

/// Runs a check that is known to fail for more tests.
pub(super) async fn ask(runner: &Rc<Runner>, steps: &HeadCheck) -> Result<Checked, Why> {
    let check = runner.check(&steps.check)?;
    let commit = CommitHash::new(&steps.commit).map_err(error_text)?;
    let known = runner.read(|tx| tx.check_run(&steps.check, &steps.commit)).await?;
    let output = known.map(|run| run.output_tail).unwrap_or_default();
    let done = runner.read(|tx| tx.baseline_runs_at(&steps.check, &steps.commit)).await?;
    let done: BTreeSet<TestId> = done.into_iter().map(|run| run.test_id).collect();
    let mut tests = covered(runner, check).await?;
    tests.retain(|test| !done.contains(&test.test_id));
    let order = order(runner, check, &commit, tests, &output).await?;
    let asked = ask_about(runner, check, &commit, order).await?;
    let none = Note {
        verdict: NoteVerdict::Fail,
        exit_code: None,
        message: format!("check {} fails", steps.check),
        output_tail: output,
    };
    let mut result = checked(RunOutcome::Fail, 0, &none);
    judge_all(runner, &commit, asked, &mut result).await?;
    Ok(result)
}

/// The tests whose result at a commit is in doubt: failed without a regression, flaky, or not judged.
async fn in_doubt(runner: &Runner, steps: &HeadCheck) -> Result<BTreeSet<TestId>, Why> {
    let open = runner.read(|tx| tx.regressions(true)).await?;
    let open: Vec<Regression> = open.into_iter().filter(|row| row.check_name == steps.check).collect();
    let is_open = |test: &TestId| open.iter().any(|row| row.test_id == *test);
    let runs = runner.read(|tx| tx.baseline_runs_at(&steps.check, &steps.commit)).await?;
    let runs = runs.iter().filter(|run| match run.outcome {
        RunOutcome::Pass => false,
        RunOutcome::Fail => !is_open(&run.test_id),
        RunOutcome::Flaky | RunOutcome::Error => true,
    });
    let open = open.iter().filter(|row| matches!(row.status, RegressionStatus::Regressed | RegressionStatus::Unknown));
    Ok(open.map(|row| row.test_id.clone()).chain(runs.map(|run| run.test_id.clone())).collect())
}

async fn judge_all(runner: &Runner, commit: &CommitHash, asked: Vec<Asked>, result: &mut Checked) -> Result<(), Why> {
    for one in asked {
        if one.outcome == RunOutcome::Error {
            // An error is neither pass nor fail: the results of the others count, and the check as a whole is in doubt.
            result.outcome = RunOutcome::Error;
            result.message.clone_from(&one.note.message);
        }
        if let Some(verdict) = verdict(runner, commit, one).await? {
            result.tests.push(verdict);
        }
    }
    Ok(())
}

async fn verdict(runner: &Runner, commit: &CommitHash, asked: Asked) -> Result<Option<TestVerdict>, Why> {
    let (mut last_good, mut landed_later) = (None, false);
    let baselines = runner.read(|tx| tx.newest_baselines_of(&asked.test.test_id, MAX_BASELINES)).await?;
    let Some(newest) = baselines.first() else { return Ok(None) };
    let fails = matches!(asked.outcome, RunOutcome::Fail | RunOutcome::Flaky);
    for baseline in baselines.iter().filter(|_| fails) {
        // An external tool may have written an abbreviated hash or a missing commit.
        let Some(known) = runner.repository().resolve(&baseline.commit_hash).map_err(error_text)? else { continue };
        if known == *commit {
            // It has passed and fails at the same commit, so no earlier commit is to blame.
            break;
        }
        if runner.repository().is_ancestor(&known, commit).map_err(error_text)? {
            last_good = Some(known.to_string());
            break;
        }
        landed_later |= runner.repository().is_ancestor(commit, &known).map_err(error_text)?;
    }
    // The test landed while the check ran: this commit does not contain it; the next head decides.
    let too_early = fails && last_good.is_none() && landed_later;
    Ok(Some(TestVerdict {
        landed_again: if asked.outcome == RunOutcome::Fail { landed_again(runner, commit, &asked).await? } else { None },
        outcome: if too_early { RunOutcome::Error } else { asked.outcome },
        runs: asked.runs,
        last_good,
        newest_baseline: newest.commit_hash.clone(),
        exit_code: asked.note.exit_code,
        output_tail: asked.note.output_tail,
        test: asked.test.test_id,
    }))
}

/// The commit with which the test blamed for a regression has landed again, if it is in this commit's history. Only a
/// landing after the failure was detected counts, because one attempt may have several commits.
async fn landed_again(runner: &Runner, commit: &CommitHash, asked: &Asked) -> Result<Option<String>, Why> {
    let landed = runner
        .read(|tx| {
            let open = tx.regressions(true)?.into_iter().filter(|row| row.status == RegressionStatus::Regressed);
            let Some(row) = open.into_iter().find(|row| row.test_id == asked.test.test_id) else { return Ok(None) };
            let Some(blamed) = &row.blamed_test else { return Ok(None) };
            let again = tx.find_test(blamed)?.filter(|test| test.verified_at.is_some_and(|landed| landed > row.detected_at));
            Ok(again.and_then(|test| test.commit_hash).filter(|hash| row.first_bad_commit.as_ref() != Some(hash)))
        })
        .await?;
    let Some(landed) = landed else { return Ok(None) };
    match runner.repository().resolve(&landed).map_err(error_text)? {
        Some(hash) if runner.repository().is_ancestor(&hash, commit).map_err(error_text)? => Ok(Some(landed)),
        _ => Ok(None),
    }
}
