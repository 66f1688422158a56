//! Seeing what the loops do, what happened and why.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coord_db::{LoopId, TestStatus};
use views::when::When;

/// See.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum See {
    /// Show the state of everything, or of one loop or test
    #[command(after_help = examples![
        "loopctl status",
        "loopctl status --watch        # repaint when something changes",
        "loopctl status backend",
        "loopctl status api-01-login   # attempts, proofs, commit",
    ])]
    Status {
        /// The id
        #[arg(value_name = "LOOP|TEST")]
        id: Option<String>,
        /// Repaint when something changes
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Show the output of agents and checks
    ///
    /// Shows the output of the newest attempt of a test, or of what a loop runs now.
    #[command(after_help = examples![
        "loopctl logs ui-00-page",
        "loopctl logs ui-00-page --attempt 1",
        "loopctl logs ui-00-page --follow",
    ])]
    Logs {
        /// The id
        #[arg(value_name = "TEST|LOOP")]
        id: String,
        /// Follow the output until the attempt is decided
        #[arg(long, short)]
        follow: bool,
        /// Show this attempt
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
        attempt: Option<i64>,
    },
    /// List events
    #[command(after_help = examples![
        "loopctl timeline --since 1h",
        "loopctl timeline --test api-01-login",
        "loopctl timeline --type test_failed --limit 5",
        "loopctl timeline --follow --json",
    ])]
    Timeline(TimelineArgs),
    /// Show the causes and the effects of an event
    ///
    /// For a test, shows the newest event that tells how it stands. For the commit of a verified test, or the id in its Proof trailer, shows the event of its landing and the evidence:
    /// the checks that ran on it, what they showed, and what has been seen since.
    #[command(after_help = examples!["loopctl why api-01-login", "loopctl why a81f0c3d", "loopctl why 3caaa8c"])]
    Why {
        /// The test, event, commit or proof
        #[arg(value_name = "TEST|EVENT|COMMIT|PROOF")]
        event_id: String,
    },
    /// Summarize a period
    #[command(after_help = examples!["loopctl summary", "loopctl summary --since 7d"])]
    Summary {
        /// The start of the period: an age like 90s, 30m, 24h or 7d, or a time
        #[arg(long, default_value = "24h")]
        since: When,
    },
    /// Report what a night has brought: landed, waiting, broken, cost
    ///
    /// Writes one HTML file that needs nothing else: what landed and how it was verified, what waits for you, what broke and who
    /// mended it, what it cost, what was unusual, and a picture of the period. With --markdown it prints the same as text.
    #[command(after_help = examples![
        "loopctl report",
        "loopctl report --since 8h --markdown",
        "loopctl report --output night.html",
    ])]
    Report(ReportArgs),
    /// List loops
    #[command(after_help = examples!["loopctl loops"])]
    Loops,
    /// List tests
    #[command(after_help = examples!["loopctl tests", "loopctl tests --loop backend --status pending"])]
    Tests(TestFilter),
    /// List loops without progress and blocked tests
    #[command(after_help = examples!["loopctl stuck"])]
    Stuck,
    /// List open questions to the human
    #[command(after_help = examples!["loopctl decisions", "loopctl decisions --all"])]
    Decisions(AllArgs),
    /// List open alerts
    #[command(after_help = examples!["loopctl alerts", "loopctl alerts --all --json"])]
    Alerts(AllArgs),
    /// List open conflicts
    #[command(after_help = examples!["loopctl conflicts"])]
    Conflicts(AllArgs),
    /// Show who waits for whom, and the deadlocks
    #[command(after_help = examples!["loopctl deadlocks", "loopctl deadlocks --all"])]
    Deadlocks(AllArgs),
    /// Show what waits to land, and what was judged together
    #[command(after_help = examples!["loopctl landings", "loopctl landings --all --json"])]
    Landings(AllArgs),
    /// List open regressions, or the ledger of all passed tests
    #[command(after_help = examples!["loopctl regressions", "loopctl regressions --ledger"])]
    Regressions(RegressionArgs),
    /// List leases
    #[command(after_help = examples!["loopctl locks", "loopctl locks --all"])]
    Locks {
        /// Include expired leases
        #[arg(long)]
        all: bool,
    },
    /// List checkpoints and saved work
    #[command(after_help = examples!["loopctl checkpoints", "loopctl checkpoints --loop backend --all"])]
    Checkpoints {
        /// Only checkpoints of this loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        /// Include deleted checkpoints
        #[arg(long)]
        all: bool,
    },
    /// List the workspaces of agents and checks with their sizes
    #[command(after_help = examples!["loopctl workspaces"])]
    Workspaces,
    /// Show the agents: their loops, limits, use and budgets of today
    #[command(after_help = examples!["loopctl agents"])]
    Agents,
    /// Show the health of loops and supervisors
    #[command(after_help = examples!["loopctl health"])]
    Health,
    /// List open journal entries: operations outside the database
    ///
    /// An entry stays open while the operation runs, or until its owner settles it after a crash. With --settle an entry
    /// whose owner does not come back is settled by hand; only the journal is changed.
    #[command(after_help = examples![
        "loopctl journal",
        "loopctl journal --all --of backend --limit 10",
        "loopctl journal --settle 61ac3fd9 --undone",
    ])]
    Journal(JournalArgs),
    /// Serve a live page to a browser on this machine
    ///
    /// The page shows what the loops do, the questions, all tests, the cost and the story, and takes answers. The printed
    /// address contains a token: a person who has it can steer the loops. Ctrl-C ends the command.
    #[command(after_help = examples![
        "loopctl web",
        "loopctl web --url --read-only",
        "loopctl web --url --socket ../web.sock   # on a server; then: ssh -L 8080:/path/of/web.sock SERVER",
    ])]
    Web(WebArgs),
}

/// Where the live page is served, and what it allows.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct WebArgs {
    /// Listen on this loopback address; with port 0, on a free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: std::net::SocketAddr,
    /// Listen on a Unix socket instead
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub socket: Option<PathBuf>,
    /// Print the address only and open no browser
    #[arg(long)]
    pub url: bool,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
}

/// Which tests to list.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct TestFilter {
    /// Only tests of this loop
    #[arg(long = "loop", value_name = "LOOP")]
    pub loop_id: Option<LoopId>,
    /// Only tests in this status: pending, in_progress, passed, failed, blocked or skipped
    #[arg(long)]
    pub status: Option<TestStatus>,
}

/// A list of what is open, or of everything.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct AllArgs {
    /// Include those that are resolved
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct ReportArgs {
    /// The start of the period: an age like 90s, 30m, 24h or 7d, or a time
    #[arg(long, default_value = "12h")]
    pub since: When,
    /// Print Markdown instead
    #[arg(long, conflicts_with_all = ["output", "json"])]
    pub markdown: bool,
    /// Leave out what agents and checks have printed
    #[arg(long, requires = "markdown")]
    pub brief: bool,
    /// The HTML file; - is standard output [default: report.html beside the database]
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct RegressionArgs {
    /// Include resolved regressions
    #[arg(long)]
    pub all: bool,
    /// List each test that has passed and its state: good, regressed, flaky, unknown or cleared
    #[arg(long, conflicts_with = "all")]
    pub ledger: bool,
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct JournalArgs {
    /// Include settled entries
    #[arg(long)]
    pub all: bool,
    /// Only entries of this loop or supervisor
    #[arg(long, value_name = "COMPONENT")]
    pub of: Option<String>,
    /// Maximum number of entries with --all, newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Settle an entry whose owner does not come back
    #[arg(long, value_name = "ENTRY", conflicts_with_all = ["all", "of"], requires = "outcome")]
    pub settle: Option<String>,
    /// Record that the operation was completed
    #[arg(long, group = "outcome", requires = "settle")]
    pub done: bool,
    /// Record that the operation was undone or never started
    #[arg(long, group = "outcome", requires = "settle")]
    pub undone: bool,
}

#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct TimelineArgs {
    /// Only events since an age like 90s, 30m, 1h or 2d, or a time
    #[arg(long)]
    pub since: Option<When>,
    /// Only events until an age or a time
    #[arg(long)]
    pub until: Option<When>,
    /// Only events of this source
    #[arg(long)]
    pub source: Option<String>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only events about this test
    #[arg(long, value_name = "TEST")]
    pub test: Option<String>,
    /// Only events with this correlation id
    #[arg(long, value_name = "ID")]
    pub correlation: Option<String>,
    /// Maximum number of events, the newest [default: 100 without --since, --test or --correlation]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub limit: Option<i64>,
    /// Follow new events
    #[arg(long, conflicts_with = "until")]
    pub follow: bool,
}
