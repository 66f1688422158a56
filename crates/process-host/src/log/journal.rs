//! Logging to systemd's journal in its own protocol: each line with its priority and its fields, so that
//! `journalctl CODING_LOOPS_TEST=T-001` finds what was said about a test, and `journalctl -p warning` what matters.

use std::fmt::{self, Debug, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Fields of ours begin with it: no name of theirs can mean something else to the journal.
const PREFIX: &str = "CODING_LOOPS_";
/// More of one value is left out: a log is no place for dumps, and a datagram has its limit.
const MOST_BYTES: usize = 8 << 10;

/// True if what is written to stderr goes to the journal. `JOURNAL_STREAM` alone says nothing: children inherit it, also
/// those that write to a terminal or a file.
pub(super) fn is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|meta| *stream == *format!("{}:{}", meta.dev(), meta.ino()))
}

/// `<6>` and so on, as syslog has them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Where only the stream reaches the journal: the priority before each line, as it takes it; it adds the time itself.
pub(super) struct Prefixed;

impl<S, N> FormatEvent<S, N> for Prefixed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The journal's socket.
pub(super) struct Journal {
    socket: UnixDatagram,
    identifier: String,
}

impl Journal {
    /// None where the journal's socket cannot be reached.
    pub(super) fn connect() -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        let own = std::env::current_exe().ok()?;
        Some(Self { socket, identifier: own.file_name()?.to_string_lossy().into_owned() })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let priority = priority(*event.metadata().level());
        let text = format!("{}{}", fields.message, fields.shown);
        let mut datagram = Vec::new();
        append(&mut datagram, "MESSAGE", &text);
        append(&mut datagram, "PRIORITY", &priority.to_string());
        append(&mut datagram, "SYSLOG_IDENTIFIER", &self.identifier);
        append(&mut datagram, "TARGET", event.metadata().target());
        for (name, value) in &fields.named {
            append(&mut datagram, &format!("{PREFIX}{name}"), value);
        }
        if self.socket.send(&datagram).is_err() {
            // The stream takes a line in any case.
            eprintln!("<{priority}>{}", text.replace('\n', " "));
        }
    }
}

/// With its length before the value, which so may hold anything.
fn append(datagram: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(MOST_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    datagram.extend_from_slice(name.as_bytes());
    datagram.push(b'\n');
    datagram.extend_from_slice(&(end as u64).to_le_bytes());
    datagram.extend_from_slice(&value.as_bytes()[..end]);
    datagram.push(b'\n');
}

/// What an event says, for the text and as fields.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    /// ` name=value` for each field, as the text shows them.
    shown: String,
    named: Vec<(String, String)>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: String, shown: &str) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        // What other crates log comes with the place in their source.
        if field.name().starts_with("log.") {
            return;
        }
        let _ = write!(self.shown, " {}={shown}", field.name());
        let name = field.name().chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        self.named.push((name.collect(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        self.take(field, text.clone(), &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned(), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_anything_and_is_cut_at_a_character() {
        let mut datagram = Vec::new();
        append(&mut datagram, "A", "x\ny=z");
        assert_eq!(datagram, b"A\n\x05\0\0\0\0\0\0\0x\ny=z\n");
        let long = "é".repeat(MOST_BYTES);
        datagram.clear();
        append(&mut datagram, "A", &format!("x{long}"));
        assert_eq!(datagram.len(), 2 + 8 + MOST_BYTES - 1 + 1);
    }
}
