//! The agents of the loops: that they are here, get their keys, and know the flags that they are given.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use command_runner::{CommandSpec, End};
use coord_db::config::AgentConfig;
use coord_db::{Config, Loop};

use super::{Report, sandbox};
use crate::known_agents::{self, KnownAgent};
use crate::programs;

/// How long an agent may take to list its flags. Those that are written in Python take seconds after a boot.
const HELP_SECONDS: u64 = 20;

/// What the registered loops run; none if they are not known, as without a database. True if any of them has an agent.
pub fn examine(config: &Config, root: &Path, database: &Path, registered: Option<&[Loop]>, report: &mut Report) -> bool {
    let loops = registered.unwrap_or_default();
    // Each agent once, with the section that names its command and the loops that it is for.
    let mut used: Vec<(String, AgentConfig)> = Vec::new();
    for row in loops {
        let own = config.loops.get(row.id.as_str()).is_some_and(|own| own.agent != Default::default());
        let section = if own { format!("[loop.{}.agent]", row.id) } else { "[agent]".to_owned() };
        if !used.iter().any(|(other, _)| *other == section) {
            used.push((section, config.agent_of(&row.id)));
        }
    }
    if loops.is_empty() {
        used.push(("[agent]".to_owned(), config.agent.clone()));
    }
    if registered.is_some() {
        for id in config.loops.keys().filter(|id| !loops.iter().any(|row| row.id.as_str() == id.as_str())) {
            report.warning(
                "agent",
                format!("[loop.{id}.agent] is for an unknown loop"),
                format!("add it with loopctl loop add {id}, or correct the section in config.toml"),
            );
        }
    }
    let mut helps = BTreeMap::new();
    for (section, agent) in &used {
        let kept = programs::kept_back(&agent.environment);
        if !kept.is_empty() {
            report.warning(
                "environment",
                format!("{}: set here, but not passed on to agent, set-up and checks", kept.join(", ")),
                format!("add the variables that they need to {section} environment in config.toml"),
            );
        }
        one(section, agent, root, &mut helps, report);
    }
    sandbox::examine(config, root, database, &used, report);
    used.iter().any(|(_, agent)| !agent.command.is_empty())
}

/// The help texts that have been asked for: the same program is asked once.
type Helps = BTreeMap<Vec<String>, Result<String, String>>;

fn one(section: &str, agent: &AgentConfig, root: &Path, helps: &mut Helps, report: &mut Report) {
    let Some(program) = agent.command.first() else {
        let whom = if section == "[agent]" { "for all loops " } else { "" };
        report.ok("agent", format!("none {whom}in {section}; a loop without an agent is driven by hand"));
        return;
    };
    if let Some(lacks) = programs::lacks(&agent.command, root) {
        report.problem(
            "agent",
            format!("{lacks}, which {section} needs"),
            format!("install it, or write its absolute path in {section} command in config.toml"),
        );
        return;
    }
    let calls = programs::calls(&agent.command);
    let known = calls.iter().find_map(|call| Some((KnownAgent::of(call)?, call)));
    report.ok("agent", format!("{}, of {section}", known.map_or(program.as_str(), |(known, _)| known.program())));
    let Some((known, call)) = known else { return };
    if known.refuses_root(call) && rustix::process::geteuid().is_root() && !is_sandbox(agent) {
        report.problem(
            "agent",
            format!("{} refuses --dangerously-skip-permissions in {section} when it runs as root", known.program()),
            "run the loops as an ordinary user",
        );
    }
    let kept: Vec<&str> = known
        .keys()
        .iter()
        .copied()
        .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .filter(|name| !agent.environment.iter().any(|passed| passed == name))
        .collect();
    if !kept.is_empty() {
        report.warning(
            "agent",
            format!("{} is set here, but not passed on to {} of {section}", kept.join(", "), known.program()),
            format!("add it to {section} environment in config.toml, if the agent needs it"),
        );
    }
    let (arguments, words) = known.help(call);
    let ask: Vec<String> = [&call[..1], &arguments].concat();
    match helps.entry(ask.clone()).or_insert_with(|| help(&ask, agent, root)) {
        Ok(text) => {
            let unlisted = known_agents::unlisted_flags(words, text);
            if !unlisted.is_empty() {
                report.warning(
                    "agent",
                    format!("{} does not list {}, which {section} uses", ask.join(" "), unlisted.join(", ")),
                    "compare with the preset in a new config.toml, or update the agent",
                );
            }
        }
        Err(why) => report.warning(
            "agent",
            format!("cannot check the flags of {section}: {} {why}", ask.join(" ")),
            "run that command as the user of the loops",
        ),
    }
}

/// Whether Claude Code is let believe that root is harmless here.
fn is_sandbox(agent: &AgentConfig) -> bool {
    let name = "IS_SANDBOX";
    agent.environment.iter().any(|passed| passed == name) && std::env::var_os(name).is_some_and(|value| value == "1")
}

/// What an agent prints of its flags, run as the agent is: with its variables alone, and a time limit.
fn help(ask: &[String], agent: &AgentConfig, root: &Path) -> Result<String, String> {
    let log = std::env::temp_dir().join(format!("loopctl-doctor-{}-{}", std::process::id(), coord_db::new_id()));
    let mut spec = CommandSpec::new(ask.iter().map(OsString::from), root);
    spec.env = agent.passed_on();
    spec.timeout = Duration::from_secs(HELP_SECONDS);
    spec.kill_after = Duration::from_secs(1);
    spec.log_path = Some(log.clone());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| format!("cannot start: {error}"))?;
    let (_sender, mut cancel) = tokio::sync::watch::channel(false);
    let outcome = runtime.block_on(command_runner::run(&spec, &mut cancel, |_| {}));
    let text = std::fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let _ = std::fs::remove_file(&log);
    match outcome.end {
        End::Exited(0) if text.contains("--") => Ok(text),
        End::Exited(0) => Err("lists no flags".to_owned()),
        End::TimedOut => Err(format!("did not end within {HELP_SECONDS} s")),
        End::NotStarted { message, .. } => Err(format!("cannot start: {message}")),
        _ => Err("fails".to_owned()),
    }
}
