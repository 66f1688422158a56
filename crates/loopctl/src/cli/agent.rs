//! For the agents' own programs: the tools that they call.

use clap::Subcommand;
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
}
