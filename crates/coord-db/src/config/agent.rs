//! The settings of agents.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::{Deserialize, Deserializer, de};

use super::words::{at_least_1, some_at_least_1};

/// The agents whose calls and output are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentKind {
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
    /// OpenCode.
    Opencode,
    /// Gemini CLI.
    Gemini,
    /// Aider.
    Aider,
    /// Any other command. Output in the format of one of the others is understood.
    Generic,
}

impl AgentKind {
    /// All whose program is known.
    pub const KNOWN: [Self; 5] = [Self::Claude, Self::Codex, Self::Opencode, Self::Gemini, Self::Aider];

    /// As the settings name it. For a known agent, its program.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Opencode => "opencode",
            Self::Gemini => "gemini",
            Self::Aider => "aider",
            Self::Generic => "generic",
        }
    }

    /// The variables that a key, a login or the address of its service comes from.
    #[must_use]
    pub fn key_variables(self) -> &'static [&'static str] {
        match self {
            Self::Claude => &[
                "ANTHROPIC_API_KEY",
                "ANTHROPIC_AUTH_TOKEN",
                "ANTHROPIC_BASE_URL",
                "CLAUDE_CODE_OAUTH_TOKEN",
                "CLAUDE_CONFIG_DIR",
            ],
            Self::Codex => &["CODEX_API_KEY", "OPENAI_API_KEY", "CODEX_HOME"],
            Self::Opencode => &[
                "OPENCODE_API_KEY",
                "ANTHROPIC_API_KEY",
                "OPENAI_API_KEY",
                "GEMINI_API_KEY",
                "GOOGLE_GENERATIVE_AI_API_KEY",
                "OPENROUTER_API_KEY",
                "OPENCODE_CONFIG",
            ],
            Self::Gemini => &[
                "GEMINI_API_KEY",
                "GOOGLE_API_KEY",
                "GOOGLE_APPLICATION_CREDENTIALS",
                "GOOGLE_CLOUD_PROJECT",
                "GOOGLE_GENAI_USE_VERTEXAI",
                "GOOGLE_GENAI_USE_GCA",
            ],
            Self::Aider => &[
                "ANTHROPIC_API_KEY",
                "OPENAI_API_KEY",
                "OPENAI_API_BASE",
                "GEMINI_API_KEY",
                "DEEPSEEK_API_KEY",
                "OPENROUTER_API_KEY",
            ],
            Self::Generic => &[],
        }
    }

    /// The agent that a command runs, and the index of its program, found by its name. `env A=B …`, `timeout 600 …` and other
    /// programs that run the rest of their arguments may come before it.
    #[must_use]
    pub fn find(command: &[String]) -> Option<(Self, usize)> {
        let name = |at: usize| Path::new(command.get(at)?).file_name()?.to_str();
        let known = |at: usize| Self::KNOWN.into_iter().find(|kind| name(at) == Some(kind.as_str()));
        let mut at = 0;
        while name(at).is_some_and(|name| WRAPPERS.contains(&name)) {
            at += 1;
            while known(at).is_none() && command.get(at).is_some_and(|word| is_of_wrapper(word)) {
                let takes_value = VALUE_OPTIONS.contains(&command[at].as_str()) && known(at + 1).is_none();
                at += 1 + usize::from(takes_value);
            }
        }
        Some((known(at)?, at))
    }

    /// The agent that a command runs.
    #[must_use]
    pub fn of(command: &[String]) -> Self {
        Self::find(command).map_or(Self::Generic, |(kind, _)| kind)
    }
}

/// Programs that run the command that follows their options.
const WRAPPERS: [&str; 14] = [
    "env",
    "nice",
    "ionice",
    "nohup",
    "setsid",
    "timeout",
    "stdbuf",
    "unshare",
    "setpriv",
    "chrt",
    "taskset",
    "sudo",
    "runuser",
    "systemd-run",
];

/// Options of these programs whose value is the next word, and is no number.
const VALUE_OPTIONS: [&str; 8] = ["-u", "-g", "-s", "-C", "-o", "--user", "--group", "--signal"];

/// True for an option, a number, a duration and an assignment.
fn is_of_wrapper(word: &str) -> bool {
    word.starts_with('-') || word.contains('=') || word.starts_with(|c: char| c.is_ascii_digit())
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AgentKind>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    AgentKind::deserialize(de::value::StrDeserializer::<D::Error>::new(&text)).map(Some)
}

fn some_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<AgentKind>>, D::Error> {
    kind(deserializer).map(Some)
}

/// How the prompt reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptBy {
    /// On its standard input.
    Stdin,
    /// As the argument after the last one.
    Argument,
}

impl AgentConfig {
    /// What the program is.
    #[must_use]
    pub fn kind(&self) -> AgentKind {
        self.kind.unwrap_or_else(|| AgentKind::of(&self.command))
    }

    /// The variables of this process that agent, set-up and checks are given.
    #[must_use]
    pub fn passed_on(&self) -> Vec<(String, OsString)> {
        self.environment.iter().filter_map(|name| Some((name.clone(), std::env::var_os(name)?))).collect()
    }
}

/// What an agent runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxBy {
    /// It writes wherever its user may.
    None,
    /// bubblewrap: the user's checkout, the store, other workspaces and the settings are read-only.
    Bwrap,
}

section! {
    /// The agent of a loop.
    AgentConfig {
        /// argv; empty means that the loop is driven by hand.
        command: Vec<String> = Vec::new(),
        /// What the program is; empty: as its name says.
        #[serde(deserialize_with = "kind")]
        kind: Option<AgentKind> = None,
        /// How often a red gate goes back to the same session.
        fix_rounds: u32 = 2,
        /// Whether it is given our tools over MCP, if it can use them.
        mcp: bool = true,
        /// Whether it is given our hooks, if it can use them.
        hooks: bool = true,
        /// How the prompt reaches it.
        prompt: PromptBy = PromptBy::Stdin,
        /// How long one attempt may take.
        #[serde(deserialize_with = "at_least_1")]
        timeout_seconds: u64 = 7200,
        /// Between SIGTERM and SIGKILL.
        kill_after_seconds: u64 = 10,
        /// The longest pause between two tries while a limit or an outage has no known end.
        limit_wait_minutes: u64 = 30,
        /// Variables that are passed through.
        environment: Vec<String> = ["PATH", "HOME", "USER", "LANG", "TERM"].map(str::to_owned).to_vec(),
        /// Variables of its own; `{port}`, `{loop}` and `{workspace}` are filled in.
        set: BTreeMap<String, String> = BTreeMap::new(),
        /// What it runs in.
        sandbox: SandboxBy = SandboxBy::None,
        /// Output kept for each attempt.
        output_bytes: u64 = 10_485_760,
    }
}

/// An agent's settings that differ from `[agent]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct AgentOverride {
    pub command: Option<Vec<String>>,
    #[serde(deserialize_with = "some_kind")]
    pub kind: Option<Option<AgentKind>>,
    pub fix_rounds: Option<u32>,
    pub mcp: Option<bool>,
    pub hooks: Option<bool>,
    pub prompt: Option<PromptBy>,
    #[serde(deserialize_with = "some_at_least_1")]
    pub timeout_seconds: Option<u64>,
    pub kill_after_seconds: Option<u64>,
    pub limit_wait_minutes: Option<u64>,
    pub environment: Option<Vec<String>>,
    pub set: Option<BTreeMap<String, String>>,
    pub sandbox: Option<SandboxBy>,
    pub output_bytes: Option<u64>,
}

impl AgentOverride {
    /// The settings of a loop: its own, and these for the rest.
    pub(super) fn over(self, base: AgentConfig) -> AgentConfig {
        AgentConfig {
            command: self.command.unwrap_or(base.command),
            kind: self.kind.unwrap_or(base.kind),
            fix_rounds: self.fix_rounds.unwrap_or(base.fix_rounds),
            mcp: self.mcp.unwrap_or(base.mcp),
            hooks: self.hooks.unwrap_or(base.hooks),
            prompt: self.prompt.unwrap_or(base.prompt),
            timeout_seconds: self.timeout_seconds.unwrap_or(base.timeout_seconds),
            kill_after_seconds: self.kill_after_seconds.unwrap_or(base.kill_after_seconds),
            limit_wait_minutes: self.limit_wait_minutes.unwrap_or(base.limit_wait_minutes),
            environment: self.environment.unwrap_or(base.environment),
            set: self.set.unwrap_or(base.set),
            sandbox: self.sandbox.unwrap_or(base.sandbox),
            output_bytes: self.output_bytes.unwrap_or(base.output_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_behind_a_wrapper_is_found() {
        let find = |text: &str| {
            let command: Vec<String> = text.split(' ').map(str::to_owned).collect();
            AgentKind::find(&command).map(|(kind, at)| format!("{} {at}", kind.as_str())).unwrap_or_default()
        };
        assert_eq!(find("/opt/bin/claude -p"), "claude 0");
        assert_eq!(find("env X=1 Y=2 claude -p"), "claude 3");
        assert_eq!(find("/usr/bin/env -i PATH=/bin codex exec"), "codex 3");
        assert_eq!(find("timeout -k 10 600s nice -n 5 gemini --yolo"), "gemini 7");
        assert_eq!(find("unshare --user --map-user=1000 --map-group=1000 claude -p"), "claude 4");
        assert_eq!(find("unshare -u claude"), "claude 2");
        assert_eq!(find("sudo -u worker aider --message"), "aider 3");
        for other in ["my-agent --model claude", "env X=1 my-agent claude", "env X=1", "claude-wrapper -p", "sh -c claude", ""]
        {
            assert_eq!(find(other), "", "{other}");
        }
    }
}
