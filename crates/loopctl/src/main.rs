//! `loopctl`: see the library.

fn main() -> std::process::ExitCode {
    // `submit` runs checks, and each command runs under this executable as its keeper.
    command_runner::keeper::run_if_asked();
    loopctl::main()
}
