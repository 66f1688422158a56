//! Logging: to stderr as text or JSON, and under systemd to the journal with priorities and fields.
//!
//! What is said at `info` and above is one line for each thing worth knowing, with ids as fields. It must never hold a
//! payload, the output of a command, or what an environment variable is set to.

mod journal;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::LogFormat;
use journal::{Journal, Prefixed};

static TO_JOURNAL: AtomicBool = AtomicBool::new(false);

/// Sets up logging for the whole process. `RUST_LOG` filters; without it `info` and worse is shown.
pub fn set_up(format: LogFormat) {
    // What the watching of files has to say is said by those who watch.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,notify=off"));
    // A second set-up in one process (a test) keeps the first.
    let in_journal = format == LogFormat::Text && journal::is_stderr();
    if in_journal && let Some(journal) = Journal::connect() {
        let set = tracing_subscriber::registry().with(filter).with(journal).try_init();
        TO_JOURNAL.store(set.is_ok(), Ordering::Relaxed);
        return;
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let _ = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text if in_journal => builder.with_ansi(false).event_format(Prefixed).try_init(),
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).try_init()
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
