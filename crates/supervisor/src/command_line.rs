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

/// The whole program of a supervisor: command line, log, loop, exit code.
#[must_use]
pub fn main<S: Supervisor>(name: &'static str, about: &'static str) -> ExitCode {
    let matches = Parser::command().name(name).about(about).get_matches();
    let line = match Parser::from_arg_matches(&matches) {
        Ok(parser) => parser.line,
        Err(error) => error.exit(),
    };
    crate::log::set_up(line.log_format);
    match daemon::run::<S>(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", describe(&error));
            ExitCode::from(exit_code_of(&error))
        }
    }
}
