//! Setting up a repository: database, loops, tests, services, shell.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coord_db::config::AgentKind;
use coord_db::{LoopId, TestId};

use super::TestFilter;

/// The agents with a preset.
const AGENTS: [&str; AgentKind::KNOWN.len()] = {
    let (mut names, mut at) = ([""; AgentKind::KNOWN.len()], 0);
    while at < names.len() {
        names[at] = AgentKind::KNOWN[at].as_str();
        at += 1;
    }
    names
};

/// Set up.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum SetUp {
    /// Create the database, its folder and its settings in a git repository
    ///
    /// Creates coding-loops/ with config.toml and coordination.db, and the store in which the loops work. Existing files are
    /// kept, so it is safe to run it again. Build files, agents and the sandbox are detected: the checks that are proposed
    /// are written to config.toml.
    #[command(after_help = examples!["loopctl init", "loopctl init --agent claude", "loopctl init --repository ."])]
    Init {
        /// The repository [default: the one that contains the current folder]
        #[arg(long, value_name = "DIR")]
        repository: Option<PathBuf>,
        /// Write the preset of this agent to config.toml, for all loops
        #[arg(long, value_name = "AGENT", value_parser = AGENTS)]
        agent: Option<String>,
        /// Use a PostgreSQL database, for loops on several machines: postgres://user@host/name. It has to exist and to be empty, or
        /// to be another machine's already. The password is that of PGPASSWORD, if the address has none.
        #[arg(long, value_name = "ADDRESS")]
        database: Option<String>,
        /// Let integration be a branch at this remote, where the machines meet: a name in git remote -v, or an address. It is
        /// written to config.toml.
        #[arg(long, value_name = "REMOTE")]
        remote: Option<String>,
    },
    /// Remove what init and the loops have made in a repository
    ///
    /// Without --yes it lists what it would remove: coding-loops/, the folder of workspaces, our references and the published
    /// branch. Your branches and files stay. It refuses while a process runs or a service is enabled, and without --force where
    /// work would be lost.
    #[command(after_help = examples!["loopctl deinit"])]
    Deinit {
        /// Remove it
        #[arg(long)]
        yes: bool,
        /// Remove work that has not landed or is on no branch of yours
        #[arg(long)]
        force: bool,
    },
    /// Check the machine, the settings and the processes
    ///
    /// Prints one line for each problem with the remedy. The exit status is 1 if work cannot start.
    #[command(after_help = examples![
        "loopctl doctor",
        "loopctl doctor --before-start  # without processes and services",
        "loopctl doctor --run-checks    # run set-up and checks at the base",
    ])]
    Doctor {
        /// Leave out processes and services, for scripts that are about to start them
        #[arg(long)]
        before_start: bool,
        /// Run the set-up commands and the checks at the base, and show what they ran
        #[arg(long)]
        run_checks: bool,
    },
    /// Add, list and remove loops
    #[command(subcommand)]
    Loop(LoopCommand),
    /// Add, import, change, remove and list tests
    #[command(subcommand)]
    Test(TestCommand),
    /// Run supervisors and loops in this terminal
    ///
    /// Starts the five supervisors and the registered loops, and shows the live status. Ctrl-C, or loopctl down in another
    /// terminal, stops all of them in order. It starts nothing if loopctl doctor finds a problem, if something else runs on the
    /// database, or if services are enabled. Logs are in coding-loops/logs/.
    #[command(after_help = examples!["loopctl up", "loopctl up --loops backend"])]
    Up {
        /// Run the example with three scripted agents, in a repository of its own
        #[arg(long)]
        demo: bool,
        /// Start only these loops, separated by commas; with an empty text none. On each of several machines, those that run there
        #[arg(long, value_name = "NAMES", conflicts_with = "demo")]
        loops: Option<String>,
    },
    /// Stop what loopctl up has started
    ///
    /// Stops the loops first, which save their work and return their tests to the queue, then the supervisors, and waits until
    /// all of them have ended. Services are stopped with loopctl service disable.
    #[command(after_help = examples!["loopctl down"])]
    Down,
    /// Let all processes read the settings again
    ///
    /// They do so by themselves when config.toml changes. This checks the file first, and reports which processes were signalled.
    #[command(after_help = examples!["loopctl reload"])]
    Reload,
    /// Run supervisors and loops as services of systemd
    ///
    /// A service is named after the folder of the repository. Without systemd, loopctl up runs the same programs in a terminal.
    #[command(subcommand)]
    Service(crate::service::ServiceCommand),
    /// Print a completion script for a shell
    ///
    /// The script completes commands and options, and the ids of loops, tests, decisions and alerts from the database.
    #[command(after_help = examples![
        "loopctl completions bash > loopctl.bash",
        "source <(loopctl completions bash)  # for this shell only",
    ])]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages of all programs to a folder
    #[command(hide = true)]
    ManPages {
        /// The folder
        folder: PathBuf,
    },
}

/// `loopctl loop …`
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum LoopCommand {
    /// Add a loop
    #[command(after_help = examples![
        "loopctl loop add database",
        "loopctl loop add docs --name 'Documentation' --priority 3",
        "loopctl loop add second-opinion --agent codex",
    ])]
    Add {
        /// The id
        id: LoopId,
        /// A name for people
        #[arg(long, default_value = "")]
        name: String,
        /// 1 is the most important
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i64).range(1..))]
        priority: i64,
        /// The branch on which its agent works [default: coding-loops/ID]
        #[arg(long)]
        branch: Option<String>,
        /// Give it an agent of its own: write the preset to config.toml
        #[arg(long, value_name = "AGENT", value_parser = AGENTS)]
        agent: Option<String>,
    },
    /// List the loops
    #[command(after_help = examples!["loopctl loop list", "loopctl loops --json"])]
    List,
    /// Remove a loop that has no history
    #[command(after_help = examples!["loopctl loop add trial", "loopctl loop remove trial"])]
    Remove {
        /// The id
        #[arg(value_name = "LOOP")]
        id: LoopId,
    },
}

/// `loopctl test …`
#[derive(Debug, Subcommand)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum TestCommand {
    /// Add one test to a loop's queue
    #[command(after_help = examples![
        "loopctl test add api-03-reset --loop backend --notes 'Reset a forgotten password'",
        "loopctl test add api-04-mail --loop backend --depends-on api-03-reset --scope 'src/mail/**'",
        "echo 'Log in with a token.' | loopctl test add api-05-token --loop backend --spec-file -",
    ])]
    Add {
        /// The id
        id: TestId,
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// The test that must pass first
        #[arg(long, value_name = "TEST")]
        depends_on: Option<TestId>,
        /// Leave the test to a person; no agent gets it
        #[arg(long)]
        manual: bool,
        /// Let the checks judge an attempt that changes nothing
        #[arg(long)]
        allow_no_change: bool,
        #[command(flatten)]
        says: TestArgs,
    },
    /// Import tests from TOML, JSON or JSON Lines
    ///
    /// Imports all tests of the file, or none if one of them is wrong.
    #[command(after_help = examples![
        "loopctl test import goals.toml",
        "echo '{\"id\": \"ui-02-table\", \"loop\": \"frontend\"}' | loopctl test import -",
    ])]
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Change what a test says
    ///
    /// What is not given stays. An attempt that runs goes on with the old text.
    #[command(after_help = examples![
        "loopctl test edit ui-01-form --notes 'Validate the form before it is sent'",
        "loopctl test edit ui-01-form --max-attempts 5 --depends-on ''",
    ])]
    Edit {
        /// The test
        #[arg(value_name = "TEST")]
        id: TestId,
        /// The test that must pass first; '' for none
        #[arg(long, value_name = "TEST")]
        depends_on: Option<String>,
        /// Whether it is left to a person: true or false
        #[arg(long, value_name = "BOOL")]
        manual: Option<bool>,
        #[command(flatten)]
        says: TestArgs,
    },
    /// Remove a test that was never begun
    #[command(after_help = examples![
        "loopctl test add trial --loop backend --notes 'A trial'",
        "loopctl test remove trial",
    ])]
    Remove {
        /// The test
        #[arg(value_name = "TEST")]
        id: TestId,
    },
    /// List tests
    #[command(after_help = examples!["loopctl test list", "loopctl test list --loop backend --status pending"])]
    List(TestFilter),
}

/// What a test says, as it is added and changed.
#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct TestArgs {
    /// A free label
    #[arg(long)]
    pub category: Option<String>,
    /// Block the test after this number of failed attempts; a new test: 3
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub max_attempts: Option<i64>,
    /// What is to be done, in short
    #[arg(long)]
    pub notes: Option<String>,
    /// The specification
    #[arg(long, conflicts_with = "spec_file")]
    pub spec: Option<String>,
    /// Read the specification from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    pub spec_file: Option<PathBuf>,
    /// A glob of the files that the test is about; may be repeated; those given replace the old ones
    #[arg(long, value_name = "GLOB")]
    pub scope: Vec<String>,
}
