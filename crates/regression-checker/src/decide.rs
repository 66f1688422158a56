//! Decides what to run next and which alerts to close. Pure.
//!
//! One effect runs at a time. Checks of a new head and bisections alternate, so that neither a branch that moves
//! constantly nor many regressions delay the other forever.

mod cold;
pub mod search;

use coord_db::{Config, RegressionStatus, RunOutcome, Timestamp};
use supervisor::Plan;

use crate::notes::HeadCheck;
use crate::snapshot::{LOST, UNCHECKED};
use crate::{BisectRound, OpenRegression, RegressionSnapshot, baseline_check, baseline_checks, searched_check};

/// Number of consecutive rounds that could not run after which a bisection is given up.
pub const MAX_FAILED_ROUNDS: u32 = 3;

/// One action of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Record the intent to run a check at the head.
    CheckHead {
        /// The steps.
        steps: HeadCheck,
        /// The reason.
        reason: &'static str,
    },
    /// Record the intent to run a failing check for more tests.
    AskTests {
        /// The steps.
        steps: HeadCheck,
    },
    /// Record the intent to run a round of a bisection.
    Bisect {
        /// The steps.
        steps: BisectRound,
    },
    /// Record the intent to run a check on a fresh clone without caches.
    CheckCold {
        /// The steps.
        steps: HeadCheck,
    },
    /// End a suspicion that can no longer be followed; its cause is reported as unknown.
    GiveUp {
        /// The regression.
        regression: String,
        /// The reason.
        why: String,
    },
    /// Report passed tests that are not checked again.
    ReportUnchecked(String),
    /// Report passed tests that are no longer on the integration branch.
    ReportLost(String),
    /// Close an alert whose cause no longer exists.
    CloseAlert {
        /// Fingerprint of the alert.
        fingerprint: String,
        /// The reason.
        why: &'static str,
    },
}

/// Fingerprint of the alert about a test that has regressed.
pub(crate) fn about_test(test: &str) -> String {
    format!("regression:{test}")
}

/// Fingerprint of an alert about a check: it cannot run, is flaky, or fails for no single test.
pub(crate) fn about_check(kind: &str, check: &str) -> String {
    format!("{kind}:{check}")
}

/// The kinds of alerts about a check.
pub(crate) const CHECK_ERROR: &str = "check_error";
pub(crate) const FLAKY: &str = "flaky";
pub(crate) const CHECK_FAILS: &str = "check_fails";
pub(crate) const COLD: &str = "cold";

/// Decides.
#[must_use]
pub fn decide(config: &Config, at: &RegressionSnapshot) -> Plan<Action> {
    let mut plan = Plan::default();
    close_alerts(config, at, &mut plan);
    match (&at.unchecked, &at.unchecked_alert) {
        (Some(now), before) if before.as_ref() != Some(now) => plan.act(Action::ReportUnchecked(now.clone())),
        (None, Some(_)) => {
            plan.act(Action::CloseAlert { fingerprint: UNCHECKED.to_owned(), why: "all passed tests are checked again" });
        }
        _ => {}
    }
    match (&at.lost, &at.lost_alert) {
        (Some(now), before) if before.as_ref() != Some(now) => plan.act(Action::ReportLost(now.clone())),
        (None, Some(_)) => {
            plan.act(Action::CloseAlert {
                fingerprint: LOST.to_owned(),
                why: "every passed test is on the integration branch",
            });
        }
        _ => {}
    }
    for row in at.open.iter().filter(|row| is_suspicion(row)) {
        if searched_check(config, &row.check).is_none() {
            let why = format!("the settings have no check {:?} with baseline = true", row.check);
            plan.act(Action::GiveUp { regression: row.id.clone(), why });
        }
    }
    let Some(head) = at.head.as_ref().filter(|_| !at.busy) else { return plan };
    let check = due_check(config, at, head, &mut plan);
    let bisect = due_bisect(config, at, &mut plan);
    let last_round = at.open.iter().filter_map(|row| row.round_at).max();
    match (check, bisect) {
        (Some(_), Some(bisect)) if at.last_check_at >= last_round => plan.act(bisect),
        (Some(check), _) => plan.act(check),
        (None, Some(bisect)) => plan.act(bisect),
        (None, None) => {
            if let Some(cold) = cold::due(config, at, head, &mut plan) {
                plan.act(cold);
            }
        }
    }
    plan
}

fn is_suspicion(row: &OpenRegression) -> bool {
    matches!(row.status, RegressionStatus::Suspected | RegressionStatus::Bisecting)
}

fn close_alerts(config: &Config, at: &RegressionSnapshot, plan: &mut Plan<Action>) {
    for fingerprint in &at.alerts {
        let why = match fingerprint.split_once(':') {
            Some(("regression", test)) if at.open.iter().all(|row| row.test.as_str() != test) => {
                "the test has no open regression"
            }
            Some((CHECK_ERROR | FLAKY | CHECK_FAILS | COLD, check))
                if baseline_check(config, check).is_none() || !at.in_use.contains(check) =>
            {
                "the check no longer runs"
            }
            _ => continue,
        };
        plan.act(Action::CloseAlert { fingerprint: fingerprint.clone(), why });
    }
}

/// True if an interval has passed. A time in the future, after the clock was set back, counts too if it is far away.
fn passed(since: Timestamp, now: Timestamp, interval_seconds: i64) -> bool {
    now.seconds_since(since).saturating_abs() >= interval_seconds
}

fn interval(config: &Config) -> i64 {
    i64::try_from(config.regression.interval_seconds).unwrap_or(i64::MAX)
}

/// The check to run at the head: one that has not run there, else the one that has been in doubt there for the longest
/// time.
fn due_check(config: &Config, at: &RegressionSnapshot, head: &str, plan: &mut Plan<Action>) -> Option<Action> {
    let mut in_doubt = None;
    for check in baseline_checks(config).filter(|check| at.in_use.contains(&check.name)) {
        let steps = HeadCheck { check: check.name.clone(), commit: head.to_owned(), again: false };
        let Some(run) = at.runs.get(&check.name) else {
            return Some(Action::CheckHead { steps, reason: "the check has not run at this commit" });
        };
        if run.outcome == RunOutcome::Fail && at.unasked.contains(&check.name) {
            return Some(Action::AskTests { steps });
        }
        let open = at.open.iter().any(|row| row.check == check.name && !is_suspicion(row));
        if run.outcome == RunOutcome::Pass && !open {
            continue;
        }
        if passed(run.ran_at, at.now, interval(config)) {
            if in_doubt.as_ref().is_none_or(|(earlier, _)| run.ran_at < *earlier) {
                in_doubt = Some((run.ran_at, HeadCheck { again: run.outcome == RunOutcome::Fail, ..steps }));
            }
        } else {
            plan.look_again(run.ran_at.plus_seconds(interval(config)));
        }
    }
    in_doubt.map(|(_, steps)| Action::CheckHead { steps, reason: "the check did not pass at this commit; repeating it" })
}

fn due_bisect(config: &Config, at: &RegressionSnapshot, plan: &mut Plan<Action>) -> Option<Action> {
    for row in at.open.iter().filter(|row| is_suspicion(row) && searched_check(config, &row.check).is_some()) {
        if row.failures > 0
            && let Some(tried_at) = row.round_at
            && !passed(tried_at, at.now, interval(config))
        {
            plan.look_again(tried_at.plus_seconds(interval(config)));
            continue;
        }
        let mut hints: Vec<String> = Vec::new();
        for other in at.open.iter().rev().filter(|other| other.check == row.check) {
            if let Some(commit) = other.first_bad.as_ref().filter(|commit| !hints.contains(commit) && hints.len() < 2) {
                hints.push(commit.clone());
            }
        }
        return Some(Action::Bisect { steps: BisectRound { regression: row.id.clone(), round: row.rounds, hints } });
    }
    None
}

/// The combined outcome of the runs of a check at one commit; none if it has to run again. A failure is confirmed by
/// `retries` further failures.
#[must_use]
pub fn confirmed_outcome(runs: &[RunOutcome], retries: u32) -> Option<RunOutcome> {
    match runs.split_last()? {
        (RunOutcome::Fail, before) => (before.len() >= retries as usize).then_some(RunOutcome::Fail),
        (RunOutcome::Pass, before) if !before.is_empty() => Some(RunOutcome::Flaky),
        (last, _) => Some(*last),
    }
}

#[cfg(test)]
mod tests;
