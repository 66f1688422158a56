//! The command line, in one place. What a value may be is settled here, so that a bad one is a usage error (exit 2).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use coord_db::{
    ActorId, ErrorCategory, EventId, KnowledgeType, LoopId, RequestStatus, RequestType, ResourceType, TestId, TestStatus,
};

use crate::when::When;

/// Shows and steers the coding loops of a repository.
#[derive(Debug, Parser)]
#[command(name = "loopctl", version, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 done; 1 refused or \"no\"; 2 usage; 3 no usable database; 4 no such row.")]
pub struct Cli {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub global: Global,
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
#[allow(missing_docs)]
pub struct Global {
    /// The database [default: $CODING_LOOPS_DB, else coding-loops/coordination.db here or in a folder above]
    #[arg(long, global = true, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// The settings [default: config.toml beside the database]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Print without colour, as NO_COLOR does
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Print no confirmations
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Who acts [default: human]
    #[arg(long = "as", global = true, value_name = "ID")]
    pub actor: Option<ActorId>,
}

/// A loop, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Every registered loop.
    All,
    /// This one.
    One(LoopId),
}

impl std::str::FromStr for Which {
    type Err = coord_db::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" { Ok(Self::All) } else { text.parse().map(Self::One) }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Command {
    // Set up
    /// Make the database, its folder and its settings in a git repository
    Init {
        /// The repository [default: the one of this folder]
        #[arg(long, value_name = "DIR")]
        repository: Option<PathBuf>,
    },
    /// Show what init and the loops have made of a repository, or remove it
    Deinit {
        /// Remove it
        #[arg(long)]
        yes: bool,
        /// Remove it with work that has not landed or that is on no branch of yours
        #[arg(long)]
        force: bool,
    },
    /// Register, list and remove loops
    #[command(subcommand)]
    Loop(LoopCommand),
    /// Put tests on the loops' queues
    #[command(subcommand)]
    Test(TestCommand),
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
    /// Write the man pages of all programs into a folder
    #[command(hide = true)]
    ManPages { folder: PathBuf },

    // See
    /// Show how everything stands, or one loop or test
    Status {
        #[arg(value_name = "LOOP|TEST")]
        id: Option<String>,
        /// Repaint when something changes
        #[arg(long, conflicts_with = "json")]
        watch: bool,
    },
    /// Show what the agent and the checks printed, of a test's newest attempt or of what a loop runs
    Logs {
        #[arg(value_name = "TEST|LOOP")]
        id: String,
        /// Go on with what they print, until the test is decided
        #[arg(long, short)]
        follow: bool,
        /// Of this attempt
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
        attempt: Option<i64>,
    },
    /// Show who beats and who does not
    Health,
    /// Show what happened
    Timeline(TimelineArgs),
    /// Show what led to an event and what it led to; of a landed commit or its proof, how we know
    Why {
        /// Its id, or the beginning of it; or a commit, or what stands in its trailer Proof
        event_id: String,
    },
    /// List tests
    Tests {
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        #[arg(long)]
        status: Option<TestStatus>,
    },
    /// List the leases that stand
    Locks {
        /// Expired ones too
        #[arg(long)]
        all: bool,
    },
    /// Draw who waits for whom, the circles among them, and who was told to give way
    Deadlocks(AllArgs),
    /// List conflicts
    Conflicts(AllArgs),
    /// List loops that make no progress and tests that are blocked
    Stuck,
    /// List regressions, or what is known of each test that had passed
    Regressions(RegressionArgs),
    /// List the refs to go back to and the work that is saved
    Checkpoints {
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        /// Deleted ones too
        #[arg(long)]
        all: bool,
    },
    /// List the folders in which agents and checks work, and how large they are
    Workspaces,
    /// List alerts
    Alerts(AllArgs),
    /// List effects outside the database that are begun and not settled
    Journal(JournalArgs),
    /// Sum up a stretch of time
    Summary {
        /// From when: 90s, 30m, 24h, 7d or a time
        #[arg(long, default_value = "24h")]
        since: When,
    },

    // Steer
    /// Ask a loop to stop working and keep its work
    Pause {
        #[arg(value_name = "LOOP|all")]
        which: Which,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Lift a pause
    Resume {
        #[arg(value_name = "LOOP|all")]
        which: Which,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take a test out of its queue
    Skip {
        test: TestId,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Put a test back to its beginning
    Reset {
        test: TestId,
        /// Also if it has landed: its commit stays, and it is verified again
        #[arg(long)]
        force: bool,
    },
    /// Bring your new commits into the work of the loops: merge, verify, land
    Sync,
    /// Ask a loop to give up its attempt and begin afresh
    Restart {
        #[arg(value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Ask a loop to go back to a checkpoint
    Rollback {
        #[arg(value_name = "LOOP")]
        loop_id: LoopId,
        /// Which one, by its id or the beginning of it [default: where the attempt began]
        #[arg(long, value_name = "ID")]
        checkpoint: Option<String>,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Set how much a loop counts; 1 is the most important
    Priority {
        #[arg(value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        priority: i64,
        #[arg(long)]
        reason: Option<String>,
    },
    /// End a loop's leases, or everyone's
    ForceUnlock {
        #[arg(value_name = "LOOP", required_unless_present = "all", conflicts_with = "all")]
        loop_id: Option<String>,
        #[arg(long)]
        all: bool,
    },
    /// List the questions that wait for an answer
    Decisions(AllArgs),
    /// Answer a question
    Decide {
        /// Its id, or the beginning of it
        decision: String,
        option: String,
        #[arg(long)]
        comment: Option<String>,
    },
    /// Mark an alert as seen
    AckAlert {
        /// Its id, or the beginning of it
        id: String,
    },

    // Agents
    /// Claim the loop's next test
    Next {
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
    },
    /// Gate, integrate and record what was made of the test in hand
    Submit { test: TestId },
    /// End an attempt without a pass
    GiveBack {
        test: TestId,
        /// Whose fault: transient, permanent, system, code, spec, resource, dependency, human or conflict
        #[arg(long)]
        category: ErrorCategory,
        #[arg(long)]
        reason: Option<String>,
    },
    /// Say that a loop lives
    Beat {
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// The process that drives it
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        pid: Option<i64>,
    },
    /// Lease files, subtrees (dir/) or resources (port:5432): all of them or none
    Lock(LockArgs),
    /// Put off the end of all leases under a token, or of none if one of them is lost
    Renew {
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(long)]
        token: i64,
        /// Seconds [default: as before]
        #[arg(long, value_name = "S", value_parser = clap::value_parser!(i64).range(1..))]
        ttl: Option<i64>,
    },
    /// Give leases back
    Unlock {
        #[arg(value_name = "PATH", required_unless_present = "all", conflicts_with = "all")]
        paths: Vec<String>,
        /// Everything that the loop holds (under the token, if one is given)
        #[arg(long)]
        all: bool,
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(long)]
        token: Option<i64>,
    },
    /// Publish an event
    Publish {
        #[arg(value_name = "TYPE")]
        event_type: String,
        /// Who says it [default: whoever acts]
        #[arg(long)]
        source: Option<ActorId>,
        /// What it says; - reads it from standard input
        #[arg(long, value_name = "JSON", default_value = "{}")]
        payload: String,
        /// 1 is the most urgent [default: the type's own]
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        priority: Option<i64>,
        /// The story that it belongs to
        #[arg(long, value_name = "ID")]
        correlation: Option<String>,
        /// The event that led to it
        #[arg(long, value_name = "EVENT_ID")]
        caused_by: Option<EventId>,
    },
    /// Ask for events, or end that
    Subscribe {
        subscriber: ActorId,
        #[arg(long, value_delimiter = ',', required_unless_present = "end")]
        types: Vec<String>,
        #[arg(long, value_delimiter = ',')]
        sources: Option<Vec<String>>,
        /// End the subscription; what was still to be handled is set aside
        #[arg(long, conflicts_with_all = ["types", "sources"])]
        end: bool,
    },
    /// Show what a subscriber has still to handle
    Poll {
        subscriber: String,
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Wait so many seconds if there is nothing
        #[arg(long, value_name = "S")]
        wait: Option<u32>,
    },
    /// Mark events as handled
    Ack {
        subscriber: String,
        #[arg(required = true, value_name = "EVENT_ID")]
        events: Vec<String>,
    },
    /// Record and find what the loops have learned
    #[command(subcommand)]
    Knowledge(KnowledgeCommand),
    /// Take ownership of a resource, give it up, or list who owns what
    Own {
        #[arg(requires = "what")]
        path: Option<String>,
        /// The owner; alone: list what it owns
        #[arg(long = "loop", value_name = "LOOP", group = "what")]
        loop_id: Option<LoopId>,
        /// Give it up (--as LOOP, or the human for it): others may own it then
        #[arg(long, group = "what", requires = "path", conflicts_with = "loop_id")]
        release: bool,
        #[arg(long = "type", default_value = "file")]
        resource_type: ResourceType,
        #[arg(long)]
        description: Option<String>,
    },
    /// Ask to change what another loop owns
    #[command(subcommand)]
    Request(RequestCommand),
    /// Number the migrations of your own database
    #[command(subcommand)]
    Migration(MigrationCommand),
    /// Record and report what the work has cost
    #[command(subcommand)]
    Usage(UsageCommand),
    /// Ask the human
    Ask(AskArgs),

    // Keep
    /// Copy database and store while others work on them, to FILE and FILE.bundle
    Backup { file: Option<PathBuf> },
    /// Replace the content by that of a backup, the old one is kept; bring back what the store lacks
    Restore {
        file: PathBuf,
        /// Leave the database as it is
        #[arg(long)]
        store_only: bool,
    },
    /// Look for everything that should not be
    Check,
    /// Print the database as SQL text
    Dump,
    /// Move what is settled and old into the archive beside the database
    Archive {
        /// Older than so long: 30d, 72h or a time [default: retention.events_days]
        #[arg(long, value_name = "AGE")]
        older_than: Option<When>,
    },
    /// Look at the machine, the settings and the processes; exit 1 if work cannot start
    Doctor {
        /// Leave out processes and services: for scripts that are about to start them
        #[arg(long)]
        before_start: bool,
        /// Run set-up and checks at the base, and show what they ran
        #[arg(long)]
        run_checks: bool,
    },
    /// Run this repository's supervisors and loops as services of systemd
    #[command(subcommand)]
    Service(crate::service::ServiceCommand),
}

/// A list of what is open, or of everything.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct AllArgs {
    /// Those that are over too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct RegressionArgs {
    /// Those that are over too
    #[arg(long)]
    pub all: bool,
    /// The ledger: each test that had passed, and whether it is good, regressed, flaky, unknown or cleared
    #[arg(long, conflicts_with = "all")]
    pub ledger: bool,
}

#[derive(Debug, Args)]
#[allow(missing_docs)]
pub struct JournalArgs {
    /// Settled ones too
    #[arg(long)]
    pub all: bool,
    /// Of this loop or supervisor only
    #[arg(long, value_name = "COMPONENT")]
    pub of: Option<String>,
    /// With --all, at most so many, the newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Settle an entry whose owner never comes back; changes nothing but the journal
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "of"], requires = "outcome")]
    pub settle: Option<String>,
    /// What it was about is done
    #[arg(long, group = "outcome", requires = "settle")]
    pub done: bool,
    /// It is undone, or was never begun
    #[arg(long, group = "outcome", requires = "settle")]
    pub undone: bool,
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum LoopCommand {
    /// Register a loop
    Add {
        id: LoopId,
        #[arg(long, default_value = "")]
        name: String,
        /// 1 is the most important
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(i64).range(1..))]
        priority: i64,
        /// [default: coding-loops/ID]
        #[arg(long)]
        branch: Option<String>,
    },
    /// List the loops
    List,
    /// Remove a loop that has no history
    Remove { id: LoopId },
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum TestCommand {
    /// Read tests from TOML, JSON or JSON Lines: all or none
    Import {
        /// - is standard input
        file: PathBuf,
    },
    /// Add one test
    Add {
        id: TestId,
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(long, default_value = "")]
        category: String,
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i64).range(1..))]
        max_attempts: i64,
        #[arg(long, value_name = "TEST")]
        depends_on: Option<TestId>,
        /// An agent cannot work on it
        #[arg(long)]
        manual: bool,
        /// A claim that changes nothing is judged by the checks like any other
        #[arg(long)]
        allow_no_change: bool,
        #[arg(long)]
        notes: Option<String>,
        /// The specification
        #[arg(long, conflicts_with = "spec_file")]
        spec: Option<String>,
        /// Read the specification from a file
        #[arg(long, value_name = "FILE")]
        spec_file: Option<PathBuf>,
        /// A glob of the files that it is about; may be repeated
        #[arg(long, value_name = "GLOB")]
        scope: Vec<String>,
    },
}

#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct TimelineArgs {
    /// From when: 90s, 30m, 1h, 2d or a time
    #[arg(long)]
    pub since: Option<When>,
    #[arg(long)]
    pub until: Option<When>,
    #[arg(long)]
    pub source: Option<String>,
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    #[arg(long, value_name = "ID")]
    pub test: Option<String>,
    /// One whole story
    #[arg(long, value_name = "ID")]
    pub correlation: Option<String>,
    /// The newest so many [default: 100 unless something else narrows]
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub limit: Option<i64>,
    /// Go on as things happen
    #[arg(long, conflicts_with = "until")]
    pub follow: bool,
}

#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct LockArgs {
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<String>,
    #[arg(long = "loop", value_name = "LOOP")]
    pub loop_id: LoopId,
    /// Seconds without a renewal [default: lease.ttl_seconds]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(i64).range(1..))]
    pub ttl: Option<i64>,
    #[arg(long)]
    pub reason: Option<String>,
    /// For which test [default: the one that the loop has in hand]
    #[arg(long)]
    pub test: Option<TestId>,
    /// Queue for so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(i64).range(0..=31_536_000))]
    pub wait: Option<i64>,
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum KnowledgeCommand {
    /// Record something learned and tell the loops
    Add {
        content: String,
        #[arg(long = "type", default_value = "fact")]
        item_type: KnowledgeType,
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        #[arg(long)]
        topic: Option<String>,
        /// From 0 to 1
        #[arg(long, default_value_t = 1.0)]
        confidence: f64,
        #[arg(long)]
        evidence: Option<String>,
        /// A glob of the files that it is about; may be repeated
        #[arg(long = "area", value_name = "GLOB")]
        areas: Vec<String>,
        /// An item whose place it takes; may be repeated
        #[arg(long, value_name = "ID")]
        supersedes: Vec<String>,
    },
    /// Find what stands: with words the best match first, else the newest first
    Search {
        /// All of them, in any form of the word
        words: Vec<String>,
        #[arg(long)]
        topic: Option<String>,
        /// Only what is about this file
        #[arg(long)]
        path: Option<String>,
        #[arg(long = "type", value_name = "TYPE")]
        item_type: Option<KnowledgeType>,
        /// What has been superseded too
        #[arg(long)]
        all: bool,
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show what an item has taken the place of, and what has taken its place
    History { id: String },
    /// Let one item take another's place
    Supersede {
        id: String,
        #[arg(long, value_name = "ID")]
        by: String,
    },
    /// Show what touches a test
    Context {
        test: TestId,
        /// How much of it
        #[arg(long, default_value_t = coord_db::KNOWLEDGE_CONTEXT_BYTES, value_name = "N")]
        bytes: usize,
    },
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum RequestCommand {
    /// Ask the owner
    Create {
        path: String,
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(long = "type", default_value = "modify")]
        request_type: RequestType,
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List requests
    List {
        #[arg(long)]
        status: Option<RequestStatus>,
    },
    /// Say yes
    Approve { id: String },
    /// Say no
    Reject { id: String },
    /// Say that the approved change is made
    Apply { id: String },
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum MigrationCommand {
    /// Hand out the next number
    Allocate {
        name: String,
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        #[arg(long)]
        file: Option<String>,
    },
    /// List migrations
    List,
    /// A migration is applied
    Done { number: i64 },
    /// A migration has failed
    Fail { number: i64 },
}

/// What to add up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum UsageBy {
    Loop,
    Test,
    Day,
    /// What was done again or in vain because of a loop, each with the event that says so
    Rework,
}

#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum UsageCommand {
    /// Record what something has cost
    Record {
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        #[arg(long)]
        test: Option<TestId>,
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        tokens: i64,
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        seconds: i64,
        /// A file that was changed; may be repeated
        #[arg(long = "file", value_name = "PATH")]
        files: Vec<String>,
    },
    /// Add up: use, budgets, what a verified test has cost, rework charged to the loop that caused it
    Report {
        #[arg(long, value_enum, default_value = "loop")]
        by: UsageBy,
        #[arg(long)]
        since: Option<When>,
    },
}

#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct AskArgs {
    /// The question
    #[arg(long)]
    pub summary: String,
    /// An answer, ID=DESCRIPTION; may be repeated
    #[arg(long = "option", value_name = "ID=TEXT", required = true)]
    pub options: Vec<String>,
    /// What happens if nobody answers in time
    #[arg(long)]
    pub default: Option<String>,
    /// [default: pm.decision_timeout_minutes if there is a default, else none]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..=5_256_000))]
    pub timeout_minutes: Option<i64>,
    #[arg(long = "type", default_value = "question")]
    pub decision_type: String,
    /// Details
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub context: String,
    /// What names the matter: while a question about it is open, no second one is asked
    #[arg(long)]
    pub fingerprint: Option<String>,
}
