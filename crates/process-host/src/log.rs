//! Logging: to stderr as text or JSON, and under systemd to the journal with priorities and fields.
//!
//! At `info` and above there is one line for each relevant event, with ids as fields. The log must never contain a
//! payload, the output of a command, or the value of an environment variable.

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

/// The filter of `RUST_LOG`, such as `debug` or `warn,monitor=debug`; `default` if it is unset or invalid.
#[must_use]
pub fn filter(default: &str) -> Targets {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let parse = |text: &str| text.parse().ok();
    asked.as_deref().and_then(parse).or_else(|| parse(default)).unwrap_or_default()
}

/// Sets up logging for the process. `RUST_LOG` filters it; without it, `info` and above are logged.
pub fn set_up(format: LogFormat) {
    // Errors of the file watcher are logged by its callers.
    let registry = tracing_subscriber::registry().with(filter("info,notify=off"));
    // A second set-up in one process (in tests) has no effect.
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

/// Reports why the program ends: to the journal, or as a sentence on stderr.
pub fn fatal(program: &str, why: impl Display) {
    if TO_JOURNAL.load(Ordering::Relaxed) {
        tracing::error!("{why}");
    } else {
        eprintln!("{program}: {why}");
    }
}
