//! The landing train as a state machine without I/O: which states to judge next, what to land, what to give back.
//!
//! A state is a list of works on a head that has passed.
//!
//! - **Chain.** Works that land in this order. Prefixes of the chain are judged at once, each at most a batch longer than the
//!   one before. The longest that passes, of at most a batch, lands; what was judged on top of it holds for the new head.
//! - **Search.** If a prefix fails, its works leave the chain, and shorter prefixes of them are judged until one passes and
//!   fails with the next work, the suspect. The chain goes on without them. Those before the suspect have been vetted and
//!   return to the chain, those after it to the queue. The oldest search goes first, and has all runs but one.
//! - **Groups.** If many works fail, a long chain seldom passes. New works are then judged in groups beside the chain, of a
//!   size of which about half pass. Vetted works fail seldom, so that batches of them pass again. This takes 1/8 run more for
//!   each work, and nothing that fails stops anything else. A group that passes on the head as it is lands at once.
//! - **Suspect.** It is given back when it has failed often enough, the state without it has passed, and it is known which of
//!   the works before it it needs to fail: first it is judged alone, since most works fail with what has landed. The works
//!   found are minimal: it passes if one of them is taken away.
//! - **Chance.** A state that has passed once passes. A failure that is less probable than a failure by chance is judged again
//!   before anything is searched.
//! - **Fairness.** Works keep the order of the queue until they are judged for the first time. A work that has waited for two
//!   searches in which others were found is not put behind the chain, and not together with works that are not vetted.
//!
//! Bounds, for one clash of two in a batch of `n` and two failures that confirm. With one run at once, at most
//! `7 + 2 log2(n)` runs until the second is given back and the others have landed: `log2(n)` to find it, `log2(n)` to find
//! what it clashes with, and 7 for the batch, for the others, and to confirm each of the two. With 4 runs at once and a batch
//! of 8, at most 5 rounds. Without clashes: one run for each batch.
//!
//! The caller performs the actions of [`Train::next`] and reports their results. Nothing lands that was not judged.

mod groups;
mod suspect;

use std::collections::{BTreeMap, BTreeSet};

use groups::{Group, group_size};
use suspect::Suspect;

/// The limits of the train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of works that land together.
    pub batch: usize,
    /// Maximum number of states that are judged at once.
    pub parallel: usize,
    /// Number of failed runs that confirm a failure.
    pub failures: usize,
}

/// Works on a proven head, in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct State<W> {
    /// The number of the head: 0 at the beginning, one more with each move.
    pub head: usize,
    /// The works.
    pub works: Vec<W>,
}

/// The number of a run.
pub type RunId = u64;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<W> {
    /// Move the head: these works on it have passed together. Report [`Train::landed`], and ask again.
    Land(Vec<W>),
    /// Give a work back. Report [`Train::remove`], and ask again.
    GiveBack {
        /// The work.
        work: W,
        /// The works of the queue without which it passes.
        clashes: Vec<W>,
        /// The state that failed. It passes without its last work.
        state: State<W>,
    },
    /// The head fails although it has passed before: nothing can be judged. Report [`Train::reset`] when it passes again.
    HeadFails,
    /// Judge a state. Report [`Train::ended`].
    Run(RunId, State<W>),
    /// Stop a run, whose result is not needed any more.
    Cancel(RunId),
}

/// A state of which it is less probable that a work fails has failed by chance: about one run in a hundred does.
const CHANCE: f64 = 0.01;

/// The probability that a work fails that has passed in a group, as a part of that of others.
const VETTED: f64 = 0.125;

/// What it is worth that a work passes in a group, as a part of what it is worth that it passes in the chain, and lands.
const GROUP: f64 = 0.5;

/// The number of searches for others after which a work is delayed.
const DELAYED: usize = 2;

/// The results of the runs of a state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    passed: usize,
    failed: usize,
}

impl Known {
    /// A state that has passed once counts as passing: its failures are by chance.
    fn is_green(self) -> bool {
        self.passed > 0
    }

    fn is_red(self) -> bool {
        self.passed == 0 && self.failed > 0
    }
}

/// States to judge.
#[derive(Debug)]
struct Wanted<W> {
    /// Prefixes of the chain.
    chain: Vec<State<W>>,
    /// What a search needs that has begun, with the number of the search.
    searches: Vec<(u64, State<W>)>,
    /// The size of new groups, if works are judged in groups first.
    group: Option<usize>,
    /// For runs that nothing else needs, the most important first.
    spare: Vec<State<W>>,
}

/// The train.
#[derive(Debug, Clone)]
pub struct Train<W> {
    limits: Limits,
    head: usize,
    /// The works that landed on a head, for as long as a state on that head is of interest.
    moves: BTreeMap<usize, Vec<W>>,
    /// Works that land in this order: they are being judged on the head, or have passed in a group.
    chain: Vec<W>,
    /// Works that are not being judged, in the order of the queue.
    pool: Vec<W>,
    /// Groups of works that are searched for one that fails, beside the chain.
    groups: Vec<Group<W>>,
    next_search: u64,
    suspects: Vec<Suspect<W>>,
    /// Works of the chain that have passed in a group.
    vetted: BTreeSet<W>,
    /// Number of searches in which a work was no culprit.
    searches: BTreeMap<W, usize>,
    known: BTreeMap<State<W>, Known>,
    running: BTreeMap<RunId, State<W>>,
    next_run: RunId,
    /// Probability that a work fails with those before it.
    failure_rate: f64,
}

/// Numbers between two others, at equal distances, as many as there are runs.
fn points(low: usize, high: usize, parallel: usize) -> impl Iterator<Item = usize> {
    let count = (high - low - 1).min(parallel);
    (1..=count).map(move |point| (low + (point * (high - low)).div_ceil(count + 1)).min(high - 1))
}

impl<W: Clone + Ord> Train<W> {
    /// A train on a head that has passed, or is assumed to.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            head: 0,
            moves: BTreeMap::new(),
            chain: Vec::new(),
            pool: Vec::new(),
            groups: Vec::new(),
            next_search: 0,
            suspects: Vec::new(),
            vetted: BTreeSet::new(),
            searches: BTreeMap::new(),
            known: BTreeMap::new(),
            running: BTreeMap::new(),
            next_run: 0,
            failure_rate: 0.0,
        }
    }

    /// The number of the current head.
    #[must_use]
    pub fn head(&self) -> usize {
        self.head
    }

    /// The works that are being judged, or were judged and are not settled: they keep their places.
    #[must_use]
    pub fn judging(&self) -> BTreeSet<W> {
        // Without those that have landed.
        let groups = self.groups.iter().flat_map(|group| self.canonical(&group.state).works);
        let suspects = self.suspects.iter().map(|suspect| suspect.work.clone());
        self.chain.iter().cloned().chain(groups).chain(suspects).collect()
    }

    /// True if no run is left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Sets the queue, in its order. Works that are being judged keep their places before all others.
    pub fn set_queue(&mut self, queue: &[W]) {
        let queued: BTreeSet<&W> = queue.iter().collect();
        for work in self.judging().iter().chain(&self.pool.clone()).filter(|work| !queued.contains(work)) {
            self.remove(work);
        }
        let judging = self.judging();
        self.pool = queue.iter().filter(|work| !judging.contains(work)).cloned().collect();
        self.sort(queue);
    }

    /// Puts the works of the chain that are in no run into the order of the queue.
    fn sort(&mut self, queue: &[W]) {
        let place: BTreeMap<&W, usize> = queue.iter().enumerate().map(|(place, work)| (work, place)).collect();
        let judged = self.judged();
        self.chain[judged..].sort_by_key(|work| place.get(work).copied());
    }

    /// Sets the probability that a work fails with those before it.
    pub fn set_failure_rate(&mut self, rate: f64) {
        self.failure_rate = rate.clamp(0.0, 0.95);
    }

    /// Reports the end of a run: whether it has passed; none if it was cancelled or could not be judged.
    pub fn ended(&mut self, run: RunId, passed: Option<bool>) {
        let Some(state) = self.running.remove(&run) else { return };
        let known = self.known.entry(state).or_default();
        match passed {
            Some(true) => known.passed += 1,
            Some(false) => known.failed += 1,
            None => {}
        }
    }

    /// Reports that the first works of the queue have landed: the head is the state of them.
    pub fn landed(&mut self, works: &[W]) {
        self.chain.retain(|work| !works.contains(work));
        self.vetted.retain(|work| !works.contains(work));
        self.searches.retain(|work, _| !works.contains(work));
        self.moves.insert(self.head, works.to_vec());
        self.head += 1;
        // Whatever was judged on top of them holds for the new head.
        let mut running = std::mem::take(&mut self.running);
        running.values_mut().for_each(|state| *state = self.canonical(state));
        self.running = running;
        for (state, known) in std::mem::take(&mut self.known) {
            let entry = self.known.entry(self.canonical(&state)).or_default();
            *entry = Known { passed: entry.passed + known.passed, failed: entry.failed + known.failed };
        }
        self.known.entry(State { head: self.head, works: Vec::new() }).or_default().passed += 1;
        self.forget();
    }

    /// Reports that the head has passed only by an earlier run: before a work is given back for failing on it, it is judged.
    pub fn doubt_head(&mut self) {
        self.known.remove(&State { head: self.head, works: Vec::new() });
    }

    /// Reports that a work has left the queue.
    pub fn remove(&mut self, work: &W) {
        self.chain.retain(|other| other != work);
        self.pool.retain(|other| other != work);
        self.vetted.remove(work);
        self.searches.remove(work);
        self.groups.iter_mut().for_each(|group| group.state.works.retain(|other| other != work));
        self.groups.retain(|group| !group.state.works.is_empty());
        // What failed with it may pass without it.
        let is_open = |suspect: &Suspect<W>| suspect.before.contains(work);
        self.pool.splice(0..0, self.suspects.iter().filter(|suspect| is_open(suspect)).map(|suspect| suspect.work.clone()));
        self.suspects.retain(|suspect| suspect.work != *work && !is_open(suspect));
        self.forget();
    }

    /// Reports that the head was moved by somebody else, or may pass again: everything is judged again.
    pub fn reset(&mut self) {
        self.head += 1;
        let judging = self.judging();
        self.pool.splice(0..0, judging);
        self.chain.clear();
        self.groups.clear();
        self.suspects.clear();
        self.moves.clear();
        self.vetted.clear();
        self.searches.clear();
        self.known.clear();
    }

    /// Deletes what no decision needs any more.
    fn forget(&mut self) {
        let heads = self.suspects.iter().map(|suspect| suspect.head).chain(self.groups.iter().map(|group| group.state.head));
        let oldest = heads.min().unwrap_or(self.head).min(self.head);
        self.known.retain(|state, _| state.head >= oldest);
        self.moves.retain(|head, _| *head >= oldest);
    }

    /// The same state on the newest head.
    fn canonical(&self, state: &State<W>) -> State<W> {
        let mut state = state.clone();
        while let Some(rest) = self.moves.get(&state.head).and_then(|landed| state.works.strip_prefix(landed.as_slice())) {
            state = State { head: state.head + 1, works: rest.to_vec() };
        }
        state
    }

    fn known(&self, state: &State<W>) -> Known {
        self.known.get(&self.canonical(state)).copied().unwrap_or_default()
    }

    fn is_unknown(&self, state: &State<W>) -> bool {
        self.known(state) == Known::default()
    }

    fn is_running(&self, state: &State<W>) -> bool {
        let state = self.canonical(state);
        self.running.values().any(|running| *running == state)
    }

    /// The number of works of the chain that are in a run or a result.
    fn judged(&self) -> usize {
        let judged = |length: &usize| {
            let state = self.prefix(*length);
            self.is_running(&state) || !self.is_unknown(&state)
        };
        (1..=self.chain.len()).rev().find(judged).unwrap_or(0)
    }

    fn prefix(&self, length: usize) -> State<W> {
        State { head: self.head, works: self.chain[..length].to_vec() }
    }

    /// The next actions. `is_closing` is false while more work is expected so soon that a batch that is not full waits for it.
    pub fn next(&mut self, is_closing: bool) -> Vec<Action<W>> {
        self.settle_groups();
        let longest = self.limits.batch.min(self.chain.len());
        let green = (1..=longest).rev().find(|length| self.known(&self.prefix(*length)).is_green()).unwrap_or(0);
        self.split_chain(green);
        if green > 0 {
            return vec![Action::Land(self.chain[..green].to_vec())];
        }
        self.settle_groups();
        let mut actions = Vec::new();
        let mut wanted = Wanted { chain: Vec::new(), searches: Vec::new(), group: None, spare: Vec::new() };
        if self.look_at_suspects(&mut wanted, &mut actions).is_none() {
            return vec![Action::HeadFails];
        }
        if !actions.is_empty() {
            return actions;
        }
        self.look_at_groups(&mut wanted);
        self.look_at_chain(is_closing, &mut wanted);
        self.start(wanted, is_closing)
    }

    /// True if a work has waited for several searches for others.
    fn is_delayed(&self, work: &W) -> bool {
        self.searches.get(work).is_some_and(|searches| *searches >= DELAYED)
    }

    /// Puts works that have passed together into the chain.
    fn pass(&mut self, group: &State<W>) {
        let mut group = self.canonical(group);
        group.works.retain(|work| !self.chain.contains(work));
        self.vetted.extend(group.works.iter().cloned());
        // On the head as it is, and nobody else about to land: nothing remains to be judged. Works that have waited for
        // several searches land at once, and others are judged again on top of them.
        let is_first = self.judged() == 0 || group.works.iter().any(|work| self.is_delayed(work));
        let place = if group.head == self.head && is_first { 0 } else { self.chain.len() };
        self.chain.splice(place..place, group.works);
    }

    /// The length of the shortest prefix of the chain that fails, longer than `green`. One that seems to have failed by
    /// chance does not count: it is judged again, and what is judged on top of it goes on.
    fn shortest_red(&self, green: usize) -> Option<usize> {
        let judged = self.judged();
        let longest_green = (1..=judged).rev().find(|length| self.known(&self.prefix(*length)).is_green()).unwrap_or(0);
        let is_red = |length: &usize| {
            let known = self.known(&self.prefix(*length));
            let is_rare = (*length as f64) * self.failure_rate < CHANCE;
            let passes_longer = *length < longest_green;
            let chances = self.limits.failures * (usize::from(is_rare).max(2 * usize::from(passes_longer)));
            known.is_red() && known.failed >= chances
        };
        (green + 1..=judged).find(is_red)
    }

    /// Takes the works of a prefix that fails out of the chain, to search them.
    fn split_chain(&mut self, green: usize) {
        let Some(red) = self.shortest_red(green) else { return };
        // A shorter one may pass: those land first.
        if (green + 1..red).any(|length| self.is_running(&self.prefix(length))) {
            return;
        }
        self.search(self.prefix(red));
        let (kept, rest) = (self.chain[..green].to_vec(), self.chain.split_off(red));
        let (vetted, rest): (Vec<W>, Vec<W>) = rest.into_iter().partition(|work| self.vetted.contains(work));
        self.chain = kept;
        self.chain.extend(vetted);
        self.pool.splice(0..0, rest);
    }

    /// Starts what is wanted, and stops what is not.
    fn start(&mut self, mut wanted: Wanted<W>, is_closing: bool) -> Vec<Action<W>> {
        let mut actions = Vec::new();
        let canonical = |states: &[State<W>]| states.iter().map(|state| self.canonical(state)).collect::<Vec<_>>();
        wanted.searches.sort_by_key(|(search, _)| *search);
        let mut searches: Vec<State<W>> = wanted.searches.iter().map(|(_, state)| self.canonical(state)).collect();
        let (chain, spare) = (canonical(&wanted.chain), canonical(&wanted.spare));
        let is_wanted = |state: &State<W>| chain.contains(state) || searches.contains(state) || spare.contains(state);
        let useless: Vec<RunId> = self.running.iter().filter(|(_, state)| !is_wanted(state)).map(|(run, _)| *run).collect();
        for run in useless {
            self.running.remove(&run);
            actions.push(Action::Cancel(run));
        }
        let parallel = self.limits.parallel.max(1);
        // All runs but one are for searches: those end, since nothing new fails meanwhile, and their works are the oldest.
        let count = searches.len();
        searches.retain(|state| !self.is_running(state));
        let reserved = (parallel - 1).max(1).saturating_sub(count - searches.len()).min(searches.len());
        let rest = searches.split_off(reserved);
        for state in searches {
            self.run(state, &mut actions);
        }
        for state in chain {
            let length = state.works.len();
            if self.run(state, &mut actions) && length > self.chain.len() {
                self.chain.extend(self.pool.drain(..length - self.chain.len()));
            }
        }
        for state in rest {
            self.run(state, &mut actions);
        }
        if let Some(size) = wanted.group {
            while self.running.len() < parallel && !self.pool.is_empty() && (is_closing || self.pool.len() >= size) {
                let works = self.pool.drain(..size.min(self.pool.len())).collect();
                let group = State { head: self.head, works };
                self.run(group.clone(), &mut actions);
                self.search(group);
            }
        }
        for state in spare {
            self.run(state, &mut actions);
        }
        actions
    }

    /// Starts a run, if there is room for it; returns whether it did.
    fn run(&mut self, state: State<W>, actions: &mut Vec<Action<W>>) -> bool {
        if self.running.len() >= self.limits.parallel.max(1) || self.is_running(&state) {
            return false;
        }
        let run = self.next_run;
        self.next_run += 1;
        self.running.insert(run, state.clone());
        actions.push(Action::Run(run, state));
        true
    }

    /// The states of the chain to judge, and whether other works are judged in groups.
    fn look_at_chain(&self, is_closing: bool, wanted: &mut Wanted<W>) {
        let (batch, parallel) = (self.limits.batch.max(1), self.limits.parallel.max(1));
        let size = group_size(self.failure_rate).min(batch);
        // If many fail, only what has passed in a group is judged together.
        let is_mixed = size * 2 > batch || self.chain.len() + self.pool.len() <= batch;
        wanted.group = (!is_mixed).then_some(size);
        let pool = self.pool.iter().filter(|_| is_mixed);
        let line: Vec<W> = self.chain.iter().chain(pool).cloned().collect();
        let prefix = |length: usize| State { head: self.head, works: line[..length].to_vec() };
        let red = self.shortest_red(0);
        let end = red.map_or(self.chain.len(), |red| red - 1);
        let judged = (1..=end).filter(|length| self.is_running(&prefix(*length)) || !self.is_unknown(&prefix(*length)));
        let mut at = 0;
        for length in judged.collect::<Vec<_>>() {
            // A run between them was lost.
            while length - at > batch {
                at += batch;
                wanted.chain.push(prefix(at));
            }
            let known = self.known(&prefix(length));
            if !known.is_green() {
                wanted.chain.push(prefix(length));
            }
            if known.is_red() {
                wanted.spare.extend(points(at, length, parallel).map(prefix));
            }
            at = length;
        }
        if red.is_some() {
            return;
        }
        let passes = |work: &W| 1.0 - self.failure_rate * if self.vetted.contains(work) { VETTED } else { 1.0 };
        let mut probability: f64 = line[..at].iter().map(passes).product();
        while wanted.chain.len() < parallel && at < line.len() {
            let longest = batch.min(line.len() - at);
            let vetted = line[at..at + longest].iter().take_while(|work| self.vetted.contains(work));
            let (vetted, delayed) = vetted.fold((0, false), |(count, any), work| (count + 1, any || self.is_delayed(work)));
            // What has waited long is not put together with what is less likely to pass.
            let longest = if delayed { vetted } else { longest };
            let (mut best, mut step, mut product) = (0.0, 1, probability);
            for (length, work) in (1..=longest).zip(&line[at..]) {
                product *= passes(work);
                if length as f64 * product >= best {
                    (best, step) = (length as f64 * product, length);
                }
            }
            if !delayed && longest < batch && !is_mixed {
                wanted.spare.push(prefix(at + step));
                break;
            }
            if !delayed && longest < batch && step == longest && !is_closing {
                break;
            }
            let count = size.min(longest);
            let of_group = GROUP * count as f64 * (1.0 - self.failure_rate).powf(count as f64);
            if best < of_group && at + step > self.chain.len() {
                wanted.group = Some(size);
                break;
            }
            probability *= line[at..at + step].iter().map(passes).product::<f64>();
            at += step;
            wanted.chain.push(prefix(at));
        }
    }
}

#[cfg(test)]
mod tests;
