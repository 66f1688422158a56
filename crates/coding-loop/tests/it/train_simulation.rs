//! The landing train with 100 loops in virtual time. `cargo run --release -p coding-loop --example train` prints the table.

use coding_loop::train::plan::Limits;

use self::simulation::{Comparison, Setting, compare};

#[allow(dead_code)]
#[path = "../../examples/train/simulation.rs"]
mod simulation;

/// The laws are checked by the simulation: only what passes lands, once; who is given back fails; the order is kept.
#[track_caller]
fn check(clashing: u64, times_serial: f64) -> Comparison {
    let limits = Limits { batch: 8, parallel: 4, failures: 2 };
    let seeds: Vec<Setting> = (0..3).map(|seed| Setting { seed, clashing, suites: 150, limits }).collect();
    let found = compare(&seeds);
    assert!(found.train.landings >= times_serial * found.serial.landings, "{found:?}");
    assert!(found.train.landings >= 0.6 * found.bound, "{found:?}");
    assert!(found.longest_to_mean <= 3.0, "{found:?}");
    found
}

#[test]
fn works_that_do_not_clash() {
    let found = check(0, 6.0);
    assert!(found.train.runs <= 1.3, "{found:?}");
}

#[test]
fn a_tenth_of_the_works_clashes() {
    check(10, 4.0);
}

#[test]
fn a_third_of_the_works_clashes() {
    check(30, 2.5);
}
