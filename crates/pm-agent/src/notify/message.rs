//! A question or an alert, as it is sent.

use coord_db::config::NotifyPart;
use serde_json::Value;

/// Maximum length of a sentence, in characters.
const MAX_SENTENCE: usize = 300;
/// Maximum length of the context, in characters.
const MAX_CONTEXT: usize = 1_000;
/// Maximum length of a report, in bytes: ntfy takes 4,096, Telegram as many characters with the title.
const MAX_REPORT: usize = 3_900;

/// The message of a journal entry.
#[derive(Debug)]
pub(super) struct Message<'a>(&'a Value);

impl<'a> Message<'a> {
    pub(super) fn of(intent: &'a Value) -> Self {
        Self(intent)
    }

    fn text(&self, key: &str) -> &'a str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// The id of the question; none for an alert.
    pub(super) fn decision(&self) -> Option<&'a str> {
        self.0["decision_id"].as_str()
    }

    /// Its options: ids and descriptions, which may be empty.
    pub(super) fn options(&self) -> Vec<(&'a str, &'a str)> {
        let options = self.0["options"].as_array().into_iter().flatten();
        options
            .filter_map(|option| {
                let id = option.as_str().or(option["id"].as_str())?;
                Some((id, option["description"].as_str().unwrap_or_default()))
            })
            .collect()
    }

    pub(super) fn can_be_answered(&self) -> bool {
        self.decision().is_some() && !self.options().is_empty()
    }

    /// As ntfy counts: 3 makes no noise of its own.
    pub(super) fn priority(&self) -> u8 {
        match self.text("kind") {
            "alert" => 5,
            "report" => 3,
            _ => 4,
        }
    }

    pub(super) fn is_markdown(&self) -> bool {
        self.text("kind") == "report"
    }

    /// What it is about, without anything that an agent has written: the kind, the loop and the test.
    pub(super) fn title(&self) -> String {
        if self.text("kind") == "report" {
            return "report".to_owned();
        }
        let kind = match self.decision() {
            Some(_) => format!("question: {}", self.text("decision_type")),
            None => format!("alert: {}", self.text("alert_type")),
        };
        let of = ["test_id", "loop_id"].into_iter().find_map(|key| self.0["context"][key].as_str());
        of.map_or(kind.clone(), |of| format!("{kind}, {of}")).replace('_', " ")
    }

    /// The parts that are to be sent.
    pub(super) fn body(&self, content: &[NotifyPart]) -> String {
        if self.text("kind") == "report" {
            let lines: Vec<String> = self.text("markdown").lines().map(|line| beginning(line, MAX_SENTENCE)).collect();
            return whole_lines(&lines.join("\n"), MAX_REPORT);
        }
        let mut parts = Vec::new();
        if content.contains(&NotifyPart::Summary) {
            let key = if self.decision().is_some() { "summary" } else { "message" };
            parts.push(beginning(self.text(key), MAX_SENTENCE));
        }
        if content.contains(&NotifyPart::Options) && self.decision().is_some() {
            let line = |(id, what): (&str, &str)| if what.is_empty() { id.to_owned() } else { format!("{id}: {what}") };
            parts.extend(self.options().into_iter().map(|option| beginning(&line(option), MAX_SENTENCE)));
            if let Some(default) = self.0["default_option"].as_str() {
                let due = self.0["due_at"].as_str().map(|due| format!(" at {due}")).unwrap_or_default();
                parts.push(format!("By default {default}{due}."));
            }
        }
        if content.contains(&NotifyPart::Context) && !self.0["context"].is_null() {
            parts.push(beginning(&self.0["context"].to_string(), MAX_CONTEXT));
        }
        if let Some(decision) = self.decision() {
            parts.push(format!("loopctl decide {}", coord_db::short_id(decision)));
        }
        parts.join("\n")
    }
}

/// The beginning of a text, in characters, with a mark where more follows.
pub(super) fn beginning(text: &str, max: usize) -> String {
    let beginning: String = text.chars().take(max).collect();
    if beginning.len() < text.len() { format!("{beginning}…") } else { beginning }
}

/// The lines of a text that are no longer than a number of bytes together, and how many are left out.
fn whole_lines(text: &str, max: usize) -> String {
    const RESERVED: usize = 100;
    let text = text.trim_end();
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if end + line.len() > max - RESERVED {
            break;
        }
        end += line.len();
    }
    let left_out = text[end..].lines().count();
    format!("{}\n… and {left_out} more; see loopctl report", text[..end].trim_end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_listed_is_sent() {
        let intent = json!({
            "kind": "decision", "decision_id": "01a20887-a7a2-779d-8fa1-f77fbf3dff63", "decision_type": "test_blocked",
            "summary": "test t is blocked: secret words", "options": [{"id": "retry", "description": "try again"}, "skip"],
            "default_option": "retry", "due_at": "2026-11-22T10:00:00Z", "context": {"test_id": "t", "output": "code"},
        });
        let message = Message::of(&intent);
        assert_eq!(message.title(), "question: test blocked, t");
        assert_eq!(message.body(&[]), "loopctl decide bf3dff63");
        let body = message.body(&[NotifyPart::Summary, NotifyPart::Options]);
        assert_eq!(
            body,
            "test t is blocked: secret words\nretry: try again\nskip\nBy default retry at 2026-11-22T10:00:00Z.\nloopctl decide bf3dff63"
        );
        assert!(message.body(&[NotifyPart::Context]).contains("code"));
    }

    #[test]
    fn an_alert_has_no_answer() {
        let intent = json!({"kind": "alert", "alert_type": "disk_full", "message": "x".repeat(400), "context": {}});
        let message = Message::of(&intent);
        assert!(!message.can_be_answered() && message.priority() == 5);
        assert_eq!(message.title(), "alert: disk full");
        assert_eq!(message.body(&[NotifyPart::Summary]).chars().count(), 301);
    }

    #[test]
    fn a_long_report_ends_with_a_whole_line_and_says_so() {
        let line = "- **a-1** of a: täglich; verified by tests\n";
        let report = |lines: usize| json!({"kind": "report", "markdown": format!("# today\n\n{}", line.repeat(lines))});
        let (short, long) = (report(20), report(500));
        assert_eq!(Message::of(&short).body(&[]), short["markdown"].as_str().unwrap().trim_end());
        let body = Message::of(&long).body(&[]);
        let kept = body.matches(line.trim_end()).count();
        assert!(body.len() <= MAX_REPORT && body.len() > MAX_REPORT - 200, "{}", body.len());
        assert!(body.ends_with(&format!("tests\n… and {} more; see loopctl report", 500 - kept)), "{body}");
        // A line that is too long for itself.
        let one = json!({"kind": "report", "markdown": "x".repeat(5_000)});
        assert_eq!(Message::of(&one).body(&[]), format!("{}…", "x".repeat(MAX_SENTENCE)));
    }
}
