//! `coding-loop LOOP_ID`: runs one loop.

use std::process::ExitCode;

fn main() -> ExitCode {
    command_runner::keeper::run_if_asked();
    coding_loop::command_line::main()
}
