//! Records the outcome of an effect in one transaction: runs, baselines, regressions, events and alerts.

mod cold;

use std::collections::BTreeMap;

use coord_db::config::CheckConfig;
use coord_db::payload::{RegressionCleared, RegressionDetected};
use coord_db::{
    ActorId, AlertType, Config, EventFilter, EventId, JournalEntry, LoopId, NewAlert, NewEvent, Regression, RegressionStatus,
    Result, RunOutcome, Severity, TestId, WriteTx,
};
use serde::Deserialize;
use serde_json::json;

use crate::decide::{CHECK_ERROR, CHECK_FAILS, FLAKY, MAX_FAILED_ROUNDS, about_check, about_test};
use crate::notes::{ASK_TESTS, BISECT, CHECK_COLD, CHECK_HEAD};
use crate::perform::without_progress;
use crate::snapshot::some_unasked;
use crate::{
    BisectNotes, BisectRound, Checked, ColdChecked, Found, HeadCheck, ID, Outcome, TestVerdict, baseline_check,
    baseline_checks, covers_category,
};

/// Number of baselines kept for a test as they advance with the branch.
const KEPT_BASELINES: usize = 20;

/// Completes the journal entry and stores the consequences of the outcome. A completed entry is ignored.
pub(crate) fn record(config: &Config, tx: &WriteTx<'_>, entry: &JournalEntry, outcome: &Outcome) -> Result<()> {
    if !tx.is_operation_open(&entry.id)? {
        return Ok(());
    }
    let steps = without_progress(&entry.steps.intent);
    tx.update_steps(&entry.id, &steps)?;
    tx.end_operation(&entry.id, !matches!(outcome, Outcome::Failed(_)))?;
    if let Outcome::Failed(why) = outcome {
        tracing::warn!(operation = entry.operation, why, "an operation failed");
    }
    match entry.operation.as_str() {
        CHECK_HEAD | ASK_TESTS => {
            let Ok(steps) = HeadCheck::deserialize(&steps) else { return Ok(()) };
            let failed;
            let checked = match outcome {
                Outcome::Checked(checked) => checked,
                Outcome::Failed(why) => {
                    failed = Checked {
                        outcome: RunOutcome::Error,
                        runs: 0,
                        message: format!("check {} could not be run: {why}", steps.check),
                        output_tail: String::new(),
                        tests: Vec::new(),
                    };
                    &failed
                }
                Outcome::Round(_) | Outcome::Cold(_) => return Ok(()),
            };
            // The check may have been removed from the settings meanwhile.
            let Some(check) = baseline_check(config, &steps.check) else { return Ok(()) };
            let more = entry.operation == ASK_TESTS && checked.outcome == RunOutcome::Fail;
            HeadRecord::load(config, tx, check, &steps)?.checked(checked, more)
        }
        CHECK_COLD => {
            let Ok(steps) = HeadCheck::deserialize(&steps) else { return Ok(()) };
            let failed;
            let checked = match outcome {
                Outcome::Cold(checked) => checked,
                Outcome::Failed(why) => {
                    let message = format!("check {} could not be run: {why}", steps.check);
                    let (outcome, runs, exit_code, last_good) = (RunOutcome::Error, 0, None, None);
                    failed = ColdChecked { outcome, runs, message, exit_code, output_tail: String::new(), last_good };
                    &failed
                }
                Outcome::Checked(_) | Outcome::Round(_) => return Ok(()),
            };
            match baseline_check(config, &steps.check) {
                Some(check) => cold::record(tx, check, &steps, checked),
                None => Ok(()),
            }
        }
        BISECT => match BisectRound::deserialize(&steps) {
            Ok(steps) => round(tx, &steps, outcome),
            Err(_) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// The result of a check at a commit, applied to the tests that it covers.
struct HeadRecord<'a, 'tx> {
    config: &'a Config,
    tx: &'a WriteTx<'tx>,
    check: &'a CheckConfig,
    steps: &'a HeadCheck,
    /// The tests with a baseline that the check covers, and their categories.
    users: BTreeMap<TestId, String>,
    open: Vec<Regression>,
    /// The outcomes of the other checks at the commit.
    others: BTreeMap<&'a str, Option<RunOutcome>>,
}

impl<'a, 'tx> HeadRecord<'a, 'tx> {
    fn load(config: &'a Config, tx: &'a WriteTx<'tx>, check: &'a CheckConfig, steps: &'a HeadCheck) -> Result<Self> {
        let users = tx.baseline_tests()?.into_iter().filter(|test| covers_category(check, &test.category));
        let mut others = BTreeMap::new();
        for other in baseline_checks(config).filter(|other| other.name != check.name) {
            others.insert(other.name.as_str(), tx.check_run(&other.name, &steps.commit)?.map(|run| run.outcome));
        }
        Ok(Self {
            config,
            tx,
            check,
            steps,
            users: users.map(|test| (test.test_id, test.category)).collect(),
            // Regressions on fresh clones are resolved by runs on fresh clones.
            open: tx
                .regressions(true)?
                .into_iter()
                .filter(|row| coord_db::strip_cold_suffix(&row.check_name).is_none())
                .collect(),
            others,
        })
    }

    /// `more`: the check ran only for single tests; its own outcome is unchanged.
    fn checked(mut self, checked: &Checked, more: bool) -> Result<()> {
        let (tx, name) = (self.tx, self.check.name.as_str());
        if more {
            checked.tests.iter().try_for_each(|verdict| self.judged(verdict))?;
            return self.explain(checked);
        }
        tx.record_check_run(name, &self.steps.commit, checked.outcome, checked.runs, &checked.output_tail)?;
        tracing::info!(check = name, commit = self.steps.commit, outcome = %checked.outcome, "a check was run");
        if checked.outcome == RunOutcome::Error {
            self.alert(CHECK_ERROR, Severity::Warning, checked, "what it checks is unknown until it can be run")?;
        } else {
            tx.close_alert(&about_check(CHECK_ERROR, name))?;
        }
        checked.tests.iter().try_for_each(|verdict| self.judged(verdict))?;
        match checked.outcome {
            RunOutcome::Pass => {
                tx.close_alert(&about_check(FLAKY, name))?;
                let open = self.open.iter().filter(|row| row.check_name == name).map(|row| row.test_id.clone());
                let mut tests: Vec<TestId> = self.users.keys().cloned().chain(open).collect();
                tests.sort();
                tests.dedup();
                tests.iter().try_for_each(|test| self.passes(test))?;
                tx.record_baseline_passes(name, &self.steps.commit)?;
            }
            RunOutcome::Flaky => {
                self.alert(FLAKY, Severity::Info, checked, "it failed and then passed at the same commit")?;
            }
            RunOutcome::Fail | RunOutcome::Error => {}
        }
        self.explain(checked)
    }

    /// Reports a failure that is caused by no single test, once the check has run for each of them.
    fn explain(&self, checked: &Checked) -> Result<()> {
        let (tx, name) = (self.tx, self.check.name.as_str());
        let runs = tx.baseline_runs_at(name, &self.steps.commit)?;
        let explained =
            self.open.iter().any(|row| row.check_name == name) || runs.iter().any(|run| run.outcome != RunOutcome::Pass);
        if checked.outcome != RunOutcome::Fail || explained {
            tx.close_alert(&about_check(CHECK_FAILS, name)).map(drop)
        } else if some_unasked(tx, self.check, &self.steps.commit)? {
            Ok(())
        } else {
            self.alert(CHECK_FAILS, Severity::Warning, checked, "it passes for each test that is done")
        }
    }

    fn alert(&self, kind: &str, severity: Severity, checked: &Checked, meaning: &str) -> Result<()> {
        let (name, commit) = (&self.check.name, &self.steps.commit);
        let why = if checked.message.is_empty() { format!("check {name} was run") } else { checked.message.clone() };
        self.tx.raise_alert(&NewAlert {
            fingerprint: about_check(kind, name),
            severity,
            alert_type: AlertType::Regression,
            source: ID.to_owned(),
            message: format!("{why} at {}; {meaning}", short(commit)),
            context: json!({ "kind": kind, "check": name, "commit": commit, "output_tail": checked.output_tail }),
            event_id: None,
        })?;
        Ok(())
    }

    /// Records the result of the check for one test.
    fn judged(&mut self, verdict: &TestVerdict) -> Result<()> {
        let (name, commit) = (&self.check.name, &self.steps.commit);
        self.tx.record_baseline_run(name, &verdict.test, commit, verdict.outcome, verdict.runs)?;
        match verdict.outcome {
            RunOutcome::Pass => self.passes(&verdict.test),
            RunOutcome::Fail => self.fails(verdict),
            RunOutcome::Flaky => self.flaky(verdict),
            RunOutcome::Error => Ok(()),
        }
    }

    /// Records a flaky test. A suspicion about it without a blamed commit is dropped.
    fn flaky(&mut self, verdict: &TestVerdict) -> Result<()> {
        let (tx, name, commit) = (self.tx, &self.check.name, &self.steps.commit);
        let known = self.open.iter().position(|row| row.test_id == verdict.test && row.check_name == *name);
        tracing::info!(test = %verdict.test, check = name, commit, "a test is flaky");
        match known {
            Some(at) if self.open[at].first_bad_commit.is_none() && self.open[at].event_id.is_none() => {
                let row = self.open.remove(at);
                tx.update_regression(&Regression { status: RegressionStatus::Flaky, ..row })
            }
            Some(_) => Ok(()),
            None => {
                let last_good = verdict.last_good.as_ref().unwrap_or(&verdict.newest_baseline);
                tx.record_flaky(&verdict.test, name, last_good, commit, &verdict.output_tail)
            }
        }
    }

    /// Records the failure of a test that had passed: opens a suspicion, unless there is one.
    fn fails(&mut self, verdict: &TestVerdict) -> Result<()> {
        let (tx, name, commit) = (self.tx, &self.check.name, &self.steps.commit);
        let known = self.open.iter().position(|row| row.test_id == verdict.test && row.check_name == *name);
        let mut still = None;
        if let Some(at) = known {
            let again = verdict.landed_again.as_ref().filter(|_| self.open[at].status == RegressionStatus::Regressed);
            let Some(again) = again else { return Ok(()) };
            let row = self.open.remove(at);
            let first = row.first_bad_commit.clone().unwrap_or_default();
            still = Some(format!(
                "commit {}, which broke it, was done again in {}, and the test still fails: the new commit does not repair \
                 it, or another commit has broken it too",
                short(&first),
                short(again)
            ));
            tx.update_regression(&Regression { status: RegressionStatus::Cleared, ..row })?;
        }
        let last_good = verdict.last_good.as_ref().unwrap_or(&verdict.newest_baseline);
        let id = tx.add_regression(&verdict.test, name, last_good, commit, &verdict.output_tail)?;
        let Some(mut row) = tx.regression(&id)? else { return Ok(()) };
        tracing::warn!(test = %verdict.test, check = name, commit, "a passed test fails");
        let notes = BisectNotes { exit_code: verdict.exit_code, ..BisectNotes::default() };
        if let Some(why) = still {
            // A bisection would find every later commit bad for the first reason.
            settle(tx, row.clone(), notes, &Found::Unknown { why, suspects: Vec::new() })?;
        } else if verdict.last_good.is_some() {
            row.status = RegressionStatus::Bisecting;
            row.bisect = Some(notes.to_value());
            tx.update_regression(&row)?;
        } else {
            let why = "no commit at which it passed is an ancestor of the failing commit".to_owned();
            settle(tx, row.clone(), notes, &Found::Unknown { why, suspects: Vec::new() })?;
        }
        self.open.push(row);
        Ok(())
    }

    /// Records that the check passes for a test: its regression is cleared, and if all its checks pass its baseline
    /// advances.
    fn passes(&mut self, test: &TestId) -> Result<()> {
        let category = match self.users.get(test) {
            Some(category) => category.clone(),
            None => self.tx.find_test(test.as_str())?.map(|row| row.category).unwrap_or_default(),
        };
        let all = self.passes_all(test, &category);
        if all && self.users.contains_key(test) {
            self.tx.advance_baseline(test, &self.steps.commit, KEPT_BASELINES)?;
        }
        let config = self.config;
        let applied = |name: &str| baseline_check(config, name).is_some_and(|check| covers_category(check, &category));
        let over = |row: &Regression| {
            row.test_id == *test && (row.check_name == self.check.name || (all && !applied(&row.check_name)))
        };
        let (over, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open).into_iter().partition(over);
        self.open = open;
        let mut detected = None;
        for row in &over {
            detected = row.event_id.clone().or(detected);
            self.tx.update_regression(&Regression { status: RegressionStatus::Cleared, ..row.clone() })?;
        }
        if over.is_empty() || self.open.iter().any(|row| row.test_id == *test) {
            return Ok(());
        }
        // A regression that was never reported needs no event.
        if detected.is_some() {
            tracing::info!(%test, commit = self.steps.commit, "a regressed test passes again");
            let payload = RegressionCleared { test_id: test.clone(), commit: self.steps.commit.clone() };
            self.tx.publish(&NewEvent::new(own()?, payload).caused_by_id(detected))?;
        }
        self.tx.close_alert(&about_test(test.as_str())).map(drop)
    }

    /// True if all checks that cover the test pass for it at this commit.
    fn passes_all(&self, test: &TestId, category: &str) -> bool {
        baseline_checks(self.config).filter(|check| check.name != self.check.name && covers_category(check, category)).all(
            |check| {
                match self.others.get(check.name.as_str()) {
                    Some(Some(RunOutcome::Pass)) => true,
                    // It fails because of other tests: each test for which it fails has a regression.
                    Some(Some(RunOutcome::Fail)) => {
                        !self.open.iter().any(|row| row.test_id == *test && row.check_name == check.name)
                    }
                    _ => false,
                }
            },
        )
    }
}

fn round(tx: &WriteTx<'_>, steps: &BisectRound, outcome: &Outcome) -> Result<()> {
    let Some(mut row) = tx.regression(&steps.regression)? else { return Ok(()) };
    let mut notes = BisectNotes::of(&row);
    let suspected = matches!(row.status, RegressionStatus::Suspected | RegressionStatus::Bisecting);
    // The regression was resolved meanwhile, or the round is outdated.
    if row.resolved_at.is_some() || !suspected || notes.rounds != steps.round {
        return Ok(());
    }
    notes.at = Some(tx.now());
    let why = match outcome {
        Outcome::Round(round) if round.found.is_some() || !round.tried.is_empty() => {
            notes.rounds += round.rounds;
            notes.runs += round.runs;
            notes.failures = 0;
            notes.tried.extend(round.tried.iter().cloned());
            if let Some(found) = &round.found {
                return settle(tx, row, notes, found);
            }
            None
        }
        Outcome::Failed(why) => Some(why.clone()),
        Outcome::Round(_) | Outcome::Checked(_) | Outcome::Cold(_) => Some("the round had no result".to_owned()),
    };
    if let Some(why) = why {
        notes.failures += 1;
        if notes.failures >= MAX_FAILED_ROUNDS {
            return settle(tx, row, notes, &Found::Unknown { why, suspects: Vec::new() });
        }
    }
    row.status = RegressionStatus::Bisecting;
    row.bisect = Some(notes.to_value());
    tx.update_regression(&row)
}

/// Ends a suspicion: a commit is blamed, or the cause is unknown. Reported once for each test and first bad commit.
pub(crate) fn settle(tx: &WriteTx<'_>, mut row: Regression, mut notes: BisectNotes, found: &Found) -> Result<()> {
    let (mut blamed_loop, mut blamed_test) = (None, None);
    match found {
        Found::FirstBad { commit, blamed_loop: by, blamed_test: with } => {
            row.status = RegressionStatus::Regressed;
            (blamed_loop, blamed_test) = (by.clone(), with.clone());
            row.blamed_loop = by.as_ref().map(ToString::to_string);
            row.blamed_test = with.as_ref().map(ToString::to_string);
            let known = tx.regression_since(&row.test_id, commit.as_str())?.filter(|known| known.id != row.id);
            notes.ended = Some(format!("{commit} is the first bad commit"));
            if let Some(known) = known {
                // Another check has found this commit, or the regression has returned: the row stays open without
                // another event.
                notes.ended = Some(format!("{commit} is the first bad commit, as in regression {}", known.id));
                row.event_id = row.event_id.or(known.event_id);
            } else {
                row.first_bad_commit = Some(commit.to_string());
            }
            notes.suspects = vec![commit.to_string()];
        }
        Found::Flaky { why } => {
            row.status = RegressionStatus::Flaky;
            notes.ended = Some(why.clone());
            row.bisect = Some(notes.to_value());
            tracing::info!(test = %row.test_id, check = row.check_name, why, "a test is flaky");
            // The check runs for it again while it fails at this commit.
            let runs = tx.baseline_runs_at(&row.check_name, &row.bad_commit)?;
            if let Some(run) = runs.iter().find(|run| run.test_id == row.test_id) {
                tx.record_baseline_run(&row.check_name, &row.test_id, &row.bad_commit, RunOutcome::Flaky, run.runs)?;
            }
            return tx.update_regression(&row);
        }
        Found::Unknown { why, suspects } => {
            row.status = RegressionStatus::Unknown;
            notes.ended = Some(why.clone());
            notes.suspects = suspects.iter().map(ToString::to_string).collect();
        }
    }
    row.bisect = Some(notes.to_value());
    if row.event_id.is_none() {
        row.event_id = Some(publish_detected(tx, &row, blamed_loop, blamed_test)?);
    }
    tx.update_regression(&row)?;
    alert(tx, &row, &notes)
}

fn publish_detected(
    tx: &WriteTx<'_>,
    row: &Regression,
    blamed_loop: Option<LoopId>,
    blamed_test: Option<TestId>,
) -> Result<EventId> {
    let mut cause = None;
    if let Some(test) = &blamed_test {
        let newest = EventFilter {
            event_type: Some("test_passed".to_owned()),
            test_id: Some(test.to_string()),
            limit: Some(1),
            ..EventFilter::default()
        };
        cause = tx.events(&newest)?.pop();
    }
    let payload = RegressionDetected {
        test_id: row.test_id.clone(),
        last_passed_commit: row.last_good_commit.clone(),
        current_commit: row.bad_commit.clone(),
        first_bad_commit: row.first_bad_commit.clone(),
        blamed_loop,
        blamed_test,
        output_tail: row.output_tail.clone(),
    };
    tx.publish(&NewEvent::new(own()?, payload).caused_by_opt(cause.as_ref()))
}

fn alert(tx: &WriteTx<'_>, row: &Regression, notes: &BisectNotes) -> Result<()> {
    let where_from = match (row.status, notes.suspects.as_slice()) {
        (RegressionStatus::Regressed, [commit, ..]) => format!("since {}", short(commit)),
        _ => format!("since a commit after {}", short(&row.last_good_commit)),
    };
    let whose = match (row.status, &row.blamed_loop, &row.blamed_test) {
        (RegressionStatus::Regressed, Some(by), Some(test)) => format!(", by {by} for {test}"),
        (RegressionStatus::Regressed, Some(by), None) => format!(", by {by}"),
        (RegressionStatus::Regressed, None, _) => ", which is not by a loop".to_owned(),
        _ => format!(": {}", notes.ended.as_deref().unwrap_or("unknown")),
    };
    let message = format!("passed test {} fails check {} {where_from}{whose}", row.test_id, row.check_name);
    tracing::warn!("{message}");
    tx.raise_alert(&NewAlert {
        fingerprint: about_test(row.test_id.as_str()),
        severity: Severity::Error,
        alert_type: AlertType::Regression,
        source: ID.to_owned(),
        message,
        context: json!({
            "kind": "regression", "test_id": row.test_id, "check": row.check_name, "regression_id": row.id,
            "last_passed_commit": row.last_good_commit, "current_commit": row.bad_commit,
            "first_bad_commit": row.first_bad_commit, "blamed_loop": row.blamed_loop, "blamed_test": row.blamed_test,
            "suspects": notes.suspects,
        }),
        event_id: row.event_id.clone(),
    })?;
    Ok(())
}

fn own() -> Result<ActorId> {
    ID.parse()
}

/// The abbreviated commit; the commit of an external tool may be any text.
fn short(commit: &str) -> String {
    commit.chars().take(12).collect()
}
