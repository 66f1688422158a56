//! The command line of all supervisors.

use clap::{Args, CommandFactory, FromArgMatches};
use coord_db::supervisors::Program;
use process_host::Options;

/// The options of every supervisor.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Do everything that is due now, finish the effects, and exit
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, clap::Parser)]
#[command(version)]
struct Parser {
    #[command(flatten)]
    line: CommandLine,
}

/// The command line of a supervisor's program.
#[must_use]
pub fn command(of: &Program) -> clap::Command {
    let name = of.program;
    let examples = format!("Examples:\n  {name} --once\n  {name} --once --log-format json");
    Parser::command().name(name).about(of.about).after_help(examples)
}

/// Parses the arguments of this process; ends it if they are invalid.
pub(crate) fn parse(of: &Program) -> CommandLine {
    match Parser::from_arg_matches(&command(of).get_matches()) {
        Ok(parser) => parser.line,
        Err(error) => error.exit(),
    }
}
