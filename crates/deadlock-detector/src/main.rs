//! `deadlock-detector`: finds loops that wait for each other in a cycle, and names who gives way.

fn main() -> std::process::ExitCode {
    supervisor::main::<deadlock_detector::DeadlockDetector>("deadlock-detector")
}
