//! Performs a bisection: tries several commits in parallel, each in its own check-out, and several steps while they are
//! short.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, Regression};
use git::bisect::Verdict;
use git::{Bisect, CommitHash};
use tokio::task::JoinSet;

use super::ask::{SLICE, has_flaked, path_of};
use super::{Note, NoteVerdict, Run, Runner, Why, error_text};
use crate::decide::search::{End, Search, Step};
use crate::{BisectNotes, BisectRound, Found, Round, Tried};

/// The exit code of a check that cannot judge a commit, as for `git bisect run`.
const CANNOT_TELL: i32 = 125;
/// The exit codes of a shell that cannot find or execute a program.
const NO_PROGRAM: [i32; 2] = [126, 127];
/// With fewer candidates than this, likely ones are not searched for.
const FEW: usize = 4;

/// A bisection in progress.
struct Trials {
    runner: Rc<Runner>,
    check: CheckConfig,
    test: BaselineTest,
    /// The check fails only on a fresh clone without caches, so it runs on fresh clones, for no single test.
    is_cold: bool,
    notes: BisectNotes,
    search: Search,
    tried: Vec<Tried>,
    /// Number of runs at each commit in this entry.
    counts: BTreeMap<CommitHash, u32>,
    rounds: u32,
    parallel: usize,
}

pub(super) async fn round(runner: &Rc<Runner>, steps: &BisectRound) -> Result<Round, Why> {
    let row = runner.read(|tx| tx.regression(&steps.regression)).await?.ok_or("the regression no longer exists")?;
    let lost = |why: &str| {
        let found = Some(Found::Unknown { why: why.to_owned(), suspects: Vec::new() });
        Ok(Round { rounds: 0, tried: Vec::new(), runs: 0, found })
    };
    // Our own rows contain full hashes; external tools may write anything.
    let find = |rev: &str| match CommitHash::new(rev) {
        Ok(commit) => Ok(Some(commit)),
        Err(_) => runner.repository().resolve(rev).map_err(error_text),
    };
    let (Some(good), Some(bad)) = (find(&row.last_good_commit)?, find(&row.bad_commit)?) else {
        return lost("the good or the bad commit is not in the store");
    };
    let (repository, ends) = (runner.repository().clone(), (good.clone(), bad.clone()));
    let line = match super::blocking(move || repository.hashes_between(&ends.0, &ends.1, &[])).await? {
        Ok(line) => line,
        Err(error) => {
            let there = |commit: &CommitHash| runner.repository().resolve(commit.as_str()).map(|found| found.is_some());
            return match (there(&good), there(&bad)) {
                (Ok(true), Ok(true)) | (Err(_), _) | (_, Err(_)) => Err(error_text(error)),
                _ => lost("the good or the bad commit is not in the store"),
            };
        }
    };
    if line.last().is_none_or(|last| *last != bad) {
        return lost("the bad commit is not a descendant of the good commit");
    }
    Trials::new(runner, row, good, bad, line, &steps.hints).await?.run().await
}

/// The commits of a line that change files related to a test: its scope, the files of its attempts, files named by the
/// failure.
async fn touching(runner: &Rc<Runner>, row: &Regression, ends: (CommitHash, CommitHash)) -> Result<BTreeSet<CommitHash>, Why> {
    let known = runner.read(|tx| tx.paths_of_tests(Some(&row.test_id))).await?;
    let own = known.iter().flat_map(|(_, paths)| &paths.0).filter_map(|path| path_of(path));
    let shown = row.output_tail.split(|each: char| each.is_whitespace() || "\"'`():,;[]<>=".contains(each));
    let shown = shown.filter_map(path_of);
    let mut paths: BTreeSet<PathBuf> = own.map(PathBuf::from).collect();
    let tree = runner.check_out_path(0);
    paths.extend(shown.filter(|path| path.len() < 512 && tree.join(path).is_file()).map(PathBuf::from));
    if paths.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (repository, paths) = (runner.repository().clone(), Vec::from_iter(paths));
    let touching = super::blocking(move || repository.hashes_between(&ends.0, &ends.1, &paths)).await?.map_err(error_text)?;
    Ok(touching.into_iter().collect())
}

impl Trials {
    async fn new(
        runner: &Rc<Runner>,
        row: Regression,
        good: CommitHash,
        bad: CommitHash,
        line: Vec<CommitHash>,
        hints: &[String],
    ) -> Result<Self, Why> {
        let notes = BisectNotes::of(&row);
        let mut bisect = Bisect::new(good.clone(), bad.clone(), line.clone());
        if line.len() > FEW {
            let hinted = line.iter().filter(|commit| hints.iter().any(|hint| hint == commit.as_str())).cloned().collect();
            bisect = bisect.suspecting(&[touching(runner, &row, (good, bad)).await?, hinted]);
        }
        let has_flaked = has_flaked(runner, &row.check_name, &row.test_id).await?;
        let mut search = Search::new(bisect, line, runner.config.regression.retries, has_flaked);
        for tried in &notes.tried {
            search.record(&tried.commit, tried.verdict);
        }
        // A commit inside of a batch was judged alone and as a part of it; the last one of a batch passed as it is.
        let landed = runner.read(|tx| tx.landed_states(&row.check_name)).await?;
        let before = search.line().split_last().map_or(&[][..], |(_, before)| before);
        let passed = before.iter().rev().find(|commit| landed.iter().any(|landed| landed == commit.as_str()));
        if let Some(passed) = passed.filter(|_| notes.tried.is_empty()).cloned() {
            search.record(&passed, Verdict::Good);
        }
        let known = runner.read(|tx| tx.find_test(row.test_id.as_str())).await?;
        Ok(Self {
            check: runner.check(&row.check_name)?.clone(),
            is_cold: coord_db::strip_cold_suffix(&row.check_name).is_some(),
            runner: Rc::clone(runner),
            test: BaselineTest {
                test_id: row.test_id,
                category: known.as_ref().map(|test| test.category.clone()).unwrap_or_default(),
                status: known.as_ref().map(|test| test.status),
                loop_id: known.map(|test| test.loop_id),
            },
            notes,
            search,
            tried: Vec::new(),
            counts: BTreeMap::new(),
            rounds: 0,
            parallel: runner.parallel(),
        })
    }

    /// Runs steps until the bisection has ended or the time of an entry is over.
    async fn run(mut self) -> Result<Round, Why> {
        let begun = Instant::now();
        let found = loop {
            let commits = match self.search.next(self.parallel) {
                Step::End(end) => break Some(self.found(end).await?),
                Step::Narrow(commits) => {
                    self.rounds += 1;
                    commits
                }
                Step::Confirm(commits) => commits,
            };
            if !self.tried.is_empty() && begun.elapsed() >= SLICE {
                break None;
            }
            for (commit, verdict) in self.try_all(commits).await? {
                self.search.record(&commit, verdict);
                self.tried.push(Tried { commit, verdict });
            }
        };
        Ok(Round { rounds: self.rounds.max(1), tried: self.tried, runs: self.runner.runs.get(), found })
    }

    /// Tries commits in parallel. A commit that is listed more than once is tried as often.
    async fn try_all(&mut self, commits: Vec<CommitHash>) -> Result<Vec<(CommitHash, Verdict)>, Why> {
        let mut results = Vec::new();
        let numbered: Vec<(u32, CommitHash)> = commits
            .into_iter()
            .map(|commit| {
                let count = self.counts.entry(commit.clone()).or_default();
                *count += 1;
                (*count, commit)
            })
            .collect();
        // Each check-out takes consecutive runs, so that it changes its commit as seldom as possible.
        let is_cold = self.is_cold;
        let each = numbered.len().div_ceil(self.parallel);
        for turn in 0..each {
            let mut running = JoinSet::new();
            for (slot, (n, commit)) in numbered.iter().skip(turn).step_by(each).cloned().enumerate() {
                let (runner, check, test) = (Rc::clone(&self.runner), self.check.clone(), self.test.clone());
                running.spawn_local(async move {
                    let test = (!is_cold).then_some(&test);
                    let run = Run { check: &check, commit: &commit, test, slot, is_cold };
                    let note = runner.once(format!("try/{commit}/{n}"), run).await;
                    (n, commit, note)
                });
            }
            let mut failed = None;
            while let Some(ended) = running.join_next().await {
                match ended.map_err(error_text)? {
                    (n, commit, Ok(note)) => results.push((n, commit, self.judge(&note))),
                    (_, _, Err(why)) => failed = Some(why),
                }
            }
            if let Some(why) = failed {
                return Err(why);
            }
        }
        // The order of completion must not matter.
        results.sort_by_key(|(n, commit, _)| (self.search.position(commit), *n));
        Ok(results.into_iter().map(|(_, commit, verdict)| (commit, verdict)).collect())
    }

    fn judge(&self, note: &Note) -> Verdict {
        match (note.verdict, note.exit_code) {
            (NoteVerdict::Pass, _) => Verdict::Good,
            (NoteVerdict::Error, _) | (NoteVerdict::Fail, Some(CANNOT_TELL)) => Verdict::Skip,
            (NoteVerdict::Fail, Some(code)) if NO_PROGRAM.contains(&code) && self.notes.exit_code != Some(code) => {
                Verdict::Skip
            }
            (NoteVerdict::Fail, _) => Verdict::Bad,
        }
    }

    async fn found(&self, end: End) -> Result<Found, Why> {
        let commit = match end {
            End::FirstBad(commit) => commit,
            End::Flaky { why } => return Ok(Found::Flaky { why }),
            End::Unknown { why, suspects } => return Ok(Found::Unknown { why, suspects }),
        };
        let (repository, at) = (self.runner.repository().clone(), commit.clone());
        let trailers = super::blocking(move || repository.trailers_of(&at)).await?.map_err(error_text)?;
        let value = |key: &str| trailers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        Ok(Found::FirstBad {
            blamed_loop: value("Loop").and_then(|id| id.parse().ok()),
            blamed_test: value("Test").and_then(|id| id.parse().ok()),
            commit,
        })
    }
}
