//! Our tools, as an agent is handed them.

use std::path::PathBuf;

/// Time limit of a hook in seconds. The hook itself ends before.
pub(super) const HOOK_SECONDS: u64 = 120;
/// Time limit in seconds of a tool of ours: it may wait for others, or run the checks.
pub(super) const TOOL_SECONDS: u64 = 3_600;
/// Stands for the name of the agent in [`Tools::hooks`].
pub(crate) const AGENT: &str = "{agent}";

/// Sources of the tools that an agent is given without a file in the repository.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// The command of our MCP server.
    pub(crate) mcp: Option<Vec<String>>,
    /// The command of our hooks, without the name of the agent.
    pub(crate) hooks: Option<Vec<String>>,
    /// A folder for files that the agent needs, outside of the repository.
    pub(crate) folder: PathBuf,
    /// Where the agent's own settings are.
    pub(crate) home: Option<PathBuf>,
    /// The test.
    pub(crate) title: String,
}

impl Tools {
    /// The command line of the hooks of this agent, for a shell.
    pub(super) fn hook(&self, agent: &str) -> Option<String> {
        let words = self.hooks.as_ref()?.iter().map(|word| if word == AGENT { agent.to_owned() } else { shell_word(word) });
        Some(words.collect::<Vec<_>>().join(" "))
    }
}

/// A word as a shell takes it, without quotes where none are needed.
#[must_use]
pub fn shell_word(word: &str) -> String {
    let is_plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:@%+,".contains(&byte));
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}
