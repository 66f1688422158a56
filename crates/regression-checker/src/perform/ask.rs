//! Runs a check for single tests, first for those that the change can have broken, and limits the load on the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, RegressionStatus, RunOutcome, TestId};
use git::CommitHash;
use tokio::task::JoinSet;

use super::{Note, NoteVerdict, Run, Runner, Why, error_text};
use crate::decide::{FLAKY, about_check, confirmed_outcome};

/// Time after which an entry ends at the next opportunity, so that other entries can run.
pub(super) const SLICE: Duration = Duration::from_secs(5);
/// Maximum number of tests in one entry: its progress is written again after each of them.
const MAX_TESTS: usize = 128;
/// Maximum pause between two runs for tests that the change does not touch.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The result of a check for one test.
pub(super) struct Asked {
    pub(super) test: BaselineTest,
    pub(super) outcome: RunOutcome,
    pub(super) runs: i64,
    /// The first failure, or the only run.
    pub(super) note: Note,
}

/// The tests for which a check has to run.
pub(super) async fn covered(runner: &Runner, check: &CheckConfig) -> Result<Vec<BaselineTest>, Why> {
    let mut tests = runner.read(|tx| tx.baseline_tests()).await?;
    let open = crate::open_of(&check.name, &runner.read(|tx| tx.regressions(true)).await?);
    tests.retain(|test| crate::is_watched(check, test, &open));
    Ok(tests)
}

/// The tests in the order in which the check runs for them; the first `touched` may be broken by the change.
pub(super) struct Order {
    pub(super) tests: Vec<BaselineTest>,
    pub(super) touched: usize,
}

/// Orders tests by likelihood: named by the failing check, failed before, related to the change, others.
pub(super) async fn order(
    runner: &Runner,
    check: &CheckConfig,
    commit: &CommitHash,
    tests: Vec<BaselineTest>,
    output: &str,
) -> Result<Order, Why> {
    let words: BTreeSet<&str> = output.split(|each: char| !(each.is_ascii_alphanumeric() || "._-".contains(each))).collect();
    let named = |id: &str| words.iter().any(|word| word.trim_matches('.') == id);
    let rows = runner.read(|tx| tx.regressions(false)).await?;
    let failed: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.check_name == check.name && (row.resolved_at.is_none() || row.status == RegressionStatus::Flaky))
        .map(|row| row.test_id.as_str())
        .collect();
    let changed = changed_since_last(runner, check, commit).await?;
    let paths: BTreeMap<TestId, Vec<String>> =
        runner.read(|tx| tx.paths_of_tests(None)).await?.into_iter().map(|(id, paths)| (id, paths.0)).collect();
    let about_change =
        |id: &TestId| paths.get(id).is_some_and(|own| own.iter().any(|own| changed.iter().any(|path| covers(own, path))));
    let rank = |test: &BaselineTest| {
        let id = test.test_id.as_str();
        if named(id) {
            0
        } else if failed.contains(id) {
            1
        } else if about_change(&test.test_id) {
            2
        } else {
            3
        }
    };
    let mut ranked: Vec<(u8, BaselineTest)> = tests.into_iter().map(|test| (rank(&test), test)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let touched = ranked.iter().filter(|(rank, _)| *rank < 3).count();
    Ok(Order { tests: ranked.into_iter().map(|(_, test)| test).collect(), touched })
}

/// True if a path of a test's scope (a file, a folder, a glob) can match a file.
fn covers(own: &str, path: &str) -> bool {
    match path_of(own) {
        Some(own) => path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        None => false,
    }
}

/// The file or folder to which a path or glob of a scope is limited; none for the whole repository and for invalid
/// paths.
pub(super) fn path_of(own: &str) -> Option<&str> {
    let own = match own.find(['*', '?', '[', '{']) {
        Some(glob) => &own[..own[..glob].rfind('/')?],
        None => own,
    };
    let own = own.trim_end_matches('/');
    let inside = Path::new(own).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (!own.is_empty() && inside && !own.contains('\0')).then_some(own)
}

/// The files that have changed since the commit of the check's previous run.
async fn changed_since_last(runner: &Runner, check: &CheckConfig, commit: &CommitHash) -> Result<Vec<String>, Why> {
    let Some(before) = runner.read(|tx| tx.check_run_before(&check.name, commit.as_str())).await? else {
        return Ok(Vec::new());
    };
    let Some(before) = runner.repository().resolve(&before).map_err(error_text)? else { return Ok(Vec::new()) };
    let changed = runner.repository().changed_between(&before, commit).map_err(error_text)?;
    Ok(changed.iter().map(|path| path.to_string_lossy().into_owned()).collect())
}

/// Runs the check for the tests in this order, until the time of an entry is over or all are done.
pub(super) async fn ask(
    runner: &Rc<Runner>,
    check: &CheckConfig,
    commit: &CommitHash,
    order: Order,
) -> Result<Vec<Asked>, Why> {
    let begun = Instant::now();
    let (all, share) = (runner.parallel(), Share::of(runner));
    let mut asked = Vec::new();
    let Order { mut tests, touched } = order;
    tests.truncate(MAX_TESTS);
    let touched = touched.min(tests.len());
    let (front, rest) = tests.split_at(touched);
    let batches = front.chunks(all).map(|batch| (batch, false)).chain(rest.chunks(share.workers).map(|batch| (batch, true)));
    for (batch, rests) in batches {
        if !asked.is_empty() && begun.elapsed() >= SLICE {
            break;
        }
        let batch_begun = Instant::now();
        let mut running = JoinSet::new();
        for (slot, test) in batch.iter().cloned().enumerate() {
            let (runner, check, commit) = (Rc::clone(runner), check.clone(), commit.clone());
            running.spawn_local(async move { about(&runner, &check, &commit, test, slot).await });
        }
        let mut failed = None;
        while let Some(ended) = running.join_next().await {
            match ended.map_err(error_text)? {
                Ok(one) => asked.push(one),
                Err(why) => failed = Some(why),
            }
        }
        if let Some(why) = failed {
            return Err(why);
        }
        if rests {
            tokio::time::sleep(share.pause_after(batch_begun.elapsed())).await;
        }
    }
    asked.sort_by(|a, b| a.test.test_id.cmp(&b.test.test_id));
    Ok(asked)
}

/// The share of the machine for tests that the change does not touch.
struct Share {
    workers: usize,
    /// Fraction of one core, if the share is less than a core.
    of_core: f64,
}

impl Share {
    fn of(runner: &Runner) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let percent = usize::try_from(runner.config.regression.share_percent.clamp(1, 100)).unwrap_or(100);
        let workers = (cores * percent / 100).clamp(1, runner.parallel());
        #[allow(clippy::cast_precision_loss)]
        Self { workers, of_core: ((cores * percent) as f64 / 100.0).min(1.0) }
    }

    fn pause_after(&self, ran: Duration) -> Duration {
        ran.mul_f64(1.0 / self.of_core - 1.0).min(MAX_PAUSE)
    }
}

/// Runs the check for one test, and again after a failure as often as the settings require.
async fn about(
    runner: &Rc<Runner>,
    check: &CheckConfig,
    commit: &CommitHash,
    test: BaselineTest,
    slot: usize,
) -> Result<Asked, Why> {
    // Another failure of a test that is known to fail adds nothing.
    let rows = runner.read(|tx| tx.regressions(true)).await?;
    let known = rows.iter().any(|row| row.test_id == test.test_id && row.check_name == check.name);
    let retries = if known { 0 } else { retries(runner, check, &test.test_id).await? };
    let (outcome, runs, note) = repeated(retries, async |n| {
        let key = format!("test/{}/{n}", test.test_id);
        runner.once(key, Run { check, commit, test: Some(&test), slot, is_cold: false }).await
    })
    .await?;
    Ok(Asked { test, outcome, runs, note })
}

/// Runs a check until its outcome is confirmed. Returns the outcome, the number of runs, and the most informative
/// result: the error, else the first failure, else the only run.
pub(super) async fn repeated(
    retries: u32,
    run: impl AsyncFn(u32) -> Result<Note, Why>,
) -> Result<(RunOutcome, i64, Note), Why> {
    let (mut outcomes, mut first) = (Vec::new(), None);
    loop {
        let note = run(u32::try_from(outcomes.len()).unwrap_or(u32::MAX)).await?;
        outcomes.push(match note.verdict {
            NoteVerdict::Pass => RunOutcome::Pass,
            NoteVerdict::Fail => RunOutcome::Fail,
            NoteVerdict::Error => RunOutcome::Error,
        });
        let confirmed_outcome = confirmed_outcome(&outcomes, retries);
        let telling = if note.verdict == NoteVerdict::Error { note } else { first.take().unwrap_or(note) };
        if let Some(outcome) = confirmed_outcome {
            return Ok((outcome, i64::try_from(outcomes.len()).unwrap_or(i64::MAX), telling));
        }
        first = Some(telling);
    }
}

/// Number of further failures required to confirm a failure; twice as many for a flaky test.
async fn retries(runner: &Runner, check: &CheckConfig, test: &TestId) -> Result<u32, Why> {
    let retries = runner.config.regression.retries;
    Ok(if has_flaked(runner, &check.name, test).await? { retries.saturating_mul(2) } else { retries })
}

/// True if a test is known to be flaky, or the check as a whole is.
pub(super) async fn has_flaked(runner: &Runner, check: &str, test: &TestId) -> Result<bool, Why> {
    runner.read(|tx| Ok(tx.has_flaked(test, check)? || tx.was_alerted(&about_check(FLAKY, check))?)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_covers_what_lies_in_it() {
        for (own, path, covered) in [
            ("src/a.rs", "src/a.rs", true),
            ("src/", "src/a.rs", true),
            ("src/**/*.rs", "src/deep/a.rs", true),
            ("src/a", "src/a.rs", false),
            ("*.rs", "a.rs", false),
            ("../x", "../x", false),
            ("", "a", false),
            ("/", "a", false),
        ] {
            assert_eq!(covers(own, path), covered, "{own} {path}");
        }
    }
}
