//! What an agent's output says of its run.
//!
//! In a JSON stream the stated result counts and the conversation does not: an agent that writes a program about rate
//! limits has not hit one.

use std::collections::{BTreeMap, VecDeque};

use coord_db::{ModelUse, Timestamp};
use serde_json::Value;

/// Number of last lines of plain text that are kept.
const MAX_LINES: usize = 40;
/// Maximum length of a line of plain text that is kept.
const MAX_TEXT_CHARS: usize = 2_000;
/// Maximum length of a reason.
const REASON_CHARS: usize = 400;
/// Number of lines after the line of an error that belong to it.
const ERROR_LINES: usize = 3;
/// Maximum length of a description of what the agent does.
const PROGRESS_CHARS: usize = 100;
/// Maximum length of the id of a session.
const MAX_ID_BYTES: usize = 128;
/// Maximum number of denied permissions that are kept.
const MAX_DENIED: usize = 20;

/// The reason if an agent prints none.
pub(crate) const NOTHING_PRINTED: &str = "no output";

/// What an agent has said so far.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// The session in which it can be continued.
    pub(crate) session: Option<String>,
    /// The model that its output names.
    pub(crate) model: Option<String>,
    /// The use that it states, by model.
    pub(crate) used: BTreeMap<String, ModelUse>,
    /// True if `used` is the sum of the whole session, with earlier runs.
    pub(crate) is_of_session: bool,
    /// The use of single messages, which counts if it states no sum.
    pub(super) messages: BTreeMap<String, ModelUse>,
    /// What it does at the moment.
    pub(crate) progress: Option<String>,
    /// It has stated a result.
    pub(crate) has_result: bool,
    /// It began a session and ended without a result.
    pub(crate) lacks_result: bool,
    /// The error in its result.
    pub(crate) error: Option<String>,
    /// The reason why it ended its task early, if it did.
    pub(crate) called_off: Option<String>,
    /// It has used up the money that it was given.
    pub(crate) is_over_budget: bool,
    /// The HTTP status of the service that the result gives.
    pub(crate) status: Option<i64>,
    /// Its key is refused, but it tries again.
    pub(crate) key_refused: Option<String>,
    /// A limit that it reports, and when that ends.
    pub(crate) limit_until: Option<Option<Timestamp>>,
    /// The tools that it was not allowed to use.
    pub(crate) denied: Vec<String>,
    /// Its last message to the user.
    pub(super) last_message: Option<String>,
    /// The last message goes on.
    pub(super) is_speaking: bool,
    /// The last non-empty lines of plain text.
    pub(crate) lines: VecDeque<String>,
    /// The next line of plain text is a number of tokens.
    pub(super) number_follows: bool,
}

impl Report {
    /// A line of plain text.
    pub(super) fn text(&mut self, line: &str) {
        let lower = line.to_ascii_lowercase();
        if is_noise(&lower) {
            return;
        }
        self.lines.push_back(line.chars().take(MAX_TEXT_CHARS).collect());
        if self.lines.len() > MAX_LINES {
            self.lines.pop_front();
        }
    }

    /// What it says to the user.
    pub(super) fn say(&mut self, text: Option<String>) {
        if text.is_some() {
            self.last_message = text;
        }
    }

    /// It works in this session. An id is later an argument of a call, so it must look like one.
    pub(super) fn works_in(&mut self, id: Option<&str>) {
        let is_id = |id: &&str| {
            let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            is_plain && !id.starts_with(['-', '.']) && (1..=MAX_ID_BYTES).contains(&id.len())
        };
        if let Some(id) = id.filter(is_id) {
            self.session = Some(id.to_owned());
        }
    }

    /// It uses a tool.
    pub(super) fn uses(&mut self, tool: &str, input: &Value) {
        self.progress = Some(progress_of(tool, input));
    }

    pub(super) fn deny(&mut self, tool: &str) {
        if self.denied.len() < MAX_DENIED && !self.denied.iter().any(|denied| denied == tool) {
            self.denied.push(one_line(tool));
        }
    }

    /// The stated use of this run: the sum if there is one, less what the session had used `before`; else the messages.
    pub(crate) fn stated(&self, before: &BTreeMap<String, ModelUse>) -> Vec<ModelUse> {
        if !self.used.is_empty() {
            let nothing = ModelUse::default();
            let own = |(model, used): (&String, &ModelUse)| match self.is_of_session {
                true => used.less(before.get(model).unwrap_or(&nothing)),
                false => used.clone(),
            };
            return self.used.iter().map(own).collect();
        }
        let mut sums: BTreeMap<Option<&str>, ModelUse> = BTreeMap::new();
        for used in self.messages.values() {
            match sums.get_mut(&used.model.as_deref()) {
                Some(sum) => sum.add(used),
                None => drop(sums.insert(used.model.as_deref(), used.clone())),
            }
        }
        sums.into_values().collect()
    }

    /// Why the run ended, in the agent's words, on one line.
    pub(crate) fn reason(&self) -> String {
        let result = self
            .error
            .clone()
            .or_else(|| self.called_off.clone())
            // Beside a stated result, plain text is of other programs.
            .or_else(|| self.last_message.clone().filter(|_| self.has_result))
            .or_else(|| last_words(&self.lines))
            .or_else(|| self.last_message.clone());
        one_line(&result.unwrap_or_else(|| NOTHING_PRINTED.to_owned()))
    }
}

/// `editing src/a.rs`, `running cargo test`, `using lock`.
fn progress_of(tool: &str, input: &Value) -> String {
    let field = |names: &[&str]| names.iter().find_map(|name| input.get(*name).and_then(Value::as_str)).map(plain);
    let lower = tool.to_ascii_lowercase();
    let file = field(&["file_path", "filePath", "path", "notebook_path", "absolute_path"]);
    let command = match input.get("command") {
        Some(Value::Array(words)) => Some(words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => field(&["command", "cmd"]),
    };
    let is = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let text = match (file, command) {
        (Some(file), _) if is(&["edit", "write", "replace", "patch", "update"]) => format!("editing {file}"),
        (Some(file), _) if is(&["read"]) => format!("reading {file}"),
        (_, Some(command)) => format!("running {}", one_line(&command)),
        (Some(file), None) => format!("using {tool} on {file}"),
        (None, None) => format!("using {tool}"),
    };
    text.chars().take(PROGRESS_CHARS).collect()
}

fn last_words(lines: &VecDeque<String>) -> Option<String> {
    let error = lines.iter().rposition(|line| states_error(&line.to_ascii_lowercase()));
    match error {
        Some(at) => Some(lines.iter().skip(at).take(ERROR_LINES).map(String::as_str).collect::<Vec<_>>().join("; ")),
        None => lines.back().cloned(),
    }
}

fn states_error(line: &str) -> bool {
    ["error", "fatal", "panicked", "exception", "failed", "failure", "not ok", "cannot ", "could not ", "not found", "no such "]
        .iter()
        .any(|word| line.contains(word))
}

/// Lines without information about the end of the run: rules and usage.
fn is_noise(line: &str) -> bool {
    !line.chars().any(char::is_alphanumeric) || line.starts_with("tokens used") || line.starts_with("tokens:")
}

/// Removes escape sequences and other control characters.
pub(crate) fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '\u{1b}' {
            match letters.next() {
                // A control sequence ends with a letter, an operating system command with BEL or ST.
                Some('[') => drop(letters.by_ref().find(|end| ('@'..='~').contains(end))),
                Some(']') => drop(letters.by_ref().find(|end| matches!(end, '\u{7}' | '\u{1b}'))),
                _ => {}
            }
        } else if !letter.is_control() {
            text.push(letter);
        }
    }
    text.trim().to_owned()
}

/// Joins a text to one line and shortens it.
pub(crate) fn one_line(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let text = lines.join("; ");
    if text.chars().count() <= REASON_CHARS {
        return text;
    }
    let cut: String = text.chars().take(REASON_CHARS).collect();
    format!("{} …", cut.rsplit_once(' ').map_or(cut.as_str(), |(whole, _)| whole))
}

#[cfg(test)]
mod tests {
    use coord_db::config::AgentKind;

    use super::*;
    use crate::agents::{read, reason_of};

    fn reason(text: &str) -> String {
        reason_of(text)
    }

    #[test]
    fn reasons_are_the_last_words_that_mean_something() {
        let cases = [
            ("", "no output"),
            ("working\n\u{1b}[31mError: no disk\u{1b}[0m\n  at write\n\ntokens used\n1,234\n", "Error: no disk; at write"),
            ("did a\ndid b\n----\n", "did b"),
            ("error: one\nfine again\nerror: two", "error: two"),
            ("\u{1b}]0;title\u{7}shown\r\n", "shown"),
            (
                "{\"type\":\"result\",\"is_error\":true,\"result\":\"Prompt is too long\"}\nTokens: 3 sent\n",
                "Prompt is too long",
            ),
            (
                "{\"type\":\"turn.failed\",\"error\":{\"message\":\"stream disconnected\\nretry\"}}",
                "stream disconnected; retry",
            ),
            ("{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"I give up\"}]}}", "I give up"),
            ("{\"type\":\"result\",\"subtype\":\"error_max_turns\"}", "error_max_turns"),
            (
                "{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"I cannot\"}\nRipgrep is not available.\n{\"type\":\"result\",\"status\":\"success\"}",
                "I cannot",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(reason(text), expected, "{text:?}");
        }
        let long = format!("error: {}", "word ".repeat(200));
        let cut = reason(&long);
        assert!(cut.ends_with("word …") && cut.chars().count() <= REASON_CHARS + 2, "{cut}");
    }

    #[test]
    fn a_later_success_takes_an_error_back() {
        let output = read(
            AgentKind::Generic,
            "{\"type\":\"error\",\"message\":\"reconnecting 1/5\"}\n{\"type\":\"turn.completed\",\"usage\":{}}\n",
        );
        assert_eq!(output.error, None);
        let output = read(
            AgentKind::Generic,
            "{\"type\":\"result\",\"is_error\":false,\"result\":\"done\",\"terminal_reason\":\"completed\"}",
        );
        assert_eq!((output.error, output.called_off), (None, None));
    }
}
