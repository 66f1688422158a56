//! Logs to systemd's journal in its native protocol: each line with priority and fields, so that `journalctl
//! CODING_LOOPS_TEST=T-001` shows the lines about a test, and `journalctl -p warning` the warnings.

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
/// Prefix of our fields, so that none has a meaning of its own for the journal.
const PREFIX: &str = "CODING_LOOPS_";
/// Maximum length of a value; the rest is cut off, because a datagram is limited.
const MAX_BYTES: usize = 8 << 10;

/// True if stderr is connected to the journal. `JOURNAL_STREAM` alone does not prove it: children inherit the variable
/// even if they write to a terminal or a file.
pub(super) fn is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|meta| *stream == *format!("{}:{}", meta.dev(), meta.ino()))
}

/// Syslog priorities.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// If only stderr reaches the journal: a priority prefix before each line. The journal adds the time.
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
    /// None if the journal's socket cannot be reached.
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
            // stderr is always available.
            eprintln!("<{priority}>{}", text.replace('\n', " "));
        }
    }
}

/// Appends a field with an explicit length, so that the value may contain anything.
fn append(datagram: &mut Vec<u8>, name: &str, value: &str) {
    let mut end = value.len().min(MAX_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    datagram.extend_from_slice(name.as_bytes());
    datagram.push(b'\n');
    datagram.extend_from_slice(&(end as u64).to_le_bytes());
    datagram.extend_from_slice(&value.as_bytes()[..end]);
    datagram.push(b'\n');
}

/// The message and fields of a log event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    /// ` name=value` for each field, for the text.
    shown: String,
    named: Vec<(String, String)>,
}

impl Fields {
    fn take(&mut self, field: &Field, value: String, shown: &str) {
        if field.name() == "message" {
            self.message = value;
            return;
        }
        // Events of the `log` crate carry their source location.
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
        let long = "é".repeat(MAX_BYTES);
        datagram.clear();
        append(&mut datagram, "A", &format!("x{long}"));
        assert_eq!(datagram.len(), 2 + 8 + MAX_BYTES - 1 + 1);
    }
}
