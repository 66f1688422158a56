//! How everything stands: what each loop does, who waits, what needs the human.

use std::collections::BTreeMap;
use std::path::Path;

use coord_db::{
    Alert, BaseRun, BudgetUse, CheckRun, Config, Conflict, Deadlock, Error, HealthStatus, Hold, IgnoredCheck, Landing, Lease,
    Loop, LoopId, LoopProgress, LoopStatus, Pause, ReadTx, Regression, Test, Timestamp, WaitEdge, supervisor_of, supervisors,
};
use serde::Serialize;

use crate::cost;
use crate::health::{Health, Host, healths, hosts};
use crate::published::Branch;
use crate::questions::{Question, questions};
use crate::runs::RunView;
use crate::sentence::{list, short};
use crate::when::span;

/// A loop with what it does, holds and waits for.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct LoopView {
    #[serde(flatten)]
    pub row: Loop,
    pub progress: LoopProgress,
    pub current_test: Option<Test>,
    /// What runs for it, and since when.
    pub run: Option<RunView>,
    pub leases: Vec<Lease>,
    pub waits: Vec<WaitEdge>,
    pub pauses: Vec<Pause>,
    pub holds: Vec<Hold>,
    /// Only for one loop that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tests: Option<Vec<Test>>,
}

/// Everything on one page.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Overview {
    pub loops: Vec<LoopView>,
    /// The newest run of each check on a fresh clone without caches.
    pub cold: Vec<CheckRun>,
    pub decisions: Vec<Question>,
    pub alerts: Vec<Alert>,
    pub deadlocks: Vec<Deadlock>,
    pub conflicts: Vec<Conflict>,
    pub regressions: Vec<Regression>,
    pub components: Vec<Health>,
    /// The machines on which something runs.
    pub hosts: Vec<Host>,
    pub base: Base,
    /// The budgets of the day of which enough is used for a warning.
    pub budgets: Vec<BudgetUse>,
    /// What waits to land.
    pub landings: Vec<Landing>,
    #[serde(skip)]
    pub landing_priorities: BTreeMap<LoopId, i64>,
    /// None before anything has landed, and where one loop was asked for.
    pub published: Option<Branch>,
    #[serde(rename = "at")]
    pub now: Timestamp,
}

/// The budgets of the day of which enough is used for a warning.
fn nearly_spent(tx: &ReadTx<'_>, config: &Config) -> Result<Vec<BudgetUse>, Error> {
    let budget = &config.budget;
    let is_limited = [budget.tests_per_day, budget.tokens_per_day].iter().any(|limit| *limit > 0) || budget.usd_per_day > 0.0;
    let used = if is_limited { tx.budgets_today(budget)? } else { Vec::new() };
    Ok(used.into_iter().filter(|used| used.percent >= budget.warn_percent).collect())
}

impl LoopView {
    /// Its state in one word, of seven characters at most.
    #[must_use]
    pub fn state(&self, components: &[Health]) -> &'static str {
        let health = components.iter().find(|health| health.row.component == self.row.id.as_str());
        match (self.row.status, health.map(|health| health.verdict)) {
            (LoopStatus::Running | LoopStatus::Paused, Some(HealthStatus::Dead)) => return "dead",
            (LoopStatus::Running, Some(HealthStatus::Degraded)) => return "late",
            _ => {}
        }
        match self.row.status {
            LoopStatus::Running if self.row.pid.is_none() => "by hand",
            LoopStatus::Running => "running",
            LoopStatus::Paused => "paused",
            LoopStatus::Stopped => "stopped",
            LoopStatus::Error => "error",
        }
    }
}

impl Overview {
    /// True if a supervisor runs.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        let runs = |health: &Health| matches!(health.verdict, HealthStatus::Healthy | HealthStatus::Degraded);
        self.components.iter().any(|health| supervisors::find(supervisor_of(&health.row.component)).is_some() && runs(health))
    }

    /// What is wrong, a sentence each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for run in &self.base.red {
            let at = short(&run.commit_hash);
            lines.push(format!("no attempt starts: {} at {at}, without any change by an agent", run.why));
        }
        for lease in &self.base.running {
            let (since, why) =
                (span(self.now.seconds_since(lease.locked_at)), lease.lock_reason.as_deref().unwrap_or("runs checks"));
            lines.push(format!("{} {why}, for {since}; the other loops wait for the result", lease.locked_by));
        }
        for check in &self.base.ignored {
            lines.push(format!(
                "check {} fails at the head of integration and is ignored until it passes there: work may fail it in the same way",
                check.check_name
            ));
        }
        for used in &self.budgets {
            let (name, amounts) = cost::budget_words(used);
            lines.push(format!("{} % of the budget of {name} is used: {amounts}; see loopctl agents", used.percent));
        }
        for row in &self.deadlocks {
            lines.push(format!("deadlock of {}: {} must release {}", list(&row.cycle.0), row.victim, list(&row.locks.0)));
        }
        for row in &self.conflicts {
            let first = row.winner.as_ref().map(|id| format!("; {id} goes first")).unwrap_or_default();
            lines.push(format!("conflict of {} and {} on {}{first}", row.loop_a, row.loop_b, row.file_path));
        }
        for row in &self.regressions {
            let blame = row.blamed_loop.as_deref().map(|id| format!(", broken by {id}")).unwrap_or_default();
            lines.push(format!("regression: test {} fails and passed before ({}{blame})", row.test_id, row.status));
        }
        if let Some(Branch { problem: Some(problem), remedy, .. }) = &self.published {
            lines.push(format!("{problem}; {}", remedy.as_deref().unwrap_or_default()));
        }
        lines
    }
}

/// What keeps attempts from starting at the head of integration.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct Base {
    /// The checks that fail there.
    pub red: Vec<BaseRun>,
    /// Who runs them there.
    pub running: Vec<Lease>,
    /// The checks that are let through until they pass there again.
    pub ignored: Vec<IgnoredCheck>,
}

/// Reads everything, or one loop.
///
/// # Errors
/// What the database reports.
pub fn look(
    tx: &ReadTx<'_>,
    database: &Path,
    config: &Config,
    only: Option<&str>,
    published: Option<Branch>,
) -> Result<Overview, Error> {
    let now = tx.now();
    let mut progress = tx.loop_progress()?;
    let leases = tx.leases(true)?;
    let waits: Vec<WaitEdge> =
        tx.wait_edges()?.into_iter().filter(|edge| edge.wait_until.is_none_or(|until| until > now)).collect();
    let mut loops = Vec::new();
    for row in tx.loops()? {
        if only.is_some_and(|only| only != row.id.as_str()) {
            continue;
        }
        let id = row.id.clone();
        let known = progress.iter().position(|progress| progress.loop_id == id).map(|at| progress.swap_remove(at));
        let none = LoopProgress {
            loop_id: id.clone(),
            total: 0,
            passed: 0,
            blocked: 0,
            failed: 0,
            skipped: 0,
            in_progress: 0,
            pending: 0,
        };
        let current_test = match &row.current_test_id {
            Some(test) => tx.find_test(test.as_str())?,
            None => None,
        };
        loops.push(LoopView {
            progress: known.unwrap_or(none),
            current_test,
            run: tx.open_run(&id)?.map(|run| RunView::of(database, run)),
            leases: leases.iter().filter(|lease| lease.locked_by == id.as_str()).cloned().collect(),
            waits: waits.iter().filter(|edge| edge.waiter == id.as_str()).cloned().collect(),
            pauses: tx.pauses(Some(&id))?,
            holds: tx.holds_on(&id)?,
            tests: if only.is_some() { Some(tx.tests(Some(&id), None)?) } else { None },
            row,
        });
    }
    let components = healths(tx, config)?;
    Ok(Overview {
        loops,
        cold: tx.cold_runs(Timestamp::EARLIEST)?,
        decisions: questions(tx, tx.decisions(true)?)?,
        alerts: tx.alerts(true)?,
        deadlocks: tx.open_deadlocks()?,
        conflicts: tx.conflicts(true)?,
        regressions: tx.regressions(true)?,
        hosts: hosts(&components),
        components,
        budgets: nearly_spent(tx, config)?,
        base: Base { red: tx.red_base()?, running: tx.base_runners()?, ignored: tx.ignored_checks()? },
        landings: tx.open_landings()?,
        landing_priorities: tx.landing_priorities()?,
        published,
        now,
    })
}
