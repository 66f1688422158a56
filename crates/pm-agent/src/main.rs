//! The program `pm-agent`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The notify command runs under a keeper, which is another process of this program.
    command_runner::keeper::run_if_asked();
    supervisor::main::<pm_agent::PmAgent>()
}
