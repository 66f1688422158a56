//! A deterministic simulation: the real decision code of every supervisor over a real database in memory, with scripted
//! loops, a human, foreign tools, virtual clocks, processes and git, all from one seed. After every step the laws are
//! checked. Nothing here sleeps, and nothing depends on the machine's time.
//!
//! A supervisor joins by [`supervisors::Joined`] and one line in [`join`].

pub mod audit;
pub mod engine;
pub mod human;
pub mod laws;
pub mod loops;
pub mod story;
pub mod supervisors;
pub mod train;
pub mod waiting;
pub mod world;

use coord_db::{LoopId, NewLoop, NewTest};
use test_support::{new_loop, new_test};

use engine::Actor;
use loops::Temper;
use supervisors::{SupervisorActor, Tampering};
use world::World;

pub use engine::{Scenario, Summary, Wakes, run};
pub use loops::LoopFault;
pub use story::Failure;
pub use train::TrainFault;

/// Makes a supervisor's process: what is done to it, and what percentage of its passes is undone.
pub type Make = fn(Tampering, u32) -> Box<dyn Actor>;

/// The supervisors that take part.
pub fn join(add: &mut dyn FnMut(&'static str, Make)) {
    add("heartbeat", |tampering, undone| Box::new(SupervisorActor::<heartbeat::Heartbeat>::new(tampering, undone)));
    add("deadlock-detector", |tampering, undone| {
        Box::new(SupervisorActor::<deadlock_detector::DeadlockDetector>::new(tampering, undone))
    });
    add("regression-checker", |tampering, undone| {
        Box::new(SupervisorActor::<regression_checker::RegressionChecker>::new(tampering, undone))
    });
    add("monitor", |tampering, undone| Box::new(SupervisorActor::<monitor::Monitor>::new(tampering, undone)));
    add("pm", |tampering, undone| Box::new(SupervisorActor::<pm_agent::PmAgent>::new(tampering, undone)));
}

/// Registers loops and fills their queues. Which, depends on the seed.
pub(crate) fn populate(world: &mut World, hands: bool) -> Vec<(LoopId, Temper)> {
    let many = 3 + world.fate("loops", 3);
    let loops: Vec<(LoopId, Temper)> = (1..=many)
        .map(|at| {
            let temper = match world.fate(("temper", at), 12) {
                0 => Temper::Lying,
                1 | 2 => Temper::Slow,
                3 | 4 if hands => Temper::Hanging,
                // Nothing lands by hand alone: the first one has a process.
                5 if hands && at > 1 => Temper::ByHand,
                6 => Temper::Straying,
                7 if hands => Temper::Asking,
                _ => Temper::Honest,
            };
            (format!("loop-{at}").parse().expect("an id"), temper)
        })
        .collect();
    let mut tests: Vec<NewTest> = Vec::new();
    for (id, temper) in &loops {
        for at in 0..1 + world.fate(("tests", id), 3) {
            let name: coord_db::TestId = format!("{id}-t{at}").parse().expect("an id");
            let earlier = usize::try_from(world.fate(("depends", &name), 3 * tests.len().max(1) as u64)).unwrap_or_default();
            tests.push(NewTest {
                category: "build".to_owned(),
                max_attempts: 1 + i64::try_from(world.fate(("attempts", &name), 3)).unwrap_or_default(),
                depends_on: tests.get(earlier).map(|test| test.id.clone()),
                notes: None,
                spec_content: Some(format!("make {name} so")),
                scope: if *temper == Temper::Straying { vec!["src/**".to_owned()] } else { Vec::new() },
                ..new_test(name.as_str(), id.as_str())
            });
        }
    }
    let registered = world.write(|tx| {
        for (at, (id, _)) in loops.iter().enumerate() {
            let priority = 1 + i64::try_from(at * 2).unwrap_or_default() % 7;
            tx.add_loop(&NewLoop { priority, ..new_loop(id.as_str()) })?;
        }
        tx.import_tests(&tests)
    });
    assert_eq!(registered.expect("filling the queues"), [], "the queues are as they should be");
    loops
}
