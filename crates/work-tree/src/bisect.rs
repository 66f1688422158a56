//! Which commits to try next, to find the first bad one. Pure: it runs nothing and reads no clock, and it can be written
//! down and taken up again.
//!
//! The candidates count as one line of history, oldest first. Several commits can be tried at once: with `n` workers each
//! round leaves about one part in `n + 1` of the range.

use serde::{Deserialize, Serialize};

use crate::CommitHash;

/// What trying a commit told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It works there.
    Good,
    /// It is broken there.
    Bad,
    /// It cannot be told there, for example because it does not build.
    Skip,
}

/// What a finished bisection found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The first bad commit.
    FirstBad(CommitHash),
    /// Skipped commits hide it: it is one of these, oldest first.
    Ambiguous(Vec<CommitHash>),
    /// A good commit comes after a bad one, so the answers do not tell of one change that broke it.
    Inconsistent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Candidate {
    commit: CommitHash,
    verdict: Option<Verdict>,
}

/// A bisection in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    good: CommitHash,
    candidates: Vec<Candidate>,
}

impl Bisect {
    /// Starts between a commit known to be good and one known to be bad.
    ///
    /// `candidates` are the commits after `good` up to `bad`, oldest first, as [`Repository::commits_between`] gives them.
    /// Whether `good` and `bad` are among them does not matter.
    ///
    /// [`Repository::commits_between`]: crate::Repository::commits_between
    #[must_use]
    pub fn new(good: CommitHash, bad: CommitHash, candidates: Vec<CommitHash>) -> Self {
        let mut list: Vec<Candidate> = Vec::with_capacity(candidates.len() + 1);
        for commit in candidates {
            if commit == bad {
                break;
            }
            if commit != good {
                list.push(Candidate { commit, verdict: None });
            }
        }
        list.push(Candidate { commit: bad, verdict: Some(Verdict::Bad) });
        Self { good, candidates: list }
    }

    /// The commit that it started from as good.
    #[must_use]
    pub fn good(&self) -> &CommitHash {
        &self.good
    }

    /// How many commits could still be tried.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open_positions().len()
    }

    /// The commits to try now, at most `parallel` (0 counts as 1), oldest first; none when there is an outcome.
    #[must_use]
    pub fn next(&self, parallel: usize) -> Vec<CommitHash> {
        let open = self.open_positions();
        let count = parallel.max(1).min(open.len());
        (1..=count).map(|part| self.candidates[open[part * open.len() / (count + 1)]].commit.clone()).collect()
    }

    /// Records an answer; a later one for the same commit replaces it. False if the commit is no candidate.
    pub fn record(&mut self, commit: &CommitHash, verdict: Verdict) -> bool {
        match self.candidates.iter_mut().find(|candidate| candidate.commit == *commit) {
            Some(candidate) => {
                candidate.verdict = Some(verdict);
                true
            }
            None => false,
        }
    }

    /// What was found, once nothing is left to try.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let Some((start, end)) = self.range() else {
            return Some(Outcome::Inconsistent);
        };
        if !self.open_positions().is_empty() {
            return None;
        }
        let mut suspects: Vec<CommitHash> =
            self.candidates[start..=end].iter().map(|candidate| candidate.commit.clone()).collect();
        Some(if suspects.len() == 1 { Outcome::FirstBad(suspects.remove(0)) } else { Outcome::Ambiguous(suspects) })
    }

    /// From the position after the last good commit to the first bad one; none if they contradict each other.
    fn range(&self) -> Option<(usize, usize)> {
        let is = |verdict| move |candidate: &Candidate| candidate.verdict == Some(verdict);
        let start = self.candidates.iter().rposition(is(Verdict::Good)).map_or(0, |position| position + 1);
        let end = self.candidates.iter().position(is(Verdict::Bad))?;
        (start <= end).then_some((start, end))
    }

    fn open_positions(&self) -> Vec<usize> {
        let Some((start, end)) = self.range() else {
            return Vec::new();
        };
        (start..end).filter(|&position| self.candidates[position].verdict.is_none()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(number: usize) -> CommitHash {
        CommitHash::new(format!("{number:040x}")).unwrap()
    }

    fn history(length: usize) -> Bisect {
        Bisect::new(commit(0), commit(length), (1..=length).map(commit).collect())
    }

    /// Runs to the end; gives the outcome and the number of rounds.
    fn search(mut bisect: Bisect, parallel: usize, verdict: impl Fn(&CommitHash) -> Verdict) -> (Outcome, usize) {
        let mut rounds = 0;
        loop {
            if let Some(outcome) = bisect.outcome() {
                assert!(bisect.next(parallel).is_empty());
                return (outcome, rounds);
            }
            let batch = bisect.next(parallel);
            assert!(!batch.is_empty() && batch.len() <= parallel.max(1));
            assert!(batch.is_sorted_by(|a, b| a < b), "distinct and oldest first");
            for commit in batch {
                assert!(bisect.record(&commit, verdict(&commit)));
            }
            rounds += 1;
            assert!(rounds < 1000, "it ends");
            let text = serde_json::to_string(&bisect).unwrap();
            assert_eq!(serde_json::from_str::<Bisect>(&text).unwrap(), bisect, "it can be taken up again");
        }
    }

    #[test]
    fn finds_each_first_bad_commit() {
        for length in 1..40 {
            for first_bad in 1..=length {
                for parallel in [0, 1, 2, 3, 7, 64] {
                    let judge = |hash: &CommitHash| {
                        if *hash < commit(first_bad) { Verdict::Good } else { Verdict::Bad }
                    };
                    let (outcome, rounds) = search(history(length), parallel, judge);
                    assert_eq!(outcome, Outcome::FirstBad(commit(first_bad)));
                    let parts = parallel.max(1) + 1;
                    let bound = (length as f64).log(parts as f64).ceil() as usize + 1;
                    assert!(rounds <= bound, "{length} commits, {parallel} at once: {rounds} rounds, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn several_at_once_take_fewer_rounds() {
        let judge = |hash: &CommitHash| {
            if *hash < commit(700) { Verdict::Good } else { Verdict::Bad }
        };
        let one = search(history(1000), 1, judge).1;
        let four = search(history(1000), 4, judge).1;
        assert!(four * 2 <= one, "{four} against {one}");
    }

    #[test]
    fn skipped_runs_are_stepped_over() {
        for (from, to) in [(5, 12), (1, 9), (10, 19), (1, 19)] {
            for first_bad in 1..=20 {
                let judge = |hash: &CommitHash| {
                    if (commit(from)..=commit(to)).contains(hash) && *hash != commit(20) {
                        Verdict::Skip
                    } else if *hash < commit(first_bad) {
                        Verdict::Good
                    } else {
                        Verdict::Bad
                    }
                };
                let (outcome, _) = search(history(20), 3, judge);
                match outcome {
                    Outcome::FirstBad(found) => assert_eq!(found, commit(first_bad)),
                    Outcome::Ambiguous(suspects) => {
                        assert!(suspects.contains(&commit(first_bad)));
                        let (last, skipped) = suspects.split_last().unwrap();
                        assert!(skipped.iter().all(|each| judge(each) == Verdict::Skip));
                        assert_eq!(judge(last), Verdict::Bad);
                    }
                    Outcome::Inconsistent => panic!("the answers were consistent"),
                }
            }
        }
    }

    #[test]
    fn good_after_bad_is_inconsistent() {
        let mut bisect = history(10);
        assert!(bisect.record(&commit(3), Verdict::Bad));
        assert!(bisect.record(&commit(7), Verdict::Good));
        assert_eq!(bisect.outcome(), Some(Outcome::Inconsistent));
        assert!(bisect.next(2).is_empty());
        assert!(!bisect.record(&commit(99), Verdict::Good));
        let mut end = history(3);
        assert!(end.record(&commit(3), Verdict::Good), "a flaky end is seen too");
        assert_eq!(end.outcome(), Some(Outcome::Inconsistent));
    }

    #[test]
    fn one_commit_needs_no_round() {
        let bisect = Bisect::new(commit(0), commit(1), Vec::new());
        assert_eq!(bisect.outcome(), Some(Outcome::FirstBad(commit(1))));
    }
}
