//! How a command ends: every error as an exit code and one sentence that says what to do next, in one place.

use std::process::ExitCode;

use coord_db::Error;

use crate::output::safe;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// The floor says so.
    Floor(Error),
    /// Refused, or the answer is "no" (exit 1). The sentence says what to do next.
    No(String),
    /// A line for each thing that is wrong with the input (exit 2).
    Misfits(Vec<String>),
    /// As [`Failure::No`]; everything has been said already.
    Said,
    /// Whoever read the output has gone away; there is nobody to tell.
    BrokenPipe,
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Floor(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::No(format!("cannot write the output: {error}"))
        }
    }
}

impl Failure {
    /// An argument that is not allowed (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Floor(Error::Invalid(message.into()))
    }

    /// No such row (exit 4).
    pub fn not_found(what: &'static str, id: &str) -> Self {
        Self::Floor(Error::NotFound { what, id: id.to_owned() })
    }

    /// The exit code, by the contract: 1 refused, 2 usage, 3 no usable database, 4 no such row.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Floor(error) => match error {
                Error::Invalid(_) | Error::Config(_) => 2,
                Error::NoDatabase { .. } | Error::NotOurs { .. } | Error::Newer { .. } | Error::Damaged { .. } => 3,
                Error::NotFound { .. } => 4,
                _ => 1,
            },
            Self::Misfits(_) => 2,
            Self::No(_) | Self::Said => 1,
            Self::BrokenPipe => 0,
        }
    }

    /// Says on stderr what is wrong and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Floor(error) => eprintln_quietly(&format!("loopctl: {}", safe(&describe(error)))),
            Self::No(sentence) => eprintln_quietly(&format!("loopctl: {}", safe(sentence))),
            Self::Misfits(lines) => {
                for line in lines {
                    eprintln_quietly(&safe(line));
                }
            }
            Self::Said | Self::BrokenPipe => {}
        }
        ExitCode::from(self.code())
    }
}

/// `eprintln!` panics where stderr is closed.
pub fn eprintln_quietly(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The error with its causes and what to do next.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text.push_str(hint(error));
    text
}

fn hint(error: &Error) -> &'static str {
    match error {
        Error::NoDatabase { .. } => "; make one with loopctl init",
        Error::NotOurs { .. } => "; name the right file with --db",
        Error::Newer { .. } => "; use the program that wrote it, or a newer one",
        Error::Damaged { .. } => "; bring a backup back with loopctl restore FILE",
        Error::Locked { .. } => "; try again, or see who writes with loopctl health",
        Error::Unwritable { .. } => "; see loopctl doctor",
        Error::LeaseLost { .. } => "; take it again with loopctl lock",
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
