//! The landing train against landing one after the other, and against a bound that nothing can exceed: 100 loops in virtual
//! time, with suites of 1 to 30 minutes.
//!
//! `cargo run --release -p coding-loop --example train [SEEDS [BATCH [PARALLEL]]]`

mod simulation;

use coding_loop::train::plan::Limits;
use simulation::{Setting, compare};

fn main() -> Result<(), std::num::ParseIntError> {
    let number = |nth: usize, otherwise: usize| std::env::args().nth(nth).map_or(Ok(otherwise), |text| text.parse());
    let (seeds, limits) = (number(1, 20)?, Limits { batch: number(2, 8)?, parallel: number(3, 4)?, failures: 2 });
    println!(
        "landings for each suite-time; all: what an oracle without limit lands; bound: of that, what that number of runs can tell apart"
    );
    println!("clash | serial  train  bound    all | /serial  /bound | mean wait  longest  /mean | overtaken | runs/landing");
    for clashing in [0, 2, 5, 10, 20, 30] {
        let settings: Vec<Setting> = (0..seeds as u64).map(|seed| Setting { seed, clashing, suites: 220, limits }).collect();
        let found = compare(&settings);
        let (serial, train) = (found.serial, found.train);
        println!(
            "{clashing:>3} % | {:>6.2} {:>6.2} {:>6.2} {:>6.2} | {:>7.1} {:>7.2} | {:>9.2} {:>8.2} {:>6.2} | {:>9} | {:>12.2}",
            serial.landings,
            train.landings,
            found.bound,
            found.oracle.landings,
            train.landings / serial.landings,
            train.landings / found.bound,
            train.mean_wait,
            train.longest_wait,
            found.longest_to_mean,
            train.overtaken,
            train.runs,
        );
    }
    Ok(())
}
