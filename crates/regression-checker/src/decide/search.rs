//! The search for the commit that broke a test: what to run next, and what the results prove. Pure, and a fold over the
//! results, so that it can be stored and resumed.
//!
//! A single result of a flaky test proves little. For a test that was never flaky, a few more runs at the suspected
//! commit and at its predecessor suffice. For a flaky test both commits are run until it is certain that the test fails
//! more often at the later one, whatever its failure rate is, or until that cannot be decided.

use std::collections::BTreeMap;

use git::bisect::{Outcome, Verdict};
use git::{Bisect, CommitHash};

/// A commit is blamed for a flaky test only if chance alone explains the difference with a probability of less than one
/// in this number.
const CERTAINTY: f64 = 10_000.0;
/// Maximum number of runs at the predecessor; after that the difference stays undecided.
const MAX_RUNS_BEFORE: u32 = 40;
/// Number of consecutive runs at one commit, which share its build.
const BLOCK: u32 = 4;
/// Minimum number of runs at the last commit before a flaky test is reported with an unknown cause.
const RUNS_AT_END: u32 = 12;
/// Maximum number of runs of a search.
const MAX_RUNS: u32 = 200;

/// The results of the runs at one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Number of runs that passed.
    pub passes: u32,
    /// Number of runs that failed.
    pub fails: u32,
    /// Number of runs that could not be judged.
    pub skips: u32,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Good => self.passes += 1,
            Verdict::Bad => self.fails += 1,
            Verdict::Skip => self.skips += 1,
        }
    }

    fn runs(self) -> u32 {
        self.passes + self.fails + self.skips
    }
}

/// The evidence required to blame a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// For a test that was never flaky: these numbers of passes at the predecessor and of further failures at the
    /// commit.
    Steady {
        /// Passes at the predecessor.
        before: u32,
        /// Failures at the commit.
        at: u32,
    },
    /// For a flaky test: a difference that is not explained by chance.
    Shaky {
        /// Number of consecutive failures after which a commit counts as broken.
        in_a_row: u32,
    },
}

/// The conclusion from the runs at a suspected commit and at its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighed {
    /// The later commit broke it.
    Blamed,
    /// It was already broken at the predecessor.
    BrokenBefore,
    /// It cannot be decided.
    Unclear,
    /// More runs are needed.
    More {
        /// At the predecessor.
        before: u32,
        /// At the suspected commit.
        at: u32,
    },
}

/// Evaluates the runs at two neighbouring commits. No run at the later commit has passed; a run there that passes ends
/// the suspicion.
#[must_use]
pub fn weigh(before: Tally, at: Tally, demand: Demand) -> Weighed {
    match demand {
        Demand::Steady { before: passes, at: fails } => {
            if before.skips > passes || at.skips > fails {
                return Weighed::Unclear;
            }
            match (passes.saturating_sub(before.passes), fails.saturating_sub(at.fails)) {
                (0, 0) => Weighed::Blamed,
                (before, at) => Weighed::More { before, at },
            }
        }
        Demand::Shaky { in_a_row } => {
            if evidence(before, at) >= CERTAINTY.ln() {
                Weighed::Blamed
            } else if before.passes == 0 && before.fails >= in_a_row {
                Weighed::BrokenBefore
            } else if before.skips.max(at.skips) > in_a_row || before.runs() >= MAX_RUNS_BEFORE {
                Weighed::Unclear
            } else {
                let goal = (before.runs().min(at.runs()) / BLOCK + 1) * BLOCK;
                Weighed::More { before: goal.saturating_sub(before.runs()), at: goal.saturating_sub(at.runs()) }
            }
        }
    }
}

/// The logarithm of an e-value: how much likelier the results are if the two commits differ than if they do not.
///
/// For equal commits the best-fitting failure rate is assumed. If the commits are equal, it exceeds ln(x) at any time
/// with a probability of at most 1/x, for any failure rate and any stopping time.
fn evidence(before: Tally, at: Tally) -> f64 {
    if before.passes == 0 || at.passes > 0 {
        return f64::NEG_INFINITY;
    }
    // Half of the prior is on a test whose result is constant.
    let alone = |tally: Tally, same: bool| {
        let same = if same { 0.5 } else { 0.0 };
        (same + 0.5 * mean_likelihood(tally)).ln()
    };
    let apart = alone(before, before.fails == 0) + alone(at, true);
    let (passes, fails) = (f64::from(before.passes), f64::from(before.fails + at.fails));
    let all = passes + fails;
    let part = |count: f64| if count > 0.0 { count * (count / all).ln() } else { 0.0 };
    apart - part(passes) - part(fails)
}

/// The mean likelihood of a tally over all failure rates: passes! fails! / (passes + fails + 1)!
fn mean_likelihood(tally: Tally) -> f64 {
    let all = f64::from(tally.passes + tally.fails);
    let ways = (1..=tally.passes).fold(1.0, |ways, n| ways * f64::from(tally.fails + n) / f64::from(n));
    1.0 / ((all + 1.0) * ways)
}

/// The next step of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run the check at these commits, to narrow the range.
    Narrow(Vec<CommitHash>),
    /// Run it at these commits, some of them more than once, to confirm.
    Confirm(Vec<CommitHash>),
    /// The search has ended.
    End(End),
}

/// The end of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The commit that broke it.
    FirstBad(CommitHash),
    /// The test sometimes passes at the last commit, at which it had failed.
    Flaky {
        /// The reason.
        why: String,
    },
    /// The cause is unknown.
    Unknown {
        /// The reason.
        why: String,
        /// The commits that may have broken it.
        suspects: Vec<CommitHash>,
    },
}

/// Two neighbouring commits between which it seems to have broken, and the results of later runs at them.
#[derive(Debug, Clone)]
struct Pair {
    commits: (CommitHash, CommitHash),
    before: Tally,
    at: Tally,
}

/// A search in progress.
#[derive(Debug, Clone)]
pub struct Search {
    bisect: Bisect,
    /// The position of each candidate, and the candidates, oldest first.
    places: BTreeMap<CommitHash, usize>,
    line: Vec<CommitHash>,
    retries: u32,
    /// Chance plays a part.
    shaky: bool,
    tallies: BTreeMap<CommitHash, Tally>,
    pair: Option<Pair>,
    /// It is broken at the good commit too.
    good_is_broken: bool,
    runs: u32,
}

impl Search {
    /// A search over a line of candidates, oldest first; the last one is the commit at which the test fails.
    /// `has_flaked`: the test is known to be flaky.
    #[must_use]
    pub fn new(bisect: Bisect, line: Vec<CommitHash>, retries: u32, has_flaked: bool) -> Self {
        let places = line.iter().cloned().zip(0..).collect();
        let mut new = Self {
            bisect,
            places,
            line,
            retries,
            shaky: has_flaked,
            tallies: BTreeMap::new(),
            pair: None,
            good_is_broken: false,
            runs: 0,
        };
        new.find_pair();
        new
    }

    /// The position of a candidate, from 0.
    #[must_use]
    pub fn position(&self, commit: &CommitHash) -> Option<usize> {
        self.places.get(commit).copied()
    }

    /// The candidates, oldest first.
    #[must_use]
    pub fn line(&self) -> &[CommitHash] {
        &self.line
    }

    fn tally(&self, commit: &CommitHash) -> Tally {
        self.tallies.get(commit).copied().unwrap_or_default()
    }

    /// Number of consecutive failures after which a commit counts as broken for a flaky test.
    fn in_a_row(&self) -> u32 {
        self.retries.saturating_mul(2).saturating_add(1).max(3)
    }

    fn demand(&self, at: &CommitHash) -> Demand {
        if self.shaky {
            return Demand::Shaky { in_a_row: self.in_a_row() };
        }
        // The last commit has failed that often already. Another commit was chosen by a single failure; if the test
        // became flaky shortly before it broke, a run at that commit shows it sooner than one at the predecessor.
        let is_end = self.line.last() == Some(at);
        let at = if is_end { self.retries } else { self.retries.saturating_mul(2) };
        // The same number at the predecessor: a test that fails most of the time may well pass twice in a row.
        Demand::Steady { before: self.retries.saturating_mul(2).max(1), at }
    }

    /// The next step, with `parallel` runs at a time.
    #[must_use]
    pub fn next(&self, parallel: usize) -> Step {
        match (self.step(parallel), self.line.last()) {
            // A flaky test may also pass at the last commit: then nothing broke it.
            (Step::End(End::Unknown { .. }), Some(end)) if self.shaky && self.tally(end).runs() < RUNS_AT_END => {
                let missing = RUNS_AT_END - self.tally(end).runs();
                Step::Confirm(vec![end.clone(); parallel.clamp(1, missing as usize)])
            }
            (step, _) => step,
        }
    }

    fn step(&self, parallel: usize) -> Step {
        let Some(end) = self.line.last() else {
            return unknown("there is no candidate commit", Vec::new());
        };
        if self.tally(end).passes > 0 {
            return Step::End(End::Flaky { why: format!("it passes at {end}, at which it failed before") });
        }
        if self.good_is_broken {
            return unknown("it now also fails at the good commit", Vec::new());
        }
        if self.runs >= MAX_RUNS {
            return unknown("it is flaky at too many commits", Vec::new());
        }
        let again = self.contradictory(end);
        if !again.is_empty() {
            return Step::Confirm(again);
        }
        match self.bisect.outcome() {
            Some(Outcome::FirstBad(commit)) => self.weigh(commit),
            Some(Outcome::Ambiguous(suspects)) => unknown("the check cannot be judged at the remaining candidates", suspects),
            Some(Outcome::Inconsistent) => {
                Step::End(End::Flaky { why: format!("it passes at {end}, at which it failed before") })
            }
            None => {
                let bad = self.bisect.first_known_bad().filter(|bad| self.shaky && *bad != end);
                let missing = bad.map_or(0, |bad| self.in_a_row().saturating_sub(self.tally(bad).fails));
                match bad {
                    Some(bad) if missing > 0 => Step::Confirm(vec![bad.clone(); parallel.clamp(1, missing as usize)]),
                    _ => Step::Narrow(self.bisect.next(parallel)),
                }
            }
        }
    }

    /// A failing commit before a passing one shows either a flaky test or a repair in between. Both commits, and the
    /// last one, run again before anything is concluded.
    fn contradictory(&self, end: &CommitHash) -> Vec<CommitHash> {
        let Some((bad, good)) = self.bisect.contradiction() else { return Vec::new() };
        let missing = |commit: &CommitHash, runs: u32| {
            std::iter::repeat_n(commit.clone(), runs.saturating_sub(self.tally(commit).runs()) as usize)
        };
        missing(end, self.retries.max(1)).chain(missing(&bad, 2)).chain(missing(&good, 2)).collect()
    }

    fn weigh(&self, commit: CommitHash) -> Step {
        let Some(pair) = &self.pair else { return unknown("the neighbouring commits cannot be compared", vec![commit]) };
        match weigh(pair.before, pair.at, self.demand(&commit)) {
            Weighed::Blamed => Step::End(End::FirstBad(commit)),
            Weighed::More { before, at } => Step::Confirm(in_turn((&pair.commits.0, before), (&commit, at))),
            Weighed::BrokenBefore | Weighed::Unclear => {
                let before = &pair.commits.0;
                let why = format!("it is too flaky at {before} to decide whether {commit} broke it");
                let suspects = [before, &commit].into_iter().filter(|one| self.places.contains_key(*one)).cloned().collect();
                unknown(&why, suspects)
            }
        }
    }

    /// Records a result.
    pub fn record(&mut self, commit: &CommitHash, verdict: Verdict) {
        self.runs += 1;
        let is_good = commit == self.bisect.good();
        let tally = self.tallies.entry(commit.clone()).or_default();
        tally.add(verdict);
        let tally = *tally;
        self.shaky |= tally.fails > 0 && (tally.passes > 0 || is_good);
        match verdict {
            Verdict::Bad if tally.passes > 0 => {}
            Verdict::Skip if tally.passes + tally.fails > 0 => {}
            verdict => drop(self.bisect.record(commit, verdict)),
        }
        let demand = Demand::Shaky { in_a_row: self.in_a_row() };
        if let Some(pair) = &mut self.pair {
            if *commit == pair.commits.0 {
                pair.before.add(verdict);
                if self.shaky && weigh(pair.before, pair.at, demand) == Weighed::BrokenBefore {
                    // The earlier pass at the good commit was chance.
                    self.good_is_broken |= is_good;
                    self.tallies.insert(commit.clone(), pair.before);
                    self.bisect.record(commit, Verdict::Bad);
                }
            } else if *commit == pair.commits.1 {
                pair.at.add(verdict);
            }
        }
        self.find_pair();
    }

    /// Updates the suspected pair. Results count only for the pair for which they were made, because earlier results
    /// chose it.
    fn find_pair(&mut self) {
        let commits = match self.bisect.outcome() {
            Some(Outcome::FirstBad(at)) => self.position(&at).map(|place| {
                let before = place.checked_sub(1).map_or_else(|| self.bisect.good().clone(), |place| self.line[place].clone());
                (before, at)
            }),
            _ => None,
        };
        match (commits, &self.pair) {
            (Some(commits), Some(pair)) if pair.commits == commits => {}
            (commits, _) => {
                self.pair = commits.map(|commits| Pair { commits, before: Tally::default(), at: Tally::default() });
            }
        }
    }
}

/// Alternating runs of two commits. Simultaneous runs share external influences (load, a port, a file with a counter):
/// running both side by side shifts both results in the same direction, so that neither is blamed for it.
fn in_turn(one: (&CommitHash, u32), other: (&CommitHash, u32)) -> Vec<CommitHash> {
    let mut runs = Vec::new();
    for at in 0..one.1.max(other.1) {
        runs.extend([one, other].into_iter().filter(|(_, times)| at < *times).map(|(commit, _)| commit.clone()));
    }
    runs
}

fn unknown(why: &str, suspects: Vec<CommitHash>) -> Step {
    Step::End(End::Unknown { why: why.to_owned(), suspects })
}

#[cfg(test)]
mod tests;
