//! `heartbeat`: tells healthy from degraded from dead, and cleans up after the dead.

fn main() -> std::process::ExitCode {
    supervisor::main::<heartbeat::Heartbeat>("heartbeat")
}
