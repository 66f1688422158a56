//! What the loops share: knowledge, ownership, change requests, migration numbers, usage, questions.

use clap::{Args, Subcommand, ValueEnum};
use coord_db::{KnowledgeType, LoopId, RequestStatus, RequestType, ResourceType, TestId};
use views::when::When;

/// Share between loops.
#[derive(Debug, Subcommand)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Share {
    /// Record and find what the loops have learned
    #[command(subcommand)]
    Knowledge(KnowledgeCommand),
    /// Own a resource, release it, or list owners
    ///
    /// Other loops ask the owner before they change the resource; see loopctl request.
    #[command(after_help = examples![
        "loopctl own src/ui/ --loop frontend",
        "loopctl own",
        "loopctl own --loop backend",
        "loopctl own src/ui/ --release",
    ])]
    Own {
        /// The path, relative to the current folder
        #[arg(requires = "what")]
        path: Option<String>,
        /// The owner; without a path, list what it owns
        #[arg(long = "loop", value_name = "LOOP", group = "what")]
        loop_id: Option<LoopId>,
        /// Release the resource, as its owner (--as LOOP) or as the human
        #[arg(long, group = "what", requires = "path", conflicts_with = "loop_id")]
        release: bool,
        /// The type: file, type, interface, endpoint or migration
        #[arg(long = "type", default_value = "file")]
        resource_type: ResourceType,
        /// A description
        #[arg(long)]
        description: Option<String>,
    },
    /// Request changes to what another loop owns
    #[command(subcommand)]
    Request(RequestCommand),
    /// List change requests
    #[command(after_help = examples!["loopctl requests --status pending"])]
    Requests(RequestFilter),
    /// Number the migrations of your project's database
    #[command(subcommand)]
    Migration(MigrationCommand),
    /// List migrations
    #[command(after_help = examples!["loopctl migrations"])]
    Migrations,
    /// Record and report the cost of the work
    #[command(subcommand)]
    Usage(UsageCommand),
    /// Ask the human a question
    ///
    /// Prints the id of the decision. pm-agent applies the answer, or the default after the timeout.
    #[command(after_help = examples![
        "loopctl ask --as backend --summary 'Which date format?' --option iso='2026-11-27' --option us='11/27/2026' --default iso",
    ])]
    Ask(AskArgs),
}

/// `loopctl knowledge …`
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum KnowledgeCommand {
    /// Record an item and notify the loops
    #[command(after_help = examples![
        "loopctl knowledge add 'Sessions are signed with HS256' --topic auth --area 'src/api/**' --loop backend",
    ])]
    Add {
        /// What was learned
        content: String,
        /// The type: fact, decision, pattern or warning
        #[arg(long = "type", default_value = "fact")]
        item_type: KnowledgeType,
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        /// The topic
        #[arg(long)]
        topic: Option<String>,
        /// From 0 to 1
        #[arg(long, default_value_t = 1.0)]
        confidence: f64,
        /// How it is known
        #[arg(long)]
        evidence: Option<String>,
        /// A glob of the files that the item is about; may be repeated
        #[arg(long = "area", value_name = "GLOB")]
        areas: Vec<String>,
        /// An item that this one replaces; may be repeated
        #[arg(long, value_name = "ITEM")]
        supersedes: Vec<String>,
    },
    /// Find current items, the best match or the newest first
    #[command(visible_alias = "list")]
    #[command(after_help = examples!["loopctl knowledge search session", "loopctl knowledge list --topic auth --all"])]
    Search {
        /// Words that an item must contain, in any grammatical form
        words: Vec<String>,
        /// The topic
        #[arg(long)]
        topic: Option<String>,
        /// Only items about this file
        #[arg(long)]
        path: Option<String>,
        /// The type: fact, decision, pattern or warning
        #[arg(long = "type", value_name = "TYPE")]
        item_type: Option<KnowledgeType>,
        /// Include superseded items
        #[arg(long)]
        all: bool,
        /// Maximum number of items
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show what an item has replaced, and what has replaced it
    #[command(after_help = examples!["loopctl knowledge history e07f12c8"])]
    History {
        /// The id
        #[arg(value_name = "ITEM")]
        id: String,
    },
    /// Replace one item by another
    #[command(after_help = examples!["loopctl knowledge supersede e07f12c8 --by 4b1d88f3"])]
    Supersede {
        /// The id
        #[arg(value_name = "ITEM")]
        id: String,
        /// The item that replaces it
        #[arg(long, value_name = "ITEM")]
        by: String,
    },
    /// Show the items about the files that a test touches
    #[command(after_help = examples!["loopctl knowledge context api-01-login"])]
    Context {
        /// The test
        test: TestId,
        /// Maximum size of the text
        #[arg(long, default_value_t = coord_db::KNOWLEDGE_CONTEXT_BYTES, value_name = "N")]
        bytes: usize,
    },
}

/// `loopctl request …`
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum RequestCommand {
    /// Request a change from the owner; prints the id
    #[command(after_help = examples!["loopctl request create src/api/ --loop frontend --description 'return the user name too'"])]
    Create {
        /// The path, relative to the current folder
        path: String,
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// The type: modify, extend or delete
        #[arg(long = "type", default_value = "modify")]
        request_type: RequestType,
        /// A description
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List change requests
    #[command(after_help = examples!["loopctl request list --status pending"])]
    List(RequestFilter),
    /// Approve a request
    #[command(after_help = examples!["loopctl request approve 93d6b5e4"])]
    Approve {
        /// The id
        #[arg(value_name = "REQUEST")]
        id: String,
    },
    /// Reject a request
    #[command(after_help = examples!["loopctl request reject 93d6b5e4"])]
    Reject {
        /// The id
        #[arg(value_name = "REQUEST")]
        id: String,
    },
    /// Record that the approved change is made
    #[command(after_help = examples!["loopctl request approve 93d6b5e4", "loopctl request apply 93d6b5e4"])]
    Apply {
        /// The id
        #[arg(value_name = "REQUEST")]
        id: String,
    },
}

/// Which change requests to list.
#[derive(Debug, Clone, Args)]
#[allow(missing_docs)]
pub struct RequestFilter {
    /// Only requests in this status: pending, approved, rejected or applied
    #[arg(long)]
    pub status: Option<RequestStatus>,
}

/// `loopctl migration …`
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum MigrationCommand {
    /// Allocate the next number; prints it
    #[command(after_help = examples!["loopctl migration allocate add-sessions --loop backend --file migrations/0002_sessions.sql"])]
    Allocate {
        /// The name
        name: String,
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: LoopId,
        /// The file
        #[arg(long)]
        file: Option<String>,
    },
    /// List migrations
    #[command(after_help = examples!["loopctl migration list"])]
    List,
    /// Record that a migration is applied
    #[command(after_help = examples!["loopctl migration done 1"])]
    Done {
        /// The number
        number: i64,
    },
    /// Record that a migration has failed
    #[command(after_help = examples!["loopctl migration fail 1"])]
    Fail {
        /// The number
        number: i64,
    },
}

/// What to add up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum UsageBy {
    Loop,
    Test,
    Day,
    Model,
    /// Work that was repeated or lost because of a loop, each with the event that shows it
    Rework,
}

fn usd(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|usd: &f64| usd.is_finite() && *usd >= 0.0)
        .ok_or_else(|| "expected US dollars, such as 0.25".to_owned())
}

/// `loopctl usage …`
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum UsageCommand {
    /// Record a cost
    #[command(after_help = examples!["loopctl usage record --loop backend --test api-01-login --tokens 5200 --seconds 90"])]
    Record {
        /// The loop
        #[arg(long = "loop", value_name = "LOOP")]
        loop_id: Option<LoopId>,
        /// The test
        #[arg(long)]
        test: Option<TestId>,
        /// Number of LLM tokens
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        tokens: i64,
        /// Cost in US dollars
        #[arg(long, value_name = "DOLLARS", value_parser = usd)]
        usd: Option<f64>,
        /// Duration in seconds
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        seconds: i64,
        /// A changed file; may be repeated
        #[arg(long = "file", value_name = "PATH")]
        files: Vec<String>,
    },
    /// Report tokens, cost, time, budgets and rework
    ///
    /// Rework is charged to the loop that caused it.
    #[command(after_help = examples!["loopctl usage report", "loopctl usage report --by test --since 7d"])]
    Report {
        /// What to add up by
        #[arg(long, value_enum, default_value = "loop")]
        by: UsageBy,
        /// Only costs since an age or a time
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
    /// An answer; may be repeated
    #[arg(long = "option", value_name = "ID=TEXT", required = true)]
    pub options: Vec<String>,
    /// The answer that is chosen after the timeout
    #[arg(long)]
    pub default: Option<String>,
    /// Minutes until the default is chosen [default: pm.decision_timeout_minutes if there is a default, else none]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..=5_256_000))]
    pub timeout_minutes: Option<i64>,
    /// A label for the kind of question
    #[arg(long = "type", default_value = "question")]
    pub decision_type: String,
    /// Details
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub context: String,
    /// A name for the matter: while a question with this name is open, no second one is asked
    #[arg(long)]
    pub fingerprint: Option<String>,
}
