//! `loopctl`: see the library.

fn main() -> std::process::ExitCode {
    loopctl::main()
}
