//! The command line that all supervisors share, and errors as exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, ValueEnum};

use crate::exit::{describe, exit_code_of};
use crate::{Supervisor, daemon};

/// How to write the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object on each line.
    Json,
}

/// The options of every supervisor.
#[derive(Debug, Clone, Args)]
pub struct CommandLine {
    /// The database [default: $CODING_LOOPS_DB, else coding-loops/coordination.db here or in a folder above]
    #[arg(long, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// The settings [default: config.toml beside the database]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Do what is due now, finish started effects, and exit
    #[arg(long)]
    pub once: bool,
    /// How to write the log to stderr
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

#[derive(Debug, clap::Parser)]
#[command(version)]
struct Parser {
    #[command(flatten)]
    line: CommandLine,
}

/// The programs of the supervisors, and what each is for.
pub const PROGRAMS: [(&str, &str); 5] = [
    ("heartbeat", "Tells healthy from degraded from dead, cleans up after the dead, sweeps expired leases"),
    (
        "deadlock-detector",
        "Finds loops that wait for each other in a circle, names who gives way, and revokes if it does not answer",
    ),
    ("monitor", "Finds loops that are stuck, digressing, in conflict or over budget, and raises alerts"),
    (
        "regression-checker",
        "Re-runs what had passed when the integration branch moves; confirms a failure, bisects, blames a loop",
    ),
    ("pm-agent", "Settles conflicts, dependencies and lost loops; asks the human and applies the answer"),
];

/// The command line of a supervisor's program.
#[must_use]
pub fn command(name: &'static str) -> clap::Command {
    let about = PROGRAMS.iter().find(|(program, _)| *program == name).map_or("", |(_, about)| about);
    Parser::command().name(name).about(about)
}

/// The whole program of a supervisor: command line, log, loop, exit code.
#[must_use]
pub fn main<S: Supervisor>(name: &'static str) -> ExitCode {
    let matches = command(name).get_matches();
    let line = match Parser::from_arg_matches(&matches) {
        Ok(parser) => parser.line,
        Err(error) => error.exit(),
    };
    crate::log::set_up(line.log_format);
    match daemon::run::<S>(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::log::fatal(name, describe(&error));
            ExitCode::from(exit_code_of(&error))
        }
    }
}
