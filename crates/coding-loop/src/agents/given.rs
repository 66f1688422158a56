//! What an agent is handed of ours, found by equipping a call that is never made.

use std::path::PathBuf;

use coord_db::config::AgentConfig;

use super::{AGENT, Call, Tools, adapter};

/// What an adapter adds to the calls of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Our tools over MCP.
    pub mcp: bool,
    /// Our hooks.
    pub hooks: bool,
}

/// What an agent with these settings is handed.
#[must_use]
pub fn given(agent: &AgentConfig) -> Given {
    let equipped = |mcp: Option<&str>, hooks: Option<&str>| {
        let command = |word: &str| vec!["loopctl".to_owned(), word.to_owned()];
        let mut call = Call::of(&agent.command);
        let tools = Tools {
            mcp: mcp.map(command),
            hooks: hooks.map(command),
            folder: PathBuf::new(),
            home: Some(PathBuf::new()),
            title: String::new(),
        };
        adapter(agent.kind()).equip(&mut call, &tools);
        call
    };
    let bare = equipped(None, None);
    // A variable of the user's replaces ours.
    let arrives = |call: Call| call != bare && !call.env.iter().any(|(name, _)| agent.set.contains_key(name));
    Given { mcp: agent.mcp && arrives(equipped(Some("mcp"), None)), hooks: agent.hooks && arrives(equipped(None, Some(AGENT))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_is_given_follows_its_adapter_and_its_settings() {
        let of = |text: &str, change: fn(&mut AgentConfig)| {
            let mut agent = AgentConfig { command: text.split(' ').map(str::to_owned).collect(), ..AgentConfig::default() };
            change(&mut agent);
            let given = given(&agent);
            (given.mcp, given.hooks)
        };
        assert_eq!(of("claude -p", |_| ()), (true, true));
        assert_eq!(of("env X=1 codex exec -", |_| ()), (true, true));
        assert_eq!(of("gemini --yolo", |_| ()), (true, true));
        assert_eq!(of("opencode run", |_| ()), (true, false));
        assert_eq!(of("aider --message", |_| ()), (false, false));
        assert_eq!(of("my-agent", |_| ()), (false, false));
        assert_eq!(of("claude -p --settings mine.json", |_| ()), (true, false));
        assert_eq!(of("claude -p", |agent| agent.mcp = false), (false, true));
        assert_eq!(of("gemini", |agent| agent.hooks = false), (true, false));
        assert_eq!(of("claude -p --mcp-config=mine.json", |_| ()), (false, true));
        let own = |agent: &mut AgentConfig| drop(agent.set.insert("OPENCODE_CONFIG_CONTENT".to_owned(), "{}".to_owned()));
        assert_eq!(of("opencode run", own), (false, false));
    }
}
