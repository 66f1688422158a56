//! The input of the decision: the head, the results of the checks there, and open regressions. Its size does not grow
//! with the number of tests.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::{CheckConfig, Cold};
use coord_db::{CheckRun, Config, ReadTx, RegressionStatus, Result, RunOutcome, TestId, Timestamp, strip_cold_suffix};
use git::Layout;

use crate::{BisectNotes, ID, Observation, baseline_check, baseline_checks, is_watched, open_of};

/// Fingerprint of the alert about passed tests that are not checked again.
pub(crate) const UNCHECKED: &str = "unchecked";

/// Fingerprint of the alert about passed tests that are no longer on the integration branch.
pub(crate) const LOST: &str = "integration:lost";

/// The result of a check at the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAtHead {
    /// The outcome.
    pub outcome: RunOutcome,
    /// Time of the run.
    pub ran_at: Timestamp,
}

/// An open regression.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRegression {
    /// Its id.
    pub id: String,
    /// The test that fails.
    pub test: TestId,
    /// The check that fails.
    pub check: String,
    /// Its status.
    pub status: RegressionStatus,
    /// The first bad commit, once found.
    pub first_bad: Option<String>,
    /// Number of completed rounds of its bisection.
    pub rounds: u32,
    /// Number of consecutive rounds that could not run.
    pub failures: u32,
    /// End of the last round.
    pub round_at: Option<Timestamp>,
}

/// The input of the decision.
#[derive(Debug, Clone, PartialEq)]
pub struct RegressionSnapshot {
    /// The time of the transaction.
    pub now: Timestamp,
    /// The head of the integration branch.
    pub head: Option<String>,
    /// The checks that cover at least one test with a baseline.
    pub in_use: BTreeSet<String>,
    /// The result of each check whose last run was at the head.
    pub runs: BTreeMap<String, RunAtHead>,
    /// The checks that failed at the head and have not yet run for each of their tests there.
    pub unasked: BTreeSet<String>,
    /// Time of the last run of any check.
    pub last_check_at: Option<Timestamp>,
    /// The checks that have run at the head on a fresh clone without caches.
    pub cold_ran: BTreeSet<String>,
    /// Time of the last run on a fresh clone.
    pub last_cold_at: Option<Timestamp>,
    /// Number of tests that have landed since.
    pub cold_landings: i64,
    /// Time of the first of these landings.
    pub first_landing: Option<Timestamp>,
    /// Open regressions, oldest first.
    pub open: Vec<OpenRegression>,
    /// Fingerprints of the open alerts of this component.
    pub alerts: Vec<String>,
    /// Message about passed tests that are not checked again.
    pub unchecked: Option<String>,
    /// The message of the open alert about them.
    pub unchecked_alert: Option<String>,
    /// Message about passed tests that are no longer on the integration branch.
    pub lost: Option<String>,
    /// The message of the open alert about them.
    pub lost_alert: Option<String>,
    /// An effect is being performed.
    pub busy: bool,
}

impl RegressionSnapshot {
    /// An empty one.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            head: None,
            in_use: BTreeSet::new(),
            runs: BTreeMap::new(),
            unasked: BTreeSet::new(),
            last_check_at: None,
            cold_ran: BTreeSet::new(),
            last_cold_at: None,
            cold_landings: 0,
            first_landing: None,
            open: Vec::new(),
            alerts: Vec::new(),
            unchecked: None,
            unchecked_alert: None,
            lost: None,
            lost_alert: None,
            busy: false,
        }
    }
}

/// Reads the snapshot.
pub fn load(config: &Config, tx: &ReadTx<'_>, observation: &Observation) -> Result<RegressionSnapshot> {
    let mut snapshot = RegressionSnapshot::at(tx.now());
    snapshot.head.clone_from(&observation.head);
    for check in baseline_checks(config) {
        if tx.has_baseline_tests(&check.categories)? {
            snapshot.in_use.insert(check.name.clone());
        }
        // If the check has run at another commit since, its result here is outdated.
        if let Some(head) = &observation.head
            && tx.last_checked(&check.name)?.as_ref() == Some(head)
            && let Some(run) = tx.check_run(&check.name, head)?
        {
            if run.outcome == RunOutcome::Fail && some_unasked(tx, check, head)? {
                snapshot.unasked.insert(check.name.clone());
            }
            snapshot.runs.insert(check.name.clone(), RunAtHead { outcome: run.outcome, ran_at: run.ran_at });
        }
    }
    if config.gate.cold != Cold::Never {
        load_cold(config, tx, observation, &mut snapshot)?;
    }
    snapshot.last_check_at = tx.check_runs(1)?.first().map(|run| run.ran_at).max(tx.last_baseline_run()?);
    for row in tx.regressions(true)? {
        // A row of an external tool with an invalid test id is ignored.
        if row.test_id.as_str().parse::<TestId>().is_err() {
            continue;
        }
        let notes = BisectNotes::of(&row);
        snapshot.open.push(OpenRegression {
            id: row.id,
            test: row.test_id,
            check: row.check_name,
            status: row.status,
            first_bad: row.first_bad_commit,
            rounds: notes.rounds,
            failures: notes.failures,
            round_at: notes.at,
        });
    }
    for alert in tx.open_alerts_of(ID)? {
        match alert.fingerprint.as_deref() {
            Some(UNCHECKED) => snapshot.unchecked_alert = Some(alert.message),
            Some(LOST) => snapshot.lost_alert = Some(alert.message),
            _ => snapshot.alerts.extend(alert.fingerprint),
        }
    }
    snapshot.unchecked = unchecked(config, tx, observation.head.is_some())?;
    snapshot.lost = lost(config, observation);
    // Without a head nothing can be compared; the open alert stays.
    if observation.head.is_none() {
        snapshot.lost.clone_from(&snapshot.lost_alert);
    }
    snapshot.busy = !tx.open_journal(Some(ID))?.is_empty();
    Ok(snapshot)
}

fn load_cold(config: &Config, tx: &ReadTx<'_>, observation: &Observation, snapshot: &mut RegressionSnapshot) -> Result<()> {
    let runs = tx.cold_runs(Timestamp::EARLIEST)?;
    let at_head = runs.iter().filter(|run| observation.head.as_ref() == Some(&run.commit_hash));
    snapshot.cold_ran = at_head.filter_map(|run| strip_cold_suffix(&run.check_name)).map(str::to_owned).collect();
    let known = |run: &&CheckRun| strip_cold_suffix(&run.check_name).is_some_and(|name| baseline_check(config, name).is_some());
    snapshot.last_cold_at = runs.iter().filter(known).map(|run| run.ran_at).max();
    (snapshot.cold_landings, snapshot.first_landing) = tx.landings_since(snapshot.last_cold_at)?;
    Ok(())
}

/// True if a check that fails at the head has not yet run for each test that it covers.
pub(crate) fn some_unasked(tx: &ReadTx<'_>, check: &CheckConfig, head: &str) -> Result<bool> {
    let asked: BTreeSet<TestId> = tx.baseline_runs_at(&check.name, head)?.into_iter().map(|run| run.test_id).collect();
    let open = open_of(&check.name, &tx.regressions(true)?);
    let mut tests = tx.baseline_tests()?.into_iter();
    Ok(tests.any(|test| is_watched(check, &test, &open) && !asked.contains(&test.test_id)))
}

/// Maximum number of tests named in a message.
const NAMED: usize = 5;

/// The message about passed tests whose commits are not on the integration branch because somebody has moved it.
fn lost(config: &Config, observation: &Observation) -> Option<String> {
    let (head, first) = (observation.head.as_ref()?, observation.lost.first()?);
    let names = observation.lost.iter().take(NAMED).map(TestId::as_str).collect::<Vec<_>>().join(", ");
    let more = observation.lost.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{branch} in the store was moved to {}, which does not contain the commits of passed tests: {names}{more}; move it \
         forward with git --git-dir {} update-ref refs/heads/{branch} COMMIT (loopctl status {first} shows the commit), or do \
         the tests again with loopctl reset TEST --force",
        head.get(..12).unwrap_or(head),
        Layout::new(config.workspace_root()).store_path().display(),
        branch = config.repository.integration_branch,
    ))
}

/// The message about passed tests that are not checked again: no check covers them, or there is no integration branch.
fn unchecked(config: &Config, tx: &ReadTx<'_>, has_head: bool) -> Result<Option<String>> {
    if has_head && baseline_checks(config).any(|check| check.categories.is_empty()) {
        return Ok(None);
    }
    let covered: Vec<String> =
        baseline_checks(config).filter(|_| has_head).flat_map(|check| check.categories.clone()).collect();
    let (count, first) = tx.baseline_tests_beyond(&covered, NAMED)?;
    if count == 0 {
        return Ok(None);
    }
    let names = first.iter().map(TestId::as_str).collect::<Vec<_>>().join(", ");
    let more = if usize::try_from(count).is_ok_and(|count| count > NAMED) { " and others" } else { "" };
    if !has_head {
        return Ok(Some(format!(
            "passed tests are not checked again: the store {} has no integration branch; start coding-loop, which creates it; \
             {count} tests have passed: {names}{more}",
            Layout::new(config.workspace_root()).store_path().display()
        )));
    }
    let gate_only: Vec<&str> =
        config.gate.check.iter().filter(|check| !check.baseline).map(|check| check.name.as_str()).collect();
    let gate_only = if gate_only.is_empty() {
        String::new()
    } else {
        format!(" (checks with baseline = false, which run only in the gate: {})", gate_only.join(", "))
    };
    Ok(Some(format!(
        "{count} passed tests are not checked again when the integration branch moves, because no check with baseline = \
         true covers them{gate_only}: {names}{more}"
    )))
}
