//! What a decision depends on: the head, how the checks fared there, and what is open. Small, however many tests there are.

use std::collections::{BTreeMap, BTreeSet};

use coord_db::config::{CheckConfig, Cold};
use coord_db::{CheckRun, Config, ReadTx, RegressionStatus, Result, RunOutcome, TestId, Timestamp, strip_cold_suffix};
use git::Layout;

use crate::{BisectNotes, ID, Observation, baseline_check, baseline_checks, open_of, watched};

/// The fingerprint of the alert about what is not re-run.
pub(crate) const UNCHECKED: &str = "unchecked";

/// The fingerprint of the alert about passed tests that the integration branch has lost.
pub(crate) const LOST: &str = "integration:lost";

/// How a check fared at the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAtHead {
    /// What came of it.
    pub outcome: RunOutcome,
    /// When.
    pub ran_at: Timestamp,
}

/// A regression that is not over.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRegression {
    /// Its id.
    pub id: String,
    /// The test that fails.
    pub test: TestId,
    /// The check that says so.
    pub check: String,
    /// How far it is.
    pub status: RegressionStatus,
    /// The first bad commit, once found.
    pub first_bad: Option<String>,
    /// Rounds of its bisection that are over.
    pub rounds: u32,
    /// Rounds in a row that could not be run.
    pub failures: u32,
    /// When the last round was over.
    pub round_at: Option<Timestamp>,
}

/// All that a decision depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct RegressionSnapshot {
    /// The moment of the transaction.
    pub now: Timestamp,
    /// Where the integration branch stands.
    pub head: Option<String>,
    /// The checks that some test with a baseline uses.
    pub in_use: BTreeSet<String>,
    /// How each check fared at the head, if it was run there last.
    pub runs: BTreeMap<String, RunAtHead>,
    /// The checks that failed at the head and have not been asked about all their tests there.
    pub unasked: BTreeSet<String>,
    /// When any check was run last.
    pub last_check_at: Option<Timestamp>,
    /// The checks that have run at the head on a fresh clone without caches.
    pub cold_ran: BTreeSet<String>,
    /// When any check ran so last.
    pub last_cold_at: Option<Timestamp>,
    /// How many tests have landed since.
    pub cold_landings: i64,
    /// When the first of them did.
    pub first_landing: Option<Timestamp>,
    /// Regressions that are not over, oldest first.
    pub open: Vec<OpenRegression>,
    /// Fingerprints of own alerts that are open.
    pub alerts: Vec<String>,
    /// What is not re-run, in a sentence.
    pub unchecked: Option<String>,
    /// What was said of that last and still stands.
    pub unchecked_said: Option<String>,
    /// Which passed tests the integration branch does not hold any more, in a sentence.
    pub lost: Option<String>,
    /// What was said of that last and still stands.
    pub lost_said: Option<String>,
    /// Something is being performed.
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
            unchecked_said: None,
            lost: None,
            lost_said: None,
            busy: false,
        }
    }
}

/// Reads the snapshot.
///
/// # Errors
/// What the database says.
pub fn load(config: &Config, tx: &ReadTx<'_>, observation: &Observation) -> Result<RegressionSnapshot> {
    let mut snapshot = RegressionSnapshot::at(tx.now());
    snapshot.head.clone_from(&observation.head);
    for check in baseline_checks(config) {
        if tx.has_baseline_tests(&check.categories)? {
            snapshot.in_use.insert(check.name.clone());
        }
        // If the check has been run elsewhere since, what it said here is of the past.
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
        // Another tool's row about what cannot be a test is nobody's business here.
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
            Some(UNCHECKED) => snapshot.unchecked_said = Some(alert.message),
            Some(LOST) => snapshot.lost_said = Some(alert.message),
            _ => snapshot.alerts.extend(alert.fingerprint),
        }
    }
    snapshot.unchecked = unchecked(config, tx, observation.head.is_some())?;
    snapshot.lost = lost(config, observation);
    // Where nothing can be seen, what was said stands.
    if observation.head.is_none() {
        snapshot.lost.clone_from(&snapshot.lost_said);
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

/// Whether a check that fails at the head has not been asked about some test that it covers.
pub(crate) fn some_unasked(tx: &ReadTx<'_>, check: &CheckConfig, head: &str) -> Result<bool> {
    let asked: BTreeSet<TestId> = tx.baseline_runs_at(&check.name, head)?.into_iter().map(|run| run.test_id).collect();
    let open = open_of(&check.name, &tx.regressions(true)?);
    let mut tests = tx.baseline_tests()?.into_iter();
    Ok(tests.any(|test| watched(check, &test, &open) && !asked.contains(&test.test_id)))
}

/// So many of the tests that are not re-run are named.
const NAMED: usize = 5;

/// What had passed and is not on the integration branch: somebody has moved it.
fn lost(config: &Config, observation: &Observation) -> Option<String> {
    let (head, first) = (observation.head.as_ref()?, observation.lost.first()?);
    let names = observation.lost.iter().take(NAMED).map(TestId::as_str).collect::<Vec<_>>().join(", ");
    let more = observation.lost.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!(
        "{branch} in the store was moved to {}, which does not contain the commits of tests that have passed: {names}{more}; move \
         it forward again with git --git-dir {} update-ref refs/heads/{branch} COMMIT (loopctl status {first} names the commit), \
         or take the tests up again with loopctl reset TEST --force",
        head.get(..12).unwrap_or(head),
        Layout::new(config.workspace_root()).store_path().display(),
        branch = config.repository.integration_branch,
    ))
}

/// What had passed and is not re-run: because no check is for it, or because there is nothing to run checks at.
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
            "nothing is re-run, because there is no integration branch in the store {}; start coding-loop, which makes it; \
             {count} tests had passed: {names}{more}",
            Layout::new(config.workspace_root()).store_path().display()
        )));
    }
    let gate_only: Vec<&str> =
        config.gate.check.iter().filter(|check| !check.baseline).map(|check| check.name.as_str()).collect();
    let gate_only = if gate_only.is_empty() {
        String::new()
    } else {
        format!(" (run only when work lands, by baseline = false: {})", gate_only.join(", "))
    };
    Ok(Some(format!(
        "not re-run when the integration branch moves, although they had passed, are {count} tests that no check with \
         baseline = true is for{gate_only}: {names}{more}"
    )))
}
