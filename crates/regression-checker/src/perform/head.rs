//! One check at the head: run, believed only after it has failed again, then asked about each test that had passed.

use std::rc::Rc;

use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, RunOutcome, TestId};
use work_tree::CommitHash;

use super::{Note, NoteVerdict, Run, Runner, Why, said};
use crate::{Checked, HeadCheck, TestVerdict, applies};

/// How many baselines of a test are looked at to find one that the head contains.
const MOST_BASELINES: usize = 50;
/// Among how many of the newest runs a flaky one makes a check's word doubtful.
pub(super) const FLAKY_AMONG: usize = 100;

fn checked(outcome: RunOutcome, runs: i64, note: &Note) -> Checked {
    Checked { outcome, runs, message: note.message.clone(), output_tail: note.output_tail.clone(), tests: Vec::new() }
}

pub(super) async fn check(runner: &Rc<Runner>, steps: &HeadCheck) -> Result<Checked, Why> {
    let check = runner.check(&steps.check)?;
    let commit = CommitHash::new(&steps.commit).map_err(said)?;
    let suite = |n: u32| runner.once(format!("suite/{n}"), Run { check, commit: &commit, test: None, slot: 0 });
    let first = suite(0).await?;
    match first.verdict {
        NoteVerdict::Pass => return Ok(checked(RunOutcome::Pass, 1, &first)),
        NoteVerdict::Error => return Ok(checked(RunOutcome::Error, 1, &first)),
        NoteVerdict::Fail if steps.again => return Ok(checked(RunOutcome::Fail, 1, &first)),
        NoteVerdict::Fail => {}
    }
    let retries = runner.config.regression.retries;
    let mut last = first.clone();
    for n in 1..=retries {
        last = suite(n).await?;
        match last.verdict {
            NoteVerdict::Pass => return Ok(checked(RunOutcome::Flaky, i64::from(n) + 1, &first)),
            NoteVerdict::Error => return Ok(checked(RunOutcome::Error, i64::from(n) + 1, &last)),
            NoteVerdict::Fail => {}
        }
    }
    let mut result = checked(RunOutcome::Fail, i64::from(retries) + 1, &last);
    let users = runner.read(|tx| tx.baseline_tests())?;
    let doubtful = runner.read(|tx| tx.was_flaky(&check.name, FLAKY_AMONG))?;
    let users = users.iter().filter(|test| applies(check, &test.category) && test.test_id.as_str().parse::<TestId>().is_ok());
    for test in users {
        let note = ask_about(runner, check, &commit, test, if doubtful { retries } else { 0 }).await?;
        let fails = match note.verdict {
            NoteVerdict::Pass => false,
            NoteVerdict::Fail => true,
            NoteVerdict::Error => {
                // Neither: what is known of the others counts, and the check as a whole is in doubt.
                result.outcome = RunOutcome::Error;
                result.message = note.message;
                continue;
            }
        };
        if let Some(verdict) = verdict(runner, &commit, test, fails, note)? {
            result.tests.push(verdict);
        }
    }
    Ok(result)
}

/// Asks the check about one test; a failure of a doubtful check again.
async fn ask_about(
    runner: &Rc<Runner>,
    check: &CheckConfig,
    commit: &CommitHash,
    test: &BaselineTest,
    retries: u32,
) -> Result<Note, Why> {
    let mut n = 0;
    loop {
        let key = format!("test/{}/{n}", test.test_id);
        let note = runner.once(key, Run { check, commit, test: Some(test), slot: 0 }).await?;
        if note.verdict != NoteVerdict::Fail || n == retries {
            return Ok(note);
        }
        n += 1;
    }
}

fn verdict(
    runner: &Runner,
    commit: &CommitHash,
    test: &BaselineTest,
    fails: bool,
    note: Note,
) -> Result<Option<TestVerdict>, Why> {
    let (mut last_good, mut landed_later) = (None, false);
    let baselines = runner.read(|tx| tx.newest_baselines_of(&test.test_id, MOST_BASELINES))?;
    let Some(newest) = baselines.first() else { return Ok(None) };
    for baseline in baselines.iter().filter(|_| fails) {
        // Another tool may have written a short hash, or a commit that is gone.
        let Some(known) = runner.repository.resolve(&baseline.commit_hash).map_err(said)? else { continue };
        if known == *commit {
            // It passed and fails at one commit, so no earlier one is to blame.
            break;
        }
        if runner.repository.is_ancestor(&known, commit).map_err(said)? {
            last_good = Some(known.to_string());
            break;
        }
        landed_later |= runner.repository.is_ancestor(commit, &known).map_err(said)?;
    }
    if fails && last_good.is_none() && landed_later {
        // The test landed while the check ran: this commit never had it, and the next head will tell.
        return Ok(None);
    }
    Ok(Some(TestVerdict {
        test: test.test_id.clone(),
        fails,
        last_good,
        newest_baseline: newest.commit_hash.clone(),
        exit_code: note.exit_code,
        output_tail: note.output_tail,
    }))
}
