//! Records the result of a check on a fresh clone without caches: a proof, or, if it fails only there, a suspicion.

use coord_db::config::CheckConfig;
use coord_db::payload::RegressionCleared;
use coord_db::{
    AlertType, NewAlert, NewEvent, Regression, RegressionStatus, Result, RunOutcome, Severity, TestId, WriteTx, cold_name,
};
use serde_json::json;

use super::{own, settle, short};
use crate::decide::{COLD, about_check, about_test};
use crate::{BisectNotes, ColdChecked, Found, HeadCheck, ID, covers_category};

pub(super) fn record(tx: &WriteTx<'_>, check: &CheckConfig, steps: &HeadCheck, checked: &ColdChecked) -> Result<()> {
    let name = cold_name(&check.name);
    tx.record_check_run(&name, &steps.commit, checked.outcome, checked.runs, &checked.output_tail)?;
    tracing::info!(check = check.name, commit = steps.commit, outcome = %checked.outcome, "check run on a fresh clone");
    let mut open = tx.regressions(true)?;
    open.retain(|row| row.check_name == name);
    match checked.outcome {
        RunOutcome::Pass => {
            tx.close_alert(&about_check(COLD, &check.name))?;
            open.into_iter().try_for_each(|row| clear(tx, row, steps))
        }
        RunOutcome::Flaky => Ok(()),
        RunOutcome::Error => alert(tx, check, steps, checked, "its result without caches is unknown"),
        RunOutcome::Fail => {
            // A failure that also occurs with caches is reported as such.
            let warm = tx.check_run(&check.name, &steps.commit)?.map(|run| run.outcome);
            if warm != Some(RunOutcome::Pass) {
                return Ok(());
            }
            alert(tx, check, steps, checked, "it fails on a fresh clone without caches, and passes with them")?;
            if open.is_empty() { suspect(tx, check, steps, checked) } else { Ok(()) }
        }
    }
}

fn clear(tx: &WriteTx<'_>, row: Regression, steps: &HeadCheck) -> Result<()> {
    let (test, detected) = (row.test_id.clone(), row.event_id.clone());
    tx.update_regression(&Regression { status: RegressionStatus::Cleared, ..row })?;
    if detected.is_some() {
        let payload = RegressionCleared { test_id: test.clone(), commit: steps.commit.clone() };
        tx.publish(&NewEvent::new(own()?, payload).caused_by_id(detected))?;
    }
    if tx.regressions(true)?.iter().all(|row| row.test_id != test) {
        tx.close_alert(&about_test(test.as_str()))?;
    }
    Ok(())
}

fn alert(tx: &WriteTx<'_>, check: &CheckConfig, steps: &HeadCheck, checked: &ColdChecked, meaning: &str) -> Result<()> {
    tx.raise_alert(&NewAlert {
        fingerprint: about_check(COLD, &check.name),
        severity: Severity::Warning,
        alert_type: AlertType::Regression,
        source: ID.to_owned(),
        message: format!("{} at {}; {meaning}", checked.message, short(&steps.commit)),
        context: json!({ "kind": COLD, "check": check.name, "commit": steps.commit, "output_tail": checked.output_tail }),
        event_id: None,
    })?;
    Ok(())
}

/// Starts a bisection for the commit since which it fails. It is stored for the last landed test that the check covers;
/// the check's result is the same for all of them.
fn suspect(tx: &WriteTx<'_>, check: &CheckConfig, steps: &HeadCheck, checked: &ColdChecked) -> Result<()> {
    let users: Vec<TestId> = tx
        .baseline_tests()?
        .into_iter()
        .filter(|test| covers_category(check, &test.category))
        .map(|test| test.test_id)
        .collect();
    let newest = tx.newest_baselines()?.into_iter().filter(|row| users.contains(&row.test_id)).max_by_key(|row| row.passed_at);
    let Some(newest) = newest else { return Ok(()) };
    let last_good = checked.last_good.as_ref().unwrap_or(&newest.commit_hash);
    let id = tx.add_regression(&newest.test_id, &cold_name(&check.name), last_good, &steps.commit, &checked.output_tail)?;
    let Some(mut row) = tx.regression(&id)? else { return Ok(()) };
    let notes = BisectNotes { exit_code: checked.exit_code, ..BisectNotes::default() };
    if checked.last_good.is_none() {
        let why = "no earlier commit is known at which it passes on a fresh clone".to_owned();
        return settle(tx, row, notes, &Found::Unknown { why, suspects: Vec::new() });
    }
    row.status = RegressionStatus::Bisecting;
    row.bisect = Some(notes.to_value());
    tx.update_regression(&row)
}
