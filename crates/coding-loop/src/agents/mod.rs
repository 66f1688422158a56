//! The agents' programs: how each is called, and what its output says. One file and one [`Adapter`] for each.

mod aider;
mod claude;
mod codex;
mod gemini;
mod generic;
mod given;
mod opencode;
mod report;
#[cfg(test)]
mod tests;
mod tools;
mod usage;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use coord_db::config::AgentKind;
use serde_json::Value;

pub use given::{Given, given};
pub(crate) use report::{NOTHING_PRINTED, Report, one_line, plain};
pub use tools::shell_word;
pub(crate) use tools::{AGENT, Tools};

/// Maximum size of a line that is parsed. A longer one is left out.
const MAX_LINE_BYTES: usize = 16 << 20;

/// A call of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Call {
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
    /// Variables in addition to those that the settings pass on.
    pub(crate) env: Vec<(String, OsString)>,
    /// Files to write before the start, with their text.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// Folders whose entries are linked to another folder, except for the files.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
}

impl Call {
    pub(crate) fn of(command: &[String]) -> Self {
        Self { argv: command.iter().map(OsString::from).collect(), ..Self::default() }
    }

    /// True if one of these words, or `word=…`, is an argument.
    fn has(&self, words: &[&str]) -> bool {
        let is_one = |text: &str| {
            words.iter().any(|word| text == *word || text.strip_prefix(word).is_some_and(|rest| rest.starts_with('=')))
        };
        self.argv.iter().filter_map(|argument| argument.to_str()).any(is_one)
    }

    /// The value of an option: the word after it, or after its `=`.
    fn value(&self, words: &[&str]) -> Option<&str> {
        let mut arguments = self.argv.iter().filter_map(|argument| argument.to_str());
        while let Some(argument) = arguments.next() {
            for word in words {
                match argument.strip_prefix(word) {
                    Some("") => return arguments.next(),
                    Some(rest) if rest.starts_with('=') => return Some(&rest[1..]),
                    _ => {}
                }
            }
        }
        None
    }

    /// The model that an argument names.
    pub(crate) fn model(&self) -> Option<&str> {
        self.value(&["--model", "-m"])
    }

    /// Removes an option with its value, and gives the value.
    fn take(&mut self, words: &[&str]) -> Option<String> {
        let at = self.argv.iter().position(|word| word.to_str().is_some_and(|word| words.contains(&word)))?;
        self.argv.remove(at);
        (at < self.argv.len()).then(|| self.argv.remove(at).to_string_lossy().into_owned())
    }

    /// Sets a variable unless the user has set it. The settings come later and win.
    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.env.push((name.to_owned(), value.into()));
    }

    /// Adds arguments at the end.
    fn add<T: Into<OsString>>(&mut self, arguments: impl IntoIterator<Item = T>) {
        self.argv.extend(arguments.into_iter().map(Into::into));
    }

    /// Adds arguments after the first one with this text; at the end if there is none.
    fn add_after<T: Into<OsString>>(&mut self, word: &str, arguments: impl IntoIterator<Item = T>) {
        let at = self.argv.iter().position(|argument| argument == word).map_or(self.argv.len(), |at| at + 1);
        self.argv.splice(at..at, arguments.into_iter().map(Into::into));
    }
}

/// What is known of an agent's program.
pub(crate) trait Adapter: Sync {
    /// Reads a JSON line of its output.
    fn event(&self, event: &Value, report: &mut Report);

    /// Reads another line of its output.
    fn line(&self, line: &str, report: &mut Report) {
        report.text(line);
    }

    /// True if its output ends with a result, once it has begun a session.
    fn ends_with_result(&self) -> bool {
        false
    }

    /// Continues a session. False if it cannot.
    fn resume(&self, _call: &mut Call, _session: &str) -> bool {
        false
    }

    /// Its name for a tool of our MCP server; none if it cannot use one.
    fn tool(&self, _tool: &str) -> Option<String> {
        None
    }

    /// Hands our tools to it.
    fn equip(&self, _call: &mut Call, _tools: &Tools) {}

    /// Limits its cost, in US dollars, if its program has a limit.
    fn limit_cost(&self, _call: &mut Call, _dollars: f64) {}
}

/// The adapter of an agent.
pub(crate) fn adapter(kind: AgentKind) -> &'static dyn Adapter {
    match kind {
        AgentKind::Claude => &claude::Claude,
        AgentKind::Codex => &codex::Codex,
        AgentKind::Opencode => &opencode::Opencode,
        AgentKind::Gemini => &gemini::Gemini,
        AgentKind::Aider => &aider::Aider,
        AgentKind::Generic => &generic::Generic,
    }
}

/// Reads an agent's output as it comes.
pub(crate) struct Stream {
    adapter: &'static dyn Adapter,
    line: Vec<u8>,
    /// The rest of a line that is too long.
    is_skipping: bool,
    pub(crate) report: Report,
}

impl Stream {
    pub(crate) fn new(kind: AgentKind) -> Self {
        Self { adapter: adapter(kind), line: Vec::new(), is_skipping: false, report: Report::default() }
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            self.end_line();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_skipping || self.line.len() + bytes.len() > MAX_LINE_BYTES {
            self.is_skipping = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        if !std::mem::take(&mut self.is_skipping) {
            let line = plain(&String::from_utf8_lossy(&self.line));
            let event = if line.starts_with('{') { serde_json::from_str::<Value>(&line).ok() } else { None };
            match event {
                Some(event) => self.adapter.event(&event, &mut self.report),
                None => self.adapter.line(&line, &mut self.report),
            }
        }
        self.line.clear();
    }

    /// The report, with the last line even if it has no end.
    pub(crate) fn finish(mut self) -> Report {
        if !self.line.is_empty() || self.is_skipping {
            self.end_line();
        }
        self.report.lacks_result = self.adapter.ends_with_result() && self.report.session.is_some() && !self.report.has_result;
        self.report
    }
}

/// The report of a whole output.
pub(crate) fn read(kind: AgentKind, output: &str) -> Report {
    let mut stream = Stream::new(kind);
    stream.feed(output.as_bytes());
    stream.finish()
}

/// The report of a log, and its size. A log that cannot be read says nothing.
pub(crate) fn read_file(kind: AgentKind, log: &Path) -> (Report, u64) {
    let (mut stream, mut size) = (Stream::new(kind), 0);
    let mut buffer = vec![0; 64 << 10];
    if let Ok(mut file) = File::open(log) {
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            stream.feed(&buffer[..count]);
            size += count as u64;
        }
    }
    (stream.finish(), size)
}

/// The end of any output on one line: from the last line with an error on, else the last line.
pub(crate) fn reason_of(output: &str) -> String {
    read(AgentKind::Generic, output).reason()
}
