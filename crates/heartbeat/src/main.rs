//! `heartbeat`: detects degraded and dead components, and cleans up after dead ones.

fn main() -> std::process::ExitCode {
    supervisor::main::<heartbeat::Heartbeat>()
}
