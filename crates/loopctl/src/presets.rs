//! Puts the preset of an agent into the settings, for all loops or for one.

use std::path::Path;

use coord_db::config::{AgentConfig, DEFAULT_TEXT, PromptBy};
use coord_db::{Config, LoopId};

use crate::exit::{Failure, Outcome, io};
use crate::known_agents::KnownAgent;

/// The settings of a preset: name and value, as TOML.
#[must_use]
pub fn preset(known: &KnownAgent) -> Vec<(&'static str, &'static str)> {
    let begin = format!("# command = [\"{}\"", known.program());
    let lines = DEFAULT_TEXT.lines().skip_while(|line| !line.starts_with(&begin));
    lines.map_while(|line| line.strip_prefix("# ")?.split_once(" = ")).collect()
}

/// The settings of a preset beside others: what it leaves at the default is set otherwise there.
fn preset_over(known: &KnownAgent, others: &AgentConfig) -> Vec<(&'static str, String)> {
    let values = preset(known).into_iter().map(|(name, value)| (name, value_of(name, value, &others.environment)));
    let mut settings: Vec<(&str, String)> = values.collect();
    if others.prompt != PromptBy::Stdin && settings.iter().all(|(name, _)| *name != "prompt") {
        settings.push(("prompt", "\"stdin\"".to_owned()));
    }
    if others.kind.is_some_and(|kind| kind != known.kind) {
        settings.push(("kind", "\"\"".to_owned()));
    }
    settings
}

/// True if the agent is called as its preset says.
fn is_preset(known: &KnownAgent, agent: &AgentConfig) -> bool {
    let by_argument = preset(known).iter().any(|(name, value)| *name == "prompt" && value.contains("argument"));
    let is_known = KnownAgent::of(&agent.command).is_some_and(|set| set.kind == known.kind);
    is_known && agent.kind() == known.kind && (agent.prompt == PromptBy::Argument) == by_argument
}

/// A list of words as TOML.
fn array(words: &[String]) -> String {
    toml::Value::Array(words.iter().cloned().map(toml::Value::String).collect()).to_string()
}

/// The preset's value of a setting, with variables that are passed on already.
fn value_of(name: &str, value: &str, passed: &[String]) -> String {
    let Some(toml::Value::Array(own)) =
        (name == "environment").then(|| toml::from_str::<toml::Table>(&format!("a = {value}")).ok()?.remove("a")).flatten()
    else {
        return value.to_owned();
    };
    let mut names = passed.to_vec();
    for name in own.iter().filter_map(toml::Value::as_str) {
        if !names.iter().any(|passed| passed == name) {
            names.push(name.to_owned());
        }
    }
    array(&names)
}

/// The settings with the remote at which several machines meet.
///
/// # Errors
/// In words, if another one is set, or the file is not as `init` writes it.
pub fn with_remote(text: &str, remote: &str) -> Result<String, String> {
    let config = Config::parse(text, Path::new("config.toml")).map_err(|error| error.to_string())?;
    if config.repository.remote == remote {
        return Ok(text.to_owned());
    }
    if !config.repository.remote.is_empty() {
        return Err(format!("[repository] remote is already {:?}; change it there", config.repository.remote));
    }
    let line = format!("remote = {}\n", toml::Value::String(remote.to_owned()));
    let header = "[repository]\n";
    let (mut new, mut is_inside, mut is_set) = (String::new(), false, false);
    for old in text.split_inclusive('\n') {
        if old.starts_with('[') {
            is_inside = old == header;
        }
        if is_inside && old.split_once('=').is_some_and(|(key, _)| key.trim() == "remote") {
            new.push_str(&line);
            is_set = true;
        } else {
            new.push_str(old);
        }
    }
    match (is_set, new.find(header).filter(|at| *at == 0 || new.as_bytes()[at - 1] == b'\n')) {
        (true, _) => {}
        (false, Some(at)) => new.insert_str(at + header.len(), &line),
        (false, None) => new.push_str(&format!("\n{header}{line}")),
    }
    checked(new, |config| config.repository.remote == remote)
}

/// The settings with an agent for all loops: its lines stand in place of those of the same name in `[agent]`.
///
/// # Errors
/// In words, if another agent is set, or the file is not as `init` writes it.
pub fn with_agent(text: &str, known: &KnownAgent) -> Result<String, String> {
    let config = Config::parse(text, Path::new("config.toml")).map_err(|error| error.to_string())?;
    if !config.agent.command.is_empty() {
        let is_same = KnownAgent::of(&config.agent.command).is_some_and(|set| set.kind == known.kind);
        let other = format!("[agent] command is already {:?}", config.agent.command.join(" "));
        return if is_same {
            Ok(text.to_owned())
        } else {
            Err(format!(
                "{other}; change it there, or give one loop its own agent: loopctl loop add LOOP --agent {}",
                known.program()
            ))
        };
    }
    let mut wanted = preset_over(known, &config.agent);
    let (mut new, mut is_inside) = (String::new(), false);
    for line in text.lines() {
        if line.starts_with('[') {
            is_inside = line.starts_with("[agent]");
        }
        let at =
            wanted.iter().position(|(name, _)| is_inside && line.split_once('=').is_some_and(|(key, _)| key.trim() == *name));
        match at {
            Some(at) => {
                let (name, value) = wanted.remove(at);
                new.push_str(&format!("{name} = {value}"));
            }
            None => new.push_str(line),
        }
        new.push('\n');
    }
    // Settings that the section did not have.
    if !wanted.is_empty() {
        let lines = lines_of(&wanted);
        let mut end = 0;
        let header = new.split_inclusive('\n').find_map(|line| {
            end += line.len();
            line.starts_with("[agent]").then_some(end)
        });
        match header {
            Some(at) => new.insert_str(at, &lines),
            None => new.push_str(&format!("\n[agent]\n{lines}")),
        }
    }
    checked(new, |config| is_preset(known, &config.agent))
}

/// The settings with an agent for one loop, in a section of its own at the end.
///
/// # Errors
/// In words, if the loop has an agent of its own.
pub fn with_agent_of(text: &str, id: &LoopId, known: &KnownAgent) -> Result<String, String> {
    let config = Config::parse(text, Path::new("config.toml")).map_err(|error| error.to_string())?;
    if config.loops.contains_key(id.as_str()) {
        return Err(format!("[loop.{id}] is already in config.toml; change its agent there"));
    }
    let key = toml::Value::String(id.to_string());
    let lines = lines_of(&preset_over(known, &config.agent));
    let new = format!("{}\n\n[loop.{key}.agent]\n{lines}", text.trim_end());
    checked(new, |config| is_preset(known, &config.agent_of(id)))
}

fn lines_of(settings: &[(&str, String)]) -> String {
    settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}

fn checked(text: String, is_so: impl Fn(&Config) -> bool) -> Result<String, String> {
    match Config::parse(&text, Path::new("config.toml")) {
        Ok(config) if is_so(&config) => Ok(text),
        _ => Err("config.toml is not as init writes it; copy the lines of the preset from its comments".to_owned()),
    }
}

/// Changes the settings in their file, at once or not at all.
///
/// # Errors
/// Exit 1 if the change is refused or cannot be written.
pub fn change(file: &Path, change: impl FnOnce(&str) -> Result<String, String>) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(io(format!("cannot read {}", file.display())))?;
    let new = change(&text).map_err(|why| Failure::No(format!("{}: {why}", file.display())))?;
    if new == text {
        return Ok(());
    }
    let beside = file.with_extension("toml.new");
    let copied =
        std::fs::copy(file, &beside).and_then(|_| std::fs::write(&beside, new)).and_then(|()| std::fs::rename(&beside, file));
    copied.map_err(io(format!("cannot write {}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known_agents::KNOWN_AGENTS;

    #[test]
    fn a_remote_is_written_once_and_another_one_is_refused() {
        for text in [DEFAULT_TEXT, "", "[repository]\nintegration_branch = \"x\"\n", "[agent]\n# [repository]"] {
            let new = with_remote(text, "ori\"gin").unwrap();
            assert_eq!(Config::parse(&new, Path::new("x")).unwrap().repository.remote, "ori\"gin", "{new}");
            assert_eq!(with_remote(&new, "ori\"gin").unwrap(), new, "again");
            assert!(with_remote(&new, "other").unwrap_err().contains("already"));
        }
    }

    #[test]
    fn each_preset_becomes_the_agent_of_all_loops_or_of_one() {
        for known in &KNOWN_AGENTS {
            let own = DEFAULT_TEXT.replace("\"TERM\"]   #", "\"TERM\", \"MINE\"]   #");
            let otherwise = "[agent]\nprompt = \"argument\" # mine\nkind = \"generic\"\nenvironment = [\"MINE\"]\n";
            for text in
                [own.as_str(), otherwise, "", "[gate]\ntimeout_seconds = 3\n[agent]\n", "[agent]\nenvironment = [\"MINE\"]"]
            {
                let new = with_agent(text, known).unwrap();
                let config = Config::parse(&new, Path::new("x")).unwrap();
                assert_eq!((config.agent.command[0].as_str(), config.agent.kind()), (known.program(), known.kind), "{new}");
                assert!(known.keys().iter().all(|key| config.agent.environment.iter().any(|name| name == key)), "{new}");
                assert_eq!(config.agent.environment.iter().any(|name| name == "MINE"), text.contains("MINE"));
                assert_eq!(with_agent(&new, known).unwrap(), new, "again");
                for other in KNOWN_AGENTS.iter().filter(|other| other.kind != known.kind) {
                    assert!(with_agent(&new, other).unwrap_err().contains("already"));
                    let id = "b.2".parse().unwrap();
                    let both = with_agent_of(&new, &id, other).unwrap();
                    let config = Config::parse(&both, Path::new("x")).unwrap();
                    assert!(is_preset(known, &config.agent) && is_preset(other, &config.agent_of(&id)), "{both}");
                    assert!(with_agent_of(&both, &id, known).is_err());
                }
            }
        }
    }
}
