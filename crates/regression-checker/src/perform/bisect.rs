//! A bisection: several commits at a time, each in a worktree of its own, round after round while rounds are short.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use coord_db::config::CheckConfig;
use coord_db::{BaselineTest, Regression, TestId};
use tokio::task::JoinSet;
use work_tree::bisect::{Outcome as End, Verdict};
use work_tree::{Bisect, CommitHash};

use super::ask::{SLICE, path_of, retries};
use super::{Note, NoteVerdict, Run, Runner, Why, said};
use crate::{BisectNotes, BisectRound, Found, Round, Tried};

/// The exit code with which a check says that it cannot judge a commit, as for `git bisect run`.
const CANNOT_TELL: i32 = 125;
/// The exit codes of a shell that does not find a program, or may not run it.
const NO_PROGRAM: [i32; 2] = [126, 127];
/// With fewer candidates it is not worth finding out which of them are likely.
const FEW: usize = 4;

struct Search {
    runner: Rc<Runner>,
    check: CheckConfig,
    test: BaselineTest,
    notes: BisectNotes,
    /// The candidates, oldest first, and where each stands.
    line: Vec<CommitHash>,
    places: BTreeMap<CommitHash, usize>,
    bad: CommitHash,
    bisect: Bisect,
    /// Contradictions that were looked into: they are of the history and not of the check.
    looked_into: BTreeSet<(CommitHash, CommitHash)>,
    tried: Vec<Tried>,
    rounds: u32,
    parallel: usize,
    retries: usize,
}

pub(super) async fn round(runner: &Rc<Runner>, steps: &BisectRound) -> Result<Round, Why> {
    let row = runner.read(|tx| tx.regression(&steps.regression))?.ok_or("the regression is gone")?;
    let lost = |why: &str| {
        let found = Some(Found::Unknown { why: why.to_owned(), suspects: Vec::new() });
        Ok(Round { rounds: 0, tried: Vec::new(), runs: 0, found })
    };
    // Our own rows hold full hashes; other tools may write anything.
    let find = |rev: &str| match CommitHash::new(rev) {
        Ok(commit) => Ok(Some(commit)),
        Err(_) => runner.repository.resolve(rev).map_err(said),
    };
    let (Some(good), Some(bad)) = (find(&row.last_good_commit)?, find(&row.bad_commit)?) else {
        return lost("the commits between which it broke are not in the repository");
    };
    let (repository, ends) = (runner.repository.clone(), (good.clone(), bad.clone()));
    let line = match super::blocking(move || repository.hashes_between(&ends.0, &ends.1, &[])).await? {
        Ok(line) => line,
        Err(error) => {
            let there = |commit: &CommitHash| runner.repository.resolve(commit.as_str()).map(|found| found.is_some());
            return match (there(&good), there(&bad)) {
                (Ok(true), Ok(true)) | (Err(_), _) | (_, Err(_)) => Err(said(error)),
                _ => lost("the commits between which it broke are not in the repository"),
            };
        }
    };
    if line.last().is_none_or(|last| *last != bad) {
        return lost("the commit at which it failed does not come after the one at which it passed");
    }
    Search::new(runner, row, good, bad, line, &steps.hints).await?.run().await
}

/// The commits of a line that touch what a test is about: its scope, the files of its attempts, what its failure names.
async fn touching(runner: &Rc<Runner>, row: &Regression, ends: (CommitHash, CommitHash)) -> Result<BTreeSet<CommitHash>, Why> {
    let known = runner.read(|tx| tx.paths_of_tests(Some(&row.test_id)))?;
    let own = known.iter().flat_map(|(_, paths)| &paths.0).filter_map(|path| path_of(path));
    let shown = row.output_tail.split(|each: char| each.is_whitespace() || "\"'`():,;[]<>=".contains(each));
    let shown = shown.filter_map(path_of);
    let mut paths: BTreeSet<PathBuf> = own.map(PathBuf::from).collect();
    let tree = runner.worktree_path(0);
    paths.extend(shown.filter(|path| path.len() < 512 && tree.join(path).is_file()).map(PathBuf::from));
    if paths.is_empty() {
        return Ok(BTreeSet::new());
    }
    let (repository, paths) = (runner.repository.clone(), Vec::from_iter(paths));
    let touching = super::blocking(move || repository.hashes_between(&ends.0, &ends.1, &paths)).await?.map_err(said)?;
    Ok(touching.into_iter().collect())
}

impl Search {
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
            bisect = bisect.suspecting(&[touching(runner, &row, (good, bad.clone())).await?, hinted]);
        }
        for tried in &notes.tried {
            bisect.record(&tried.commit, tried.verdict);
        }
        let known = runner.read(|tx| tx.find_test(row.test_id.as_str()))?;
        let check = runner.check(&row.check_name)?.clone();
        let retries = match row.test_id.as_str().parse::<TestId>() {
            Ok(test) => retries(runner, &check, &test)?,
            Err(_) => runner.config.regression.retries,
        };
        Ok(Self {
            check,
            runner: Rc::clone(runner),
            test: BaselineTest {
                test_id: row.test_id,
                category: known.as_ref().map(|test| test.category.clone()).unwrap_or_default(),
                status: known.as_ref().map(|test| test.status),
                loop_id: known.map(|test| test.loop_id),
            },
            notes,
            places: line.iter().cloned().zip(0..).collect(),
            line,
            bad,
            bisect,
            looked_into: BTreeSet::new(),
            tried: Vec::new(),
            rounds: 0,
            parallel: runner.parallel(),
            retries: retries as usize,
        })
    }

    /// Round after round, until it has come to an end or the time of an entry is over.
    async fn run(mut self) -> Result<Round, Why> {
        let begun = Instant::now();
        let mut found;
        loop {
            if self.bisect.outcome().is_none() {
                let batch = self.bisect.next(self.parallel);
                self.rounds += 1;
                for (commit, verdict) in self.try_all("try", batch).await? {
                    self.record(commit, verdict);
                }
            }
            found = self.conclude().await?;
            if found.is_some() || begun.elapsed() >= SLICE {
                break;
            }
        }
        Ok(Round { rounds: self.rounds.max(1), tried: self.tried, runs: self.runner.runs.get(), found })
    }

    fn record(&mut self, commit: CommitHash, verdict: Verdict) {
        self.bisect.record(&commit, verdict);
        self.tried.push(Tried { commit, verdict });
    }

    fn position(&self, commit: &CommitHash) -> Option<usize> {
        self.places.get(commit).copied()
    }

    /// The commit before a candidate.
    fn before(&self, at: usize) -> CommitHash {
        at.checked_sub(1).map_or_else(|| self.bisect.good().clone(), |at| self.line[at].clone())
    }

    /// Tries commits, so many at once as there may be; one that is named more than once as often.
    async fn try_all(&self, purpose: &str, commits: Vec<CommitHash>) -> Result<Vec<(CommitHash, Verdict)>, Why> {
        let mut told = Vec::new();
        let numbered: Vec<(usize, CommitHash)> = commits.into_iter().enumerate().collect();
        for batch in numbered.chunks(self.parallel) {
            let mut running = JoinSet::new();
            for (slot, (n, commit)) in batch.iter().cloned().enumerate() {
                let (runner, check, test) = (Rc::clone(&self.runner), self.check.clone(), self.test.clone());
                let key = if purpose == "try" { format!("{purpose}/{commit}") } else { format!("{purpose}/{commit}/{n}") };
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
        told.sort_by_key(|(commit, _)| self.position(commit));
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

    /// What has been found, if this is the end. What decides is tried again first.
    async fn conclude(&mut self) -> Result<Option<Found>, Why> {
        if let Some((bad, good)) = self.bisect.contradiction()
            && !self.looked_into.contains(&(bad.clone(), good.clone()))
        {
            let again = self.try_all("turn", vec![bad.clone(), good.clone()]).await?;
            let said = |commit: &CommitHash| again.iter().find(|(tried, _)| tried == commit).map(|(_, verdict)| *verdict);
            if said(&bad) == Some(Verdict::Good) || said(&good) == Some(Verdict::Bad) {
                return Ok(Some(Found::Flaky { why: format!("it fails and passes in turn at {bad} or {good}") }));
            }
            self.looked_into.insert((bad, good));
        }
        match self.bisect.outcome() {
            None => Ok(None),
            Some(End::FirstBad(commit)) => match self.confirm(&commit).await? {
                Confirmed::Yes => self.blame(commit).await.map(Some),
                Confirmed::No(found) => Ok(Some(found)),
                Confirmed::Skipped => Ok(None),
            },
            Some(End::Ambiguous(suspects)) => {
                let why = "the check cannot be judged at the commits that could tell".to_owned();
                Ok(Some(Found::Unknown { why, suspects }))
            }
            Some(End::Inconsistent) => Ok(Some(Found::Flaky { why: format!("it passes at {}, where it failed", self.bad) })),
        }
    }

    async fn blame(&self, commit: CommitHash) -> Result<Found, Why> {
        let (repository, at) = (self.runner.repository.clone(), commit.clone());
        let trailers = super::blocking(move || repository.trailers_of(&at)).await?.map_err(said)?;
        let value = |key: &str| trailers.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        Ok(Found::FirstBad {
            blamed_loop: value("Loop").and_then(|id| id.parse().ok()),
            blamed_test: value("Test").and_then(|id| id.parse().ok()),
            commit,
        })
    }

    /// Before somebody is blamed, the commit before theirs has to pass as often again as the failure had to fail again:
    /// answers by chance look like a first bad commit too.
    async fn confirm(&mut self, first_bad: &CommitHash) -> Result<Confirmed, Why> {
        let Some(at) = self.position(first_bad) else { return Ok(Confirmed::Yes) };
        let before = self.before(at);
        let again = self.try_all("before", vec![before.clone(); self.retries.max(1)]).await?;
        let bad = again.iter().filter(|(_, verdict)| *verdict == Verdict::Bad).count();
        if bad == 0 {
            return Ok(Confirmed::Yes);
        }
        let end = self.try_all("end", vec![self.bad.clone(); self.retries + 1]).await?;
        if end.iter().any(|(_, verdict)| *verdict == Verdict::Good) {
            return Ok(Confirmed::No(Found::Flaky { why: format!("it fails and passes in turn at {before}") }));
        }
        if at == 0 && bad == again.len() {
            let why = "it fails now also at the last commit at which it had passed".to_owned();
            return Ok(Confirmed::No(Found::Unknown { why, suspects: Vec::new() }));
        }
        if at == 0 {
            let why = "it fails and passes in turn at the last commit at which it had passed".to_owned();
            return Ok(Confirmed::No(Found::Unknown { why, suspects: vec![first_bad.clone()] }));
        }
        // Broken for good by the end, and at times before: that commit says nothing.
        self.record(before, Verdict::Skip);
        Ok(Confirmed::Skipped)
    }
}

/// Whether a first bad commit may be blamed.
enum Confirmed {
    Yes,
    /// It is no such thing.
    No(Found),
    /// The commit before it counts no longer, so the search goes on.
    Skipped,
}
