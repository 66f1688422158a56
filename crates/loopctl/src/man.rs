//! Man pages of all programs, from the same definitions that the command lines are read by and their help is made of.

use std::path::Path;

use clap::Command;
use coord_db::SUPERVISORS;

use crate::cli::{self, EXIT_STATUS};
use crate::exit::{Failure, Outcome};

const FILES: [(&str, &str); 6] = [
    ("coding-loops/coordination.db", "the database of a repository: all state"),
    ("coding-loops/config.toml", "the settings, with comments"),
    ("coding-loops/backups/", "backups that loopctl backup and restore write"),
    ("coding-loops/logs/", "the output of agents and checks"),
    ("coding-loops/coordination.archive.db", "the archive: old rows that loopctl archive has moved"),
    ("../REPOSITORY-loops/", "the store and the workspaces of the loops"),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    ("CODING_LOOPS_DB", "the database, where --db is not given"),
    ("NO_COLOR", "if it is not empty, nothing is printed in colour"),
    ("RUST_LOG", "which log messages are written to standard error, for example info or debug"),
];

/// One page for each program and one for each command of `loopctl`.
///
/// # Errors
/// Exit 1 if they cannot be written.
pub fn write(folder: &Path) -> Outcome {
    let mut loopctl = cli::command().disable_help_subcommand(true);
    loopctl.build();
    let programs: Vec<&str> =
        ["loopctl", "coding-loop"].into_iter().chain(SUPERVISORS.iter().map(|each| each.program)).collect();
    page(folder, &loopctl, "loopctl", &lists(), &programs)?;
    for (_, commands) in cli::groups() {
        let names: Vec<String> = commands.iter().map(|command| format!("loopctl-{}", command.get_name())).collect();
        let near: Vec<&str> = std::iter::once("loopctl").chain(names.iter().map(String::as_str)).collect();
        for (command, name) in commands.iter().zip(&names) {
            let built = loopctl.find_subcommand(command.get_name()).unwrap_or(command);
            pages(folder, built, name, &near)?;
        }
    }
    page(folder, &coding_loop::command_line::command(), "coding-loop", "", &programs)?;
    for each in &SUPERVISORS {
        page(folder, &supervisor::command(each), each.program, "", &programs)?;
    }
    Ok(())
}

/// The page of a command and those of its own commands.
fn pages(folder: &Path, command: &Command, name: &str, near: &[&str]) -> Outcome {
    let own: Vec<&Command> = command.get_subcommands().filter(|own| own.get_name() != "help" && !own.is_hide_set()).collect();
    let names: Vec<String> = own.iter().map(|own| format!("{name}-{}", own.get_name())).collect();
    let entries = names.iter().zip(&own).map(|(name, own)| entry(&format!("{name}(1)"), &about(own))).collect::<String>();
    let list = if own.is_empty() { String::new() } else { format!(".SH COMMANDS\n{entries}") };
    page(folder, command, name, &list, near)?;
    let near: Vec<&str> = std::iter::once(name).chain(names.iter().map(String::as_str)).collect();
    own.iter().zip(&names).try_for_each(|(own, name)| pages(folder, own, name, &near))
}

fn page(folder: &Path, command: &Command, name: &str, lists: &str, near: &[&str]) -> Outcome {
    let file = folder.join(format!("{name}.1"));
    let man = clap_mangen::Man::new(command.clone()).title(name).source("coding-loops").manual("Coding loops");
    let mut text = Vec::new();
    let rendered = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .map(|()| text.extend_from_slice(lists.as_bytes()))
        .and_then(|()| man.render_options_section(&mut text));
    text.extend_from_slice(sections(command, name, near).as_bytes());
    rendered
        .and_then(|()| std::fs::write(&file, text))
        .map_err(|error| Failure::No(format!("cannot write {}: {error}", file.display())))
}

/// The commands of `loopctl` by group.
fn lists() -> String {
    let group = |(heading, commands): (&str, Vec<Command>)| {
        let entries = commands.iter().map(|command| entry(&format!("loopctl-{}(1)", command.get_name()), &about(command)));
        format!(".SS {}\n{}", roff(heading), entries.collect::<String>())
    };
    format!(".SH COMMANDS\n{}", cli::groups().into_iter().map(group).collect::<String>())
}

/// What follows the options.
fn sections(command: &Command, name: &str, near: &[&str]) -> String {
    let mut text = String::new();
    let examples = cli::examples(command);
    if !examples.is_empty() {
        let lines: String = examples.iter().map(|line| format!("{}\n", roff(line))).collect();
        text.push_str(&format!(".SH EXAMPLES\n.nf\n{lines}.fi\n"));
    }
    let entries = |rows: &[(&str, &str)]| rows.iter().map(|(head, text)| entry(head, text)).collect::<String>();
    let status: String = EXIT_STATUS.iter().map(|(code, text)| entry(&code.to_string(), text)).collect();
    text.push_str(&format!(
        ".SH EXIT STATUS\n{status}.SH FILES\n{}.SH ENVIRONMENT\n{}",
        entries(&FILES),
        entries(&ENVIRONMENT)
    ));
    let near: Vec<String> =
        near.iter().filter(|page| **page != name).map(|page| format!("\\fB{}\\fR(1)", roff(page))).collect();
    text.push_str(&format!(".SH SEE ALSO\n{}\n", near.join(",\n")));
    text
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// A term and what it is.
fn entry(term: &str, text: &str) -> String {
    format!(".TP\n\\fB{}\\fR\n{}\n", roff(term), roff(text))
}

/// One line of text without anything that roff takes as more.
fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if escaped.starts_with('.') { format!("\\&{escaped}") } else { escaped }
}
