//! Against an oracle that knows which works fail together. `CODING_LOOPS_CASES=N` tries N queues of each kind.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { batch: 8, parallel: 4, failures: 2 };
/// Works from here on are landed by somebody else.
const FOREIGN: u32 = 100;
/// The oldest run ends before this number of others have ended.
const PATIENCE: usize = 8;
/// Maximum number of works that come after a work and land before it. A suspect needs about 15 runs one after the other, and
/// while each of them runs, the others may fill all other places with batches.
const OVERTAKING: usize = 200;

#[derive(Debug, Clone)]
enum Step {
    Arrive {
        is_urgent: bool,
    },
    /// One of the runs ends with the result of the oracle.
    End(usize),
    /// One of the runs ends and fails whatever the oracle says.
    Flake(usize),
    /// One of the runs ends without a result.
    Lose(usize),
    Withdraw(usize),
    /// Somebody else moves the head.
    Reset,
}

/// Sets of works that fail together.
type Clashes = Vec<BTreeSet<u32>>;

/// The caller of the train, which checks each action.
struct World {
    limits: Limits,
    clashes: Clashes,
    train: Train<u32>,
    /// What has landed, for each head.
    heads: Vec<BTreeSet<u32>>,
    /// Works with the number of those that have overtaken them; urgent ones first.
    queue: Vec<(bool, u32, usize)>,
    running: BTreeMap<RunId, (State<u32>, usize)>,
    arrived: u32,
    runs: usize,
    /// The works on which a run has failed by chance; none for the head alone.
    flaked: BTreeSet<Option<u32>>,
    landed: Vec<Vec<u32>>,
    given_back: BTreeMap<u32, Vec<u32>>,
}

impl World {
    fn new(limits: Limits, clashes: Clashes) -> Self {
        Self {
            limits,
            clashes,
            train: Train::new(limits),
            heads: vec![BTreeSet::new()],
            queue: Vec::new(),
            running: BTreeMap::new(),
            arrived: 0,
            runs: 0,
            flaked: BTreeSet::new(),
            landed: Vec::new(),
            given_back: BTreeMap::new(),
        }
    }

    fn fails(&self, works: &BTreeSet<u32>) -> bool {
        self.clashes.iter().any(|clash| clash.is_subset(works))
    }

    fn content(&self, head: usize, works: &[u32]) -> BTreeSet<u32> {
        self.heads[head].iter().chain(works).copied().collect()
    }

    fn arrive(&mut self, is_urgent: bool) {
        self.arrived += 1;
        self.queue.push((!is_urgent, self.arrived, 0));
        self.queue.sort_unstable();
        self.set_queue();
    }

    fn set_queue(&mut self) {
        let order: Vec<u32> = self.queue.iter().map(|(_, work, _)| *work).collect();
        self.train.set_queue(&order);
    }

    fn step(&mut self, step: &Step) {
        let count = self.running.len();
        let nth = |at: usize| self.running.keys().nth(at % count.max(1)).copied();
        match *step {
            Step::Arrive { is_urgent } => self.arrive(is_urgent),
            Step::End(at) => nth(at).into_iter().for_each(|run| self.end(run, false)),
            Step::Flake(at) => nth(at).into_iter().for_each(|run| self.end(run, true)),
            Step::Lose(at) => {
                if let Some(run) = nth(at) {
                    self.running.remove(&run);
                    self.train.ended(run, None);
                }
            }
            Step::Withdraw(at) if !self.queue.is_empty() => {
                let (_, work, _) = self.queue.remove(at % self.queue.len());
                // Both ways to say so.
                if at % 2 == 0 { self.train.remove(&work) } else { self.set_queue() }
            }
            Step::Withdraw(_) => {}
            Step::Reset => {
                let foreign = FOREIGN + u32::try_from(self.heads.len()).unwrap();
                let mut head = self.heads[self.train.head()].clone();
                head.insert(foreign);
                if self.fails(&head) {
                    head.remove(&foreign);
                }
                self.heads.push(head);
                self.train.reset();
            }
        }
        self.act();
    }

    fn end(&mut self, run: RunId, is_flaky: bool) {
        let oldest = *self.running.keys().next().unwrap();
        let run = if self.running[&oldest].1 >= PATIENCE { oldest } else { run };
        let (state, _) = self.running.remove(&run).unwrap();
        self.running.values_mut().for_each(|(_, age)| *age += 1);
        let fails = self.fails(&self.content(state.head, &state.works));
        // Two by chance on the same work would be no chance.
        let flakes = !fails && is_flaky && self.flaked.insert(state.works.last().copied());
        self.train.ended(run, Some(!fails && !flakes));
    }

    fn act(&mut self) {
        let mut is_acting = true;
        while is_acting {
            is_acting = false;
            for action in self.train.next(true) {
                match action {
                    Action::Run(run, state) => self.start(run, state),
                    Action::Cancel(run) => assert!(self.running.remove(&run).is_some(), "what is cancelled runs"),
                    Action::Land(works) => {
                        self.land(&works);
                        is_acting = true;
                    }
                    Action::GiveBack { work, clashes, state } => {
                        self.give_back(work, &clashes, &state);
                        is_acting = true;
                    }
                    Action::HeadFails => panic!("the head passes"),
                }
            }
        }
    }

    fn start(&mut self, run: RunId, state: State<u32>) {
        self.runs += 1;
        let unique: BTreeSet<u32> = state.works.iter().copied().collect();
        assert_eq!(unique.len(), state.works.len(), "a work is in a state once: {state:?}");
        let is_known =
            |work: &u32| self.queue.iter().any(|(_, queued, _)| queued == work) || self.heads[self.train.head()].contains(work);
        assert!(state.works.iter().all(is_known), "{state:?} has works that left the queue");
        assert!(self.running.values().all(|(running, _)| *running != state), "{state:?} is judged already");
        assert!(self.running.insert(run, (state, 0)).is_none());
        assert!(self.running.len() <= self.limits.parallel, "more runs than allowed");
    }

    /// The works that remain before it have been overtaken, if it lands.
    fn leave(&mut self, work: u32, lands: bool) {
        let at = self.queue.iter().position(|(_, queued, _)| *queued == work);
        let at = at.unwrap_or_else(|| panic!("{work} left the queue before"));
        self.queue.remove(at);
        for (_, queued, overtaken) in &mut self.queue[..at] {
            *overtaken += usize::from(lands);
            assert!(*overtaken <= OVERTAKING, "{queued} starves");
        }
    }

    fn land(&mut self, works: &[u32]) {
        let head = self.content(self.train.head(), works);
        assert!(!self.fails(&head), "what fails landed: {works:?}");
        assert!(!works.is_empty() && works.len() <= self.limits.batch);
        for &work in works {
            self.leave(work, true);
        }
        self.heads.push(head);
        self.landed.push(works.to_vec());
        self.train.landed(works);
        assert_eq!(self.train.head() + 1, self.heads.len());
    }

    fn give_back(&mut self, work: u32, clashes: &[u32], state: &State<u32>) {
        let fails = |works: &[u32]| self.fails(&self.content(state.head, works));
        let (last, before) = state.works.split_last().expect("a work fails, not a head");
        assert_eq!(*last, work);
        assert!(fails(&state.works), "{work} is given back and passes on {state:?}");
        assert!(!fails(before), "{work} is given back, and {state:?} fails without it");
        assert!(clashes.iter().all(|clash| before.contains(clash)));
        if self.flaked.is_empty() {
            let with = |clashes: &[u32]| fails(&[clashes, &[work]].concat());
            assert!(with(clashes), "{work} passes with {clashes:?}");
            for at in 0..clashes.len() {
                let fewer = [&clashes[..at], &clashes[at + 1..]].concat();
                assert!(!with(&fewer), "{work} fails with {fewer:?} alone, of {clashes:?}");
            }
        }
        self.leave(work, false);
        self.given_back.insert(work, clashes.to_vec());
        self.train.remove(&work);
    }

    /// Nothing arrives any more: each work comes to its end.
    fn finish(&mut self, choices: &[usize]) {
        let mut choices = choices.iter().cycle();
        for _ in 0..5_000 {
            self.act();
            if self.running.is_empty() {
                break;
            }
            self.step(&Step::End(*choices.next().unwrap()));
        }
        assert!(self.train.is_idle() && self.running.is_empty(), "it ends");
        assert_eq!(self.queue, [], "each work landed, or was given back");
    }
}

fn works(arrivals: usize, limits: Limits, clashes: &[&[u32]]) -> World {
    let mut world = World::new(limits, clashes.iter().map(|clash| clash.iter().copied().collect()).collect());
    for _ in 0..arrivals {
        world.arrive(false);
    }
    world
}

/// Lets all runs of a moment end together, until nothing is left; returns the number of times.
fn rounds(world: &mut World) -> usize {
    world.act();
    let mut rounds = 0;
    while !world.running.is_empty() {
        rounds += 1;
        let running: Vec<RunId> = world.running.keys().copied().collect();
        running.into_iter().for_each(|run| world.end(run, false));
        world.act();
    }
    assert_eq!(world.queue, []);
    rounds
}

fn clashes() -> impl Strategy<Value = Clashes> {
    let work = || prop_oneof![9 => 1_u32..30, 1 => FOREIGN..FOREIGN + 20];
    // A foreign work that fails by itself is not let in by the world.
    let clash = prop_oneof![1 => btree_set(1_u32..30, 1), 6 => btree_set(work(), 2), 2 => btree_set(work(), 3)];
    prop_oneof![1 => vec(clash.clone(), 0..4), 1 => vec(clash, 0..30)]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1_usize..10, 1_usize..7, 1_usize..4).prop_map(|(batch, parallel, failures)| Limits { batch, parallel, failures })
}

fn steps(may_flake: bool) -> impl Strategy<Value = Vec<Step>> {
    let flakes = u32::from(may_flake);
    let step = prop_oneof![
        8 => any::<bool>().prop_map(|is_urgent| Step::Arrive { is_urgent }),
        8 => any::<usize>().prop_map(Step::End),
        flakes => any::<usize>().prop_map(Step::Flake),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::Withdraw),
        1 => Just(Step::Reset),
    ];
    vec(step, 0..80)
}

fn cases(otherwise: u32) -> ProptestConfig {
    let cases = std::env::var("CODING_LOOPS_CASES").ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn check(limits: Limits, clashes: Clashes, rate: f64, steps: &[Step], choices: &[usize]) {
    let mut world = World::new(limits, clashes);
    world.train.set_failure_rate(rate);
    steps.iter().for_each(|step| world.step(step));
    world.finish(choices);
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn laws_hold(
        clashes in clashes(), rate in 0.0..1.0, steps in steps(false), choices in vec(any::<usize>(), 1..20)
    ) {
        check(LIMITS, clashes, rate, &steps, &choices);
    }

    #[test]
    fn laws_hold_with_any_limits_and_flaky_runs(
        limits in limits(), clashes in clashes(), rate in 0.0..1.0, steps in steps(true), choices in vec(any::<usize>(), 1..20)
    ) {
        // With one failed run that confirms, a work that fails by chance is given back.
        let limits = Limits { failures: limits.failures.max(2), ..limits };
        check(limits, clashes, rate, &steps, &choices);
    }

    #[test]
    fn one_clash_in_a_batch_is_found_whatever_ends_first(
        clash in btree_set(1_u32..=8, 1..4), parallel in 1_usize..7, choices in vec(any::<usize>(), 1..20)
    ) {
        let mut world = works(8, Limits { parallel, ..LIMITS }, &[]);
        world.clashes = vec![clash.clone()];
        world.finish(&choices);
        let culprit = *clash.last().unwrap();
        prop_assert!(world.given_back.keys().eq([&culprit]), "{:?} of {clash:?}", world.given_back);
        // Beside the search for the clash, whatever may make it shorter is judged where runs are idle.
        prop_assert!(world.runs <= 20 + 8 * parallel, "{} runs", world.runs);
    }
}

#[test]
fn works_that_go_together_land_in_batches_judged_at_once() {
    let mut world = works(20, LIMITS, &[]);
    assert_eq!(rounds(&mut world), 1);
    assert_eq!(world.landed, [(1..=8).collect::<Vec<_>>(), (9..=16).collect(), (17..=20).collect()]);
    assert_eq!(world.runs, 3);
}

/// Each two of `n` works that fail together: the largest number of runs, and of rounds of runs.
fn most_for_one_clash(n: u32, limits: Limits) -> (usize, usize) {
    let pairs = (1..=n).flat_map(|other| (1..other).map(move |one| (one, other)));
    let found = pairs.map(|(one, other)| {
        let mut world = works(n as usize, limits, &[&[one, other]]);
        let rounds = rounds(&mut world);
        assert_eq!(world.landed.concat().len(), n as usize - 1);
        assert!(world.given_back.keys().eq([&other]), "{:?} of {one} and {other}", world.given_back);
        (world.runs, rounds)
    });
    found.fold((0, 0), |most, found| (most.0.max(found.0), most.1.max(found.1)))
}

#[test]
fn one_clash_takes_as_many_runs_as_stated() {
    for n in [2_u32, 4, 8, 16] {
        let (runs, _) = most_for_one_clash(n, Limits { batch: n as usize, parallel: 1, failures: 2 });
        assert!(runs <= 7 + 2 * n.ilog2() as usize, "{n} works: {runs}");
    }
    let (_, rounds) = most_for_one_clash(8, LIMITS);
    assert!(rounds <= 5, "{rounds}");
}

#[test]
fn a_head_that_fails_blames_no_work() {
    let mut train = Train::new(LIMITS);
    train.set_queue(&[1, 2]);
    let mut rounds = 0;
    loop {
        let actions = train.next(true);
        if actions == [Action::HeadFails] {
            break;
        }
        for action in actions {
            match action {
                Action::Run(run, _) => train.ended(run, Some(false)),
                Action::Cancel(_) => {}
                other => panic!("{other:?}"),
            }
        }
        rounds += 1;
        assert!(rounds < 10);
    }
}
