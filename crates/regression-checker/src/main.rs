//! The program `regression-checker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Checks run under a keeper, which is another process of this program.
    command_runner::keeper::run_if_asked();
    supervisor::main::<regression_checker::RegressionChecker>()
}
