//! How a command ends: every error as an exit code and one sentence that says what to do next, in one place.

use std::process::ExitCode;

use coord_db::Error;
use process_host::exit::{describe, exit_code_of};
use views::text::{one_line, safe};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// An error of the database.
    Database(Error),
    /// Refused, or the answer is "no" (exit 1). The sentence says what to do next.
    No(String),
    /// A line for each thing that is wrong with the input (exit 2).
    InvalidLines(Vec<String>),
    /// As [`Failure::No`], with the message printed already.
    Reported,
    /// The reader of the output has closed it.
    BrokenPipe,
}

/// The result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// An error of the file system, with what could not be done.
pub fn io(what: String) -> impl FnOnce(std::io::Error) -> Failure {
    move |source| Error::Io { context: what, source }.into()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Database(error)
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
        Self::Database(Error::Invalid(message.into()))
    }

    /// No such row (exit 4).
    pub fn not_found(what: &'static str, id: &str) -> Self {
        Self::Database(Error::NotFound { what, id: id.to_owned() })
    }

    /// The exit code, by the contract: 1 refused, 2 usage, 3 no usable database, 4 no such row.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Database(error) => exit_code_of(error),
            Self::InvalidLines(_) => 2,
            Self::No(_) | Self::Reported => 1,
            Self::BrokenPipe => 0,
        }
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Database(error) => describe(error),
            Self::No(sentence) => sentence.clone(),
            Self::InvalidLines(lines) => lines.join("; "),
            Self::Reported | Self::BrokenPipe => String::new(),
        }
    }

    /// Says on stderr what is wrong and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Database(_) | Self::No(_) => eprintln_quietly(&format!("loopctl: {}", one_line(&self.sentence()))),
            Self::InvalidLines(lines) => {
                for line in lines {
                    eprintln_quietly(&safe(line));
                }
            }
            Self::Reported | Self::BrokenPipe => {}
        }
        ExitCode::from(self.code())
    }
}

/// `eprintln!` panics where stderr is closed.
pub fn eprintln_quietly(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
