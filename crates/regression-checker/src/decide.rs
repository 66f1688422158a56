//! What to run next, and which matters are over. Pure.
//!
//! One thing runs at a time. A head that a check has not seen and a bisection that is not over take turns, so that neither
//! a branch that moves all the time nor many regressions keep the other waiting for ever.

mod cold;
pub mod search;

use coord_db::{Config, RegressionStatus, RunOutcome, Timestamp};
use supervisor::Plan;

use crate::notes::HeadCheck;
use crate::snapshot::{LOST, UNCHECKED};
use crate::{BisectRound, OpenRegression, RegressionSnapshot, baseline_check, baseline_checks, searched_check};

/// Rounds in a row that may fail to run before a bisection is given up.
pub const MOST_FAILURES: u32 = 3;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write down the intent to run a check at the head.
    CheckHead {
        /// What exactly.
        steps: HeadCheck,
        /// Why.
        reason: &'static str,
    },
    /// Write down the intent to ask a check that fails at the head about more tests.
    AskTests {
        /// What exactly.
        steps: HeadCheck,
    },
    /// Write down the intent to run a round of a bisection.
    Bisect {
        /// What exactly.
        steps: BisectRound,
    },
    /// Write down the intent to run a check on a fresh clone without caches.
    CheckCold {
        /// What exactly.
        steps: HeadCheck,
    },
    /// A suspicion cannot be followed any more: it is reported as unknown.
    GiveUp {
        /// The regression.
        regression: String,
        /// Why.
        why: String,
    },
    /// Say what is not re-run.
    TellUnchecked(String),
    /// Say which passed tests the integration branch has lost.
    TellLost(String),
    /// The cause of an alert is gone.
    CloseAlert {
        /// Which.
        fingerprint: String,
        /// Why.
        why: &'static str,
    },
}

/// The fingerprint of the alert about a test that has regressed.
pub(crate) fn about_test(test: &str) -> String {
    format!("regression:{test}")
}

/// The fingerprints of alerts about a check: it cannot be run, is flaky, fails for no test with a baseline.
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
    match (&at.unchecked, &at.unchecked_said) {
        (Some(now), said) if said.as_ref() != Some(now) => plan.act(Action::TellUnchecked(now.clone())),
        (None, Some(_)) => {
            plan.act(Action::CloseAlert { fingerprint: UNCHECKED.to_owned(), why: "everything that had passed is re-run" });
        }
        _ => {}
    }
    match (&at.lost, &at.lost_said) {
        (Some(now), said) if said.as_ref() != Some(now) => plan.act(Action::TellLost(now.clone())),
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
            let why = format!("check {:?} is no baseline check of the config (any more)", row.check);
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
            Some(("regression", test)) if at.open.iter().all(|row| row.test.as_str() != test) => "no regression of it is open",
            Some((CHECK_ERROR | FLAKY | CHECK_FAILS | COLD, check))
                if baseline_check(config, check).is_none() || !at.in_use.contains(check) =>
            {
                "the check is not run any more"
            }
            _ => continue,
        };
        plan.act(Action::CloseAlert { fingerprint: fingerprint.clone(), why });
    }
}

/// Whether so long has passed since; a time ahead of us, of a clock that was set back, counts as far away too.
fn passed(since: Timestamp, now: Timestamp, interval_seconds: i64) -> bool {
    now.seconds_since(since).saturating_abs() >= interval_seconds
}

fn interval(config: &Config) -> i64 {
    i64::try_from(config.regression.interval_seconds).unwrap_or(i64::MAX)
}

/// The check to run at the head: one that has not seen it, else the one that has been in doubt there for the longest.
fn due_check(config: &Config, at: &RegressionSnapshot, head: &str, plan: &mut Plan<Action>) -> Option<Action> {
    let mut in_doubt = None;
    for check in baseline_checks(config).filter(|check| at.in_use.contains(&check.name)) {
        let steps = HeadCheck { check: check.name.clone(), commit: head.to_owned(), again: false };
        let Some(run) = at.runs.get(&check.name) else {
            return Some(Action::CheckHead { steps, reason: "the check has not been run at this commit" });
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
    in_doubt.map(|(_, steps)| Action::CheckHead { steps, reason: "it did not pass at this commit and may now" })
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

/// What runs of a check at one commit say together; none if it has to be run again. A failure is believed after so many more.
#[must_use]
pub fn believed(runs: &[RunOutcome], retries: u32) -> Option<RunOutcome> {
    match runs.split_last()? {
        (RunOutcome::Fail, before) => (before.len() >= retries as usize).then_some(RunOutcome::Fail),
        (RunOutcome::Pass, before) if !before.is_empty() => Some(RunOutcome::Flaky),
        (last, _) => Some(*last),
    }
}

#[cfg(test)]
mod tests;
