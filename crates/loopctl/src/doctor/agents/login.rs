//! Whether an agent has a key or a login, according to files and variables. It must never print a value.

use std::path::{Path, PathBuf};

use coord_db::config::AgentKind;

use super::Environment;

/// What an agent can log in with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// A variable that reaches it.
    Variable(String),
    /// An argument of its command.
    Argument,
    /// A file.
    File(PathBuf),
    /// None of these variables, and this file does not exist.
    Missing(Vec<&'static str>, Option<PathBuf>),
    /// Its home folder is not known.
    Unknown,
}

/// A file that shows a login: it exists, and contains a text.
struct Source {
    /// The variable that names its folder.
    variable: &'static str,
    /// The file below the folder that the variable names, and below the home folder.
    below: (&'static str, &'static str),
    contains: &'static str,
}

const fn source(variable: &'static str, below: (&'static str, &'static str), contains: &'static str) -> Source {
    Source { variable, below, contains }
}

/// The file that a login makes comes first.
const fn sources(kind: AgentKind) -> &'static [Source] {
    const CLAUDE: &[Source] = &[
        source("CLAUDE_CONFIG_DIR", (".credentials.json", ".claude/.credentials.json"), ""),
        source("CLAUDE_CONFIG_DIR", (".claude.json", ".claude.json"), "primaryApiKey"),
        source("CLAUDE_CONFIG_DIR", ("settings.json", ".claude/settings.json"), "apiKeyHelper"),
        source("CLAUDE_CONFIG_DIR", ("settings.json", ".claude/settings.json"), "ANTHROPIC_"),
    ];
    const CODEX: &[Source] = &[
        source("CODEX_HOME", ("auth.json", ".codex/auth.json"), ""),
        source("CODEX_HOME", ("config.toml", ".codex/config.toml"), "model_provider"),
    ];
    const OPENCODE: &[Source] = &[
        source("XDG_DATA_HOME", ("opencode/auth.json", ".local/share/opencode/auth.json"), ""),
        source("XDG_CONFIG_HOME", ("opencode/opencode.json", ".config/opencode/opencode.json"), "\"provider\""),
        source("XDG_CONFIG_HOME", ("opencode/opencode.jsonc", ".config/opencode/opencode.jsonc"), "\"provider\""),
    ];
    const GEMINI: &[Source] = &[
        source("GEMINI_CLI_HOME", (".gemini/oauth_creds.json", ".gemini/oauth_creds.json"), ""),
        source("GEMINI_CLI_HOME", (".gemini/gemini-credentials.json", ".gemini/gemini-credentials.json"), ""),
        source("GEMINI_CLI_HOME", (".gemini/.env", ".gemini/.env"), "_API_KEY"),
        source(
            "CLOUDSDK_CONFIG",
            ("application_default_credentials.json", ".config/gcloud/application_default_credentials.json"),
            "",
        ),
    ];
    const AIDER: &[Source] = &[
        source("", ("", ".aider/oauth-keys.env"), ""),
        source("", ("", ".aider.conf.yml"), "api-key"),
        source("", ("", ".env"), "_API_KEY"),
    ];
    match kind {
        AgentKind::Claude => CLAUDE,
        AgentKind::Codex => CODEX,
        AgentKind::Opencode => OPENCODE,
        AgentKind::Gemini => GEMINI,
        AgentKind::Aider => AIDER,
        AgentKind::Generic => &[],
    }
}

/// Variables that name a place or a service and hold no key. Codex reads `OPENAI_API_KEY` only for a provider of its config.
fn is_no_key(kind: AgentKind, name: &str) -> bool {
    let is_place = ["_BASE_URL", "_API_BASE", "_DIR", "_HOME", "_PROJECT", "_USE_VERTEXAI", "_USE_GCA"];
    is_place.iter().any(|end| name.ends_with(end)) || (kind == AgentKind::Codex && name == "OPENAI_API_KEY")
}

/// Variables beside those of the presets.
const fn others(kind: AgentKind) -> &'static [&'static str] {
    match kind {
        AgentKind::Claude => &["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"],
        AgentKind::Opencode => &["OPENCODE_CONFIG", "OPENCODE_CONFIG_CONTENT", "OPENCODE_AUTH_CONTENT"],
        AgentKind::Aider => &["OLLAMA_API_BASE", "AIDER_API_KEY"],
        AgentKind::Codex | AgentKind::Gemini | AgentKind::Generic => &[],
    }
}

/// Words of a command that name a key or a provider without one.
const fn arguments_of(kind: AgentKind) -> &'static [&'static str] {
    match kind {
        AgentKind::Codex => &["model_provider", "--oss"],
        AgentKind::Aider => &["api-key", "ollama"],
        AgentKind::Claude => &["apiKeyHelper"],
        AgentKind::Opencode | AgentKind::Gemini | AgentKind::Generic => &[],
    }
}

/// Looks at variables and files; starts nothing.
pub(super) fn login(kind: AgentKind, environment: &Environment, arguments: &[String]) -> Login {
    let keys: Vec<&'static str> = kind.key_variables().iter().copied().filter(|name| !is_no_key(kind, name)).collect();
    // These two know more providers than can be listed.
    let is_any = |name: &str| matches!(kind, AgentKind::Opencode | AgentKind::Aider) && name.ends_with("_API_KEY");
    let mut names = environment.names();
    if let Some(name) = names.find(|name| keys.contains(name) || others(kind).contains(name) || is_any(name)) {
        return Login::Variable(name.to_owned());
    }
    if arguments.iter().any(|word| arguments_of(kind).iter().any(|part| word.contains(part))) {
        return Login::Argument;
    }
    let mut files = Vec::new();
    for source in sources(kind) {
        let Some(file) = path(source, environment) else { return Login::Unknown };
        if holds(&file, source.contains) {
            return Login::File(file);
        }
        files.push(file);
    }
    let is_shown = kind != AgentKind::Aider;
    Login::Missing(keys, files.into_iter().next().filter(|_| is_shown))
}

/// Where a file is for the agent. None if a variable that names its folder is set to what only a run knows.
fn path(source: &Source, environment: &Environment) -> Option<PathBuf> {
    match environment.folder(source.variable) {
        Some(folder) => Some(folder?.join(source.below.0)),
        None => Some(environment.home()?.join(source.below.1)),
    }
}

fn holds(file: &Path, text: &str) -> bool {
    match text {
        "" => file.exists(),
        text => std::fs::read_to_string(file).is_ok_and(|content| content.contains(text)),
    }
}

/// How a person logs in.
pub(super) const fn how(kind: AgentKind) -> &'static str {
    match kind {
        AgentKind::Claude => "run claude and log in with /login",
        AgentKind::Codex => "run codex login",
        AgentKind::Opencode => "run opencode auth login",
        AgentKind::Gemini => "run gemini and log in",
        AgentKind::Aider | AgentKind::Generic => "",
    }
}
