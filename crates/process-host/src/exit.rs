//! Errors of the floor as exit codes and as sentences that say what to do next: in this one place for every program.

use coord_db::Error;

/// The exit code for an error of the floor: 2 for usage, 3 for no usable database, 4 for no such row, 1 for a refusal.
#[must_use]
pub fn exit_code_of(error: &Error) -> u8 {
    match error {
        Error::Invalid(_) | Error::Config(_) => 2,
        Error::NoDatabase { .. }
        | Error::NotOurs { .. }
        | Error::Newer { .. }
        | Error::NetworkFileSystem { .. }
        | Error::Damaged { .. } => 3,
        Error::NotFound { .. } => 4,
        _ => 1,
    }
}

/// The error with its causes, and what to do next.
#[must_use]
pub fn describe(error: &Error) -> String {
    coord_db::error_chain(error) + hint(error)
}

fn hint(error: &Error) -> &'static str {
    match error {
        Error::NoDatabase { .. } => "; make one with loopctl init",
        Error::NotOurs { .. } => "; name the right file with --db",
        Error::Newer { .. } => "; use the program that wrote it, or a newer one",
        Error::NetworkFileSystem { .. } => "; keep it on a local one, and name it with --db or CODING_LOOPS_DB",
        Error::Damaged { .. } => "; bring a backup back with loopctl restore FILE",
        Error::Locked { .. } => "; try again, or see who writes with loopctl health",
        Error::Unwritable { .. } => "; see loopctl doctor",
        Error::LeaseLost { .. } => {
            "; take it again with loopctl lock; what the loop still holds stays until it is released or expires"
        }
        Error::Settled { .. } => "; see loopctl decisions --all",
        Error::AlreadyRunning { .. } => "; stop it first",
        Error::NotFound { what, .. } => match *what {
            "loop" => "; see loopctl loop list",
            "test" => "; see loopctl tests",
            "decision" => "; see loopctl decisions --all",
            "alert" => "; see loopctl alerts --all",
            "event" => "; see loopctl timeline",
            "resource" => "; nobody owns it: claim it with loopctl own",
            "change request" => "; see loopctl request list",
            "migration" => "; see loopctl migration list",
            "knowledge" => "; see loopctl knowledge search",
            "subscriber" => "; subscribe it with loopctl subscribe",
            "loop or test" => "; see loopctl status and loopctl tests",
            _ => "",
        },
        _ => "",
    }
}
