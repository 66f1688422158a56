//! The agents of the loops: that they are here, get their keys, know the flags that they are given, and what they are handed.

mod ask;
mod environment;
mod login;

use std::collections::BTreeMap;
use std::path::Path;

use coord_db::config::{AgentConfig, AgentKind};
use coord_db::{Config, Loop};
use serde::Serialize;

use super::{Report, sandbox};
use crate::known_agents::{self, KnownAgent};
use crate::programs;
use ask::Answer;
use environment::Environment;
use login::Login;

/// What is known of the agent of a section.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    section: String,
    program: String,
    path: Option<String>,
    /// None if the program does not say.
    version: Option<String>,
    /// The version that the adapter was tested with.
    tested_version: Option<&'static str>,
    adapter: &'static str,
    mcp: bool,
    hooks: bool,
}

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
    let mut answers = BTreeMap::new();
    for (section, agent) in &used {
        let kept = programs::kept_back(&agent.environment);
        if !kept.is_empty() {
            report.warning(
                "environment",
                format!("{}: set here, but not passed on to agent, set-up and checks", kept.join(", ")),
                format!("add the variables that they need to {section} environment in config.toml"),
            );
        }
        one(section, agent, root, &mut answers, report);
    }
    sandbox::examine(config, root, database, &used, report);
    used.iter().any(|(_, agent)| !agent.command.is_empty())
}

/// What programs have answered: the same call is asked once.
type Answers = BTreeMap<Vec<String>, Answer>;

/// The call of a known agent in a command.
struct Called {
    known: &'static KnownAgent,
    /// Up to its program.
    program: Vec<String>,
    arguments: Vec<String>,
}

impl Called {
    /// Sees through `env`, other programs before it, and the script of a shell.
    fn of(command: &[String]) -> Option<Self> {
        let own = std::iter::once(command.to_vec());
        own.chain(programs::calls(command)).find_map(|call| {
            let (_, at) = AgentKind::find(&call)?;
            let (program, arguments) = call.split_at(at + 1);
            Some(Self { known: KnownAgent::of(&call)?, program: program.to_vec(), arguments: arguments.to_vec() })
        })
    }

    /// The words before the program.
    fn before(&self) -> &[String] {
        &self.program[..self.program.len() - 1]
    }

    /// Whether another user than this process's runs it.
    fn changes_user(&self) -> bool {
        let name = |word: &String| Path::new(word).file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let programs = ["sudo", "runuser", "setpriv", "unshare"];
        self.before().iter().filter_map(name).any(|name| programs.contains(&name.as_str()))
    }
}

fn one(section: &str, agent: &AgentConfig, root: &Path, answers: &mut Answers, report: &mut Report) {
    let Some(first) = agent.command.first() else {
        let whom = if section == "[agent]" { "for all loops " } else { "" };
        report.ok("agent", format!("none {whom}in {section}; a loop without an agent is driven by hand"));
        return;
    };
    let called = Called::of(&agent.command);
    let program = called.as_ref().and_then(|called| called.program.last()).unwrap_or(first);
    let lacks = programs::lacks(&agent.command, root).or_else(|| programs::lacks(std::slice::from_ref(program), root));
    if let Some(lacks) = lacks {
        report.problem(
            "agent",
            format!("{lacks}, which {section} needs"),
            format!("install it, or write its absolute path in {section} command in config.toml"),
        );
        return;
    }
    match &called {
        Some(called) => known(section, agent, called, root, answers, report),
        None => report.agent(Facts::of(section, agent, first, root)),
    }
}

/// A known agent: what it says of itself, and what it needs.
fn known(section: &str, agent: &AgentConfig, called: &Called, root: &Path, answers: &mut Answers, report: &mut Report) {
    let environment = Environment::of(agent, called.before());
    let (help, words) = called.known.help(&called.arguments);
    let call = [&called.program[..], &help].concat();
    let ask = || ask::ask(&called.program, &help, &environment.values(), root);
    let answer = &*answers.entry(call.clone()).or_insert_with(ask);
    let path = called.program.last().unwrap_or(&call[0]);
    report.agent(Facts {
        program: called.known.program().to_owned(),
        version: answer.version.clone(),
        tested_version: Some(called.known.tested),
        ..Facts::of(section, agent, path, root)
    });
    root_and_keys(section, agent, called, &environment, report);
    codex_home(section, called, &environment, report);
    log_in(section, called, &environment, report);
    match &answer.help {
        Ok(text) => {
            let unlisted = known_agents::unlisted_flags(words, text);
            if !unlisted.is_empty() {
                report.warning(
                    "agent",
                    format!("{} does not list {}, which {section} uses", call.join(" "), unlisted.join(", ")),
                    "compare with the preset in a new config.toml, or update the agent",
                );
            }
        }
        Err(why) => report.warning(
            "agent",
            format!("cannot check the flags of {section}: {} {why}", call.join(" ")),
            "run that command as the user of the loops",
        ),
    }
}

impl Facts {
    /// What is known of any program.
    fn of(section: &str, agent: &AgentConfig, program: &str, root: &Path) -> Self {
        let given = coding_loop::given(agent);
        Self {
            section: section.to_owned(),
            program: program.to_owned(),
            path: programs::program_at(program, root).map(|path| path.display().to_string()),
            version: None,
            tested_version: None,
            adapter: agent.kind().as_str(),
            mcp: given.mcp,
            hooks: given.hooks,
        }
    }

    pub(super) fn sentence(&self) -> String {
        let version = self.version.as_ref().map(|version| format!("version {version}, ")).unwrap_or_default();
        let path = self.path.as_deref().unwrap_or(&self.program);
        let handed = match (self.mcp, self.hooks) {
            (true, true) => "with MCP tools and hooks",
            (true, false) => "with MCP tools, without hooks",
            (false, true) => "without MCP tools, with hooks",
            (false, false) => "without MCP tools and hooks",
        };
        format!("{}, of {}: {version}{path}; adapter {}, {handed}", self.program, self.section, self.adapter)
    }
}

fn root_and_keys(section: &str, agent: &AgentConfig, called: &Called, environment: &Environment, report: &mut Report) {
    let known = called.known;
    let is_root = rustix::process::geteuid().is_root() && !called.changes_user();
    if is_root && known.refuses_root(&called.arguments) && !is_sandbox(agent) {
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
        .filter(|name| !environment.has(name) && !agent.environment.iter().any(|passed| passed == name))
        .collect();
    if !kept.is_empty() {
        report.warning(
            "agent",
            format!("{} is set here, but not passed on to {} of {section}", kept.join(", "), known.program()),
            format!("add it to {section} environment in config.toml, if the agent needs it"),
        );
    }
}

/// Whether Claude Code is let believe that root is harmless here.
fn is_sandbox(agent: &AgentConfig) -> bool {
    let name = "IS_SANDBOX";
    let passed = agent.environment.iter().any(|passed| passed == name) && std::env::var_os(name).is_some_and(|it| it == "1");
    passed || agent.set.get(name).is_some_and(|value| value == "1")
}

/// Codex keeps the helper of its sandbox in its home, and refuses to do so in a folder for temporary files.
fn codex_home(section: &str, called: &Called, environment: &Environment, report: &mut Report) {
    let unconfined = ["--dangerously-bypass-approvals-and-sandbox", "--yolo", "danger-full-access"];
    let has_sandbox = !called.arguments.iter().any(|word| unconfined.iter().any(|part| word.contains(part)));
    if called.known.kind != AgentKind::Codex || !has_sandbox {
        return;
    }
    let named = environment.folder("CODEX_HOME");
    let variable = if named.is_some() { "CODEX_HOME" } else { "HOME" };
    let Some(home) = named.unwrap_or_else(|| environment.home()) else { return };
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let temporary = environment.temporary();
    if resolved(&home).starts_with(resolved(&temporary)) {
        report.problem(
            "agent",
            format!(
                "{variable} of codex in {section} is {}: below {} its sandbox does not work, and all its commands fail",
                home.display(),
                temporary.display()
            ),
            format!("set CODEX_HOME in {section} set to another folder"),
        );
    }
}

fn log_in(section: &str, called: &Called, environment: &Environment, report: &mut Report) {
    let (kind, name) = (called.known.kind, called.known.program());
    match login::login(kind, environment, &called.arguments) {
        Login::Variable(variable) => report.ok("login", format!("{name} of {section} gets {variable}")),
        Login::Argument => report.ok("login", format!("{name} of {section}: as its arguments say")),
        Login::File(file) => report.ok("login", format!("{name} of {section}: {}", file.display())),
        Login::Unknown => report.ok("login", format!("{name} of {section}: its home folder is known only in a run")),
        Login::Missing(keys, file) => {
            let keys = keys.join(", ");
            let absent = file.map(|file| format!(", and {} does not exist", file.display())).unwrap_or_default();
            let how = login::how(kind);
            let how = if how.is_empty() { String::new() } else { format!("; or, as the user of the loops, {how}") };
            report.warning(
                "login",
                format!("{name} of {section} has no key: none of {keys} reaches it{absent}"),
                format!("set one of these variables and name it in {section} environment{how}"),
            );
        }
    }
}
