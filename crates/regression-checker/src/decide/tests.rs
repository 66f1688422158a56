use test_support::NOW;

use super::*;
use crate::RunAtHead;

fn config() -> Config {
    let check = |name: &str, more: &str| format!("[[gate.check]]\nname = \"{name}\"\ncommand = [\"true\"]\n{more}\n");
    let text = check("unit", "") + &check("docs", "categories = [\"docs\"]") + &check("gate-only", "baseline = false");
    Config::parse(&text, std::path::Path::new("config.toml")).unwrap()
}

fn at_head() -> RegressionSnapshot {
    RegressionSnapshot { head: Some("h".to_owned()), in_use: ["unit".to_owned()].into(), ..RegressionSnapshot::at(NOW) }
}

impl RegressionSnapshot {
    fn using(mut self, check: &str) -> Self {
        self.in_use.insert(check.to_owned());
        self
    }

    fn ran(mut self, check: &str, outcome: RunOutcome, seconds_ago: i64) -> Self {
        let ran_at = NOW.plus_seconds(-seconds_ago);
        self.runs.insert(check.to_owned(), RunAtHead { outcome, ran_at });
        self.last_check_at = self.last_check_at.max(Some(ran_at));
        self
    }

    fn open(mut self, row: OpenRegression) -> Self {
        self.open.push(row);
        self
    }

    fn alert(mut self, fingerprint: &str) -> Self {
        self.alerts.push(fingerprint.to_owned());
        self
    }
}

fn suspicion(id: &str, check: &str) -> OpenRegression {
    OpenRegression {
        id: id.to_owned(),
        test: format!("t-{id}").parse().unwrap(),
        check: check.to_owned(),
        status: RegressionStatus::Bisecting,
        first_bad: None,
        rounds: 0,
        failures: 0,
        round_at: None,
    }
}

fn regressed(id: &str, check: &str, first_bad: &str) -> OpenRegression {
    OpenRegression { status: RegressionStatus::Regressed, first_bad: Some(first_bad.to_owned()), ..suspicion(id, check) }
}

/// What is done, in short, and in how many seconds it wants to be asked again.
fn said(snapshot: &RegressionSnapshot) -> (Vec<String>, Option<i64>) {
    let plan = decide(&config(), snapshot);
    let actions = plan.actions.iter().map(|action| match action {
        Action::CheckHead { steps, .. } => {
            format!("check {} at {}{}", steps.check, steps.commit, if steps.again { " again" } else { "" })
        }
        Action::CheckCold { steps } => format!("cold {} at {}", steps.check, steps.commit),
        Action::AskTests { steps } => format!("ask {} at {}", steps.check, steps.commit),
        Action::Bisect { steps } => format!("bisect {} round {} {}", steps.regression, steps.round, steps.hints.join(" ")),
        Action::GiveUp { regression, .. } => format!("give up {regression}"),
        Action::ReportUnchecked(message) | Action::ReportLost(message) => format!("say {message}"),
        Action::CloseAlert { fingerprint, .. } => format!("close {fingerprint}"),
    });
    (actions.collect(), plan.look_again_at.map(|again| again.seconds_since(NOW)))
}

#[track_caller]
fn check(snapshot: &RegressionSnapshot, actions: &[&str], again: Option<i64>) {
    assert_eq!(said(snapshot), (actions.iter().map(|&action| action.to_owned()).collect(), again));
}

#[test]
fn a_check_that_fails_is_asked_about_all_its_tests_in_turn_with_searches() {
    let failing = || {
        let mut at = at_head().ran("unit", RunOutcome::Fail, 10);
        at.unasked.insert("unit".to_owned());
        at
    };
    check(&failing(), &["ask unit at h"], None);
    let searched =
        |seconds_ago: i64| OpenRegression { round_at: Some(NOW.plus_seconds(-seconds_ago)), ..suspicion("r", "unit") };
    check(&failing().open(searched(20)), &["bisect r round 0 "], None);
    check(&failing().open(searched(5)), &["ask unit at h"], None);
    let mut in_doubt = failing();
    in_doubt.runs.get_mut("unit").unwrap().outcome = RunOutcome::Error;
    check(&in_doubt, &[], Some(590));
}

#[test]
fn a_new_head_is_checked_once_by_one_check_at_a_time() {
    check(&at_head(), &["check unit at h"], None);
    check(&at_head().using("docs").ran("unit", RunOutcome::Pass, 0), &["check docs at h"], None);
    check(&at_head().ran("unit", RunOutcome::Pass, 100_000), &[], None);
}

#[test]
fn nothing_runs_without_a_head_a_use_or_while_something_runs() {
    check(&RegressionSnapshot { head: None, ..at_head() }.open(suspicion("r", "unit")), &[], None);
    check(&RegressionSnapshot { in_use: [].into(), ..at_head() }, &[], None);
    check(&RegressionSnapshot { busy: true, ..at_head() }.open(suspicion("r", "unit")), &[], None);
    check(&at_head().using("gate-only").ran("unit", RunOutcome::Pass, 0), &[], None);
}

#[test]
fn what_is_in_doubt_is_run_again_after_the_interval() {
    for outcome in [RunOutcome::Flaky, RunOutcome::Error] {
        check(&at_head().ran("unit", outcome, 10), &[], Some(590));
        check(&at_head().ran("unit", outcome, 600), &["check unit at h"], None);
    }
    check(&at_head().ran("unit", RunOutcome::Fail, 600), &["check unit at h again"], None);
    let open = at_head().open(regressed("r", "unit", "c"));
    check(&open.clone().ran("unit", RunOutcome::Pass, 10), &[], Some(590));
    check(&open.ran("unit", RunOutcome::Pass, 600), &["check unit at h"], None);
    // The clock was set back by a day.
    check(&at_head().ran("unit", RunOutcome::Error, -86_400), &["check unit at h"], None);
}

#[test]
fn the_one_in_doubt_for_longest_comes_first() {
    let both = at_head().using("docs").ran("unit", RunOutcome::Fail, 700).ran("docs", RunOutcome::Fail, 900);
    check(&both, &["check docs at h again"], None);
}

#[test]
fn a_suspicion_is_followed_round_by_round() {
    let passed = at_head().ran("unit", RunOutcome::Fail, 5);
    check(&passed.clone().open(suspicion("r", "unit")), &["bisect r round 0 "], Some(595));
    let later = OpenRegression { rounds: 3, round_at: Some(NOW), ..suspicion("r", "unit") };
    check(&passed.clone().open(later), &["bisect r round 3 "], Some(595));
    let hinted =
        passed.clone().open(regressed("q", "unit", "c1")).open(regressed("p", "docs", "c2")).open(suspicion("r", "unit"));
    check(&hinted, &["bisect r round 0 c1"], Some(595));
    check(&passed.open(regressed("q", "unit", "c1")), &[], Some(595));
}

#[test]
fn a_round_that_could_not_be_run_waits_and_lets_others_go_ahead() {
    let failed = OpenRegression { failures: 1, round_at: Some(NOW.plus_seconds(-100)), ..suspicion("r", "unit") };
    let passed = at_head().ran("unit", RunOutcome::Fail, 0);
    check(&passed.clone().open(failed.clone()), &[], Some(500));
    check(&passed.clone().open(failed.clone()).open(suspicion("s", "unit")), &["bisect s round 0 "], Some(500));
    let failed = OpenRegression { round_at: Some(NOW.plus_seconds(-600)), ..failed };
    check(&passed.open(failed), &["bisect r round 0 "], Some(600));
}

#[test]
fn checks_and_searches_take_turns() {
    let moved = at_head().using("docs").ran("unit", RunOutcome::Pass, 50);
    check(&moved.clone().open(suspicion("r", "unit")), &["bisect r round 0 "], None);
    let searched = OpenRegression { rounds: 1, round_at: Some(NOW.plus_seconds(-10)), ..suspicion("r", "unit") };
    check(&moved.open(searched), &["check docs at h"], None);
}

#[test]
fn a_suspicion_of_a_removed_check_is_given_up() {
    let gone = at_head().ran("unit", RunOutcome::Pass, 0).open(suspicion("r", "old")).open(suspicion("q", "gate-only"));
    check(&gone, &["give up r", "give up q"], None);
    check(&RegressionSnapshot { busy: true, ..gone }, &["give up r", "give up q"], None);
    check(&at_head().ran("unit", RunOutcome::Pass, 0).open(regressed("r", "old", "c")), &[], None);
}

#[test]
fn alerts_end_with_their_cause() {
    let quiet = at_head().ran("unit", RunOutcome::Pass, 0);
    let alerts = quiet.alert("regression:t-r").alert("regression:t-q").alert("check_error:old").alert("flaky:unit");
    let alerts = alerts.alert("delivery:regression-checker:e").alert("check_fails:docs").open(regressed("r", "old", "c"));
    check(&alerts, &["close regression:t-q", "close check_error:old", "close check_fails:docs"], None);
}
