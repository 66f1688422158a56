//! Reads the end of an agent's output: the result that it states, and its last lines.
//!
//! Agents print plain text or one JSON object per line. In a JSON stream the result counts and the conversation does
//! not: an agent that writes a program about rate limits has not hit one.

use coord_db::Timestamp;
use serde_json::Value;

/// Number of last lines of plain text that are kept.
const MAX_LINES: usize = 40;
/// Maximum length of a reason.
const REASON_CHARS: usize = 400;
/// Number of lines after the line of an error that belong to it.
const ERROR_LINES: usize = 3;

/// The reason if an agent prints none.
pub(crate) const NOTHING_PRINTED: &str = "no output";

/// The parsed output.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Output {
    /// The error in the agent's result.
    pub(super) error: Option<String>,
    /// The reason why the agent aborted its run, if it did.
    pub(super) called_off: Option<String>,
    /// A limit that the agent reports, and when it ends.
    pub(super) limit_until: Option<Option<Timestamp>>,
    /// The last message to the user in a JSON stream.
    last_message: Option<String>,
    /// The last non-empty lines of plain text.
    pub(super) lines: Vec<String>,
}

impl Output {
    pub(crate) fn read(text: &str) -> Self {
        let mut output = Self::default();
        let mut number_follows = false;
        for line in text.lines() {
            let line = plain(line);
            match serde_json::from_str::<Value>(&line) {
                Ok(event) if event.get("type").is_some_and(Value::is_string) => output.event(&event),
                _ if std::mem::take(&mut number_follows) && is_number(&line) => {}
                _ => {
                    let lower = line.to_ascii_lowercase();
                    number_follows = lower.trim_end_matches(':') == "tokens used";
                    if !is_noise(&lower) {
                        output.lines.push(line);
                    }
                }
            }
        }
        output.lines.drain(..output.lines.len().saturating_sub(MAX_LINES));
        output
    }

    fn event(&mut self, event: &Value) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let message = || {
            text("/error/message")
                .or_else(|| text("/error/data/message"))
                .or_else(|| text("/message"))
                .or_else(|| text("/error"))
        };
        match event["type"].as_str().unwrap_or_default() {
            "result" => {
                let result = text("/result");
                let failed = event["is_error"] == true
                    || text("/subtype").is_some_and(|subtype| subtype.starts_with("error"))
                    || text("/status").is_some_and(|status| status != "success");
                let words = result.clone().or_else(message).or_else(|| text("/subtype")).or_else(|| text("/status"));
                self.error = failed.then(|| words.clone().unwrap_or_else(|| "the agent gave no reason".to_owned()));
                self.called_off = text("/terminal_reason").filter(|reason| reason != "completed");
                self.last_message = result.or_else(|| self.last_message.take());
            }
            "turn.failed" | "error" => self.error = message().or_else(|| self.error.take()),
            "turn.completed" => self.error = None,
            "rate_limit_event" => {
                let info = &event["rate_limit_info"];
                let until = info["resetsAt"].as_i64().map(epoch);
                self.limit_until = (info["status"] == "rejected").then_some(until);
            }
            "assistant" => {
                let parts = event.pointer("/message/content").and_then(Value::as_array);
                let words = parts.into_iter().flatten().filter_map(|part| part["text"].as_str()).next_back();
                self.last_message = words.map(str::to_owned).or_else(|| self.last_message.take());
            }
            "item.completed" if event.pointer("/item/type").is_some_and(|kind| kind == "agent_message") => {
                self.last_message = text("/item/text")
            }
            "message" if event["role"] == "assistant" => {
                self.last_message = text("/content").or_else(|| self.last_message.take())
            }
            "text" => self.last_message = text("/part/text").or_else(|| self.last_message.take()),
            _ => {}
        }
    }

    /// Why the run ended, in the agent's words, on one line.
    pub(crate) fn reason(&self) -> String {
        let result = self
            .error
            .clone()
            .or_else(|| self.called_off.clone())
            .or_else(|| last_words(&self.lines))
            .or_else(|| self.last_message.clone());
        one_line(&result.unwrap_or_else(|| NOTHING_PRINTED.to_owned()))
    }
}

/// The end of an output on one line: from the last line with an error on, else the last line.
pub(crate) fn reason_of(text: &str) -> String {
    Output::read(text).reason()
}

fn last_words(lines: &[String]) -> Option<String> {
    let error = lines.iter().rposition(|line| states_error(&line.to_ascii_lowercase()));
    match error {
        Some(at) => Some(lines[at..].iter().take(ERROR_LINES).map(String::as_str).collect::<Vec<_>>().join("; ")),
        None => lines.last().cloned(),
    }
}

fn states_error(line: &str) -> bool {
    ["error", "fatal", "panicked", "exception", "failed", "failure", "not ok", "cannot ", "could not ", "not found", "no such "]
        .iter()
        .any(|word| line.contains(word))
}

fn is_number(line: &str) -> bool {
    !line.is_empty() && line.chars().all(|letter| letter.is_ascii_digit() || ",._".contains(letter))
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

/// Converts seconds or milliseconds since 1970, by magnitude.
fn epoch(number: i64) -> Timestamp {
    Timestamp::from_millis(if number > 100_000_000_000 { number } else { number.saturating_mul(1_000) })
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let output =
            Output::read("{\"type\":\"error\",\"message\":\"reconnecting 1/5\"}\n{\"type\":\"turn.completed\",\"usage\":{}}\n");
        assert_eq!(output.error, None);
        let output =
            Output::read("{\"type\":\"result\",\"is_error\":false,\"result\":\"done\",\"terminal_reason\":\"completed\"}");
        assert_eq!((output.error, output.called_off), (None, None));
    }

    #[test]
    fn hostile_output_is_read_without_harm() {
        for text in [
            "{\"type\":\"result\",\"is_error\":\"yes\",\"result\":7}",
            "{\"type\":{}}",
            "{",
            "\u{1b}[",
            "\u{1b}",
            "[1,2]",
            "null",
        ] {
            let _ = reason(text);
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = reason(&deep);
    }
}
