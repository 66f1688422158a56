//! One round of a bisection: several commits at a time, each in a worktree of its own.

use std::rc::Rc;

use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, Regression};
use tokio::task::JoinSet;
use work_tree::bisect::{Outcome as End, Verdict};
use work_tree::{Bisect, CommitHash, CommitInfo};

use super::head::FLAKY_AMONG;
use super::{Note, NoteVerdict, Run, Runner, Why, said};
use crate::{BisectNotes, BisectRound, Found, Round, Tried};

/// The exit code with which a check says that it cannot judge a commit, as for `git bisect run`.
const CANNOT_TELL: i32 = 125;
/// The exit codes of a shell that does not find a program, or may not run it.
const NO_PROGRAM: [i32; 2] = [126, 127];

struct Search {
    runner: Rc<Runner>,
    check: CheckConfig,
    test: BaselineTest,
    notes: BisectNotes,
    candidates: Vec<CommitInfo>,
    bisect: Bisect,
    tried: Vec<Tried>,
    parallel: usize,
}

pub(super) async fn round(runner: &Rc<Runner>, steps: &BisectRound) -> Result<Round, Why> {
    let row = runner.read(|tx| tx.regression(&steps.regression))?.ok_or("the regression is gone")?;
    let lost = |why: &str| {
        Ok(Round { tried: Vec::new(), runs: 0, found: Some(Found::Unknown { why: why.to_owned(), suspects: Vec::new() }) })
    };
    let find = |rev: &str| runner.repository.resolve(rev).map_err(said);
    let (Some(good), Some(bad)) = (find(&row.last_good_commit)?, find(&row.bad_commit)?) else {
        return lost("the commits between which it broke are not in the repository");
    };
    let (repository, ends) = (runner.repository.clone(), (good.clone(), bad.clone()));
    let candidates = super::blocking(move || repository.commits_between(&ends.0, &ends.1)).await?.map_err(said)?;
    if candidates.last().is_none_or(|last| last.hash != bad) {
        return lost("the commit at which it failed does not come after the one at which it passed");
    }
    let search = Search::new(runner, row, good, bad, candidates)?;
    let round = search.run(&steps.hints).await?;
    if round.found.is_some() {
        runner.remove_spare_worktrees().await;
    }
    Ok(round)
}

impl Search {
    fn new(
        runner: &Rc<Runner>,
        row: Regression,
        good: CommitHash,
        bad: CommitHash,
        candidates: Vec<CommitInfo>,
    ) -> Result<Self, Why> {
        let notes = BisectNotes::of(&row);
        let mut bisect = Bisect::new(good, bad, candidates.iter().map(|info| info.hash.clone()).collect());
        for tried in &notes.tried {
            bisect.record(&tried.commit, tried.verdict);
        }
        let known = runner.read(|tx| tx.find_test(row.test_id.as_str()))?;
        let parallel = match runner.config.regression.parallel {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            set => set,
        };
        Ok(Self {
            check: runner.check(&row.check_name)?.clone(),
            runner: Rc::clone(runner),
            test: BaselineTest {
                test_id: row.test_id,
                category: known.as_ref().map(|test| test.category.clone()).unwrap_or_default(),
                loop_id: known.map(|test| test.loop_id),
            },
            notes,
            candidates,
            bisect,
            tried: Vec::new(),
            parallel,
        })
    }

    async fn run(mut self, hints: &[String]) -> Result<Round, Why> {
        if self.bisect.outcome().is_none() {
            let mut batch = self.hinted(hints);
            if batch.is_empty() {
                batch = self.bisect.next(self.parallel);
            }
            for (commit, verdict) in self.try_all("try", batch).await? {
                self.record(commit, verdict);
            }
        }
        let found = self.conclude().await?;
        Ok(Round { tried: self.tried, runs: self.runner.runs.get(), found })
    }

    fn record(&mut self, commit: CommitHash, verdict: Verdict) {
        self.bisect.record(&commit, verdict);
        self.tried.push(Tried { commit, verdict });
    }

    fn position(&self, commit: &str) -> Option<usize> {
        self.candidates.iter().position(|info| info.hash.as_str() == commit)
    }

    /// Before anything else is tried: where the same check broke for another test, and the commit before that.
    fn hinted(&self, hints: &[String]) -> Vec<CommitHash> {
        if !self.notes.tried.is_empty() {
            return Vec::new();
        }
        let mut batch: Vec<CommitHash> = Vec::new();
        for at in hints.iter().filter_map(|hint| self.position(hint)) {
            for at in [at.checked_sub(1), Some(at)].into_iter().flatten().filter(|at| at + 1 < self.candidates.len()) {
                let commit = &self.candidates[at].hash;
                if !batch.contains(commit) {
                    batch.push(commit.clone());
                }
            }
        }
        batch
    }

    /// Tries commits, so many at once as there may be.
    async fn try_all(&self, purpose: &str, commits: Vec<CommitHash>) -> Result<Vec<(CommitHash, Verdict)>, Why> {
        let mut told = Vec::new();
        for batch in commits.chunks(self.parallel) {
            let mut running = JoinSet::new();
            for (slot, commit) in batch.iter().cloned().enumerate() {
                let (runner, check, test) = (Rc::clone(&self.runner), self.check.clone(), self.test.clone());
                let key = format!("{purpose}/{commit}");
                running.spawn_local(async move {
                    let run = Run { check: &check, commit: &commit, test: Some(&test), slot };
                    let note = runner.once(key, run).await;
                    (commit, note)
                });
            }
            let mut failed = None;
            while let Some(ended) = running.join_next().await {
                match ended.map_err(said)? {
                    (commit, Ok(note)) => told.push((commit, self.judge(&note))),
                    (_, Err(why)) => failed = Some(why),
                }
            }
            if let Some(why) = failed {
                return Err(why);
            }
        }
        // The order in which they ended means nothing.
        told.sort_by_key(|(commit, _)| self.position(commit.as_str()));
        Ok(told)
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

    /// What has been found, if this is the end. What decides is tried again where the check's word is doubtful.
    async fn conclude(&mut self) -> Result<Option<Found>, Why> {
        if let Some(End::FirstBad(commit)) = self.bisect.outcome()
            && let Some(at) = self.position(commit.as_str())
            && let Some(refuted) = self.confirm(at).await?
        {
            return Ok(Some(refuted));
        }
        let unknown = |why: &str, suspects| Some(Found::Unknown { why: why.to_owned(), suspects });
        Ok(match self.bisect.outcome() {
            None => None,
            Some(End::FirstBad(commit)) => {
                let trailer = |key| {
                    let info = self.candidates.iter().find(|info| info.hash == commit);
                    info.and_then(|info| info.trailer(key))
                };
                Some(Found::FirstBad {
                    blamed_loop: trailer("Loop").and_then(|id| id.parse().ok()),
                    blamed_test: trailer("Test").and_then(|id| id.parse().ok()),
                    commit,
                })
            }
            Some(End::Ambiguous(suspects)) => unknown("the check cannot be judged at the commits that could tell", suspects),
            Some(End::Inconsistent) => unknown("it fails and passes in turn along the commits", Vec::new()),
        })
    }

    /// Tries again what would decide. Gives the end if nothing can be told; a commit that says two things is skipped.
    async fn confirm(&mut self, at: usize) -> Result<Option<Found>, Why> {
        let count = self.candidates.len();
        // With nothing in between there was nothing to try, so nothing has shown yet that the good end still is good.
        if at == 0 {
            let good = self.bisect.good().clone();
            if let [(_, Verdict::Bad)] = self.try_all("good", vec![good]).await?.as_slice() {
                let why = "it fails now also at the last commit at which it had passed";
                return Ok(Some(Found::Unknown { why: why.to_owned(), suspects: Vec::new() }));
            }
        }
        let name = self.check.name.clone();
        if count == 1 || !self.runner.read(|tx| tx.was_flaky(&name, FLAKY_AMONG))? {
            return Ok(None);
        }
        // The last candidate failed often enough before the search began.
        let again = [at.checked_sub(1), Some(at).filter(|at| at + 1 < count)];
        let again: Vec<CommitHash> = again.into_iter().flatten().map(|at| self.candidates[at].hash.clone()).collect();
        for (commit, verdict) in self.try_all("again", again).await? {
            let expected = if Some(at) == self.position(commit.as_str()) { Verdict::Bad } else { Verdict::Good };
            if verdict != expected {
                self.record(commit, Verdict::Skip);
            }
        }
        Ok(None)
    }
}
