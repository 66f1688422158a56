//! Maps errors of `coord-db` to exit codes and to sentences with a hint, for every program.

use coord_db::Error;

/// The exit code of an error: 2 for usage, 3 for an unusable database, 4 for a missing row, 1 for a refusal.
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

/// The error with its causes and a hint what to do.
#[must_use]
pub fn describe(error: &Error) -> String {
    coord_db::error_chain(error) + hint(error)
}

/// Says why a program ends, and ends it at once, as a kill would: for when nothing may be touched any more.
pub fn end_with(program: &str, error: &Error) -> ! {
    crate::fatal(program, describe(error));
    std::process::exit(i32::from(exit_code_of(error)))
}

fn hint(error: &Error) -> &'static str {
    let is_on_server = |path: &std::path::Path| path.to_string_lossy().starts_with("postgres");
    match error {
        Error::NoDatabase { path } if is_on_server(path) => "; create an empty one with createdb, or correct coordination.db",
        Error::NotOurs { path, .. } if is_on_server(path) => {
            "; restore a dump to it, or correct the address in coordination.db"
        }
        Error::NoDatabase { .. } => "; create one with loopctl init",
        Error::NotOurs { .. } => "; name the correct file with --db",
        Error::Newer { .. } => "; use the version that wrote it, or a newer one",
        Error::NetworkFileSystem { .. } => "; move it to a local file system, and name it with --db or CODING_LOOPS_DB",
        Error::Damaged { .. } => "; restore a backup with loopctl restore FILE",
        Error::Locked { .. } => "; try again; loopctl health shows which processes run",
        Error::Unwritable { .. } => "; see loopctl doctor",
        Error::LeaseLost { .. } => {
            "; acquire it again with loopctl lock; other leases of the loop stay until they are released or expire"
        }
        Error::Settled { .. } => "; see loopctl decisions --all",
        Error::AlreadyRunning { .. } => "; stop it first",
        Error::Replaced { .. } => "; it ends and leaves everything to the other",
        Error::NotFound { what, .. } => match *what {
            "loop" => "; see loopctl loop list",
            "test" => "; see loopctl tests",
            "decision" => "; see loopctl decisions --all",
            "alert" => "; see loopctl alerts --all",
            "event" => "; see loopctl timeline",
            "resource" => "; it has no owner: own it with loopctl own",
            "change request" => "; see loopctl request list",
            "migration" => "; see loopctl migration list",
            "knowledge" | "knowledge item" => "; see loopctl knowledge search",
            "checkpoint" => "; see loopctl checkpoints --all",
            "journal entry" => "; see loopctl journal --all",
            "subscriber" => "; subscribe it with loopctl subscribe",
            "loop or test" => "; see loopctl status and loopctl tests",
            _ => "",
        },
        _ => "",
    }
}
