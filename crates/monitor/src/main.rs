//! `monitor`: finds loops that are stuck, digressing, in conflict or over budget.

fn main() -> std::process::ExitCode {
    supervisor::main::<monitor::Monitor>()
}
