//! Events by hand: publish, subscribe, poll, acknowledge.

use clap::Subcommand;
use coord_db::ActorId;

/// Exchange events.
#[derive(Debug, Subcommand)]
#[allow(missing_docs)]
pub enum Exchange {
    /// Publish an event; prints its id
    ///
    /// The payload must fit the type; schema/README.md lists the types. A type of your own is written custom.NAME.
    #[command(after_help = examples![
        "loopctl publish summary_requested --payload '{\"scope\": \"all\", \"since_hours\": 24, \"requested_by\": \"human\"}'",
        "echo '{\"build\": 7}' | loopctl publish custom.build_done --source build --payload -",
    ])]
    Publish {
        /// The type
        #[arg(value_name = "TYPE")]
        event_type: String,
        /// The source of the event [default: who runs the command]
        #[arg(long)]
        source: Option<ActorId>,
        /// The payload; - reads it from standard input
        #[arg(long, value_name = "JSON", default_value = "{}")]
        payload: String,
        /// 1 is the most urgent [default: the priority of the type]
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        priority: Option<i64>,
        /// The correlation id [default: that of the cause]
        #[arg(long, value_name = "ID")]
        correlation: Option<String>,
        /// The event that caused this one
        #[arg(long, value_name = "EVENT")]
        caused_by: Option<String>,
    },
    /// Subscribe to event types, or end a subscription
    #[command(after_help = examples![
        "loopctl subscribe dashboard --types test_passed,test_failed",
        "loopctl subscribe dashboard --end",
    ])]
    Subscribe {
        /// The id of the subscriber
        subscriber: ActorId,
        /// Event types, separated by commas; custom.* is every type of your own
        #[arg(long, value_delimiter = ',', required_unless_present = "end")]
        types: Vec<String>,
        /// Only events of these sources
        #[arg(long, value_delimiter = ',')]
        sources: Option<Vec<String>>,
        /// End the subscription and drop its pending deliveries
        #[arg(long, conflicts_with_all = ["types", "sources"])]
        end: bool,
    },
    /// List the pending events of a subscriber
    ///
    /// An event stays pending until it is acknowledged.
    #[command(after_help = examples![
        "loopctl subscribe dashboard --types test_passed,test_failed",
        "loopctl poll dashboard",
        "loopctl poll dashboard --wait 1 --json",
    ])]
    Poll {
        /// The id of the subscriber
        subscriber: String,
        /// Maximum number of events
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Wait for at most this number of seconds if nothing is pending
        #[arg(long, value_name = "S")]
        wait: Option<u32>,
    },
    /// Acknowledge events
    ///
    /// Acknowledges all events, or none if one is unknown.
    #[command(after_help = examples!["loopctl ack watcher a81f0c3d"])]
    Ack {
        /// The id of the subscriber
        subscriber: String,
        /// The ids of the events
        #[arg(required = true, value_name = "EVENT")]
        events: Vec<String>,
    },
}
