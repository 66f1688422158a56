//! The command line that all supervisors share.

use clap::{Args, CommandFactory, FromArgMatches};
use process_host::Options;

/// The options of every supervisor.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) options: Options,
    /// Do what is due now, finish started effects, and exit
    #[arg(long)]
    pub(crate) once: bool,
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
        "Finds loops that wait for each other in a cycle, names who gives way, and revokes if it does not answer",
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

/// Reads the arguments of this process; ends it where they are not understood.
pub(crate) fn parse(name: &'static str) -> CommandLine {
    match Parser::from_arg_matches(&command(name).get_matches()) {
        Ok(parser) => parser.line,
        Err(error) => error.exit(),
    }
}
