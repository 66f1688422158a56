//! Loops that work, and a policy that lands what they have finished, in virtual time. The same seed gives the same story.
//!
//! Each work is judged alone first, on the head of that moment. It may clash with one of the works that it did not know then:
//! those ahead of it in the queue, and those that landed meanwhile. A work that is given back is done again and passes. A loop
//! takes its next work while one is queued; it waits if that is finished first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use coding_loop::train::plan::{Action, Limits, RunId, State, Train};

/// Time in milliseconds.
type Ticks = u64;
type Id = usize;

/// A work that this number of later ones have overtaken goes first.
const OVERDUE: usize = 16;
/// Suite-times before anything is counted.
const WARM_UP: u64 = 20;
const LOOPS: usize = 100;
/// In percent.
const FLAKY_RUNS: u64 = 1;
const URGENT_WORKS: u64 = 10;
/// Mean suite-times between two deaths of a judge, and of any loop.
const JUDGE_LIVES: u64 = 50;
const LOOPS_LIVE: u64 = 20;

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Of everything that is random.
    pub seed: u64,
    /// Works that clash, in percent.
    pub clashing: u64,
    /// Duration in suite-times.
    pub suites: u64,
    /// Of the train.
    pub limits: Limits,
}

/// Who lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One after the other: each is judged on the head, unless that has not moved since it was judged alone.
    Serial,
    /// The train.
    Train,
    /// Somebody who knows all clashes and needs no run.
    Oracle,
}

/// The result of a simulation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Landings for each suite-time.
    pub landings: f64,
    /// Part of the judged works that were given back.
    pub given_back: f64,
    /// Mean time in the queue, in suite-times.
    pub mean_wait: f64,
    /// Longest time in the queue, in suite-times.
    pub longest_wait: f64,
    /// Runs for each landing, those of works alone included.
    pub runs: f64,
    /// Maximum number of later works that overtook one.
    pub overtaken: usize,
}

/// Random numbers: splitmix64.
#[derive(Default)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, from: u64, end: u64) -> u64 {
        from + self.roll() % (end - from)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.within(0, 100) < percent
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An agent has finished.
    Worked {
        owner: usize,
        life: u64,
    },
    /// A work has been judged alone.
    JudgedAlone {
        owner: usize,
        life: u64,
    },
    /// A run of the train or of the door has ended.
    Judged {
        judge: u64,
        run: RunId,
    },
    LoopDies,
    JudgeDies,
    /// Another loop judges.
    JudgeFollows,
}

struct Work {
    owner: usize,
    is_urgent: bool,
    /// Number of landings when it was judged alone.
    base: usize,
    queued: Ticks,
    overtaken: usize,
}

#[derive(Default)]
struct Owner {
    /// Its own, so that what it does does not depend on who lands it.
    dice: Dice,
    /// Changes when it dies.
    life: u64,
    /// What it does is done again, after it was given back.
    is_again: bool,
    base: usize,
    again: usize,
    /// Finished, and waiting for its place in the queue.
    is_ready: bool,
    queued: Option<Id>,
}

struct World {
    setting: Setting,
    policy: Policy,
    suite: Ticks,
    dice: Dice,
    now: Ticks,
    events: BinaryHeap<Reverse<(Ticks, u64, Event)>>,
    numbers: u64,
    owners: Vec<Owner>,
    works: Vec<Work>,
    /// Those that fail together with a work.
    clashes: BTreeMap<Id, Vec<Id>>,
    /// In their order.
    queue: Vec<Id>,
    landed: Vec<Id>,
    landed_at: BTreeMap<Id, usize>,
    /// When those end that are judged alone.
    alone: BTreeSet<(Ticks, usize)>,
    judge: u64,
    has_judge: bool,
    train: Train<Id>,
    /// Number of landings, for each head of the train.
    heads: Vec<usize>,
    running: BTreeMap<RunId, State<Id>>,
    entered: BTreeSet<Id>,
    failure_rate: f64,
    /// Number of runs that failed by chance, by the last work.
    flaked: BTreeMap<Id, usize>,
    at_door: Option<Id>,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    landings: usize,
    given_back: usize,
    waits: Vec<Ticks>,
    runs: usize,
    overtaken: usize,
}

/// Simulates, checks the laws, and returns the result.
pub fn simulate(setting: Setting, policy: Policy) -> Outcome {
    let mut dice = Dice(setting.seed);
    // From 1 to 30 minutes.
    let suite = dice.within(60, 1_801) * 1_000;
    let owners = (0..LOOPS).map(|_| Owner { dice: Dice(dice.roll()), ..Owner::default() }).collect();
    let mut world = World {
        setting,
        policy,
        suite,
        dice,
        now: 0,
        events: BinaryHeap::new(),
        numbers: 0,
        owners,
        works: Vec::new(),
        clashes: BTreeMap::new(),
        queue: Vec::new(),
        landed: Vec::new(),
        landed_at: BTreeMap::new(),
        alone: BTreeSet::new(),
        judge: 0,
        has_judge: true,
        train: Train::new(setting.limits),
        heads: vec![0],
        running: BTreeMap::new(),
        entered: BTreeSet::new(),
        failure_rate: 0.0,
        flaked: BTreeMap::new(),
        at_door: None,
        counted: Counted::default(),
    };
    (0..LOOPS).for_each(|owner| world.begin(owner));
    world.after(LOOPS_LIVE, Event::LoopDies);
    world.after(JUDGE_LIVES, Event::JudgeDies);
    let end = setting.suites * suite;
    while let Some(Reverse((at, _, event))) = world.events.pop()
        && at < end
    {
        world.now = at;
        world.happens(event);
    }
    world.outcome()
}

impl World {
    fn at(&mut self, at: Ticks, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at, self.numbers, event)));
    }

    /// After about this number of suite-times.
    fn after(&mut self, suites: u64, event: Event) {
        let after = self.dice.within(suites * self.suite / 2, suites * self.suite * 3 / 2);
        self.at(self.now + after, event);
    }

    /// The duration of a run: a tenth more or less.
    fn duration(&mut self) -> Ticks {
        self.dice.within(self.suite * 9 / 10, self.suite * 11 / 10)
    }

    fn is_counted(&self) -> bool {
        self.now > WARM_UP * self.suite
    }

    /// The loop takes its next work.
    fn begin(&mut self, owner: usize) {
        let this = &mut self.owners[owner];
        let after = this.dice.within(2 * self.suite, 8 * self.suite);
        this.is_again = this.again > 0;
        this.again = this.again.saturating_sub(1);
        this.is_ready = false;
        let life = this.life;
        self.at(self.now + after, Event::Worked { owner, life });
    }

    fn judge_alone(&mut self, owner: usize) {
        let (until, life) = (self.now + self.duration(), self.owners[owner].life);
        self.owners[owner].base = self.landed.len();
        self.counted.runs += usize::from(self.is_counted());
        self.alone.insert((until, owner));
        self.at(until, Event::JudgedAlone { owner, life });
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Worked { owner, life } if life == self.owners[owner].life => self.judge_alone(owner),
            Event::JudgedAlone { owner, life } if life == self.owners[owner].life => {
                self.alone.remove(&(self.now, owner));
                if self.dice.percent(FLAKY_RUNS) {
                    self.judge_alone(owner);
                } else {
                    self.owners[owner].is_ready = true;
                    self.enqueue(owner);
                }
            }
            Event::Worked { .. } | Event::JudgedAlone { .. } => {}
            Event::Judged { judge, run } if judge == self.judge => self.judged(run),
            Event::Judged { .. } => {}
            Event::LoopDies => {
                let owner = self.dice.within(0, LOOPS as u64) as usize;
                self.alone.retain(|(_, other)| *other != owner);
                let this = &mut self.owners[owner];
                this.life += 1;
                if !this.is_ready {
                    this.again += usize::from(this.is_again);
                    self.begin(owner);
                }
                self.after(LOOPS_LIVE, Event::LoopDies);
            }
            Event::JudgeDies => {
                self.judge += 1;
                self.has_judge = false;
                self.running.clear();
                self.at_door = None;
                self.at(self.now + self.suite / 5, Event::JudgeFollows);
                self.after(JUDGE_LIVES, Event::JudgeDies);
            }
            Event::JudgeFollows => {
                // It knows what is in the database: the queue, and how often works are given back.
                self.has_judge = true;
                self.train = Train::new(self.setting.limits);
                self.heads = vec![self.landed.len()];
                self.entered.clear();
                self.reorder();
            }
        }
        self.act();
    }

    fn enqueue(&mut self, owner: usize) {
        let this = &mut self.owners[owner];
        if !this.is_ready || this.queued.is_some() {
            return;
        }
        let (id, base, is_again) = (self.works.len(), this.base, this.is_again);
        this.queued = Some(id);
        let is_urgent = this.dice.percent(URGENT_WORKS);
        let clashes = this.dice.percent(self.setting.clashing) && !is_again;
        let choice = this.dice.roll() as usize;
        let unknown: Vec<Id> = self.queue.iter().chain(&self.landed[base..]).copied().collect();
        if clashes && !unknown.is_empty() {
            let other = unknown[choice % unknown.len()];
            self.clashes.entry(id).or_default().push(other);
            self.clashes.entry(other).or_default().push(id);
        }
        self.works.push(Work { owner, is_urgent, base, queued: self.now, overtaken: 0 });
        self.queue.push(id);
        self.reorder();
        self.begin(owner);
    }

    /// Urgent ones first, but for those that have been overtaken too often.
    fn reorder(&mut self) {
        let works = &self.works;
        self.queue.sort_by_key(|id| {
            let work = &works[*id];
            let lane = if work.overtaken >= OVERDUE { 0 } else { 2 - u8::from(work.is_urgent) };
            (lane, work.queued, *id)
        });
        self.train.set_queue(&self.queue);
    }

    fn fails(&self, landings: usize, works: &[Id]) -> bool {
        let is_in = |id: &Id| works.contains(id) || self.landed_at.get(id).is_some_and(|at| *at < landings);
        works.iter().any(|id| self.clashes.get(id).is_some_and(|others| others.iter().any(is_in)))
    }

    fn judged(&mut self, run: RunId) {
        let flakes = self.dice.percent(FLAKY_RUNS);
        if let Some(id) = self.at_door.take() {
            if self.fails(self.landed.len(), &[id]) {
                self.give_back(id);
            } else if !flakes {
                self.land(&[id]);
            }
        } else if let Some(state) = self.running.remove(&run) {
            let fails = self.fails(self.heads[state.head], &state.works);
            if let Some(last) = state.works.last()
                && flakes
                && !fails
            {
                *self.flaked.entry(*last).or_default() += 1;
            }
            self.train.ended(run, Some(!fails && !flakes));
        }
    }

    fn act(&mut self) {
        match self.policy {
            Policy::Oracle => {
                while let Some(&id) = self.queue.first() {
                    if self.fails(self.landed.len(), &[id]) { self.give_back(id) } else { self.land(&[id]) }
                }
            }
            Policy::Serial => {
                while self.has_judge
                    && self.at_door.is_none()
                    && let Some(&id) = self.queue.first()
                {
                    if self.works[id].base == self.landed.len() {
                        self.land(&[id]);
                    } else {
                        self.at_door = Some(id);
                        self.run(0);
                    }
                }
            }
            Policy::Train => while self.has_judge && self.act_as_train() {},
        }
    }

    fn run(&mut self, run: RunId) {
        self.counted.runs += usize::from(self.is_counted());
        let (at, judge) = (self.now + self.duration(), self.judge);
        self.at(at, Event::Judged { judge, run });
    }

    fn act_as_train(&mut self) -> bool {
        self.train.set_failure_rate(self.failure_rate);
        let is_closing = self.alone.first().is_none_or(|(at, _)| *at > self.now + self.suite / 10);
        let mut is_again = false;
        for action in self.train.next(is_closing) {
            match action {
                Action::Run(run, state) => {
                    self.check_order(&state);
                    self.running.insert(run, state);
                    assert!(self.running.len() <= self.setting.limits.parallel);
                    self.run(run);
                }
                Action::Cancel(run) => assert!(self.running.remove(&run).is_some()),
                Action::Land(works) => {
                    assert!(!self.fails(self.landed.len(), &works), "what fails landed");
                    self.train.landed(&works);
                    self.land(&works);
                    self.heads.push(self.landed.len());
                    is_again = true;
                }
                Action::GiveBack { work, state, .. } => {
                    let (last, before) = state.works.split_last().expect("a work fails, not a head");
                    let landings = self.heads[state.head];
                    assert_eq!(*last, work);
                    assert!(!self.fails(landings, before), "{work} is given back, and it fails without it");
                    let flaked = self.flaked.get(&work).copied().unwrap_or_default();
                    assert!(self.fails(landings, &state.works) || flaked >= self.setting.limits.failures, "{work} passes");
                    self.train.remove(&work);
                    self.give_back(work);
                    is_again = true;
                }
                Action::HeadFails => panic!("the head passes"),
            }
        }
        is_again
    }

    /// What is judged for the first time is the first in the queue of all that has not been judged.
    fn check_order(&mut self, state: &State<Id>) {
        let is_new = |id: &&Id| !self.entered.contains(*id);
        let count = state.works.iter().filter(is_new).count();
        assert!(self.queue.iter().filter(is_new).take(count).all(|id| state.works.contains(id)), "{state:?} has pushed in");
        self.entered.extend(&state.works);
    }

    fn land(&mut self, works: &[Id]) {
        for &id in works {
            self.settle(id);
            self.counted.landings += usize::from(self.is_counted());
            assert!(self.landed_at.insert(id, self.landed.len()).is_none(), "a work landed twice");
            self.landed.push(id);
            self.failure_rate *= 0.98;
            for &other in &self.queue {
                self.works[other].overtaken += usize::from(self.works[other].queued < self.works[id].queued);
            }
        }
        self.reorder();
        self.go_on(works);
    }

    fn give_back(&mut self, id: Id) {
        self.settle(id);
        self.counted.given_back += usize::from(self.is_counted());
        self.failure_rate = self.failure_rate * 0.98 + 0.02;
        self.owners[self.works[id].owner].again += 1;
        self.reorder();
        self.go_on(&[id]);
    }

    fn settle(&mut self, id: Id) {
        let at = self.queue.iter().position(|other| *other == id).expect("a work is settled once");
        self.queue.remove(at);
        if self.is_counted() {
            self.counted.waits.push(self.now - self.works[id].queued);
            self.counted.overtaken = self.counted.overtaken.max(self.works[id].overtaken);
        }
        self.owners[self.works[id].owner].queued = None;
    }

    fn go_on(&mut self, settled: &[Id]) {
        let owners: Vec<usize> = settled.iter().map(|id| self.works[*id].owner).collect();
        owners.into_iter().for_each(|owner| self.enqueue(owner));
    }

    fn outcome(&self) -> Outcome {
        let counted = &self.counted;
        let suites = (self.setting.suites - WARM_UP) as f64;
        // Those that still wait count as well.
        let waits: Vec<f64> = counted
            .waits
            .iter()
            .copied()
            .chain(self.queue.iter().map(|id| self.now - self.works[*id].queued))
            .map(|wait| wait as f64 / self.suite as f64)
            .collect();
        let landings = counted.landings as f64;
        Outcome {
            landings: landings / suites,
            given_back: counted.given_back as f64 / (landings + counted.given_back as f64),
            mean_wait: waits.iter().sum::<f64>() / waits.len().max(1) as f64,
            longest_wait: waits.iter().copied().fold(0.0, f64::max),
            runs: counted.runs as f64 / landings,
            overtaken: counted.overtaken,
        }
    }
}

/// The train beside others, on the same stories.
#[derive(Debug, Clone, Copy)]
pub struct Comparison {
    /// One after the other.
    pub serial: Outcome,
    /// The train.
    pub train: Outcome,
    /// All that the loops finish, with an oracle that needs no run.
    pub oracle: Outcome,
    /// Landings for each suite-time that nothing can exceed with this number of runs at once.
    pub bound: f64,
    /// Longest wait of the train, as a multiple of the mean of the same story: the largest.
    pub longest_to_mean: f64,
}

/// Simulates each setting with each policy: the means, and the longest of all waits.
pub fn compare(settings: &[Setting]) -> Comparison {
    let outcomes = |policy| settings.iter().map(|setting| simulate(*setting, policy)).collect::<Vec<_>>();
    let [serial, train, oracle] = [Policy::Serial, Policy::Train, Policy::Oracle].map(outcomes);
    let bounds =
        settings.iter().zip(&train).zip(&oracle).map(|((setting, train), oracle)| bound(setting.limits, oracle, train));
    Comparison {
        bound: bounds.sum::<f64>() / settings.len() as f64,
        longest_to_mean: train.iter().map(|outcome| outcome.longest_wait / outcome.mean_wait).fold(0.0, f64::max),
        serial: together(&serial),
        train: together(&train),
        oracle: together(&oracle),
    }
}

fn together(outcomes: &[Outcome]) -> Outcome {
    let mean = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
    Outcome {
        landings: mean(|outcome| outcome.landings),
        given_back: mean(|outcome| outcome.given_back),
        mean_wait: mean(|outcome| outcome.mean_wait),
        longest_wait: outcomes.iter().map(|outcome| outcome.longest_wait).fold(0.0, f64::max),
        runs: mean(|outcome| outcome.runs),
        overtaken: outcomes.iter().map(|outcome| outcome.overtaken).max().unwrap_or(0),
    }
}

/// The least of what the loops finish, of full batches in all runs, and of what this number of runs can tell apart: a run gives at
/// most one bit, and for each work it must come out whether it fails.
fn bound(limits: Limits, oracle: &Outcome, train: &Outcome) -> f64 {
    let part = train.given_back;
    let entropy = |part: f64| if part > 0.0 { -part * part.log2() } else { 0.0 };
    let bits = entropy(part) + entropy(1.0 - part);
    let parallel = limits.parallel as f64;
    oracle.landings.min(parallel * limits.batch as f64).min(parallel / bits * (1.0 - part))
}
