//! The command line: one file for each group of commands. What a value may be is checked here, so that a bad one is a usage
//! error (exit 2).
//!
//! The doc comment of a command is its help and its man page; its examples are run by a test (`tests/tests/examples.rs` of the
//! workspace).

/// The examples below a command's help, one command line each; what follows `  # ` is a remark.
macro_rules! examples {
    ($($line:literal),+ $(,)?) => { concat!("Examples:", $("\n  ", $line),+) };
}

mod agent;
mod completion;
mod drive;
mod exchange;
mod keep;
mod see;
mod set_up;
mod share;
mod steer;

pub use agent::{Agent, HookAgent, HookArgs};
pub use completion::{complete_if_asked, registration};
pub use drive::{Drive, LockArgs};
pub use exchange::Exchange;
pub use keep::Keep;
pub use see::{AllArgs, JournalArgs, RegressionArgs, ReportArgs, See, TestFilter, TimelineArgs, WebArgs};
pub use set_up::{LoopCommand, SetUp, TestArgs, TestCommand};
pub use share::{AskArgs, KnowledgeCommand, MigrationCommand, RequestCommand, RequestFilter, Share, UsageBy, UsageCommand};
pub use steer::{PrArgs, Steer, Which};

use clap::{CommandFactory, Parser, Subcommand};

use crate::context::Global;

/// Show and steer the coding loops of a repository
///
/// A loop is one coding agent that works through a queue of tests. loopctl shows what the loops do, steers them, and lets an
/// agent or a script drive a loop by hand. It keeps no state of its own: everything is read from, and written to, the
/// coordination database of the repository.
///
/// The id of an event, decision, alert, change request, checkpoint, knowledge item or journal entry may be shortened: any
/// unique beginning of it stands for it, and any unique end of at least four characters.
#[derive(Debug, Parser)]
#[command(name = "loopctl", version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub global: Global,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Command,
}

/// What to do, by group.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Command {
    #[command(flatten)]
    SetUp(SetUp),
    #[command(flatten)]
    See(See),
    #[command(flatten)]
    Steer(Steer),
    #[command(flatten)]
    Drive(Drive),
    #[command(flatten)]
    Agent(Agent),
    #[command(flatten)]
    Share(Share),
    #[command(flatten)]
    Exchange(Exchange),
    #[command(flatten)]
    Keep(Keep),
}

/// One group: its heading, and how its commands are added.
type Group = (&'static str, fn(clap::Command) -> clap::Command);

/// The groups in the order of the help.
const GROUPS: [Group; 8] = [
    ("Set up", SetUp::augment_subcommands),
    ("See", See::augment_subcommands),
    ("Steer", Steer::augment_subcommands),
    ("Drive a loop by hand", Drive::augment_subcommands),
    ("Serve an agent", Agent::augment_subcommands),
    ("Share between loops", Share::augment_subcommands),
    ("Exchange events", Exchange::augment_subcommands),
    ("Keep the data", Keep::augment_subcommands),
];

/// What each exit status means, for every program.
pub const EXIT_STATUS: [(u8, &str); 5] =
    [(0, "done"), (1, "refused, or the answer is no"), (2, "wrong usage"), (3, "no usable database"), (4, "no such row")];

/// The commands that are shown, by the heading of their group.
#[must_use]
pub fn groups() -> Vec<(&'static str, Vec<clap::Command>)> {
    let shown = |augment: fn(clap::Command) -> clap::Command| {
        let group = augment(clap::Command::new("group"));
        group.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect()
    };
    GROUPS.iter().map(|(heading, augment)| (*heading, shown(*augment))).collect()
}

/// The examples in the help of a command.
#[must_use]
pub fn examples(command: &clap::Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.lines().skip_while(|line| *line != "Examples:").skip(1).map(|line| line.trim().to_owned()).collect()
}

/// The command line with its commands listed by group.
#[must_use]
pub fn command() -> clap::Command {
    let heading = *clap::builder::Styles::styled().get_header();
    let mut lists = String::new();
    for (name, commands) in groups() {
        lists.push_str(&format!("{heading}{name}:{heading:#}\n"));
        for command in commands {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            lists.push_str(&format!("  {:<15} {about}\n", command.get_name()));
        }
        lists.push('\n');
    }
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{lists}{heading}Options:{heading:#}\n{{options}}{{after-help}}"
    );
    let status: Vec<String> = EXIT_STATUS.iter().map(|(code, text)| format!("{code} {text}")).collect();
    let command = Cli::command().help_template(template).after_help(format!("Exit status: {}.", status.join("; ")));
    completion::with_candidates(command)
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// Every command that runs, with its path.
    fn leaves(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
        let own: Vec<&Command> = command.get_subcommands().filter(|command| !command.is_hide_set()).collect();
        if own.is_empty() {
            found.push((path.to_owned(), command.clone()));
        }
        own.iter().for_each(|command| leaves(command, &format!("{path} {}", command.get_name()), found));
    }

    #[test]
    fn every_command_has_help_and_examples() {
        let mut found = Vec::new();
        leaves(&command(), "loopctl", &mut found);
        assert!(found.len() > 60, "{}", found.len());
        for (path, command) in found {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.starts_with(char::is_uppercase) && !about.ends_with('.') && about.len() < 75, "{path}: {about:?}");
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.starts_with("Examples:\n  "), "{path} has no examples");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
        }
    }

    #[test]
    fn the_help_lists_every_command_once() {
        let mut command = command();
        let help = command.render_help().to_string();
        for listed in command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
            let entries = help.lines().filter(|line| line.starts_with(&format!("  {} ", listed.get_name()))).count();
            assert_eq!(entries, 1, "{}", listed.get_name());
        }
        assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
    }
}
