//! The search for the commit that broke a test: what to run next, and what the answers add up to. Pure, and a fold over the
//! answers, so that it can be written down and taken up again.
//!
//! One answer proves little where a test fails or passes by chance. A test that has never been flaky is believed after a few
//! more runs at the suspected commit and at the one before. Where chance plays a part, the two commits are run until it is
//! plain that the test fails more often at the later one, whatever its rate of failures is, or until that cannot be found out.

use std::collections::BTreeMap;

use git::bisect::{Outcome, Verdict};
use git::{Bisect, CommitHash};

/// How unlikely it has to be that chance alone makes two commits differ so much, before a test that is known to be flaky
/// blames somebody: one in so many.
const CERTAINTY: f64 = 10_000.0;
/// With more runs at the commit before it stays open whether they differ.
const MAX_RUNS_BEFORE: u32 = 40;
/// So many runs in a row at one commit: what is built there serves them all.
const BLOCK: u32 = 4;
/// Before a test with chance in it is reported as one of which nobody can tell what broke it, it has failed this often at the end.
const RUNS_AT_END: u32 = 12;
/// A search ends after so many runs, whatever they say.
const MAX_RUNS: u32 = 200;

/// What the runs at one commit said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// It worked.
    pub passes: u32,
    /// It was broken.
    pub fails: u32,
    /// It could not be judged.
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

/// What it takes to blame a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Of a test that has never failed and passed at one commit: so many passes before, and so many more failures at it.
    Steady {
        /// Passes at the commit before.
        before: u32,
        /// Failures at the commit.
        at: u32,
    },
    /// Of a test that fails or passes by chance: a difference that chance does not make.
    Shaky {
        /// So many failures in a row count as broken for good.
        in_a_row: u32,
    },
}

/// What the runs at a suspected commit and at the one before say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighed {
    /// It broke at the later one.
    Blamed,
    /// It was broken before.
    BrokenBefore,
    /// It cannot be told.
    Unclear,
    /// That takes more runs.
    More {
        /// At the commit before.
        before: u32,
        /// At the suspected one.
        at: u32,
    },
}

/// Weighs runs at two neighbouring commits. At the later one none has passed; a run there that passes ends the suspicion.
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

/// How much likelier what was seen is if the two commits differ than if they do not, as a logarithm: an e-value.
///
/// That they do not differ is taken at the rate of failures that fits best. So if they do not, it exceeds ln(x) at any time
/// with a chance of one in x at most, whatever the rate is and whenever the runs are stopped.
fn evidence(before: Tally, at: Tally) -> f64 {
    if before.passes == 0 || at.passes > 0 {
        return f64::NEG_INFINITY;
    }
    // Half of the belief is in a test that always says the same.
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

/// How likely a tally is on average over all rates of failures: passes! fails! / (passes + fails + 1)!
fn mean_likelihood(tally: Tally) -> f64 {
    let all = f64::from(tally.passes + tally.fails);
    let ways = (1..=tally.passes).fold(1.0, |ways, n| ways * f64::from(tally.fails + n) / f64::from(n));
    1.0 / ((all + 1.0) * ways)
}

/// What a search does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Run the check at these commits, to narrow the range.
    Narrow(Vec<CommitHash>),
    /// Run it at these, some of them more than once, to be sure.
    Confirm(Vec<CommitHash>),
    /// Nothing: it has come to an end.
    End(End),
}

/// How a search ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The commit that broke it.
    FirstBad(CommitHash),
    /// It passes at times also at the end, where it had failed.
    Flaky {
        /// What showed it, in words.
        why: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why, in words.
        why: String,
        /// It is one of these, as far as is known.
        suspects: Vec<CommitHash>,
    },
}

/// Two neighbouring commits between which it seems to have broken, and what runs since that was thought have said.
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
    /// Where each candidate stands, and the candidates, oldest first.
    places: BTreeMap<CommitHash, usize>,
    line: Vec<CommitHash>,
    retries: u32,
    /// Chance plays a part.
    shaky: bool,
    tallies: BTreeMap<CommitHash, Tally>,
    pair: Option<Pair>,
    /// It is broken at the last good commit as well.
    good_is_broken: bool,
    runs: u32,
}

impl Search {
    /// A search over a line of candidates, oldest first, the last of which is the commit at which the test fails. `has_flaked`:
    /// the test is known to fail or pass by chance.
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

    /// Where a candidate stands, from 0.
    #[must_use]
    pub fn position(&self, commit: &CommitHash) -> Option<usize> {
        self.places.get(commit).copied()
    }

    fn tally(&self, commit: &CommitHash) -> Tally {
        self.tallies.get(commit).copied().unwrap_or_default()
    }

    /// So many failures in a row count as broken for good where chance plays a part.
    fn in_a_row(&self) -> u32 {
        self.retries.saturating_mul(2).saturating_add(1).max(3)
    }

    fn demand(&self, at: &CommitHash) -> Demand {
        if self.shaky {
            return Demand::Shaky { in_a_row: self.in_a_row() };
        }
        // At the end it has failed that often already. Elsewhere it was one failure that chose the commit; if the test has become
        // flaky shortly before it broke, a run at that commit tells so sooner than one at the commit before.
        let is_end = self.line.last() == Some(at);
        let at = if is_end { self.retries } else { self.retries.saturating_mul(2) };
        // As often before: a test that fails most of the time passes twice in a row sooner than it seems, above all where it counts.
        Demand::Steady { before: self.retries.saturating_mul(2).max(1), at }
    }

    /// What to do next, with so many runs at once.
    #[must_use]
    pub fn next(&self, parallel: usize) -> Step {
        match (self.step(parallel), self.line.last()) {
            // A test that passes by chance now and then may do so at the end as well: then it is flaky, and nothing broke it.
            (Step::End(End::Unknown { .. }), Some(end)) if self.shaky && self.tally(end).runs() < RUNS_AT_END => {
                let missing = RUNS_AT_END - self.tally(end).runs();
                Step::Confirm(vec![end.clone(); parallel.clamp(1, missing as usize)])
            }
            (step, _) => step,
        }
    }

    fn step(&self, parallel: usize) -> Step {
        let Some(end) = self.line.last() else {
            return unknown("there is no commit that can have broken it", Vec::new());
        };
        if self.tally(end).passes > 0 {
            return Step::End(End::Flaky { why: format!("it passes at {end}, where it failed") });
        }
        if self.good_is_broken {
            return unknown("it fails now also at the last commit at which it had passed", Vec::new());
        }
        if self.runs >= MAX_RUNS {
            return unknown("it fails and passes in turn at too many commits", Vec::new());
        }
        let again = self.contradictory(end);
        if !again.is_empty() {
            return Step::Confirm(again);
        }
        match self.bisect.outcome() {
            Some(Outcome::FirstBad(commit)) => self.weigh(commit),
            Some(Outcome::Ambiguous(suspects)) => {
                unknown("the check cannot be judged at the commits that could tell", suspects)
            }
            Some(Outcome::Inconsistent) => Step::End(End::Flaky { why: format!("it passes at {end}, where it failed") }),
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

    /// A commit that fails before one that passes: either chance plays a part, or it was mended and broken again. Before
    /// anything is concluded, both are run again, and the end, which may be broken for good all the same.
    fn contradictory(&self, end: &CommitHash) -> Vec<CommitHash> {
        let Some((bad, good)) = self.bisect.contradiction() else { return Vec::new() };
        let missing = |commit: &CommitHash, runs: u32| {
            std::iter::repeat_n(commit.clone(), runs.saturating_sub(self.tally(commit).runs()) as usize)
        };
        missing(end, self.retries.max(1)).chain(missing(&bad, 2)).chain(missing(&good, 2)).collect()
    }

    fn weigh(&self, commit: CommitHash) -> Step {
        let Some(pair) = &self.pair else { return unknown("the commits cannot be told apart", vec![commit]) };
        match weigh(pair.before, pair.at, self.demand(&commit)) {
            Weighed::Blamed => Step::End(End::FirstBad(commit)),
            Weighed::More { before, at } => Step::Confirm(in_turn((&pair.commits.0, before), (&commit, at))),
            Weighed::BrokenBefore | Weighed::Unclear => {
                let before = &pair.commits.0;
                let why = format!("it fails and passes by chance at {before}, too often to tell whether {commit} broke it");
                let suspects = [before, &commit].into_iter().filter(|one| self.places.contains_key(*one)).cloned().collect();
                unknown(&why, suspects)
            }
        }
    }

    /// Records an answer.
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
                    // That it passed there was chance.
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

    /// What the runs say counts for the pair that they were made for: another one has been chosen by earlier answers.
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

/// So many runs of each of two commits, in turn. Runs at one time share what they meet (a busy machine, a port, a file that they
/// count in): side by side, that moves both commits' answers the same way and speaks against neither.
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
