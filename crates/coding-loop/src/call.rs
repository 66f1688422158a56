//! Calls of the loop's agent: its arguments, our tools, its guards, and what a call has cost.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use coord_db::config::AgentConfig;
use coord_db::{ModelUse, microusd};

use crate::agents::{AGENT, Call, Tools, adapter, given};
use crate::context::{Attempt, Context};
use crate::{Error, Result, prompt};

/// Estimate for agents that state no use.
const BYTES_PER_TOKEN: u64 = 4;
/// The lowest limit of money that an agent is given.
const MIN_DOLLARS: f64 = 0.01;

/// The program beside this one that agents use.
fn loopctl() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name("loopctl");
    program.is_file().then_some(program)
}

impl Context<'_> {
    /// The call of the agent for the next run of an attempt, and its prompt.
    pub(crate) fn call(&self, attempt: &Attempt) -> Result<(Call, String)> {
        let agent = self.config.agent_of(&self.loop_id);
        let adapter = adapter(agent.kind());
        let mut call = Call::of(&agent.command);
        let loopctl = loopctl();
        let tools = self.tools(loopctl.as_deref(), &agent, attempt);
        adapter.equip(&mut call, &tools);
        if self.config.budget.usd_per_test > 0.0 {
            let used = self.db.read(|tx| tx.usage_of_test(&attempt.test.id))?.cost_microusd;
            let left = microusd(self.config.budget.usd_per_test).saturating_sub(used) as f64 / 1e6;
            adapter.limit_cost(&mut call, left.max(MIN_DOLLARS));
        }
        if let Some(session) = &attempt.session {
            adapter.resume(&mut call, &session.id);
        }
        // What does not arrive is not named.
        let is_given = tools.mcp.is_some() && given(&agent).mcp;
        let tool = |name: &str| if is_given { adapter.tool(name) } else { None };
        let prompt = prompt::write(self, attempt, loopctl.as_deref(), &tool)?;
        for (file, text) in &call.files {
            let written = file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(file, text));
            written.map_err(|error| Error::io(format!("cannot write {}", file.display()), error))?;
        }
        for (folder, other) in &call.links {
            link_entries(folder, other).map_err(|error| Error::io(format!("cannot link {}", folder.display()), error))?;
        }
        Ok((call, prompt))
    }

    fn tools(&self, loopctl: Option<&Path>, agent: &AgentConfig, attempt: &Attempt) -> Tools {
        let command = |words: &[&str]| {
            let program = loopctl?.to_str()?.to_owned();
            let database = self.db.path()?.to_str()?.to_owned();
            let own = words.iter().map(|word| (*word).to_owned());
            let rest = ["--loop".to_owned(), self.loop_id.to_string()];
            Some([program, "--db".to_owned(), database].into_iter().chain(own).chain(rest).collect::<Vec<_>>())
        };
        Tools {
            mcp: command(&["mcp"]).filter(|_| agent.mcp),
            hooks: command(&["hook", AGENT]).filter(|_| agent.hooks),
            folder: self.logs(),
            home: agent.passed_on().into_iter().find(|(name, _)| name == "HOME").map(|(_, home)| home.into()),
            title: attempt.test.id.to_string(),
        }
    }

    /// Keeps the agent's git from asking anything, and puts our programs first on its path.
    pub(crate) fn guard(&self, env: &mut Vec<(String, OsString)>) -> Result<()> {
        let mut add = |name: &str, value: &str| {
            if !env.iter().any(|(set, _)| set == name) {
                env.push((name.to_owned(), value.into()));
            }
        };
        add("GIT_TERMINAL_PROMPT", "0");
        add("GIT_EDITOR", "true");
        add("GIT_SEQUENCE_EDITOR", "true");
        let Some(folder) = loopctl().and_then(|program| Some(program.parent()?.to_owned())) else { return Ok(()) };
        for (name, path) in env.iter_mut() {
            if name == "PATH" {
                *path = OsString::from_vec([folder.as_os_str().as_bytes(), path.as_bytes()].join(&b':'));
            }
        }
        // A login shell sets its own path; bash reads this file afterwards.
        let file = self.logs().join("agent.bash_env");
        let before = env.iter().rev().find(|(name, _)| name == "BASH_ENV").map(|(_, file)| file.clone());
        let mut text = b"case \":$PATH:\" in ".to_vec();
        for part in [b"':".as_slice(), &quoted(&folder), b":'*) ;; *) PATH='", &quoted(&folder), b"':\"$PATH\" ;; esac\n"] {
            text.extend_from_slice(part);
        }
        if let Some(before) = before.filter(|before| *before != file.as_os_str()) {
            text.splice(0..0, [b". '".as_slice(), &quoted(Path::new(&before)), b"'\n"].concat());
        }
        std::fs::write(&file, text).map_err(|error| Error::io(format!("cannot write {}", file.display()), error))?;
        env.retain(|(name, _)| name != "BASH_ENV");
        env.push(("BASH_ENV".to_owned(), unexpanded(&file)));
        Ok(())
    }

    /// The use of a run with its cost: as stated, or estimated from the size of prompt and output. `model` is the one that
    /// counts where none is stated.
    pub(crate) fn priced(&self, mut stated: Vec<ModelUse>, model: Option<&str>, bytes: u64) -> Vec<ModelUse> {
        let kind = self.config.agent_of(&self.loop_id).kind();
        if stated.is_empty() {
            stated = vec![ModelUse::of_tokens(i64::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(i64::MAX))];
        }
        for used in &mut stated {
            used.agent = Some(kind.as_str().to_owned());
            used.model = used.model.take().or_else(|| model.map(str::to_owned));
            if used.cost_microusd.is_none() {
                let names = [used.model.as_deref(), Some(kind.as_str())];
                let price = names.into_iter().flatten().find_map(|name| self.config.price.get(name));
                used.cost_microusd = price.map(|price| price.of(used));
            }
        }
        stated
    }
}

/// A path for a variable whose value bash expands, command substitutions too.
fn unexpanded(path: &Path) -> OsString {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if b"$`\"\\".contains(byte) {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    OsString::from_vec(text)
}

/// A path for between single quotes of a shell.
fn quoted(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            _ => text.push(*byte),
        }
    }
    text
}

/// Links the entries of another folder in this one, and keeps what is there.
fn link_entries(folder: &Path, other: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(other).into_iter().flatten().flatten() {
        match std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_reads_our_file_in_a_folder_of_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("a $(touch expanded) `touch expanded` $HOME \"q\" \\ 'x'");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("env"), "echo read").unwrap();
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", ":"]).current_dir(folder.path()).env("BASH_ENV", unexpanded(&own.join("env")));
        let output = bash.output().unwrap();
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (b"read\n".as_slice(), b"".as_slice()));
        assert!(!folder.path().join("expanded").exists());
    }
}
