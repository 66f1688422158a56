//! Logging: to stderr as text or JSON, and under systemd to the journal with priorities and fields.
//!
//! What is said at `info` and above is one line for each thing worth knowing, with ids as fields. It must never hold a
//! payload, the output of a command, or what an environment variable is set to.

mod journal;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::options::LogFormat;
use journal::{Journal, Prefixed};

static TO_JOURNAL: AtomicBool = AtomicBool::new(false);

/// What `RUST_LOG` asks for, as `debug` or `warn,monitor=debug`; if it is not set or makes no sense, what `default` says.
#[must_use]
pub fn filter(default: &str) -> Targets {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let parse = |text: &str| text.parse().ok();
    asked.as_deref().and_then(parse).or_else(|| parse(default)).unwrap_or_default()
}

/// Sets up logging for the whole process. `RUST_LOG` filters; without it `info` and worse is shown.
pub fn set_up(format: LogFormat) {
    // What the watching of files has to say is said by those who watch.
    let registry = tracing_subscriber::registry().with(filter("info,notify=off"));
    // A second set-up in one process (a test) keeps the first.
    let in_journal = format == LogFormat::Text && journal::is_stderr();
    if in_journal && let Some(journal) = Journal::connect() {
        let set = registry.with(journal).try_init();
        TO_JOURNAL.store(set.is_ok(), Ordering::Relaxed);
        return;
    }
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let _ = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text if in_journal => registry.with(layer.with_ansi(false).event_format(Prefixed)).try_init(),
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            registry.with(layer.with_ansi(colour)).try_init()
        }
    };
}

/// Says why the program ends, as an error of the journal or as a sentence on stderr.
pub fn fatal(program: &str, why: impl Display) {
    if TO_JOURNAL.load(Ordering::Relaxed) {
        tracing::error!("{why}");
    } else {
        eprintln!("{program}: {why}");
    }
}
