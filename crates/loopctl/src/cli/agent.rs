//! For the agents' own programs: the tools that they call, and the hooks that they run.

use clap::{Args, Subcommand, ValueEnum};
use coord_db::LoopId;

/// Serve an agent.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Agent {
    /// Serve the coordination to an agent as MCP tools
    ///
    /// An MCP server on standard input and output, for the agent of one loop: context, lock, unlock, ask, learn, request,
    /// check, give_up. It ends when its standard input is closed.
    #[command(after_help = examples![
        "loopctl mcp --loop backend < /dev/null",
        "loopctl --db coding-loops/coordination.db mcp --loop backend --wait 300 < /dev/null",
    ])]
    Mcp {
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// Seconds that lock and ask wait unless the call says otherwise; less than the time limit of the agent's tool calls
        #[arg(long, value_name = "S", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=86_400))]
        wait: u32,
    },
    /// Answer a hook of an agent
    ///
    /// Reads the hook's input on standard input. Before an edit, it leases the file: the edit is refused while another loop
    /// holds the file, and after others have landed changes in it, which are in the file then. At the end of the agent's work,
    /// it runs the checks and sends the agent back to work if one fails. The exit status is 2 if the agent must not go on,
    /// or if the hook itself fails.
    #[command(after_help = examples![
        r#"echo '{"hook_event_name": "Stop"}' | loopctl hook claude --loop backend"#,
        r#"echo '{"hook_event_name": "AfterAgent"}' | loopctl hook gemini --loop backend --checks 600 --rounds 3"#,
    ])]
    Hook(HookArgs),
}

#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct HookArgs {
    /// The agent
    #[arg(value_enum)]
    pub agent: HookAgent,
    /// The loop
    #[arg(long = "loop", value_name = "LOOP")]
    pub loop_id: LoopId,
    /// Seconds to wait for a lease before an edit; at least 15 less than the time limit of the hook
    #[arg(long, value_name = "S", default_value_t = 40, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub wait: u32,
    /// Seconds that the checks may take at the end; then the agent ends, and its loop checks the work
    #[arg(long, value_name = "S", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub checks: u32,
    /// Maximum number of times that a session is sent back to work
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub rounds: u32,
}

/// The agents whose hooks are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum HookAgent {
    Claude,
    Codex,
    Gemini,
}
