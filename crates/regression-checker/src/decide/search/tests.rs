use coord_db::RunOutcome;

use super::*;
use crate::decide::confirmed_outcome;

const RETRIES: u32 = 2;

/// The same numbers each time.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// splitmix64, as a number from 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number from a range, without its end.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn pick(&mut self, from: usize, end: usize) -> usize {
        from + (self.roll() * (end - from) as f64) as usize
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.roll() * 100.0 < f64::from(percent)
    }
}

fn commit(number: usize) -> CommitHash {
    CommitHash::new(format!("{number:040x}")).unwrap()
}

fn number(commit: &CommitHash) -> usize {
    usize::from_str_radix(commit.as_str(), 16).unwrap()
}

/// Searches among the commits after `good` up to `bad`. Gives the end and the runs that it took.
fn search(good: usize, bad: usize, has_flaked: bool, parallel: usize, mut fails: impl FnMut(usize) -> bool) -> (End, u32) {
    let line: Vec<CommitHash> = (good + 1..=bad).map(commit).collect();
    let bisect = Bisect::new(commit(good), commit(bad), line.clone());
    let mut search = Search::new(bisect.clone(), line.clone(), RETRIES, has_flaked);
    let mut log: Vec<(CommitHash, Verdict)> = Vec::new();
    loop {
        let step = search.next(parallel);
        if log.len() < 40 && bad < 40 {
            let mut again = Search::new(bisect.clone(), line.clone(), RETRIES, has_flaked);
            log.iter().for_each(|(commit, verdict)| again.record(commit, *verdict));
            assert_eq!(again.next(parallel), step, "taken up again it goes on as it would have");
        }
        let commits = match step {
            Step::End(end) => return (end, u32::try_from(log.len()).unwrap()),
            Step::Narrow(commits) | Step::Confirm(commits) => commits,
        };
        assert!(!commits.is_empty());
        for commit in commits {
            let verdict = if fails(number(&commit)) { Verdict::Bad } else { Verdict::Good };
            search.record(&commit, verdict);
            log.push((commit, verdict));
        }
    }
}

#[test]
fn what_always_says_the_same_is_found_with_few_more_runs() {
    for length in 1..40_usize {
        for first_bad in 1..=length {
            for parallel in [1, 2, 3] {
                let (end, runs) = search(0, length, false, parallel, |at| at >= first_bad);
                assert_eq!(end, End::FirstBad(commit(first_bad)));
                let narrowing = Bisect::new(commit(0), commit(length), (1..=length).map(commit).collect());
                let most = rounds(narrowing, parallel, first_bad) + 4 * RETRIES;
                assert!(runs <= most, "{length} {first_bad} {parallel}: {runs} runs, {most} at most");
                let (end, runs) = search(0, length, true, parallel, |at| at >= first_bad);
                assert_eq!(end, End::FirstBad(commit(first_bad)));
                assert!(runs <= 60, "{length} {first_bad} {parallel}: {runs} runs");
            }
        }
    }
}

/// How many runs narrowing alone takes.
fn rounds(mut bisect: Bisect, parallel: usize, first_bad: usize) -> u32 {
    let mut runs = 0;
    while bisect.outcome().is_none() {
        for commit in bisect.next(parallel) {
            runs += 1;
            let bad = number(&commit) >= first_bad;
            bisect.record(&commit, if bad { Verdict::Bad } else { Verdict::Good });
        }
    }
    runs
}

#[test]
fn weighing_asks_for_no_more_than_it_takes() {
    let tally = |passes, fails| Tally { passes, fails, skips: 0 };
    let steady = Demand::Steady { before: 2, at: 1 };
    assert_eq!(weigh(tally(0, 0), tally(0, 0), steady), Weighed::More { before: 2, at: 1 });
    assert_eq!(weigh(tally(2, 0), tally(0, 1), steady), Weighed::Blamed);
    let shaky = Demand::Shaky { in_a_row: 5 };
    assert_eq!(weigh(tally(7, 0), tally(0, 7), shaky), Weighed::More { before: 1, at: 1 });
    assert_eq!(weigh(tally(8, 0), tally(0, 8), shaky), Weighed::Blamed);
    assert_eq!(weigh(tally(0, 5), tally(0, 4), shaky), Weighed::BrokenBefore);
    // A third fails before: it takes longer, and can still be told.
    assert_eq!(weigh(tally(6, 3), tally(0, 9), shaky), Weighed::More { before: 3, at: 3 });
    assert_eq!(weigh(tally(16, 8), tally(0, 24), shaky), Weighed::Blamed);
    assert_eq!(weigh(tally(10, 30), tally(0, 40), shaky), Weighed::Unclear);
    let skipped = Tally { skips: 6, ..Tally::default() };
    assert_eq!(weigh(skipped, tally(0, 4), shaky), Weighed::Unclear);
    assert_eq!(weigh(skipped, tally(0, 4), steady), Weighed::Unclear);
    // What was run before chance was seen counts.
    assert_eq!(weigh(tally(2, 1), tally(0, 3), shaky), Weighed::More { before: 1, at: 1 });
    assert_eq!(weigh(tally(2, 0), tally(0, 1), shaky), Weighed::More { before: 2, at: 3 });
}

/// Landings beside a standing regression, from the first on, of a test that fails by chance at one rate: how many innocents
/// are blamed. Its history is what it makes itself, as the ledger keeps it.
fn innocents(percent: u32, landings: usize, dice: &mut Dice) -> usize {
    let (mut has_flaked, mut good, mut blamed, mut open) = (false, 0, 0, false);
    for head in 1..=landings {
        let retries = match (open, has_flaked) {
            (true, _) => 0,
            (false, true) => RETRIES * 2,
            (false, false) => RETRIES,
        };
        let mut runs = Vec::new();
        let outcome = loop {
            runs.push(if dice.chance(percent) { RunOutcome::Fail } else { RunOutcome::Pass });
            if let Some(outcome) = confirmed_outcome(&runs, retries) {
                break outcome;
            }
        };
        match outcome {
            RunOutcome::Pass => (good, open) = (head, false),
            RunOutcome::Flaky => has_flaked = true,
            RunOutcome::Fail if !open => match search(good, head, has_flaked, 1 + head % 3, |_| dice.chance(percent)).0 {
                End::FirstBad(_) => (blamed, open) = (blamed + 1, true),
                End::Flaky { .. } => has_flaked = true,
                End::Unknown { .. } => open = true,
            },
            _ => {}
        }
    }
    blamed
}

#[test]
fn chance_blames_fewer_than_one_innocent_in_ten_thousand_landings() {
    const LANDINGS: usize = 1_000;
    const LIVES: usize = 200;
    for percent in [1, 3, 10, 20, 30, 40, 50, 60, 70, 80, 90, 97] {
        let of_lives: Vec<usize> = (0..LIVES)
            .map(|seed| innocents(percent, LANDINGS, &mut Dice::new(seed as u64 * 1_000 + u64::from(percent))))
            .collect();
        let blamed: usize = of_lives.iter().sum();
        let again: usize = of_lives.iter().map(|blamed| blamed.saturating_sub(1)).sum();
        eprintln!("{percent} %: {blamed} innocents in {} landings, {again} of them not the first", LIVES * LANDINGS);
        assert!(blamed * 10_000 < LIVES * LANDINGS, "{percent} %: {blamed} innocents in {} landings", LIVES * LANDINGS);
    }
}

/// The result of searches with many seeds.
#[derive(Debug, Default)]
struct Results {
    /// The commit that broke it is blamed.
    right: usize,
    /// The commit since which it is flaky is blamed.
    flaky: usize,
    /// Another one is.
    innocent: usize,
    runs: u32,
}

const SEEDS: usize = 1_000;

/// `one` makes a world and searches it: where it is broken, where it becomes flaky, and what the search gives.
fn tried(seed: u64, mut one: impl FnMut(&mut Dice, usize) -> (usize, usize, (End, u32))) -> Results {
    let mut results = Results::default();
    for n in 0..SEEDS {
        let (broken, flaky, (end, runs)) = one(&mut Dice::new(n as u64 * 1_000 + seed), 1 + n % 3);
        results.runs += runs;
        match end {
            End::FirstBad(found) if found == commit(broken) => results.right += 1,
            End::FirstBad(found) if found == commit(flaky) => results.flaky += 1,
            End::FirstBad(_) => results.innocent += 1,
            _ => {}
        }
    }
    results
}

#[test]
fn what_is_flaky_first_and_then_broken_is_found_all_the_same() {
    for (percent, least) in [(5, 99), (10, 99), (20, 98), (30, 97), (50, 80)] {
        for has_flaked in [false, true] {
            let results = tried(u64::from(percent), |dice, parallel| {
                let length = dice.pick(9, 40);
                let broken = dice.pick(2, length + 1);
                let flaky = dice.pick(1, broken);
                let fails = |at| at >= broken || at >= flaky && dice.chance(percent);
                (broken, flaky, search(0, length, has_flaked, parallel, fails))
            });
            eprintln!("{percent} %, has flaked {has_flaked}: {results:?}");
            assert!(results.right * 100 >= SEEDS * least, "{percent} % {has_flaked}: {results:?}");
            let most = if has_flaked { 0 } else { SEEDS * if percent > 30 { 3 } else { 1 } / 100 };
            assert!(results.innocent <= most, "{percent} % {has_flaked}: {results:?}");
        }
    }
}

#[test]
fn what_is_broken_and_passes_by_chance_blames_nobody_else() {
    for (percent, most) in [(3, 2), (10, 10), (30, 60)] {
        for has_flaked in [false, true] {
            let results = tried(u64::from(percent), |dice, parallel| {
                let broken = dice.pick(1, 21);
                (broken, broken, search(0, 20, has_flaked, parallel, |at| at >= broken && !dice.chance(percent)))
            });
            eprintln!("{percent} % pass, has flaked {has_flaked}: {results:?}");
            let most = if has_flaked { 0 } else { most };
            assert!(results.innocent <= most, "{percent} % {has_flaked}: {results:?}");
        }
    }
}
