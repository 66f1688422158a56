//! A test program with a `main` of its own: one that starts itself again, as a keeper for example.

use libtest_mimic::{Arguments, Trial};

/// Runs tests as the built-in harness does, and ends the process.
pub fn run_tests(tests: &[(&'static str, fn())]) -> ! {
    let trials = tests.iter().map(|&(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}

/// The given functions with their names, for [`run_tests`].
#[macro_export]
macro_rules! tests {
    ($($test:ident),+ $(,)?) => { &[$((stringify!($test), $test as fn())),+] };
}
