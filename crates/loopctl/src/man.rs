//! Man pages, from the same definitions that the command lines are read by.

use std::path::Path;

use clap::Command;

use crate::cli;
use crate::exit::{Failure, Outcome};

/// One page for each program, and one for each command of `loopctl`.
///
/// # Errors
/// Exit 1 if they cannot be written.
pub fn write(folder: &Path) -> Outcome {
    let mut loopctl = cli::command().disable_help_subcommand(true);
    loopctl.build();
    page(folder, &loopctl, "loopctl")?;
    for command in loopctl.get_subcommands().filter(|command| !command.is_hide_set()) {
        page(folder, command, &format!("loopctl-{}", command.get_name()))?;
    }
    page(folder, &coding_loop::command_line::command(), "coding-loop")?;
    for (name, _) in supervisor::PROGRAMS {
        page(folder, &supervisor::command(name), name)?;
    }
    Ok(())
}

fn page(folder: &Path, command: &Command, name: &str) -> Outcome {
    let file = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).title(name).source("coding-loops").manual("Coding loops");
    man.render(&mut text)
        .and_then(|()| std::fs::write(&file, text))
        .map_err(|error| Failure::No(format!("cannot write {}: {error}", file.display())))
}
