//! The command line of all supervisors.

use clap::{Args, CommandFactory, FromArgMatches};
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

/// The programs of the supervisors, with their descriptions.
pub const PROGRAMS: [(&str, &str); 5] = [
    ("heartbeat", "Judge the health of loops and supervisors, clean up after dead ones, and expire leases"),
    (
        "deadlock-detector",
        "Find loops that wait for each other in a cycle, choose a victim, and revoke its leases if it does not respond",
    ),
    ("monitor", "Find loops that are stuck, digress, conflict or exceed a budget, and raise alerts"),
    ("regression-checker", "Re-run passed tests when the integration branch moves, confirm failures, and bisect for the cause"),
    ("pm-agent", "Resolve conflicts, dependencies and lost loops, ask the human, and apply the answers"),
];

/// The command line of a supervisor's program.
#[must_use]
pub fn command(name: &'static str) -> clap::Command {
    let about = PROGRAMS.iter().find(|(program, _)| *program == name).map_or("", |(_, about)| about);
    let examples = format!("Examples:\n  {name} --once\n  {name} --once --log-format json");
    Parser::command().name(name).about(about).after_help(examples)
}

/// Parses the arguments of this process; ends it if they are invalid.
pub(crate) fn parse(name: &'static str) -> CommandLine {
    match Parser::from_arg_matches(&command(name).get_matches()) {
        Ok(parser) => parser.line,
        Err(error) => error.exit(),
    }
}
