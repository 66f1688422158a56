//! Chooses the commits to try next to find the first bad one. Pure: it runs nothing and reads no clock, and its state
//! can be stored and resumed.
//!
//! The candidates form one line of history, oldest first. Several commits can be tried at once: with `n` workers each
//! round leaves about one part in `n + 1` of the range. If some commits are more likely than others, the parts are
//! equal in likelihood and not in length, so a good guess saves rounds and a bad one costs at most one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::CommitHash;

/// The result of trying a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The test passes.
    Good,
    /// The test fails.
    Bad,
    /// The commit cannot be judged, for example because it does not build.
    Skip,
}

/// The result of a finished bisection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The first bad commit.
    FirstBad(CommitHash),
    /// Skipped commits prevent a decision between these candidates, oldest first.
    Ambiguous(Vec<CommitHash>),
    /// The bad commit turned out to be good, so there is nothing to find.
    Inconsistent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Candidate {
    commit: CommitHash,
    verdict: Option<Verdict>,
    /// Relative likelihood of being the first bad commit.
    #[serde(default = "one")]
    weight: u64,
}

/// The total likelihood of all commits.
const WHOLE: u64 = 1 << 32;

fn one() -> u64 {
    1
}

/// A bisection in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisect {
    good: CommitHash,
    candidates: Vec<Candidate>,
}

impl Bisect {
    /// Starts between a known good and a known bad commit.
    ///
    /// `candidates` are the commits after `good` up to `bad`, oldest first, as [`Repository::commits_between`] gives them.
    /// They may or may not include `good` and `bad`.
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
                list.push(Candidate { commit, verdict: None, weight: 1 });
            }
        }
        list.push(Candidate { commit: bad, verdict: Some(Verdict::Bad), weight: 1 });
        Self { good, candidates: list }
    }

    /// Gives more weight to groups of commits: each group as a whole is as likely as all commits together. If the first
    /// bad commit is in no group, this costs one more halving, or two with two groups.
    #[must_use]
    pub fn suspecting(mut self, groups: &[BTreeSet<CommitHash>]) -> Self {
        let inside = |group: &BTreeSet<CommitHash>| self.candidates.iter().filter(|one| group.contains(&one.commit)).count();
        let groups: Vec<_> = groups.iter().map(|group| (group, inside(group) as u64)).filter(|(_, count)| *count > 0).collect();
        let all = self.candidates.len() as u64;
        for candidate in &mut self.candidates {
            let of = groups.iter().filter(|(group, _)| group.contains(&candidate.commit));
            candidate.weight = of.fold(WHOLE / all, |sum, (_, count)| sum + WHOLE / count).max(1);
        }
        self
    }

    /// The good commit from which it started.
    #[must_use]
    pub fn good(&self) -> &CommitHash {
        &self.good
    }

    /// The first known bad commit that is not followed by a good one; none if the last commit is good.
    #[must_use]
    pub fn first_known_bad(&self) -> Option<&CommitHash> {
        self.range().map(|(_, end)| &self.candidates[end].commit)
    }

    /// Number of commits that could still be tried.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open_positions().len()
    }

    /// The commits to try now, at most `parallel` (0 counts as 1), oldest first; none if there is an outcome.
    #[must_use]
    pub fn next(&self, parallel: usize) -> Vec<CommitHash> {
        let open = self.open_positions();
        let Some((start, end)) = self.range() else { return Vec::new() };
        let count = parallel.max(1).min(open.len());
        // The cumulative weight up to each position.
        let mut up_to = Vec::with_capacity(end + 1 - start);
        let mut sum = 0;
        for candidate in &self.candidates[start..=end] {
            sum += candidate.weight;
            up_to.push(sum);
        }
        let mut from = 0;
        let mut chosen = Vec::with_capacity(count);
        for part in 1..=count {
            let target = sum * part as u64 / (count as u64 + 1);
            // The remaining parts need one position each.
            let last = open.len() - (count - part);
            let best = (from..last).min_by_key(|&at| up_to[open[at] - start].abs_diff(target)).unwrap_or(from);
            chosen.push(self.candidates[open[best]].commit.clone());
            from = best + 1;
        }
        chosen
    }

    /// Records a verdict; a later one for the same commit replaces it. False if the commit is no candidate.
    pub fn record(&mut self, commit: &CommitHash, verdict: Verdict) -> bool {
        match self.candidates.iter_mut().find(|candidate| candidate.commit == *commit) {
            Some(candidate) => {
                candidate.verdict = Some(verdict);
                true
            }
            None => false,
        }
    }

    /// The outcome, once nothing is left to try.
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

    /// A bad commit before a good one, which contradicts the assumption of a single breaking change. Either the check
    /// is flaky, or the breakage was repaired and returned; then the last one counts.
    #[must_use]
    pub fn contradiction(&self) -> Option<(CommitHash, CommitHash)> {
        let is = |verdict| move |candidate: &Candidate| candidate.verdict == Some(verdict);
        let bad = self.candidates.iter().position(is(Verdict::Bad))?;
        let good = self.candidates.iter().rposition(is(Verdict::Good)).filter(|&good| good > bad)?;
        Some((self.candidates[bad].commit.clone(), self.candidates[good].commit.clone()))
    }

    /// From the position after the last good commit to the first bad one after it; none if the last commit is good.
    fn range(&self) -> Option<(usize, usize)> {
        let is = |verdict| move |candidate: &Candidate| candidate.verdict == Some(verdict);
        let start = self.candidates.iter().rposition(is(Verdict::Good)).map_or(0, |position| position + 1);
        let end = self.candidates[start..].iter().position(is(Verdict::Bad))?;
        Some((start, start + end))
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
            // However long the history is, its text is made in the same way.
            if bisect.candidates.len() < 100 {
                let text = serde_json::to_string(&bisect).unwrap();
                assert_eq!(serde_json::from_str::<Bisect>(&text).unwrap(), bisect, "it can be taken up again");
            }
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
    fn of_several_breaks_the_last_one_counts() {
        let mut bisect = history(10);
        assert_eq!(bisect.contradiction(), None);
        assert!(bisect.record(&commit(3), Verdict::Bad));
        assert!(bisect.record(&commit(7), Verdict::Good));
        assert_eq!(bisect.contradiction(), Some((commit(3), commit(7))));
        let (outcome, _) = search(bisect, 2, |hash| if *hash < commit(9) { Verdict::Good } else { Verdict::Bad });
        assert_eq!(outcome, Outcome::FirstBad(commit(9)));
    }

    #[test]
    fn a_good_end_is_inconsistent() {
        let mut end = history(3);
        assert!(!end.record(&commit(99), Verdict::Good));
        assert!(end.record(&commit(3), Verdict::Good), "a flaky end is seen");
        assert_eq!(end.outcome(), Some(Outcome::Inconsistent));
        assert!(end.next(2).is_empty());
    }

    #[test]
    fn a_good_guess_saves_rounds_and_a_bad_one_costs_little() {
        let judge = |first_bad| {
            move |hash: &CommitHash| {
                if *hash < commit(first_bad) { Verdict::Good } else { Verdict::Bad }
            }
        };
        let likely: BTreeSet<_> = (1..=25).map(|n| commit(n * 40)).collect();
        for parallel in [1, 2, 3] {
            let plain = (1..=1024).step_by(3).map(|n| search(history(1024), parallel, judge(n)).1).max().unwrap();
            let guessed = |n| search(history(1024).suspecting(std::slice::from_ref(&likely)), parallel, judge(n));
            let right = (1..=25).map(|n| guessed(n * 40).1).max().unwrap();
            let wrong = (1..=1024).step_by(3).map(guessed).inspect(|(end, _)| assert!(matches!(end, Outcome::FirstBad(_))));
            let wrong = wrong.map(|(_, rounds)| rounds).max().unwrap();
            // Half of the weight is on the 25, so it is as if there were 50 commits.
            let bound = 50_f64.log(parallel as f64 + 1.0).ceil() as usize + 1;
            let said = format!("{parallel}: {plain} plain, {right} right, {wrong} wrong, bound {bound}");
            assert!(right < plain && right <= bound && wrong <= plain + 2, "{said}");
        }
        let everybody = history(9).suspecting(&[(1..=9).map(commit).collect(), BTreeSet::new()]);
        assert_eq!(everybody.next(2), history(9).next(2), "to suspect everybody is to suspect nobody");
    }

    #[test]
    fn one_commit_needs_no_round() {
        let bisect = Bisect::new(commit(0), commit(1), Vec::new());
        assert_eq!(bisect.outcome(), Some(Outcome::FirstBad(commit(1))));
    }
}
