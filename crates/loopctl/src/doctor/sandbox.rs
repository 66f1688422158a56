//! The agents' sandbox: that it works where it is set, and that there is one where it is not.

use std::path::Path;

use coord_db::Config;
use coord_db::config::{AgentConfig, SandboxBy};
use git::sandbox::{Sandbox, remedy};
use git::{Layout, Repository};

use super::Report;

/// What the agents of these sections run in.
pub(super) fn examine(config: &Config, root: &Path, database: &Path, sections: &[(String, AgentConfig)], report: &mut Report) {
    let agents: Vec<_> = sections.iter().filter(|(_, agent)| !agent.command.is_empty()).collect();
    for (section, agent) in &agents {
        if agent.sandbox == SandboxBy::None {
            continue;
        }
        match try_out(config, root, database, agent) {
            Ok(()) => report.ok("sandbox", format!("the agent of {section} runs in a sandbox (bwrap)")),
            Err(said) => {
                report.problem("sandbox", format!("the sandbox of {section} does not work: {said}"), remedy(&said));
            }
        }
    }
    let without = agents.iter().find(|(_, agent)| agent.sandbox == SandboxBy::None);
    if let Some((section, agent)) = without
        && try_out(config, root, database, agent).is_ok()
    {
        report.ok("sandbox", format!("bwrap works on this machine: {}", proposal(section)));
    }
}

/// What a sandbox would do.
pub fn proposal(section: &str) -> String {
    format!("sandbox = \"bwrap\" in {section} makes your checkout, the store and config.toml read-only to the agent")
}

/// Runs nothing in the sandbox that an agent would have.
///
/// # Errors
/// Why that does not work.
pub fn try_out(config: &Config, root: &Path, database: &Path, agent: &AgentConfig) -> Result<(), String> {
    let user = Repository::open(root).map_err(|error| error.to_string())?;
    let layout = Layout::new(config.workspace_root());
    let sandbox = Sandbox::of_agent(&user, &layout, &layout.workspaces(), database);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(sandbox.try_out(root, &agent.passed_on()))
}
