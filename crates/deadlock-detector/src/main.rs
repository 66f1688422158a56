//! `deadlock-detector`: finds loops that wait for each other in a cycle, and chooses a victim.

fn main() -> std::process::ExitCode {
    supervisor::main::<deadlock_detector::DeadlockDetector>()
}
